"""What to do for a group of waiting requests: plans over placements and victims, priced. Pure; `scheduler` performs it.

Candidate plans: load beside the others, make room by eviction, load in part, wait for those at work;
`Policy.overflow` restricts the choice, `Policy.ranking` says how they are compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from swapd.core import costs, eviction, footprint, placement, sparing
from swapd.core.decision import Choice, Cost
from swapd.core.group import Group
from swapd.core.messages import Overflow, Ranking
from swapd.core.model import DeviceId, Footprint, Placement
from swapd.core.resident import STAYING, Resident
from swapd.core.state import State, remembered_with
from swapd.units import Bytes, Seconds

MOST: Final = 0.7
"""Less of what could be on the GPU is not worth loading beside others: whatever it seems to save at first, answers so
slow keep the next ones waiting (the lab)."""
OOM_MARGIN: Final = 1.1
"""After an out-of-memory its requests ask for so many times what was predicted."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One way to serve the group. `leaving` of a WAIT are those waited for."""

    choice: Choice
    placement: Placement
    need: Footprint
    leaving: tuple[Resident, ...] = ()
    costs: tuple[Cost, ...] = ()

    @property
    def price(self) -> Seconds:
        return sum(cost.seconds for cost in self.costs)


@dataclass(frozen=True, slots=True)
class Go:
    """Reserve the plan's placement, and retire who leaves for it. `others` were considered."""

    plan: Plan
    others: tuple[Plan, ...] = ()


@dataclass(frozen=True, slots=True)
class Size:
    """First ask llama.cpp what this takes."""

    placement: Placement


@dataclass(frozen=True, slots=True)
class Wait:
    """Those at work must finish first. `plan` None: nobody can say whom that means."""

    plan: Plan | None = None
    others: tuple[Plan, ...] = ()


@dataclass(frozen=True, slots=True)
class Never:
    """Not even with everything evictable gone; `need` is the nearest miss."""

    need: Footprint
    ceiling: Mapping[DeviceId, Bytes]


@dataclass(frozen=True, slots=True)
class NoPlace:
    """As many models as may be loaded are pinned."""


Verdict: TypeAlias = Go | Size | Wait | Never | NoPlace


def decide(state: State, group: Group, gpu_layers: int | None) -> Verdict:
    """What to do for requests that wait for one variant and have no resident."""
    variant = group.variant
    wholes = placement.wholes(state, variant, gpu_layers)
    if not footprint.is_known(state, variant, wholes[0]):
        silent = {device.id for device in state.devices if device.is_stale}
        if not silent & set(wholes[0].devices):
            return Size(wholes[0])  # what all estimates start from
    verdict = _Question(state, group, gpu_layers, wholes).answer()
    if group.ooms and isinstance(verdict, Never):  # nothing smaller either: as much as there can be, once more
        verdict = _Question(state, group, gpu_layers, wholes, is_last_try=True).answer()
    if isinstance(verdict, Never) and not placement.wanted_layers(variant, gpu_layers):
        # Nobody is refused on an estimate of the least that it could have.
        for least in placement.alone(variant):
            if not footprint.is_known(state, variant, least):
                return Size(least)
    if isinstance(verdict, Go):
        plan = verdict.plan
        if not footprint.is_known(state, variant, plan.placement):
            return Size(plan.placement)
        if plan.leaving and sparing.is_too_soon(state, group, plan.need, plan.leaving):
            return Wait()
    return verdict


class _Question:
    """One decision: the state, who asks, and what follows from both."""

    def __init__(
        self,
        state: State,
        group: Group,
        gpu_layers: int | None,
        wholes: Iterable[Placement],
        *,
        is_last_try: bool = False,
    ) -> None:
        self.state, self.group, self.variant = state, group, group.variant
        # Without a card every wish means the CPU, and there smaller buffers will do.
        self.fixed = placement.wanted_layers(self.variant, gpu_layers) if state.has_gpu() else None
        self.ooms, self.is_last_try = group.ooms, is_last_try
        self.predict = footprint.predictor(state, self.variant)
        self.may_evict = group.clients > 0
        self.is_overdue = state.is_overdue(group)
        self.is_priced = state.policy.ranking is Ranking.COST
        cap = state.cap(self.variant)
        self.room = _least(state.room(), cap) if self.variant.max_vram else _room_within(state)
        self.ceiling = _least(eviction.ceiling(state, self.variant.id), cap)
        limit = state.policy.max_loaded
        self.places = max(0, len(state.in_phases(STAYING)) + 1 - limit) if limit else 0
        self.pinned = len(eviction.pinned_beside(state, self.variant.id))
        self.wholes = [(place, self.need(place)) for place in wholes]

    def need(self, place: Placement) -> Footprint:
        """Predicted; more after an out-of-memory. That guess dies with the request."""
        predicted = self.predict(place)
        if not self.ooms:
            return predicted
        more = {d: int(size * OOM_MARGIN**self.ooms) for d, size in predicted.parts}
        if self.is_last_try:
            more = {d: min(size, self.ceiling.get(d, 0)) for d, size in more.items()}
        return predicted.at_least(Footprint.of(more))

    def cautious(self, room: Mapping[DeviceId, Bytes]) -> Mapping[DeviceId, Bytes]:
        """The room as one who was out of memory before counts it."""
        if self.is_last_try or not self.ooms:
            return room
        return {device: int(size / OOM_MARGIN**self.ooms) for device, size in room.items()}

    def answer(self) -> Verdict:
        limit = self.state.policy.max_loaded
        if limit and self.pinned >= limit:
            return NoPlace()
        possible = [(place, need) for place, need in self.wholes if need.fits(self.ceiling)]
        beside = self._beside(possible)
        if beside is not None:
            return Go(beside)
        if not self.may_evict:
            part = self._in_part(self.room)
            return self._never() if part is None else Go(part)
        overflow = self.state.policy.overflow
        if overflow is Overflow.OFFLOAD:
            part = self._in_part(self.room)
            if part is not None:
                return Go(part)
        options = possible or (self._by_room(self.ceiling) if self.fixed is None else []) or self._last_resort()
        if not options:
            return self._never()
        plans = self._evicting(options)
        if overflow is not Overflow.AUTO:
            return _choose(plans)
        if not self.is_priced:  # in part it would stay slow for ever: without prices nobody says when it is outgrown
            return _choose(plans)
        enough = MOST * options[0][0].share
        part = self._in_part(self.room, enough)
        if part is None or part.placement.share < enough:
            return _choose(plans)
        return _choose([*plans, part])

    def _beside(self, options: Iterable[tuple[Placement, Footprint]]) -> Plan | None:
        if self.places:
            return None
        fitting = next(((place, need) for place, need in options if need.fits(self.room)), None)
        if fitting is None and self.fixed is None:
            fitting = next(iter(self._by_room(self.room)), None)
        return None if fitting is None else self._plan(Choice.LOAD, *fitting)

    def _by_room(self, room: Mapping[DeviceId, Bytes]) -> list[tuple[Placement, Footprint]]:
        place = placement.whole_by_room(self.state, self.predict, self.cautious(room))
        return [] if place is None else [(place, self.need(place))]

    def _in_part(self, room: Mapping[DeviceId, Bytes], least: float = 0.0) -> Plan | None:
        """As much of it on the GPU as the room holds, down to the CPU alone; None also if less than `least`."""
        if self.places or (least and not placement.may_hold(self.state, self.predict, self.cautious(room), least)):
            return None
        place = placement.largest(self.state, self.variant, self.cautious(room), fixed=self.fixed, predict=self.predict)
        return None if place is None else self._plan(Choice.OFFLOAD, place, self.need(place))

    def _last_resort(self) -> list[tuple[Placement, Footprint]]:
        """The most of it that fits with everything evictable gone."""
        place = placement.largest(
            self.state, self.variant, self.cautious(self.ceiling), fixed=self.fixed, predict=self.predict
        )
        return [] if place is None else [(place, self.need(place))]

    def _evicting(self, options: list[tuple[Placement, Footprint]]) -> list[Plan]:
        """One plan that can begin now, the cheapest, and one to wait for those at work; either may be missing.

        Those at work leave now only for a group that is overdue.
        """
        now = self._cheapest(options, Choice.EVICT, self._victims(busy=self.is_overdue, is_hurried=True))
        if now is not None:
            return [now]
        # Over several cards only what fits on none: this is no more than a price and a reason until they are idle.
        on_one = [option for option in options if len(option[0].devices) <= 1]
        later = self._cheapest(on_one or options, Choice.WAIT, self._victims(busy=True, is_hurried=False))
        return [] if later is None else [later]

    def _victims(self, *, busy: bool, is_hurried: bool) -> eviction.Victims:
        return eviction.Victims(
            self.state,
            self.variant.id,
            self.room,
            places=self.places,
            busy=busy,
            is_hurried=is_hurried,
            spared=sparing.spared(self.state, self.group) if is_hurried else frozenset(),
        )

    def _cheapest(
        self, options: list[tuple[Placement, Footprint]], choice: Choice, victims: eviction.Victims
    ) -> Plan | None:
        """Of those for which enough can leave: now, or where it is a WAIT, once they are idle."""
        best: tuple[tuple[Seconds, int, Seconds, int], Plan] | None = None
        for place, need in options:
            leaving = victims.of(need)
            if leaving is None or (choice is Choice.WAIT and not leaving):
                continue
            way = choice if leaving else Choice.LOAD
            prices = self._prices(way, place, leaving)
            rank = sum([seconds for _, seconds in prices]), *_loss(self.state, leaving)
            if best is None or rank < best[0]:
                best = rank, Plan(way, place, need, leaving, _told(prices))
        return None if best is None else best[1]

    def _plan(self, choice: Choice, place: Placement, need: Footprint) -> Plan:
        return Plan(choice, place, need, (), _told(self._prices(choice, place, ())))

    def _prices(self, choice: Choice, place: Placement, leaving: tuple[Resident, ...]) -> list[tuple[str, Seconds]]:
        """The parts of a plan's price: what it costs, how much; none where nothing is priced."""
        state, count = self.state, max(1, self.group.clients)
        if not self.is_priced:
            return []
        parts = [("load", count * costs.load(state, self.variant, place.share))]
        if leaving:
            parts.append(("unload", count * costs.UNLOAD))
        at_work = [r for r in leaving if not state.is_idle(r)]
        if at_work:
            ends = costs.ends(state)
            if choice is Choice.WAIT:
                bound = max(0.0, self.group.since + state.policy.max_wait - state.now)
                wait = min(max([ends[r.id] for r in at_work]), bound)
            else:
                wait = max([costs.answer(state, r.variant) for r in at_work])
            parts.append(("those at work", count * wait))
        regrets = costs.regrets(state)
        parts += [(f"lose {resident.variant.name}", regrets[resident.id]) for resident in leaving]
        slower = costs.slower_answers(state, self.variant, place, count)
        if slower:
            parts.append(("slower answers", slower))
        return parts

    def _never(self) -> Never:
        needs = [need for _, need in self.wholes]
        if not self.fixed:
            needs += [self.need(p) for p in placement.alone(self.variant)]
        return Never(min(needs, key=lambda need: need.shortage(self.ceiling)[1]), self.ceiling)


def _told(prices: list[tuple[str, Seconds]]) -> tuple[Cost, ...]:
    return tuple([Cost(what, seconds) for what, seconds in prices])


def _choose(plans: list[Plan]) -> Go | Wait:
    """The cheapest; of equals, and where nothing is priced, the first."""
    if not plans:
        return Wait()
    best = min(plans, key=lambda plan: plan.price)
    others = tuple(plan for plan in plans if plan is not best)
    return Wait(best, others) if best.choice is Choice.WAIT else Go(best, others)


def _loss(state: State, leaving: tuple[Resident, ...]) -> tuple[int, Seconds, int]:
    """What a set of victims costs: those at work first, then how recently the latest was used, then how many."""
    at_work = sum(not state.is_idle(r) for r in leaving)
    return at_work, max((r.used_at for r in leaving), default=0.0), len(leaving)


@remembered_with("residents", "devices", "policy", "yields", "now")
def _room_within(state: State) -> Mapping[DeviceId, Bytes]:
    """For whoever has no cap of its own."""
    return _least(state.room(), state.mosts())


def _least(one: Mapping[DeviceId, Bytes], other: Mapping[DeviceId, Bytes]) -> dict[DeviceId, Bytes]:
    return {device: min(size, other.get(device, size)) for device, size in one.items()}


__all__ = ["Go", "Never", "NoPlace", "Plan", "Size", "Verdict", "Wait", "decide"]
