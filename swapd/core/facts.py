"""The first half of a step: take a fact in. What follows from it is `scheduler`'s.

A late fact, about what is over, changes nothing; one about what never was is a bug of the shell.
"""

from __future__ import annotations

from typing import Final, assert_never

from swapd.core import planner
from swapd.core.group import Waiting
from swapd.core.hindsight import Hindsight
from swapd.core.messages import (
    CatalogChanged,
    Event,
    FilesSeen,
    FileWarmed,
    GrantLease,
    LessonsRead,
    LoadProgressed,
    MeasurementDue,
    MemoryMeasured,
    PinsChanged,
    PlacementSized,
    PolicyChanged,
    Refusal,
    RefuseRequest,
    RequestArrived,
    RequestEnded,
    StopRequested,
    StopWorker,
    TimerFired,
    UnloadRequested,
    WorkerDied,
    WorkerGone,
    WorkerLoaded,
    YieldRequested,
)
from swapd.core.model import Footprint, ResidentId, VariantId
from swapd.core.past import kept_tokens
from swapd.core.resident import STAYING, Cause, Phase, Resident, Trigger
from swapd.core.state import Measurement, Yield
from swapd.core.values import replace
from swapd.errors import Death
from swapd.units import Seconds

MAX_TRIES: Final = 2
"""Loads that may fail under one request before it is refused."""
SIZE_AGAIN: Final[Seconds] = 60.0
"""So long after a sizing failed the next request has it tried again; after each failure in a row twice as long."""
SIZE_AGAIN_MOST: Final[Seconds] = 3600.0


class ImpossibleFact(Exception):
    """A resident that never was, a request that is there already: a bug in the shell. Nothing was changed."""


class Facts(Hindsight):
    """One step as far as `take`: the state with the fact in it."""

    def take(self, event: Event) -> None:
        match event:
            case RequestArrived():
                self._arrive(event)
            case RequestEnded():
                self._end(event)
            case UnloadRequested():
                self._unload(event)
            case PinsChanged():
                self.state = replace(self.state, pins=event.pins)
                self.own_pinned()
            case PolicyChanged():
                self.state = replace(self.state, policy=event.policy)
            case MemoryMeasured():
                self._measured(event)
            case MeasurementDue():
                self.measure()
            case PlacementSized():
                self._sized(event)
            case LessonsRead():
                self._recall(event)
            case FilesSeen():
                self.see_files(dict(event.files))
            case FileWarmed():
                self.see_read(event)
            case CatalogChanged():
                succession = self.state.succession.only(event.known)
                self.state = replace(self.state, known=event.known, named=event.named, succession=succession)
            case YieldRequested():
                self._yield(event)
            case LoadProgressed():
                resident = self._known(event.resident)
                if resident is not None and resident.phase is Phase.LOADING and event.fraction > resident.progress:
                    self.put(replace(resident, progress=event.fraction, progress_at=self.state.now))
            case WorkerLoaded():
                self._loaded(event.resident, event.cached)
            case WorkerDied():
                self._died(event)
            case WorkerGone():
                resident = self._known(event.resident)
                if resident is not None and resident.phase is Phase.UNLOADING:
                    self._remember_left(resident)
                    self.put(resident.after(Trigger.FREED))
                    self.memory_moved()
            case TimerFired():
                pass
            case StopRequested():
                self._stop()
            case _:
                assert_never(event)

    def _known(self, resident: ResidentId) -> Resident | None:
        """None: it is gone, the fact is late."""
        if resident >= self.state.next_resident:
            raise ImpossibleFact(f"no resident {resident} has ever been")
        return self.state.residents.get(resident)

    def _arrive(self, event: RequestArrived) -> None:
        if self.state.is_stopping:
            self.say(RefuseRequest(event.request, Refusal.STOPPING, "the daemon is stopping"))
            return
        if event.request in self.state.leases or self.state.find_waiting(event.request) is not None:
            raise ImpossibleFact(f"request {event.request} is there already")
        waiting = Waiting(
            event.request,
            event.variant,
            self.state.now,
            event.keep_alive,
            event.owner_keep_alive,
            event.priority,
            event.slotless,
            event.gpu_layers,
        )
        self.queue(waiting)
        self.remember_asked(event)
        if self._may_be_sized_again(event.variant.id):
            self.state = replace(self.state, unsizable=self.state.unsizable - {event.variant.id})

    def _may_be_sized_again(self, variant: VariantId) -> bool:
        """What kept llama.cpp from sizing it may have passed: too little memory, mostly."""
        if variant not in self.state.unsizable or variant not in self.state.failed_sizings:
            return False
        failures, last = self.state.failed_sizings[variant]
        pause = SIZE_AGAIN
        for _ in range(failures - 1):
            pause = min(SIZE_AGAIN_MOST, 2 * pause)
        return self.state.now >= last + pause

    def _end(self, event: RequestEnded) -> None:
        request = event.request
        holder = self.state.leases.get(request)
        if holder is None:
            waiting = self.state.find_waiting(request)
            if waiting is not None:
                self.unqueue(waiting)
            return
        self.drop_leases([request])
        resident = self.state.residents[holder]
        past = before = self.past(resident.variant.id)
        if event.usage is None:
            resident = replace(resident, used_at=self.state.now)
        else:
            resident = replace(resident, used_at=self.state.now, kept=kept_tokens(event.usage))
            past = past.answered(event.usage, resident.placement.gpu_layers, resident.placement.share)
        self.put(resident)
        if self.state.is_idle(resident):
            past = replace(past, rested_at=self.state.now)
        if past is not before:
            self.remember(resident.variant.id, past)

    def _unload(self, event: UnloadRequested) -> None:
        reason = "unloaded by force" if event.force else "unloaded on request"
        self.bar(event.variant)
        for waiting in self.state.waiting.get(event.variant, ()):
            if not waiting.may_evict:  # our own wish to have it again
                self.unqueue(waiting)
        if event.force:
            for waiting in self.state.waiting.get(event.variant, ()):
                self.refuse(waiting, Refusal.UNLOADED, reason)
        for resident in tuple(self.state.residents.values()):
            if resident.variant.id != event.variant:
                continue
            wanted = event.variant in self.state.waiting and resident.phase in (Phase.RESERVED, Phase.LOADING)
            if wanted:  # whoever asked first is served first; then it leaves
                self.put(replace(resident, keep_alive=0.0))
            elif resident.phase in STAYING:
                self.retire(resident, Cause.OPERATOR, reason)
            if event.force:
                self.revoke(resident.id, Refusal.UNLOADED, reason)

    def _measured(self, event: MemoryMeasured) -> None:
        is_outdated = self.state.is_outdated
        self.state = replace(
            self.state,
            devices=event.devices,
            measured_at=None if is_outdated else self.state.now,
            is_measuring=False,
            is_outdated=False,
        )
        if is_outdated:
            return  # it may show a load half done: nothing to learn
        self._see_yields()
        listed = [(device.id, dict(device.held)) for device in event.devices]
        for resident in self.state.in_phases([Phase.READY, Phase.DRAINING]):
            # A driver that names no process (containers, WSL) measures nothing: what is known stands.
            known = resident.predicted if resident.measured is None else resident.measured
            if resident.measured is not None and not any(held.get(resident.id, 0) > known[d] for d, held in listed):
                continue  # pools grow in use and are not given back
            measured = Footprint.of({d: held.get(resident.id) or known[d] for d, held in listed})
            if resident.measured is not None:
                measured = measured.at_least(resident.measured)
            if measured != resident.measured:
                resident = replace(resident, measured=measured)
                self.put(resident)
                self._remember_measured(resident, measured)
                self._learn_at_least(resident, resident.footprint)
                self._learn_overhead(resident, measured)

    def _remember_measured(self, resident: Resident, measured: Footprint) -> None:
        """Beside what was predicted first: a lesson without that was learnt by who did not keep it."""
        key = (resident.variant.id, resident.placement)
        earlier = {known: each for known, each in self.state.measurements.items() if known != key}
        before = self.state.measurements.get(key)
        first = before.predicted if before is not None else None if key in self.state.lessons else resident.predicted
        self.state = replace(self.state, measurements={**earlier, key: Measurement(first, measured)})

    def _learn_at_least(self, resident: Resident, lesson: Footprint) -> None:
        floor = self.state.floors.get((resident.variant.id, resident.placement), Footprint())
        self.learn(resident.variant.id, resident.placement, lesson.at_least(floor))

    def _learn_overhead(self, resident: Resident, measured: Footprint) -> None:
        """What the process takes on its cards besides what llama.cpp counts: contexts, pools."""
        size = self.state.sizes.get((resident.variant.id, resident.placement))
        if size is not None:
            beside = {d: max(0, measured[d] - size[d]) for d in resident.placement.devices if measured[d]}
            self.state = replace(self.state, overheads={**self.state.overheads, **beside})

    def _sized(self, event: PlacementSized) -> None:
        key = (event.variant, event.placement)
        self.state = replace(self.state, sizing=self.state.sizing - {key})
        if event.size is None:
            failures, _ = self.state.failed_sizings.get(event.variant, (0, 0.0))
            failed = {**self.state.failed_sizings, event.variant: (failures + 1, self.state.now)}
            self.state = replace(self.state, unsizable=self.state.unsizable | {event.variant}, failed_sizings=failed)
        else:
            failed = {v: each for v, each in self.state.failed_sizings.items() if v != event.variant}
            self.state = replace(self.state, unsizable=self.state.unsizable - {event.variant}, failed_sizings=failed)
            sizes = {**self.state.sizes, key: event.size}
            self.state = replace(self.state, sizes=sizes, overheads={**dict(event.beside), **self.state.overheads})

    def _recall(self, event: LessonsRead) -> None:
        """What this run has learnt already is newer, but for what was predicted first: that was before it."""
        state = self.state
        lessons = {(variant, place): size for variant, place, size in event.lessons}
        floors = {(variant, place): size for variant, place, size in event.floors}
        seen = {(v, place): Measurement(first, took) for v, place, first, took in event.measurements}
        newer = {
            key: replace(each, predicted=seen[key].predicted if key in seen else each.predicted)
            for key, each in state.measurements.items()
        }
        earlier = {key: each for key, each in seen.items() if key not in newer}
        self.state = replace(
            state,
            lessons={**lessons, **state.lessons},
            overheads={**dict(event.overheads), **state.overheads},
            measurements={**earlier, **newer},
            floors={**floors, **state.floors},
        )
        self.recall_loads(event.loads)

    def _yield(self, event: YieldRequested) -> None:
        """What was yielded before is taken back."""
        self.state = replace(self.state, yields=())
        device = self.state.yielding()
        if event.size and device is not None:
            lent = Yield(device.id, event.size, self.state.now + event.duration, None)
            self.state = replace(self.state, yields=(lent,))
            if self.state.is_fresh():
                self._see_yields()
        if not self.state.is_fresh():
            self.measure()  # who has to leave is decided on what is seen

    def _see_yields(self) -> None:
        """What others hold where something is lent; not while somebody ends there, whose bytes may be anybody's."""
        if not self.state.yields:
            return
        ending = [r.takes for r in self.state.in_phases([Phase.UNLOADING])]
        seen = {d.id: self.state.foreign(d) for d in self.state.devices if not any(takes(d.id) for takes in ending)}
        lent = tuple(replace(y, foreign=seen.get(y.device)) if y.foreign is None else y for y in self.state.yields)
        self.state = replace(self.state, yields=lent)

    def _loaded(self, resident_id: ResidentId, cached: float | None) -> None:
        resident = self._known(resident_id)
        if resident is None or resident.phase is not Phase.LOADING:
            return
        now = self.state.now
        resident = self.see_tier(resident, cached)
        ready = replace(resident.after(Trigger.LOADED), progress=1.0, progress_at=now, loaded_at=now, used_at=now)
        self.put(ready)
        self._fulfil(ready)
        if resident.started_at is not None and resident.placement.share >= 1:
            self.remember_load(ready, now - resident.started_at, cached)
        self.memory_moved()

    def _own_wishes(self, variant: VariantId) -> tuple[Waiting, ...]:
        """To have it placed again."""
        return tuple(w for w in self.state.waiting.get(variant, ()) if not w.may_evict)

    def _remember_left(self, resident: Resident) -> None:
        """When whoever is to come again was last used: it is not used by being placed again, and not by failing to."""
        if resident.loaded_at is not None and self._own_wishes(resident.variant.id):
            self.state = replace(self.state, left={**self.state.left, resident.variant.id: resident.used_at})

    def _fulfil(self, ready: Resident) -> None:
        """Our own wish for it ends here: it is as old, and stays as long, as the one whose place it takes."""
        variant = ready.variant.id
        for wish in self._own_wishes(variant):
            others = [r for r in self.state.residents.values() if r.variant.id == variant and r.id != ready.id]
            leaving = [r for r in others if r.loaded_at is not None]
            used_at = max((r.used_at for r in leaving), default=self.state.left.get(variant, ready.used_at))
            self.unqueue(wish)
            self.say(GrantLease(wish.request, ready.id))
            keep_alive = ready.keep_alive if wish.keep_alive is None else wish.keep_alive
            self.put(replace(ready, used_at=used_at, keep_alive=keep_alive))
        self.state = replace(self.state, left={v: at for v, at in self.state.left.items() if v != variant})

    def _died(self, event: WorkerDied) -> None:
        resident = self._known(event.resident)
        if resident is None or resident.phase in (Phase.RESERVED, Phase.UNLOADING, Phase.GONE):
            return
        was_loading = resident.phase is Phase.LOADING
        self.put(resident.after(Trigger.DIED))
        self.memory_moved()
        self.revoke(resident.id, Refusal.CRASHED, event.reason)
        self.say(StopWorker(resident.id, f"died: {event.reason}"))
        if was_loading:
            self.load_failed(resident.variant.id, event.death, event.reason)
            self.waste(resident)
        elif event.death is Death.OUT_OF_MEMORY:  # in use it takes more than was ever measured
            cap = self.state.cap(resident.variant)
            more = {d: min(int(size * planner.OOM_MARGIN), cap[d]) for d, size in resident.footprint.parts if d in cap}
            key = (resident.variant.id, resident.placement)
            floor = self.state.floors.get(key, Footprint()).at_least(Footprint.of(more))
            self.state = replace(self.state, floors={**self.state.floors, key: floor})
            self._learn_at_least(resident, resident.footprint)

    def load_failed(self, variant: VariantId, death: Death, reason: str) -> None:
        short = death is Death.OUT_OF_MEMORY
        group = self.state.waiting.get(variant)
        if group is None:
            return
        group = group.after_failure(short_of_memory=short)
        self.state = replace(self.state, waiting={**self.state.waiting, variant: group})
        for waiting in group:
            if death is Death.UNUSABLE:
                self.refuse(waiting, Refusal.UNUSABLE, reason)
            elif waiting.tries >= MAX_TRIES:
                self.refuse(waiting, Refusal.CRASHED, reason)

    def _stop(self) -> None:
        self.state = replace(self.state, is_stopping=True)
        for group in tuple(self.state.waiting.values()):
            for waiting in group:
                self.refuse(waiting, Refusal.STOPPING, "the daemon is stopping")
        for resident in self.state.in_phases(STAYING):
            self.retire(resident, Cause.STOPPING, "the daemon is stopping")
