"""step(state, event) -> (state, commands): the only place where decisions meet.

Called by `runtime/engine.py` alone (and by the simulator). The order of a step: take the fact in; grant
what can be granted; let go what is over; then, on a fresh measurement, give every group of waiting
requests that has no resident its turn to get one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, assert_never

from swapd.core import eviction, explain, footprint, inheritance, placement, planner, queueing, relief
from swapd.core.ahead import Ahead
from swapd.core.facts import MAX_TRIES, ImpossibleFact
from swapd.core.group import Group, Waiting
from swapd.core.messages import (
    Command,
    Event,
    GrantLease,
    LoadProgressed,
    Note,
    Refusal,
    RefuseRequest,
    RequestArrived,
)
from swapd.core.model import DeviceId, Footprint, RequestId, VariantId
from swapd.core.resident import STAYING, Cause, Phase, Resident
from swapd.core.state import State, work_device
from swapd.core.values import replace
from swapd.errors import Death
from swapd.units import Bytes, format_bytes

OURS: Final = "swapd/"
"""How the ids of our own wishes begin: nobody waits for their answers."""
LOOKED_AT: Final = 4
"""After so many groups that have to wait one more is looked at in this step: those behind come to it later."""
CROWD: Final = 100
IN_A_CROWD: Final = 2
"""Of more groups than that, after so many: to find out whose turn it is takes its part of a step, too."""
PROMISED: Final = 4
"""Nor after so many that were promised a room, while somebody leaves: what follows from that is another step."""


def step(state: State, event: Event) -> tuple[State, tuple[Command, ...]]:
    """The next state and what to do. Raises ImpossibleFact, IllegalTransition; then nothing has changed."""
    turn = _Step(replace(state, now=max(state.now, event.at)))
    turn.take(event)
    turn.settle(event)
    turn.look_ahead(event)
    return turn.state, tuple(turn.commands)


class _Step(Ahead):
    """One step: `take` the fact, then `settle` what follows from it."""

    def settle(self, event: Event) -> None:
        self._grant()
        if isinstance(event, RequestArrived):
            self._limit_queue(event.request)
        for resident in eviction.expired(self.state):
            self.retire(resident, Cause.EXPIRED, "its keep-alive ended")
        for resident in eviction.stalled(self.state):
            reason = f"no progress for {self.state.policy.load_timeout:g} s"
            self.retire(resident, Cause.STALLED, reason)
            self.load_failed(resident.variant.id, Death.CRASHED, f"the load made {reason}")
        for resident in self.state.in_phases([Phase.DRAINING]):
            if not self.state.leases_of(resident.id):
                self.unload_now(resident)
        for resident in self.state.in_phases([Phase.RESERVED]):
            if resident.variant.id not in self.state.waiting:
                self.retire(resident, Cause.UNWANTED, "nobody waits for it any more")
        if isinstance(event, LoadProgressed):
            return  # it moves nobody, and comes a hundred times a load
        self._replace_placements()
        if self.state.is_fresh() and not self.state.is_stopping:
            self._relieve()
            self._promote()
        served = {r.variant.id for r in self.state.in_phases(STAYING)}
        if self.state.waiting.keys() <= served and not self.state.in_phases([Phase.RESERVED]):
            return
        if not self.state.is_fresh():
            self.measure()
            return
        self._check_promises()
        waited, before = 0, self.state.next_resident
        most = LOOKED_AT if len(self.state.waiting) <= CROWD else IN_A_CROWD
        for variant in queueing.first(self.state):
            if not self._place(variant) or waited >= most:
                break
            waited += variant in self.state.waiting and self.state.staying(variant) is None
            is_more_to_come = self.state.next_resident - before >= PROMISED
            if is_more_to_come and self.state.in_phases([Phase.DRAINING, Phase.UNLOADING]):
                break
        self._start_loads()

    def _limit_queue(self, newest: RequestId) -> None:
        most = self.state.policy.max_queue
        waiting = self.state.find_waiting(newest) if self.state.waiting_count() > most else None
        if waiting is not None:
            self.refuse(waiting, Refusal.OVERLOADED, f"{most} requests are waiting already")

    def _grant(self) -> None:
        if not self.state.waiting:
            return
        for resident in self.state.in_phases([Phase.READY]):
            newcomers = self.state.waiting.get(resident.variant.id)
            if newcomers is not None and relief.is_outgrown(self.state, resident, newcomers.clients):
                self.retire(resident, Cause.PROMOTED, "asked for too often for an answer from the CPU")
                continue
            while group := self.state.waiting.get(resident.variant.id):
                is_full = len(self.state.leases_of(resident.id)) >= resident.variant.slots
                waiting = self._next_served(resident, group, is_full=is_full)
                if waiting is None:
                    break
                self.unqueue(waiting)
                if not waiting.slotless:
                    leases = {**self.state.leases, waiting.request: resident.id}
                    self.state = replace(self.state, leases=leases)
                if waiting.keep_alive is not None:
                    resident = replace(resident, keep_alive=waiting.keep_alive)
                resident = replace(resident, used_at=self.state.now)
                self.put(resident)
                self.say(GrantLease(waiting.request, resident.id))

    def _next_served(self, resident: Resident, group: Group, *, is_full: bool) -> Waiting | None:
        if not group.particular:
            return None if is_full else queueing.next_in(self.state, group)
        fitting = [w for w in group if self._will_do(resident, w)]
        slotless = next((w for w in fitting if w.slotless), None)
        if slotless is not None or is_full or not fitting:
            return slotless
        return queueing.first_of(fitting, is_overdue=self.state.is_overdue(group))

    def _will_do(self, resident: Resident, waiting: Waiting) -> bool:
        """A load that names its layers is served only by a resident so placed, or placed as could be for that wish."""
        if waiting.gpu_layers is None or not placement.usable(self.state):
            return True
        wanted = placement.wanted_layers(resident.variant, waiting.gpu_layers)
        return wanted is None or wanted in (resident.placement.gpu_layers, resident.wanted_layers)

    def _replace_placements(self) -> None:
        for resident in self.state.in_phases([Phase.READY]):
            group = self.state.waiting.get(resident.variant.id)
            if group is not None and group.particular and any(not self._will_do(resident, w) for w in group):
                self.retire(resident, Cause.REPLACED, "wanted with other GPU layers")

    def _check_promises(self) -> None:
        """A reservation whose room others have taken is given up; its requests get another turn."""
        for resident in self.state.in_phases([Phase.RESERVED]):
            room = self.state.room()
            lack = max((-room.get(device, -size) for device, size in resident.footprint.parts), default=0)
            if lack > 0:
                self.retire(resident, Cause.NO_ROOM, f"{format_bytes(lack)} of the room promised to it were taken")

    def _relieve(self) -> None:
        """Others have taken memory that was promised: give way, the idle first, until it is enough."""
        while shortages := relief.pressed(self.state):
            self.state = replace(self.state, relieved_at=self.state.now)
            yielders = ((relief.yielder(self.state, device), device, lack) for device, lack in shortages)
            found = next(((r, device, lack) for r, device, lack in yielders if r is not None), None)
            if self.make_way_for_others(device for device, _ in shortages):
                continue
            if found is None:
                return
            resident, device, lack = found
            why = relief.cause(self.state, device, lack)
            if self.state.is_idle(resident) and relief.is_worth_keeping(self.state, resident):
                self._place_again(resident, Cause.DEMOTED, f"placed smaller: {why}")
            else:
                self.retire(resident, Cause.DEMOTED, why)

    def _promote(self) -> None:
        found = relief.promotable(self.state)
        if found is None:
            return
        resident, better = found
        if footprint.is_known(self.state, resident.variant, better):
            self._place_again(resident, Cause.PROMOTED, "placed better: there is room again")
        else:  # nobody is unloaded for an estimate
            self.size(resident.variant, better)

    def _place_again(self, resident: Resident, cause: Cause, reason: str) -> None:
        """Retire it and wish for another of the same variant, wherever there is room then."""
        wish = Waiting(
            RequestId(f"{OURS}{resident.id}"),
            resident.variant,
            self.state.now,
            resident.keep_alive,
            resident.keep_alive,
            0,
            slotless=True,
            gpu_layers=None,
            may_evict=False,
        )
        self.retire(resident, cause, reason)
        self.queue(wish)

    def _place(self, variant_id: VariantId) -> bool:
        """Give the group a reservation, refuse it, or let it wait for those at work.

        False: it is pressing and still has to wait, so nobody behind it may take room before it.
        """
        group = self.state.waiting[variant_id]
        wish = next((w.gpu_layers for w in group if w.gpu_layers is not None), None) if group.particular else None
        if self._inherit(group):
            return True
        verdict = planner.decide(self.state, group, wish)
        if self.make_way(group, verdict):
            verdict = planner.decide(self.state, group, wish)
        match verdict:
            case planner.Go(plan, others):
                self.say(Note(explain.placed(self.state, group, plan, others, self.state.next_resident)))
                self.reserve(group.oldest, plan.placement, plan.need, placement.wanted_layers(group.variant, wish))
                wanted = explain.needs(plan.need)
                for victim in plan.leaving:
                    self.retire(victim, Cause.EVICTED, f"evicted for {group.variant.name}, which needs {wanted}")
            case planner.Size(place):
                self.size(group.variant, place)
            case planner.Wait(plan, others):
                self._tell_waiting(group, plan, others)
                return not self.state.is_pressing(group)
            case planner.NoPlace():
                self.say(Note(explain.refused(group, f"max_loaded is {self.state.policy.max_loaded}")))
                self._refuse_placeless(group)
            case planner.Never(need, ceiling):
                pinned = self._pinned_on(need.shortage(ceiling)[0])
                self.say(Note(explain.refused(group, explain.too_large(need, ceiling, pinned))))
                self._refuse_group(tuple(w for w in group if w.gpu_layers == wish), need, ceiling)
                return variant_id not in self.state.waiting or self._place(variant_id)
            case _:
                assert_never(verdict)
        return True

    def _inherit(self, group: Group) -> bool:
        """Have it take over the worker of one that nobody asks for any more; False: there is none, or no room."""
        old = inheritance.forebear(self.state, group)
        if old is None:
            return False
        if not footprint.is_known(self.state, group.variant, old.placement):
            self.size(group.variant, old.placement)
            return True
        need = footprint.predict(self.state, group.variant, old.placement)
        if not inheritance.fits(self.state, old, need, group):
            return False
        if inheritance.is_turn(self.state, old):
            self.hand_on(old, group.oldest, need)
        return True

    def _tell_waiting(self, group: Group, plan: planner.Plan | None, others: tuple[planner.Plan, ...]) -> None:
        """Once for each reason."""
        gist = () if plan is None else tuple(sorted(str(r.id) for r in plan.leaving))
        if self.state.told.get(group.variant.id) != gist:
            told = {v: t for v, t in self.state.told.items() if v in self.state.waiting}
            self.state = replace(self.state, told={**told, group.variant.id: gist})
            self.say(Note(explain.waits(self.state, group, plan, others)))

    def _refuse_group(self, group: tuple[Waiting, ...], need: Footprint, ceiling: Mapping[DeviceId, Bytes]) -> None:
        state = self.state
        device, _ = need.shortage(ceiling)
        pinned = self._pinned_on(device)
        here = next((each for each in state.devices if each.id == device), None)
        for waiting in group:
            cap = None if here is None else state.own_cap(waiting.variant, here)
            is_short = cap is not None and cap <= ceiling.get(device, 0)  # else it is the card
            own = f", and its max_vram allows {format_bytes(cap or 0)} there" if is_short else ""
            self.unqueue(waiting)
            self.say(
                RefuseRequest(
                    waiting.request,
                    Refusal.DOES_NOT_FIT,
                    f"{waiting.variant.name} needs {format_bytes(need[device])} on {device}{own}",
                    device,
                    need[device],
                    max(0, ceiling.get(device, 0)),
                    pinned,
                    is_short,
                )
            )

    def _pinned_on(self, device: DeviceId) -> tuple[str, ...]:
        """The pinned that hold memory there, by name."""
        there = (r for r in self.state.residents.values() if r.footprint[device])
        return tuple(sorted(r.variant.name for r in there if self.state.is_pinned(r)))

    def _refuse_placeless(self, group: Group) -> None:
        pinned = tuple(sorted(r.variant.name for r in eviction.pinned_beside(self.state, group.variant.id)))
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
            self.begin(resident, f"{len(self.state.waiting.get(resident.variant.id, ()))} waiting")


__all__ = ["MAX_TRIES", "ImpossibleFact", "step"]
