"""step(state, event) -> (state, commands): the only place where decisions meet.

Called by `runtime/engine.py` alone (and by the simulator). The order of a step: take the fact in; grant
what can be granted; let go what is over; then, on a fresh measurement, give every group of waiting
requests that has no resident its turn to get one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, assert_never

from swapd.core import eviction, footprint, placement, queueing
from swapd.core.messages import (
    Command,
    Event,
    GrantLease,
    LoadProgressed,
    MemoryMeasured,
    PinsChanged,
    PolicyChanged,
    Refusal,
    RefuseRequest,
    RequestArrived,
    RequestEnded,
    StartWorker,
    StopRequested,
    StopWorker,
    TimerFired,
    UnloadRequested,
    WorkerDied,
    WorkerGone,
    WorkerLoaded,
)
from swapd.core.model import DeviceId, Footprint, Placement, RequestId, ResidentId, VariantId
from swapd.core.resident import STAYING, Cause, Phase, Resident, Trigger
from swapd.core.state import State, Waiting, work_device
from swapd.core.turn import Turn
from swapd.errors import Death
from swapd.units import Bytes, Seconds, format_bytes

MAX_TRIES: Final = 2
"""Loads that may fail under one request before it is refused."""
_OOM_MARGIN: Final = 1.1
"""After an out-of-memory its requests ask for so many times what was predicted."""


class ImpossibleFact(Exception):
    """A resident that never was, a request that is there already: a bug in the shell. Nothing was changed."""


def step(state: State, event: Event) -> tuple[State, tuple[Command, ...]]:
    """The next state and what to do. Raises ImpossibleFact, IllegalTransition; then nothing has changed."""
    turn = _Step(replace(state, now=max(state.now, event.at)))
    turn.take(event)
    turn.settle()
    return turn.state, tuple(turn.commands)


class _Step(Turn):
    """One step: `take` the fact, then `settle` what follows from it."""

    # --- the fact

    def take(self, event: Event) -> None:
        match event:
            case RequestArrived():
                self._arrive(event)
            case RequestEnded():
                self._end(event.request)
            case UnloadRequested():
                self._unload(event)
            case PinsChanged():
                self.state = replace(self.state, pins=event.pins)
            case PolicyChanged():
                self.state = replace(self.state, policy=event.policy)
            case MemoryMeasured():
                self._measured(event)
            case LoadProgressed():
                resident = self._known(event.resident)
                if resident is not None and resident.phase is Phase.LOADING and event.fraction > resident.progress:
                    self.put(replace(resident, progress=event.fraction, progress_at=self.state.now))
            case WorkerLoaded():
                self._loaded(event.resident)
            case WorkerDied():
                self._died(event)
            case WorkerGone():
                resident = self._known(event.resident)
                if resident is not None and resident.phase is Phase.UNLOADING:
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
        self._grant()
        if self.state.waiting_count() > self.state.policy.max_queue and self.state.find_waiting(event.request):
            self.refuse(waiting, Refusal.OVERLOADED, f"{self.state.policy.max_queue} requests are waiting already")

    def _end(self, request: RequestId) -> None:
        waiting = self.state.find_waiting(request)
        if waiting is not None:
            self.unqueue(waiting)
            return
        holder = self.state.leases.get(request)
        if holder is None:
            return
        self.drop_leases([request])
        resident = self.state.residents[holder]
        self.put(replace(resident, used_at=self.state.now))

    def _unload(self, event: UnloadRequested) -> None:
        reason = "unloaded by force" if event.force else "unloaded on request"
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
        for resident in self.state.in_phases([Phase.READY, Phase.DRAINING]):
            seen = {device.id: dict(device.held).get(resident.id, 0) for device in event.devices}
            # A driver that names no process (containers, WSL) measures nothing: the prediction stands.
            measured = Footprint.of({d: size or resident.predicted[d] for d, size in seen.items()})
            if resident.measured is not None:
                measured = measured.at_least(resident.measured)  # pools grow in use and are not given back
            if measured != resident.measured:
                resident = replace(resident, measured=measured)
                self.put(resident)
                self.learn(resident.variant.id, resident.placement, resident.footprint)

    def _loaded(self, resident_id: ResidentId) -> None:
        resident = self._known(resident_id)
        if resident is None or resident.phase is not Phase.LOADING:
            return
        now = self.state.now
        ready = replace(resident.after(Trigger.LOADED), progress=1.0, progress_at=now, loaded_at=now, used_at=now)
        self.put(ready)
        self.memory_moved()

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
            self._load_failed(resident.variant.id, event.death, event.reason)

    def _load_failed(self, variant: VariantId, death: Death, reason: str) -> None:
        short = death is Death.OUT_OF_MEMORY
        group = [replace(w, tries=w.tries + 1, ooms=w.ooms + short) for w in self.state.waiting.get(variant, ())]
        for waiting in group:
            self.requeue(waiting)
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

    # --- what follows from it

    def settle(self) -> None:
        self._grant()
        for resident in eviction.expired(self.state):
            self.retire(resident, Cause.EXPIRED, "its keep-alive ended")
        for resident in eviction.stalled(self.state):
            reason = f"no progress for {self.state.policy.load_timeout:g} s"
            self.retire(resident, Cause.STALLED, reason)
            self._load_failed(resident.variant.id, Death.CRASHED, f"the load made {reason}")
        for resident in self.state.in_phases([Phase.DRAINING]):
            if not self.state.leases_of(resident.id):
                self.unload_now(resident)
        for resident in self.state.in_phases([Phase.RESERVED]):
            if resident.variant.id not in self.state.waiting:
                self.retire(resident, Cause.UNWANTED, "nobody waits for it any more")
        self._replace_placements()
        needy = [v for v in queueing.turns(self.state) if self.state.staying(v) is None]
        if not needy and not self.state.in_phases([Phase.RESERVED]):
            return
        if not self.state.is_fresh():
            self.measure()
            return
        self._check_promises()
        for variant in queueing.turns(self.state):
            if self.state.staying(variant) is None and not self._place(variant):
                break
        self._start_loads()

    def _grant(self) -> None:
        for resident in self.state.in_phases([Phase.READY]):
            while group := self.state.waiting.get(resident.variant.id):
                fitting = tuple(w for w in group if self._will_do(resident, w))
                slotless = [w for w in fitting if w.slotless]
                is_full = len(self.state.leases_of(resident.id)) >= resident.variant.slots
                if not fitting or (is_full and not slotless):
                    break
                waiting = slotless[0] if slotless else queueing.next_in(self.state, fitting)
                self.unqueue(waiting)
                if not waiting.slotless:
                    leases = {**self.state.leases, waiting.request: resident.id}
                    self.state = replace(self.state, leases=leases)
                if waiting.keep_alive is not None:
                    resident = replace(resident, keep_alive=waiting.keep_alive)
                resident = replace(resident, used_at=self.state.now)
                self.put(resident)
                self.say(GrantLease(waiting.request, resident.id))

    def _will_do(self, resident: Resident, waiting: Waiting) -> bool:
        """A load that names its layers is served only by a resident so placed."""
        if waiting.gpu_layers is None:
            return True
        wanted = placement.candidates(self.state, resident.variant, waiting.gpu_layers)
        return resident.placement.gpu_layers in {p.gpu_layers for p in wanted}

    def _replace_placements(self) -> None:
        for group in tuple(self.state.waiting.values()):
            resident = self.state.staying(group[0].variant.id)
            if resident is None or resident.phase is not Phase.READY:
                continue
            if any(not self._will_do(resident, w) for w in group):
                self.retire(resident, Cause.REPLACED, "wanted with other GPU layers")

    def _check_promises(self) -> None:
        """A reservation whose room others have taken is given up; its requests get another turn."""
        for resident in self.state.in_phases([Phase.RESERVED]):
            _, lack = Footprint.of({d: resident.footprint[d] for d in resident.footprint}).shortage(
                {d: room + resident.footprint[d] for d, room in self.state.room().items()}
            )
            if lack:
                self.retire(resident, Cause.NO_ROOM, f"{format_bytes(lack)} of the room promised to it were taken")

    def _place(self, variant_id: VariantId) -> bool:
        """Give the group a reservation, refuse it, or let it wait for those at work.

        False: it is overdue and still has to wait, so nobody behind it may take room before it.
        """
        group = self.state.waiting[variant_id]
        wish = next((w.gpu_layers for w in group if w.gpu_layers is not None), None)
        variant = group[0].variant
        ceiling = eviction.ceiling(self.state, variant_id)
        ooms = max(w.ooms for w in group)
        options = [
            (place, _with_margin(footprint.predict(self.state, variant, place), ooms, ceiling))
            for place in placement.candidates(self.state, variant, wish)
        ]
        possible = [(place, need) for place, need in options if need.fits(ceiling)]
        if not possible:
            self._refuse_group(tuple(w for w in group if w.gpu_layers == wish), [need for _, need in options])
            return variant_id not in self.state.waiting or self._place(variant_id)
        limit = self.state.policy.max_loaded
        if limit and len(eviction.pinned_beside(self.state, variant_id)) >= limit:
            self._refuse_placeless(group)
            return True
        places = max(0, len(self.state.in_phases(STAYING)) + 1 - limit) if limit else 0
        overdue = self.state.is_overdue(group)
        plans: list[tuple[Placement, Footprint, tuple[Resident, ...]]] = []
        for place, need in possible:
            leaving = eviction.victims(self.state, need, variant_id, places=places, busy=overdue)
            if leaving is not None:
                plans.append((place, need, leaving))
        if not plans:
            return not overdue
        place, need, leaving = min(plans, key=lambda plan: _loss(self.state, plan[2]))
        self.reserve(group[0], place, need)
        wanted = ", ".join(f"{format_bytes(size)} on {device}" for device, size in need.parts)
        for victim in leaving:
            self.retire(victim, Cause.EVICTED, f"evicted for {variant.name}, which needs {wanted}")
        return True

    def _refuse_group(self, group: tuple[Waiting, ...], needs: list[Footprint]) -> None:
        state = self.state
        ceiling = eviction.ceiling(state, group[0].variant.id)
        need = min(needs, key=lambda n: n.shortage(ceiling)[1])
        device, _ = need.shortage(ceiling)
        pinned = tuple(
            sorted(r.variant.name for r in state.residents.values() if state.is_pinned(r) and r.footprint[device])
        )
        for waiting in group:
            self.unqueue(waiting)
            self.say(
                RefuseRequest(
                    waiting.request,
                    Refusal.DOES_NOT_FIT,
                    f"{waiting.variant.name} needs {format_bytes(need[device])} on {device}",
                    device,
                    need[device],
                    max(0, ceiling.get(device, 0)),
                    pinned,
                )
            )

    def _refuse_placeless(self, group: tuple[Waiting, ...]) -> None:
        pinned = tuple(sorted(r.variant.name for r in eviction.pinned_beside(self.state, group[0].variant.id)))
        reason = f"max_loaded is {self.state.policy.max_loaded}, and so many models are pinned"
        for waiting in group:
            self.unqueue(waiting)
            self.say(RefuseRequest(waiting.request, Refusal.DOES_NOT_FIT, reason, pinned=pinned))

    def _start_loads(self) -> None:
        """RESERVED -> LOADING where held + own footprint <= budget; one load at a time on a device."""
        for resident in self.state.in_phases([Phase.RESERVED]):
            loading = {d for r in self.state.in_phases([Phase.LOADING]) for d in work_device(r.placement)}
            if loading & set(work_device(resident.placement)):
                continue
            held, own = self.state.held(), resident.footprint
            # Only where it wants memory itself: pressure on one card is no reason to leave another idle.
            if not Footprint.of({d: held[d] + own[d] for d in own}).fits(self.state.budgets()):
                continue
            now = self.state.now
            self.put(replace(resident.after(Trigger.ROOM_MADE), progress_at=now))
            count = len(self.state.waiting.get(resident.variant.id, ()))
            reason = f"{count} waiting; predicted " + ", ".join(
                f"{format_bytes(size)} on {device}" for device, size in resident.predicted.parts
            )
            self.say(StartWorker(resident.id, resident.variant, resident.placement, reason))


def _with_margin(need: Footprint, ooms: int, ceiling: Mapping[DeviceId, Bytes]) -> Footprint:
    """More than predicted, as far as there can be more. A guess that dies with the request: it is no lesson."""
    more = {d: min(int(size * _OOM_MARGIN**ooms), ceiling.get(d, 0)) for d, size in need.parts}
    return need.at_least(Footprint.of(more))


def _loss(state: State, leaving: tuple[Resident, ...]) -> tuple[int, Seconds, int]:
    """What a set of victims costs: those at work first, then how recently the latest was used, then how many."""
    at_work = sum(not state.is_idle(r) for r in leaving)
    return at_work, max((r.used_at for r in leaving), default=0.0), len(leaving)


__all__ = ["MAX_TRIES", "ImpossibleFact", "step"]
