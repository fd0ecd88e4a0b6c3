// A driver library for whoever measures cards by NVML: the functions that pynvml's callers need, about the cards
// of the ledger that SOFTGPU names. A process finds it in the place of NVIDIA's by its name, libnvidia-ml.so.1.
#include <cstdlib>

#include "ledger.hpp"

namespace {

using softgpu::Knob;
using softgpu::Ledger;
using softgpu::Telling;

enum Status { ok = 0, uninitialized = 1, bad_argument = 2, not_found = 6, too_small = 7, no_driver = 9 };

// As nvml.h lays them out.
struct Memory {
    uint64_t total, free, used;
};
struct Memory2 {
    uint32_t version;
    uint64_t total, reserved, free, used;
};
struct Process {
    uint32_t pid;
    uint64_t used;
    uint32_t instance[2];  // of a divided card; all ones: it is not
};
struct Pci {
    char short_address[16];
    uint32_t domain, bus, slot, ids[2];
    char address[32];
};
struct Rates {
    uint32_t computing, moving;
};

constexpr unsigned domain = 0x50f7;  // where no real card is
constexpr char uuid_format[] = "GPU-50f70000-0000-4000-8000-%012d";

using Handle = struct Card *;  // a card's number, from 1

Ledger * ledger = nullptr;
int users = 0;
std::mutex opening;

int number(Handle handle) { return static_cast<int>(reinterpret_cast<intptr_t>(handle)) - 1; }

// What the driver says before it looks at anything: its trouble, or this card's.
int trouble(int card) {
    const int64_t error = ledger->knob(Knob::driver_error, card);
    const int64_t until = ledger->knob(Knob::driver_error_until_ns, card);
    return !until || softgpu::now_ns() < until ? static_cast<int>(error) : ok;
}

template <typename Answer> int asked(Answer answer) {
    if (!users) return uninitialized;
    if (const int error = trouble(softgpu::whole_driver)) return error;
    return answer();
}

template <typename Answer> int asked(Handle handle, Answer answer) {
    return asked([&]() -> int {
        const int card = number(handle);
        if (card < 0 || card >= ledger->cards()) return bad_argument;
        if (const int error = trouble(card)) return error;
        return answer(card);
    });
}

int write(char * to, unsigned room, const std::string & text) {
    if (text.size() >= room) return too_small;
    memcpy(to, text.c_str(), text.size() + 1);
    return ok;
}

std::string uuid(int card) {
    char text[64];
    snprintf(text, sizeof text, uuid_format, card);
    return text;
}

Memory memory(int card) {
    const auto total = static_cast<uint64_t>(ledger->total(card));
    const auto used = static_cast<uint64_t>(ledger->used(card));
    return {total, total - used, used};
}

int processes(Handle handle, unsigned * count, Process * list, bool draws) {
    return asked(handle, [&](int card) -> int {
        const auto telling = static_cast<Telling>(ledger->knob(Knob::telling));
        const unsigned room = list ? *count : 0;
        *count = 0;
        if (telling == Telling::nobody) return ok;
        ledger->each_holder(card, [&](const softgpu::Holder & holder) {
            if (static_cast<bool>(holder.draws) != draws) return;
            const auto used = telling == Telling::sizes ? static_cast<uint64_t>(holder.bytes) : ~uint64_t{0};
            if (*count < room) list[*count] = {static_cast<uint32_t>(holder.pid), used, {~0U, ~0U}};
            ++*count;
        });
        return *count > room ? too_small : ok;
    });
}

}  // namespace

extern "C" {

int nvmlInitWithFlags(unsigned) {
    std::lock_guard<std::mutex> lock(opening);
    if (!ledger) ledger = Ledger::open(getenv("SOFTGPU"));
    if (!ledger) return no_driver;
    if (const int error = trouble(softgpu::whole_driver)) return error;
    users++;
    return ok;
}
int nvmlInit_v2() { return nvmlInitWithFlags(0); }
int nvmlShutdown() {
    std::lock_guard<std::mutex> lock(opening);
    if (!users) return uninitialized;
    users--;
    return ok;
}
const char * nvmlErrorString(int status) {
    switch (status) {
        case ok: return "Success";
        case uninitialized: return "Uninitialized";
        case bad_argument: return "Invalid Argument";
        case no_driver: return "Driver Not Loaded";
        case 15: return "GPU is lost";
        case 18: return "Driver/library version mismatch";
        default: return "Unknown Error";
    }
}

int nvmlSystemGetDriverVersion(char * to, unsigned room) { return asked([=] { return write(to, room, "1.0-soft"); }); }
int nvmlSystemGetNVMLVersion(char * to, unsigned room) { return asked([=] { return write(to, room, "13.1.0-soft"); }); }
int nvmlSystemGetCudaDriverVersion_v2(int * version) { return asked([=]() -> int { *version = 13000; return ok; }); }
int nvmlSystemGetCudaDriverVersion(int * version) { return nvmlSystemGetCudaDriverVersion_v2(version); }
int nvmlSystemGetProcessName(unsigned pid, char * to, unsigned room) {
    return asked([=]() -> int {
        char path[256];
        const ssize_t size = readlink(("/proc/" + std::to_string(pid) + "/exe").c_str(), path, sizeof path);
        return size < 0 ? int{not_found} : write(to, room, std::string(path, static_cast<size_t>(size)));
    });
}

int nvmlDeviceGetCount_v2(unsigned * count) {
    return asked([=]() -> int { *count = static_cast<unsigned>(ledger->cards()); return ok; });
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, Handle * handle) {
    *handle = reinterpret_cast<Handle>(intptr_t{index} + 1);
    return asked(*handle, [](int) { return ok; });
}
int nvmlDeviceGetHandleByUUID(const char * wanted, Handle * handle) {
    return asked([=]() -> int {
        for (int card = 0; card < ledger->cards(); card++)
            if (uuid(card) == wanted) return nvmlDeviceGetHandleByIndex_v2(static_cast<unsigned>(card), handle);
        return not_found;
    });
}
int nvmlDeviceGetHandleByPciBusId_v2(const char * address, Handle * handle) {
    return asked([=]() -> int {
        unsigned in = 0, bus = 0;
        if (sscanf(address, "%x:%x:", &in, &bus) != 2) return bad_argument;
        if (in != domain || !bus || bus > static_cast<unsigned>(ledger->cards())) return not_found;
        return nvmlDeviceGetHandleByIndex_v2(bus - 1, handle);
    });
}

int nvmlDeviceGetIndex(Handle handle, unsigned * index) {
    return asked(handle, [=](int card) -> int { *index = static_cast<unsigned>(card); return ok; });
}
int nvmlDeviceGetName(Handle handle, char * to, unsigned room) {
    return asked(handle, [=](int card) { return write(to, room, "Soft GPU " + std::to_string(card)); });
}
int nvmlDeviceGetUUID(Handle handle, char * to, unsigned room) {
    return asked(handle, [=](int card) { return write(to, room, uuid(card)); });
}
int nvmlDeviceGetPciInfo_v3(Handle handle, Pci * pci) {
    return asked(handle, [=](int card) -> int {
        *pci = {};
        pci->domain = domain;
        pci->bus = static_cast<unsigned>(card) + 1;
        snprintf(pci->short_address, sizeof pci->short_address, "%04X:%02X:00.0", domain, pci->bus);
        snprintf(pci->address, sizeof pci->address, "%08X:%02X:00.0", domain, pci->bus);
        return ok;
    });
}
int nvmlDeviceGetMemoryInfo(Handle handle, Memory * told) {
    return asked(handle, [=](int card) -> int { *told = memory(card); return ok; });
}
int nvmlDeviceGetMemoryInfo_v2(Handle handle, Memory2 * told) {
    return asked(handle, [=](int card) -> int {
        const Memory seen = memory(card);
        *told = {told->version, seen.total, 0, seen.free, seen.used};
        return ok;
    });
}
int nvmlDeviceGetComputeRunningProcesses_v3(Handle handle, unsigned * count, Process * list) {
    return processes(handle, count, list, false);
}
int nvmlDeviceGetGraphicsRunningProcesses_v3(Handle handle, unsigned * count, Process * list) {
    return processes(handle, count, list, true);
}
int nvmlDeviceGetUtilizationRates(Handle handle, Rates * rates) {
    return asked(handle, [=](int) -> int { *rates = {}; return ok; });
}
int nvmlDeviceGetTemperature(Handle handle, unsigned, unsigned * celsius) {
    return asked(handle, [=](int) -> int { *celsius = 40; return ok; });
}
int nvmlDeviceGetPowerUsage(Handle handle, unsigned * milliwatts) {
    return asked(handle, [=](int) -> int { *milliwatts = 50'000; return ok; });
}

}  // extern "C"
