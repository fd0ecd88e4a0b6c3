// The tests' handle on a ledger: made, read and turned from Python (gpu.py) through ctypes.
#include "ledger.hpp"

using softgpu::Event;
using softgpu::Knob;
using softgpu::Ledger;

extern "C" {

int softgpu_make(const char * path, int cards, const int64_t * totals) {
    return Ledger::make(path, cards, totals) ? 0 : errno;
}
Ledger * softgpu_open(const char * path) { return Ledger::open(path); }
void softgpu_close(Ledger * ledger) { delete ledger; }

int64_t softgpu_used(Ledger * ledger, int card) { return ledger->used(card); }
int64_t softgpu_peak(Ledger * ledger, int card) { return ledger->peak(card); }
void softgpu_turn(Ledger * ledger, int knob, int card, int64_t value) {
    ledger->turn(static_cast<Knob>(knob), card < 0 ? softgpu::whole_driver : card, value);
}

int softgpu_crowd(Ledger * ledger, int pid, int card, int64_t bytes, int draws) {
    return ledger->crowd(pid, card, bytes, draws);
}
void softgpu_give(Ledger * ledger, int pid, int card, int64_t bytes) { ledger->give(pid, card, bytes); }

int softgpu_order(Ledger * ledger, int fault, int card, int64_t at_least, int64_t skip, int64_t count,
                  const int32_t * spared, int spared_count) {
    softgpu::Order order{at_least, skip, count, card, {}, static_cast<softgpu::Fault>(fault)};
    if (spared_count > softgpu::most_spared) return 0;
    std::copy_n(spared, spared_count, order.spared);
    return ledger->order(order);
}
void softgpu_withdraw_orders(Ledger * ledger) { ledger->withdraw_orders(); }
int64_t softgpu_orders_left(Ledger * ledger) { return ledger->orders_left(); }

int softgpu_holders(Ledger * ledger, int card, int room, int32_t * pids, int64_t * bytes) {
    int count = 0;
    ledger->each_holder(card, [&](const softgpu::Holder & holder) {
        if (count == room) return;
        pids[count] = holder.pid;
        bytes[count++] = holder.bytes;
    });
    return count;
}

// At most `room` events from number *from on; *from becomes the number of the first one given.
int softgpu_events(Ledger * ledger, uint64_t * from, int room, Event * events) {
    int count = 0;
    ledger->each_event(*from, [&](uint64_t number, const Event & event) {
        if (count == room) return false;
        if (!count) *from = number;
        events[count++] = event;
        return true;
    });
    return count;
}

}  // extern "C"
