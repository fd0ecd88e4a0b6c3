"""What to do for a group of waiting requests: a plan over placements and victims. Pure; `scheduler` performs it.

Candidate plans, in the order of liking: load beside the others, make room by eviction, load in part,
wait for those at work; `Policy.overflow` restricts the choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from swapd.core import eviction, footprint, placement
from swapd.core.messages import Overflow
from swapd.core.model import DeviceId, Footprint, Placement
from swapd.core.resident import STAYING, Resident
from swapd.core.state import State, Waiting
from swapd.units import Bytes, Seconds

MOST: Final = 0.7
"""So much of what could be on the GPU is worth loading beside others at work rather than waiting for them."""
OOM_MARGIN: Final = 1.1
"""After an out-of-memory its requests ask for so many times what was predicted."""


@dataclass(frozen=True, slots=True)
class Go:
    """Reserve this, and retire these for it."""

    placement: Placement
    need: Footprint
    leaving: tuple[Resident, ...]


@dataclass(frozen=True, slots=True)
class Size:
    """First ask llama.cpp what this takes."""

    placement: Placement


@dataclass(frozen=True, slots=True)
class Wait:
    """Those at work must finish first."""


@dataclass(frozen=True, slots=True)
class Never:
    """Not even with everything evictable gone; `need` is the nearest miss."""

    need: Footprint
    ceiling: Mapping[DeviceId, Bytes]


@dataclass(frozen=True, slots=True)
class NoPlace:
    """As many models as may be loaded are pinned."""


Verdict: TypeAlias = Go | Size | Wait | Never | NoPlace


def decide(state: State, group: tuple[Waiting, ...], gpu_layers: int | None) -> Verdict:
    """What to do for requests that wait for one variant and have no resident."""
    variant = group[0].variant
    whole = placement.wholes(state, variant, gpu_layers)[0]
    silent = {device.id for device in state.devices if device.is_stale}
    if not footprint.is_known(state, variant, whole) and not silent & set(whole.devices):
        # What all estimates start from.
        return Size(whole)
    ooms = max(w.ooms for w in group)
    verdict = _Question(state, group, gpu_layers, ooms).answer()
    if ooms and isinstance(verdict, Never):  # nothing smaller either: as much as there can be, once more
        verdict = _Question(state, group, gpu_layers, ooms, is_last_try=True).answer()
    if isinstance(verdict, Go) and not footprint.is_known(state, variant, verdict.placement):
        return Size(verdict.placement)
    return verdict


class _Question:
    """One decision: the state, who asks, and what follows from both."""

    def __init__(
        self,
        state: State,
        group: tuple[Waiting, ...],
        gpu_layers: int | None,
        ooms: int,
        *,
        is_last_try: bool = False,
    ) -> None:
        self.state, self.variant = state, group[0].variant
        self.fixed = placement.wanted_layers(self.variant, gpu_layers) is not None
        self.ooms, self.is_last_try = ooms, is_last_try
        self.predict = footprint.Predictor(state, self.variant)
        self.may_evict = any(w.may_evict for w in group)
        self.is_overdue = state.is_overdue(group)
        cap = state.cap(self.variant)
        self.room = _least(state.room(), cap)
        self.ceiling = _least(eviction.ceiling(state, self.variant.id), cap)
        limit = state.policy.max_loaded
        self.places = max(0, len(state.in_phases(STAYING)) + 1 - limit) if limit else 0
        self.pinned = len(eviction.pinned_beside(state, self.variant.id))
        self.wholes = [(p, self.need(p)) for p in placement.wholes(state, self.variant, gpu_layers)]

    def need(self, place: Placement) -> Footprint:
        """Predicted; more after an out-of-memory. That guess dies with the request."""
        predicted = self.predict(place)
        more = {d: int(size * OOM_MARGIN**self.ooms) for d, size in predicted.parts}
        if self.is_last_try:
            more = {d: min(size, self.ceiling.get(d, 0)) for d, size in more.items()}
        return predicted.at_least(Footprint.of(more))

    def cautious(self, room: Mapping[DeviceId, Bytes]) -> Mapping[DeviceId, Bytes]:
        """The room as one who was out of memory before counts it."""
        if self.is_last_try:
            return room
        return {device: int(size / OOM_MARGIN**self.ooms) for device, size in room.items()}

    def answer(self) -> Verdict:
        limit = self.state.policy.max_loaded
        if limit and self.pinned >= limit:
            return NoPlace()
        possible = [(place, need) for place, need in self.wholes if need.fits(self.ceiling)]
        if not self.may_evict:
            return self._beside(possible) or self._in_part(self.room) or self._never()
        overflow = self.state.policy.overflow
        if overflow is Overflow.OFFLOAD:
            part = self._beside(possible) or self._in_part(self.room)
            return part or self._evict(possible or self._last_resort())
        options = possible or self._last_resort()
        verdict = self._evict(options)
        if overflow is Overflow.AUTO and _disturbs(self.state, verdict):
            part = self._in_part(self.room)
            if part is not None and part.placement.share >= MOST * options[0][0].share:
                return part
        return verdict

    def _beside(self, options: Iterable[tuple[Placement, Footprint]]) -> Go | None:
        if self.places:
            return None
        return next((Go(place, need, ()) for place, need in options if need.fits(self.room)), None)

    def _in_part(self, room: Mapping[DeviceId, Bytes]) -> Go | None:
        """As much of it on the GPU as the room holds, down to the CPU alone."""
        if self.places:
            return None
        place = placement.largest(self.state, self.variant, self.cautious(room), fixed=self.fixed, predict=self.predict)
        return None if place is None else Go(place, self.need(place), ())

    def _last_resort(self) -> list[tuple[Placement, Footprint]]:
        """The most of it that fits with everything evictable gone."""
        place = placement.largest(
            self.state, self.variant, self.cautious(self.ceiling), fixed=self.fixed, predict=self.predict
        )
        return [] if place is None else [(place, self.need(place))]

    def _evict(self, possible: list[tuple[Placement, Footprint]]) -> Go | Wait | Never:
        """The plan that costs least; those at work leave only for a group that is overdue."""
        if not possible:
            return self._never()
        plans: list[Go] = []
        for place, need in possible:
            leaving = eviction.victims(
                self.state, need, self.variant.id, self.room, places=self.places, busy=self.is_overdue
            )
            if leaving is not None:
                plans.append(Go(place, need, leaving))
        return min(plans, key=lambda plan: _loss(self.state, plan.leaving)) if plans else Wait()

    def _never(self) -> Never:
        needs = [need for _, need in self.wholes]
        if not self.fixed:
            needs += [self.need(p) for p in placement.alone(self.variant)]
        return Never(min(needs, key=lambda need: need.shortage(self.ceiling)[1]), self.ceiling)


def _disturbs(state: State, verdict: Go | Wait | Never) -> bool:
    """Whether those at work would have to leave, or be waited for."""
    return isinstance(verdict, Wait) or (isinstance(verdict, Go) and _loss(state, verdict.leaving)[0] > 0)


def _loss(state: State, leaving: tuple[Resident, ...]) -> tuple[int, Seconds, int]:
    """What a set of victims costs: those at work first, then how recently the latest was used, then how many."""
    at_work = sum(not state.is_idle(r) for r in leaving)
    return at_work, max((r.used_at for r in leaving), default=0.0), len(leaving)


def _least(one: Mapping[DeviceId, Bytes], other: Mapping[DeviceId, Bytes]) -> dict[DeviceId, Bytes]:
    return {device: min(size, other.get(device, size)) for device, size in one.items()}


__all__ = ["Go", "Never", "NoPlace", "Size", "Verdict", "Wait", "decide"]
