// A ggml backend that llama.cpp takes for a GPU: layers, caches and compute buffers are placed on its cards, which
// have a hard size and belong to all processes together. The arithmetic is the CPU backend's. ggml loads it
// from GGML_BACKEND_PATH; without a ledger (SOFTGPU) it offers nothing.
#include <cstdlib>
#include <memory>
#include <vector>

#include "ggml_tables.hpp"
#include "ledger.hpp"

namespace {

using softgpu::Knob;
using softgpu::Ledger;

Ledger * ledger() {
    static Ledger * const opened = Ledger::open(getenv("SOFTGPU"));
    return opened;
}

Device cpu() { return ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU); }

struct Card {
    explicit Card(int index, Registry registry);

    const int index;
    const std::string name = "SoftGPU" + std::to_string(index);
    const std::string description = "soft card " + std::to_string(index) + ", computing on the CPU";
    std::string address;  // on the PCI bus, as the NVML stand-in says it
    ggml_backend_device device{};
    ggml_backend_buffer_type kind{};
};

Card & card(Device device) { return *static_cast<Card *>(device->context); }
Card & card(Kind kind) { return *static_cast<Card *>(kind->context); }

// Bytes of one card, ours for as long as this lives. Zero until written, and only then taken from the host.
class Memory {
  public:
    static std::unique_ptr<Memory> take(const Card & card, size_t size) {
        if (!ledger()->take(getpid(), card.index, static_cast<int64_t>(size))) return nullptr;
        void * at = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        std::unique_ptr<Memory> taken(new Memory(card.index, at == MAP_FAILED ? nullptr : at, size));
        return at == MAP_FAILED ? nullptr : std::move(taken);
    }
    ~Memory() {
        if (start) munmap(start, size);
        ledger()->give(getpid(), index, static_cast<int64_t>(size));
    }
    void fill(uint8_t value) {
        if (value || madvise(start, size, MADV_DONTNEED)) memset(start, value, size);
    }
    void * const start;

  private:
    Memory(int index, void * start, size_t size) : start(start), index(index), size(size) {}
    const int index;
    const size_t size;
};

Memory * memory(Buffer buffer) { return static_cast<Memory *>(buffer->context); }

// Bytes cross the bus no faster than the ledger says.
void cross_bus(size_t bytes) {
    const int64_t speed = ledger()->knob(Knob::bus);
    if (speed <= 0) return;
    const auto pause = static_cast<int64_t>(1e9 * static_cast<double>(bytes) / static_cast<double>(speed));
    timespec left{pause / 1'000'000'000, pause % 1'000'000'000};
    while (nanosleep(&left, &left) && errno == EINTR) {}
}

char * at(ConstTensor tensor, size_t offset) { return static_cast<char *>(tensor->data) + offset; }

constexpr ggml_backend_buffer::Table buffers = {
    .free_buffer = [](Buffer buffer) { delete memory(buffer); },
    .get_base = [](Buffer buffer) { return memory(buffer)->start; },
    .memset_tensor = [](Buffer, Tensor to, uint8_t value, size_t offset, size_t size) {
        memset(at(to, offset), value, size);
    },
    .set_tensor = [](Buffer, Tensor to, const void * from, size_t offset, size_t size) {
        cross_bus(size);
        memcpy(at(to, offset), from, size);
    },
    .get_tensor = [](Buffer, ConstTensor from, void * to, size_t offset, size_t size) {
        cross_bus(size);
        memcpy(to, at(from, offset), size);
    },
    .clear = [](Buffer buffer, uint8_t value) { memory(buffer)->fill(value); },
};

Buffer allocate(Kind kind, size_t size) {
    auto taken = Memory::take(card(kind), size);
    if (!taken) {
        const double mebibytes = static_cast<double>(size) / (1 << 20);
        const char * name = card(kind).name.c_str();
        ggml_log_internal(GGML_LOG_LEVEL_ERROR, "%s: allocating %.2f MiB failed: out of memory\n", name, mebibytes);
        return nullptr;
    }
    return ggml_backend_buffer_init(kind, buffers, taken.release(), size);
}

constexpr ggml_backend_buffer_type::Table kinds = {
    .get_name = [](Kind kind) { return card(kind).name.c_str(); },
    .alloc_buffer = allocate,
    .get_alignment = [](Kind) { return size_t{128}; },
};

// Out of memory in the middle of a computation is the end of the process, as in ggml's CUDA backend.
ggml_status compute(Stream stream, Graph graph) {
    const Card & on = card(stream->device);
    if (!ledger()->may_compute(getpid(), on.index)) {
        ggml_log_internal(GGML_LOG_LEVEL_ERROR, "%s error: out of memory\n", on.name.c_str());
        GGML_ABORT("%s error", on.name.c_str());
    }
    return ggml_backend_graph_compute(static_cast<Stream>(stream->context), graph);
}

constexpr ggml_backend::Table streams = {
    .get_name = [](Stream stream) { return card(stream->device).name.c_str(); },
    .free = [](Stream stream) {
        ggml_backend_free(static_cast<Stream>(stream->context));
        delete stream;
    },
    .graph_compute = compute,
};

void measure(Device device, size_t * free, size_t * total) {
    const int index = card(device).index;
    *total = static_cast<size_t>(ledger()->total(index));
    *free = *total - static_cast<size_t>(ledger()->used(index));
}

void describe(Device device, ggml_backend_dev_props * told) {
    *told = {};
    told->name = card(device).name.c_str();
    told->description = card(device).description.c_str();
    told->type = GGML_BACKEND_DEVICE_TYPE_GPU;
    told->device_id = card(device).address.c_str();
    told->caps.mmap_support = true;
    measure(device, &told->memory_free, &told->memory_total);
}

// nullptr where there is no room for the process's context.
Stream begin(Device device, const char *) {
    static ggml_guid guid = {0x73, 0x6f, 0x66, 0x74, 0x67, 0x70, 0x75, 0, 0, 0, 0, 0, 0, 0, 0, 2};
    const int index = card(device).index;
    if (!ledger()->take(getpid(), index, 0)) return nullptr;
    Stream inner = ggml_backend_dev_init(cpu(), nullptr);
    void * named = ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(cpu()), "ggml_backend_set_n_threads");
    if (named) reinterpret_cast<ggml_backend_set_n_threads_t>(named)(inner, ledger()->knob(Knob::threads));
    return new ggml_backend{&guid, streams, device, inner};
}

constexpr ggml_backend_device::Table devices = {
    .get_name = [](Device device) { return card(device).name.c_str(); },
    .get_description = [](Device device) { return card(device).description.c_str(); },
    .get_memory = measure,
    .get_type = [](Device) { return GGML_BACKEND_DEVICE_TYPE_GPU; },
    .get_props = describe,
    .init_backend = begin,
    .get_buffer_type = [](Device device) { return &card(device).kind; },
    .supports_op = [](Device, ConstTensor operation) { return ggml_backend_dev_supports_op(cpu(), operation); },
    .supports_buft = [](Device device, Kind kind) { return kind->device == device; },
};

Card::Card(int index, Registry registry) : index(index) {
    char text[32];
    snprintf(text, sizeof text, "50f7:%02x:00.0", index + 1);
    address = text;
    device = {devices, registry, this};
    kind = {kinds, &device, this};
}

using Cards = std::vector<std::unique_ptr<Card>>;

Cards & cards(Registry registry) { return *static_cast<Cards *>(registry->context); }

constexpr ggml_backend_reg::Table registries = {
    .get_name = [](Registry) { return "SoftGPU"; },
    .get_device_count = [](Registry registry) { return cards(registry).size(); },
    .get_device = [](Registry registry, size_t index) { return &cards(registry)[index]->device; },
    .get_proc_address = [](Registry, const char *) -> void * { return nullptr; },
};

}  // namespace

extern "C" __attribute__((visibility("default"))) int ggml_backend_score() { return ledger() ? 1 : 0; }

extern "C" __attribute__((visibility("default"))) Registry ggml_backend_init() {
    static Cards all;
    static ggml_backend_reg registry = {backend_interface, registries, &all};
    if (!ledger()) return nullptr;
    while (static_cast<int>(all.size()) < ledger()->cards())
        all.push_back(std::make_unique<Card>(static_cast<int>(all.size()), &registry));
    return &registry;
}
