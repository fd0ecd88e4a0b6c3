"""A check that finds nothing proves nothing: bugs are put into the core, and the world has to notice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random

import pytest

from swapd.core import eviction, footprint, foresee, placement, planner, reading, relief
from swapd.core.ahead import Ahead
from swapd.core.group import Group, Waiting
from swapd.core.messages import CatalogChanged, Event, MemoryMeasured, Overflow, RequestEnded, WorkerGone
from swapd.core.model import Device, DeviceId, Footprint, Placement, ResidentId, Variant
from swapd.core.resident import Cause, Phase, Resident
from swapd.core.scheduler import _Step
from swapd.core.state import State
from swapd.core.succession import Habit
from swapd.core.turn import Turn
from swapd.sim.records import Broken
from swapd.units import Bytes
from tests.sim import storm

WORLDS = 4000
"""Lives after which a bug has to be found; most take fewer than ten."""

Patch = Callable[[pytest.MonkeyPatch], None]


def overcommits_by_one_byte(patch: pytest.MonkeyPatch) -> None:
    def fits(self: Footprint, room: Mapping[DeviceId, Bytes]) -> bool:
        return all(size <= room.get(device, 0) + 1 for device, size in self.parts)

    patch.setattr(Footprint, "fits", fits)


def has_a_budget_of_one_byte_more(patch: pytest.MonkeyPatch) -> None:
    budget = State.budget

    def more(self: State, device: Device) -> Bytes:
        return budget(self, device) + 1

    patch.setattr(State, "budget", more)


def forgets_who_is_leaving(patch: pytest.MonkeyPatch) -> None:
    def held(self: State) -> Footprint:
        return Footprint.total(r.footprint for r in self.residents.values() if r.phase in (Phase.LOADING, Phase.READY))

    patch.setattr(State, "held", held)


def stops_a_leased_resident(patch: pytest.MonkeyPatch) -> None:
    retire = Turn.retire

    def at_once(self: Turn, resident: Resident, cause: Cause, reason: str) -> None:
        retire(self, resident, cause, reason)
        after = self.state.residents.get(resident.id)
        if after is not None and after.phase is Phase.DRAINING:
            self.unload_now(after)

    patch.setattr(Turn, "retire", at_once)


def drains_a_leased_resident_for_anybody(patch: pytest.MonkeyPatch) -> None:
    def is_evictable(state: State, resident: Resident, *, busy: bool, is_hurried: bool = True) -> bool:
        return resident.phase is Phase.READY and not state.is_pinned(resident)

    patch.setattr(eviction, "is_evictable", is_evictable)


def evicts_the_pinned(patch: pytest.MonkeyPatch) -> None:
    def is_evictable(state: State, resident: Resident, *, busy: bool, is_hurried: bool = True) -> bool:
        return state.is_idle(resident)

    patch.setattr(eviction, "is_evictable", is_evictable)


def forgets_a_waiting_request(patch: pytest.MonkeyPatch) -> None:
    unqueue = Turn.unqueue

    def and_the_last(self: Turn, waiting: Waiting) -> None:
        unqueue(self, waiting)
        rest = tuple(self.state.waiting.get(waiting.variant.id, ()))
        if len(rest) > 1:
            unqueue(self, rest[-1])

    patch.setattr(Turn, "unqueue", and_the_last)


def counts_keep_alive_from_the_start(patch: pytest.MonkeyPatch) -> None:
    def end(self: _Step, event: RequestEnded) -> None:
        request = event.request
        waiting = self.state.find_waiting(request)
        if waiting is not None:
            self.unqueue(waiting)
        else:
            self.drop_leases([request])

    patch.setattr(_Step, "_end", end)


def trusts_a_load_reported_after_the_stop(patch: pytest.MonkeyPatch) -> None:
    def loaded(self: _Step, resident_id: ResidentId, cached: float | None) -> None:
        resident = self._known(resident_id)
        if resident is not None:
            now = self.state.now
            self.put(replace(resident, phase=Phase.READY, loaded_at=now, used_at=now))
            self.memory_moved()

    patch.setattr(_Step, "_loaded", loaded)


def trusts_an_end_that_nobody_ordered(patch: pytest.MonkeyPatch) -> None:
    take = _Step.take

    def trusting(self: _Step, event: Event) -> None:
        known = self.state.residents.get(event.resident) if isinstance(event, WorkerGone) else None
        if known is None:
            take(self, event)
        elif known.phase is not Phase.RESERVED:
            self.drop_leases(self.state.leases_of(known.id))
            self.put(replace(known, phase=Phase.GONE))
            self.memory_moved()

    patch.setattr(_Step, "take", trusting)


def trusts_a_measurement_that_memory_has_outrun(patch: pytest.MonkeyPatch) -> None:
    measured = _Step._measured

    def trusting(self: _Step, event: MemoryMeasured) -> None:
        self.state = replace(self.state, is_outdated=False)
        measured(self, event)

    patch.setattr(_Step, "_measured", trusting)


def starts_on_an_old_measurement(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(State, "is_fresh", lambda self: bool(self.devices))


def promotes_while_requests_wait(patch: pytest.MonkeyPatch) -> None:
    promotable = relief.promotable
    patch.setattr(relief, "promotable", lambda state: promotable(replace(state, waiting={})))


def promotes_in_the_middle_of_a_shortage(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(relief, "CALM", 0.0)


def places_a_pinned_resident_smaller(patch: pytest.MonkeyPatch) -> None:
    yielder = relief.yielder

    def anybody(state: State, device: DeviceId) -> Resident | None:
        return yielder(replace(state, pins=frozenset()), device)

    patch.setattr(relief, "yielder", anybody)


def drains_those_at_work_before_the_idle(patch: pytest.MonkeyPatch) -> None:
    def yielder(state: State, device: DeviceId) -> Resident | None:
        there = [r for r in state.in_phases([Phase.READY]) if r.footprint[device] and not state.is_pinned(r)]
        return min(there, key=lambda r: (state.is_idle(r), r.used_at, r.id), default=None)

    patch.setattr(relief, "yielder", yielder)


def gives_way_where_nothing_is_short(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(relief, "TOLERATED", -1.0)


def notices_no_shortage(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(relief, "pressed", lambda state: ())


def evicts_for_a_wish_of_our_own(patch: pytest.MonkeyPatch) -> None:
    queue = Turn.queue

    def as_a_client(self: Turn, waiting: Waiting) -> None:
        queue(self, replace(waiting, may_evict=True))

    patch.setattr(Turn, "queue", as_a_client)


def evicts_where_it_should_offload(patch: pytest.MonkeyPatch) -> None:
    decide = planner.decide

    def evicting(state: State, group: Group, gpu_layers: int | None) -> planner.Verdict:
        return decide(replace(state, policy=replace(state.policy, overflow=Overflow.EVICT)), group, gpu_layers)

    patch.setattr(planner, "decide", evicting)


def loads_without_asking_what_it_takes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(footprint, "is_known", lambda state, variant, placement: True)


def forgets_the_cpu(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(placement, "alone", lambda variant: ())


def keeps_a_guess_in_the_way(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Ahead, "make_way", lambda self, group, verdict: False)


def keeps_a_guess_that_loads(patch: pytest.MonkeyPatch) -> None:
    is_in_the_way = foresee.is_in_the_way

    def once_it_is_loaded(resident: Resident, verdict: planner.Verdict) -> bool:
        return resident.phase is Phase.READY and is_in_the_way(resident, verdict)

    patch.setattr(foresee, "is_in_the_way", once_it_is_loaded)


def guesses_while_others_leave(patch: pytest.MonkeyPatch) -> None:
    may_be_loaded = foresee.may_be_loaded

    def whoever_leaves(state: State) -> Habit | None:
        staying = {r.id: r for r in state.residents.values() if r.phase is Phase.READY}
        leases = {request: resident for request, resident in state.leases.items() if resident in staying}
        return may_be_loaded(replace(state, residents=staying, leases=leases))

    patch.setattr(foresee, "may_be_loaded", whoever_leaves)


def guesses_what_was_never_a_habit(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(foresee, "LIKELY", 0.0)


def evicts_for_a_guess(patch: pytest.MonkeyPatch) -> None:
    loadable = foresee.loadable

    def as_if_alone(state: State) -> tuple[Habit, Placement, Footprint] | None:
        at_work = {r: state.residents[r] for r in state.leases.values()}
        return loadable(replace(state, residents=at_work))

    patch.setattr(foresee, "loadable", as_if_alone)


def counts_a_guess_as_used(patch: pytest.MonkeyPatch) -> None:
    """Then it is neither the first victim nor gone for whoever needs its room."""
    patch.setattr(foresee, "unused", lambda state: None)


def reads_ahead_while_others_load(patch: pytest.MonkeyPatch) -> None:
    worth_reading = reading.worth_reading

    def whoever_loads(state: State) -> tuple[Variant, Bytes, str] | None:
        there = {r.id: r for r in state.residents.values() if r.phase is not Phase.LOADING}
        return worth_reading(replace(state, residents=there))

    patch.setattr(reading, "worth_reading", whoever_loads)


def reads_ahead_into_the_reserve(patch: pytest.MonkeyPatch) -> None:
    worth_reading = reading.worth_reading
    patch.setattr(
        reading,
        "worth_reading",
        lambda state: worth_reading(replace(state, policy=replace(state.policy, host_reserve=0))),
    )


def reads_what_is_named_no_more(patch: pytest.MonkeyPatch) -> None:
    take = _Step.take

    def and_before(self: _Step, event: Event) -> None:
        if isinstance(event, CatalogChanged):
            event = replace(event, named=(*self.state.named, *event.named))
        take(self, event)

    patch.setattr(_Step, "take", and_before)


def reads_again_and_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reading, "AGAIN", 0.0)


def live(worlds: int) -> None:
    for seed in range(worlds):
        storm.story(Random(seed).randrange, 60)


@pytest.mark.parametrize(
    "plant",
    [
        overcommits_by_one_byte,
        has_a_budget_of_one_byte_more,
        forgets_who_is_leaving,
        stops_a_leased_resident,
        drains_a_leased_resident_for_anybody,
        evicts_the_pinned,
        forgets_a_waiting_request,
        counts_keep_alive_from_the_start,
        trusts_a_load_reported_after_the_stop,
        trusts_an_end_that_nobody_ordered,
        trusts_a_measurement_that_memory_has_outrun,
        starts_on_an_old_measurement,
        promotes_while_requests_wait,
        promotes_in_the_middle_of_a_shortage,
        places_a_pinned_resident_smaller,
        drains_those_at_work_before_the_idle,
        gives_way_where_nothing_is_short,
        notices_no_shortage,
        evicts_for_a_wish_of_our_own,
        evicts_where_it_should_offload,
        loads_without_asking_what_it_takes,
        forgets_the_cpu,
        keeps_a_guess_in_the_way,
        keeps_a_guess_that_loads,
        guesses_while_others_leave,
        guesses_what_was_never_a_habit,
        evicts_for_a_guess,
        counts_a_guess_as_used,
        reads_ahead_while_others_load,
        reads_ahead_into_the_reserve,
        reads_what_is_named_no_more,
        reads_again_and_again,
    ],
    ids=lambda plant: plant.__name__,
)
def test_a_core_that_is_noticed(plant: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(Broken):
        live(WORLDS)
