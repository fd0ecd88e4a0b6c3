// The ledger: what every process holds on every soft card, in one file that all of them map.
// Included by the ggml backend, the NVML stand-in and the tests' handle on it; nothing else knows the layout.
//
// Each operation locks the file, first settles what time and death have changed, then does its one thing. A
// process may be killed at any instruction: the kernel drops its lock, and a slot counts only once its last
// field (a pid, a size) is written.
#pragma once

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <mutex>
#include <string>

namespace softgpu {

constexpr int most_cards = 16, most_holders = 1024, most_returning = 4096, most_faults = 16, most_spared = 32;
constexpr int whole_driver = most_cards;  // where a knob of a card is that of the driver itself
constexpr uint64_t kept_events = 1 << 16;

enum class What : int32_t { took, gave, died, returned, refused, aborted };
enum class Fault : int32_t { none, allocation, compute };
enum class Knob : int32_t {
    lag_least_ns, lag_most_ns, seed, context, bus, threads, telling, driver_error, driver_error_until_ns, count
};
enum class Telling : int64_t { sizes, no_sizes, nobody };

struct Event {
    int64_t at_ns, bytes, used;  // used: on the card, right after
    int32_t pid, card;
    What what;
    int32_t is_ordered;  // a refusal that a test has ordered, not a full card
};

struct Holder {
    int64_t bytes;
    uint64_t born;  // the process's start: a pid alone may be somebody else's by now
    int32_t card, draws, pid;
};

struct Returning {  // let go, and not yet seen free
    int64_t until_ns;
    int32_t card, pid;
    int64_t bytes;
};

struct Order {  // let `skip` matching ones pass, fail the next `left`
    int64_t at_least, skip, left;
    int32_t card;  // -1: any
    int32_t spared[most_spared];
    Fault fault;
};

struct Book {
    uint64_t layout;
    int32_t cards;
    std::atomic<int32_t> orders_left;
    int64_t total[most_cards], peak[most_cards];
    int64_t knob[static_cast<int>(Knob::count)][most_cards + 1];
    Holder holder[most_holders];
    Returning returning[most_returning];
    Order order[most_faults];
    uint64_t events;  // ever; the last `kept_events` are there
    Event event[kept_events];
};
constexpr uint64_t layout = 0x736f667467707500 ^ sizeof(Book);

inline int64_t now_ns() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * int64_t{1'000'000'000} + now.tv_nsec;
}

constexpr uint64_t unknown = ~uint64_t{0};

// When a process was started, in the kernel's ticks; 0: there is none, or only its corpse; or `unknown`.
inline uint64_t born(int32_t pid) {
    const std::string path = "/proc/" + std::to_string(pid) + "/stat";
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return errno == ENOENT || errno == ESRCH ? 0 : unknown;
    char text[1024];
    const ssize_t size = ::read(fd, text, sizeof text - 1);
    ::close(fd);
    if (size <= 0) return 0;
    text[size] = 0;
    const char * rest = strrchr(text, ')');  // a program's name may hold anything, parentheses too
    char state = 0;
    unsigned long long start = 0;
    const char * format = ") %c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu";
    if (!rest || sscanf(rest, format, &state, &start) != 2) return unknown;
    return state == 'Z' || state == 'X' ? 0 : start;
}

class Ledger {
  public:
    // A new ledger; false and errno when it cannot be written.
    static bool make(const char * path, int cards, const int64_t * totals) {
        const int fd = ::open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd < 0) return false;
        Book * book = ftruncate(fd, sizeof(Book)) ? nullptr : map(fd);
        ::close(fd);
        if (!book) return false;
        book->cards = std::min(cards, most_cards);
        std::copy_n(totals, book->cards, book->total);
        book->knob[static_cast<int>(Knob::threads)][0] = 1;
        book->layout = layout;
        munmap(book, sizeof *book);
        return true;
    }

    // nullptr: there is none, or one of another build.
    static Ledger * open(const char * path) {
        const int fd = path ? ::open(path, O_RDWR | O_CLOEXEC) : -1;
        if (fd < 0) return nullptr;
        Book * book = lseek(fd, 0, SEEK_END) == sizeof(Book) ? map(fd) : nullptr;
        if (book && book->layout == layout) return new Ledger(fd, book);
        if (book) munmap(book, sizeof *book);
        ::close(fd);
        return nullptr;
    }

    ~Ledger() {
        munmap(book_, sizeof *book_);
        ::close(fd_);
    }

    int cards() const { return book_->cards; }
    int64_t total(int card) const { return book_->total[card]; }
    int64_t peak(int card) const { return book_->peak[card]; }

    int64_t knob(Knob knob, int card = 0) {
        Lock lock(*this);
        return slot(knob, card);
    }
    void turn(Knob knob, int card, int64_t value) {
        Lock lock(*this);
        slot(knob, card) = value;
    }

    // As a program on the card: its first bytes bring its context. False: refused, and noted.
    bool take(int32_t pid, int card, int64_t bytes) {
        Lock lock(*this);
        settle();
        if (bytes && is_ordered(Fault::allocation, pid, card, bytes)) {
            note(What::refused, pid, card, bytes, true);
            return false;
        }
        const bool is_new = !find(pid, card);
        if (put(pid, card, bytes + (is_new ? slot(Knob::context, card) : 0), false)) return true;
        note(What::refused, pid, card, bytes);
        return false;
    }

    // Exactly so many bytes, under the name of another process. False: not that many are free.
    bool crowd(int32_t pid, int card, int64_t bytes, bool draws) {
        Lock lock(*this);
        settle();
        return put(pid, card, bytes, draws);
    }

    void give(int32_t pid, int card, int64_t bytes) {
        Lock lock(*this);
        settle();
        Holder * holder = find(pid, card);
        if (!holder) return;
        bytes = std::min(bytes, holder->bytes);
        release(pid, card, bytes);
        holder->bytes -= bytes;
        if (!holder->bytes) holder->pid = 0;
        note(What::gave, pid, card, bytes);
    }

    // Whether this computation may run. False: the process must now die of it.
    bool may_compute(int32_t pid, int card) {
        if (!book_->orders_left.load(std::memory_order_relaxed)) return true;
        Lock lock(*this);
        if (!is_ordered(Fault::compute, pid, card, 0)) return true;
        note(What::aborted, pid, card, 0, true);
        return false;
    }

    bool order(const Order & order) {
        Lock lock(*this);
        Order * free = first(book_->order, [](const Order & slot) { return slot.fault == Fault::none; });
        if (!free) return false;
        *free = order;
        count_orders();
        return true;
    }
    void withdraw_orders() {
        Lock lock(*this);
        for (Order & order : book_->order) order.fault = Fault::none;
        count_orders();
    }
    int64_t orders_left() const { return book_->orders_left; }

    int64_t used(int card) {
        Lock lock(*this);
        settle();
        return sum(card);
    }

    template <typename Visit> void each_holder(int card, Visit visit) {
        Lock lock(*this);
        settle();
        for (const Holder & holder : book_->holder)
            if (holder.pid && holder.card == card && holder.bytes) visit(holder);
    }

    // Events, oldest first, from number `from` on, until `visit` has enough; returns the next number.
    template <typename Visit> uint64_t each_event(uint64_t from, Visit visit) {
        Lock lock(*this);
        settle();
        const uint64_t end = book_->events, oldest = end > kept_events ? end - kept_events : 0;
        for (uint64_t number = std::max(from, oldest); number < end; number++)
            if (!visit(number, book_->event[number % kept_events])) return number;
        return end;
    }

  private:
    // flock holds other processes off, the mutex this one's other threads.
    struct Lock {
        explicit Lock(Ledger & ledger) : ledger(ledger), held(ledger.mutex_) {
            while (flock(ledger.fd_, LOCK_EX) && errno == EINTR) {}
        }
        ~Lock() { flock(ledger.fd_, LOCK_UN); }
        Ledger & ledger;
        std::lock_guard<std::mutex> held;
    };

    Ledger(int fd, Book * book) : fd_(fd), book_(book) {}

    static Book * map(int fd) {
        void * at = mmap(nullptr, sizeof(Book), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        return at == MAP_FAILED ? nullptr : static_cast<Book *>(at);
    }

    int64_t & slot(Knob knob, int card) { return book_->knob[static_cast<int>(knob)][card]; }

    int64_t sum(int card) const {
        int64_t bytes = 0;
        for (const Holder & holder : book_->holder) bytes += holder.pid && holder.card == card ? holder.bytes : 0;
        for (const Returning & gone : book_->returning) bytes += gone.card == card ? gone.bytes : 0;
        return bytes;
    }

    template <typename Slot, size_t size, typename Is> static Slot * first(Slot (&slots)[size], Is is) {
        Slot * found = std::find_if(slots, slots + size, is);
        return found == slots + size ? nullptr : found;
    }

    Holder * find(int32_t pid, int card) {
        return first(book_->holder, [=](const Holder & h) { return h.pid == pid && h.card == card; });
    }

    bool put(int32_t pid, int card, int64_t bytes, bool draws) {
        if (sum(card) + bytes > book_->total[card]) return false;
        Holder * holder = find(pid, card);
        if (!holder) {
            const uint64_t start = born(pid);
            holder = first(book_->holder, [](const Holder & free) { return !free.pid; });
            if (!holder || !start || start == unknown) return false;
            *holder = {0, start, card, draws, 0};
            holder->pid = pid;
        }
        if (!bytes) return true;
        holder->bytes += bytes;
        book_->peak[card] = std::max(book_->peak[card], sum(card));
        note(What::took, pid, card, bytes);
        return true;
    }

    void settle() {
        const int64_t now = now_ns();
        while (Returning * gone = earliest(now)) {
            const Returning back = *gone;
            gone->bytes = 0;
            note(What::returned, back.pid, back.card, back.bytes, false, back.until_ns);
        }
        for (Holder & holder : book_->holder) {
            if (!holder.pid) continue;
            const uint64_t start = born(holder.pid);
            if (start == holder.born || start == unknown) continue;
            const Holder dead = holder;
            release(dead.pid, dead.card, dead.bytes);
            holder.pid = 0;
            note(What::died, dead.pid, dead.card, dead.bytes);
        }
    }

    Returning * earliest(int64_t now) {
        Returning * found = nullptr;
        for (Returning & gone : book_->returning)
            if (gone.bytes && gone.until_ns <= now && (!found || gone.until_ns < found->until_ns)) found = &gone;
        return found;
    }

    void release(int32_t pid, int card, int64_t bytes) {
        const int64_t lag = draw_lag();
        if (!lag || !bytes) return;
        Returning * free = first(book_->returning, [](const Returning & slot) { return !slot.bytes; });
        if (!free) return;
        *free = {now_ns() + lag, card, pid, 0};
        free->bytes = bytes;
    }

    // Evenly between the bounds; the same sequence for the same seed.
    int64_t draw_lag() {
        const int64_t least = slot(Knob::lag_least_ns, 0), most = slot(Knob::lag_most_ns, 0);
        if (most <= least) return least;
        uint64_t mixed = static_cast<uint64_t>(slot(Knob::seed, 0) += static_cast<int64_t>(0x9e3779b97f4a7c15));
        mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9;
        mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111eb;
        return least + static_cast<int64_t>((mixed ^ (mixed >> 31)) % static_cast<uint64_t>(most - least + 1));
    }

    bool is_ordered(Fault fault, int32_t pid, int card, int64_t bytes) {
        for (Order & order : book_->order) {
            if (order.fault != fault || (order.card >= 0 && order.card != card) || bytes < order.at_least) continue;
            if (std::find(order.spared, order.spared + most_spared, pid) != order.spared + most_spared) continue;
            if (order.skip > 0) {
                order.skip--;
                continue;
            }
            if (--order.left <= 0) order.fault = Fault::none;
            count_orders();
            return true;
        }
        return false;
    }

    void count_orders() {
        int32_t left = 0;
        for (const Order & order : book_->order) left += order.fault != Fault::none ? order.left : 0;
        book_->orders_left = left;
    }

    void note(What what, int32_t pid, int card, int64_t bytes, bool is_ordered = false, int64_t at_ns = now_ns()) {
        book_->event[book_->events % kept_events] = {at_ns, bytes, sum(card), pid, card, what, is_ordered};
        book_->events++;
    }

    int fd_;
    Book * book_;
    std::mutex mutex_;
};

}  // namespace softgpu
