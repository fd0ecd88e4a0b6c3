"""Who leaves: keep-alives that ended, victims for a need, and when to look again.

Pure questions over the state; `scheduler` retires whom they name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

from swapd.core import costs, sparing
from swapd.core.messages import Ranking
from swapd.core.model import DeviceId, Footprint, ResidentId, VariantId
from swapd.core.resident import STAYING, Phase, Resident
from swapd.core.state import State, remembered, remembered_with
from swapd.units import Bytes, Seconds

TENURE: Final = 6.0
"""A resident at work stays so many times as long as it was waited for, whoever is overdue."""
LONGEST_TENURE: Final = 3.0
"""Of `max_wait`: never longer than this."""
CLEARLY: Final = 0.7
"""The order of last use is left only for victims that cost less than so much of it: measured seconds are noisy."""


def expired(state: State) -> tuple[Resident, ...]:
    """Idle residents whose keep-alive has ended."""
    old = [r for r in state.residents.values() if r.used_at + r.keep_alive <= state.now]
    return tuple([r for r in old if state.expires_at(r) is not None])


def stalled(state: State) -> tuple[Resident, ...]:
    """Loads that made no progress for `load_timeout`."""
    limit = state.policy.load_timeout
    return tuple(r for r in state.in_phases([Phase.LOADING]) if state.now >= r.progress_at + limit)


def is_evictable(state: State, resident: Resident, *, busy: bool, is_hurried: bool = True) -> bool:
    """Ready and not pinned; idle, or with `busy` also at work, once it has served its tenure and its own.

    Not `is_hurried`: at some time it will have, also if it is only coming.
    """
    if state.is_pinned(resident):
        return False
    if not is_hurried:
        return resident.phase in STAYING
    if resident.phase is not Phase.READY:
        return False
    if state.is_idle(resident):
        return True
    return busy and state.now >= tenure_ends(state, resident) and state.has_served_its_own(resident)


def tenure_ends(state: State, resident: Resident) -> Seconds:
    """Until then one that always has work is left to it: the longer, the longer it was waited for. Where everybody
    waits long, leaving sooner costs more in swaps than those who wait would gain.
    """
    loaded_at = state.now if resident.loaded_at is None else resident.loaded_at
    waited = resident.since - resident.asked_at
    most = LONGEST_TENURE * state.policy.max_wait
    return loaded_at + max(state.policy.min_residency, min(most, TENURE * waited))


_Way: TypeAlias = tuple[bool, bool]
"""`busy` and `is_hurried`."""


class Victims:
    """Who may leave for one newcomer, and of them, for one need after another, whose leaving makes room for it."""

    def __init__(
        self,
        state: State,
        newcomer: VariantId,
        room: Mapping[DeviceId, Bytes],
        *,
        places: int = 0,
        busy: bool = False,
        is_hurried: bool = True,
        spared: frozenset[ResidentId] = frozenset(),
    ) -> None:
        """`places` more have to become free. With `busy`, residents at work come after all idle ones. None of `spared`.

        Not `is_hurried`: at some time those at work may leave.
        """
        way = busy, is_hurried
        self._state, self._room, self._places = state, room, places
        self._taken, self._freed = _taken(state), _freed(state)[way]
        self._by_use = [r for r in _by_use(state)[way] if r.variant.id != newcomer and r.id not in spared]

    def of(self, need: Footprint) -> tuple[Resident, ...] | None:
        """The least recently used, or those whose loss costs clearly less; None: not enough."""
        freed, room = self._freed, self._room
        for device, size in need.parts:
            if device not in room or size > room[device] + freed.get(device, 0):
                return None
        oldest = self._sufficient(need, self._by_use)
        if not oldest or self._state.policy.ranking is Ranking.LRU:
            return oldest
        regrets = costs.regrets(self._state)
        enough = CLEARLY * sum([regrets[r.id] for r in oldest])
        if min([regrets[r.id] for r in self._by_use]) >= enough:
            return oldest  # nobody alone costs less
        able = {r.id for r in self._by_use}
        cheapest = self._sufficient(need, [r for r in _by_regret(self._state) if r.id in able])
        if cheapest is None or sum([regrets[r.id] for r in cheapest]) >= enough:
            return oldest
        return cheapest if self._at_work(cheapest) <= self._at_work(oldest) else oldest

    def _at_work(self, leaving: Iterable[Resident]) -> int:
        return sum(not self._state.is_idle(r) for r in leaving)

    def _sufficient(self, need: Footprint, order: Iterable[Resident]) -> tuple[Resident, ...] | None:
        """The first in that order that make room; whoever turns out not to be needed stays, the last first."""
        room, places, taken = self._room, self._places, self._taken
        lacks = {device: size - room[device] for device, size in need.parts if size > room[device]}
        short = len(lacks)
        chosen: list[Resident] = []
        for resident in order:
            if not short and len(chosen) >= places:
                break
            takes, is_of_use = taken[resident.id], places > 0
            for device, lack in lacks.items():
                if size := takes.get(device, 0):
                    is_of_use = True
                    lacks[device] = lack - size
                    short -= lack > 0 >= lack - size
            if is_of_use:
                chosen.append(resident)
        if short or len(chosen) < places:
            return None
        spare, kept = len(chosen) - places, []
        for resident in reversed(chosen):
            takes = taken[resident.id]
            if spare and not any(lack + takes.get(device, 0) > 0 for device, lack in lacks.items()):
                spare -= 1
                for device in lacks:
                    lacks[device] += takes.get(device, 0)
            else:
                kept.append(resident)
        return tuple(reversed(kept))


@remembered
def _by_use(state: State) -> Mapping[_Way, tuple[Resident, ...]]:
    """Who may be a victim: the idle before those at work, the least recently used first."""
    idle = {r.id: state.is_idle(r) for r in state.residents.values()}
    by_use = sorted(state.residents.values(), key=lambda r: (not idle[r.id], r.used_at, r.id))
    ways = ((False, True), (True, True), (True, False))
    return {
        (busy, is_hurried): tuple(r for r in by_use if is_evictable(state, r, busy=busy, is_hurried=is_hurried))
        for busy, is_hurried in ways
    }


@remembered
def _by_regret(state: State) -> tuple[Resident, ...]:
    """Everybody: the idle before those at work, those whose loss costs least first."""
    regrets = costs.regrets(state)
    return tuple(sorted(state.residents.values(), key=lambda r: (not state.is_idle(r), regrets[r.id], r.used_at, r.id)))


@remembered_with("residents")
def _taken(state: State) -> Mapping[ResidentId, Mapping[DeviceId, Bytes]]:
    return {r.id: dict(r.footprint.parts) for r in state.residents.values()}


@remembered
def _freed(state: State) -> Mapping[_Way, Mapping[DeviceId, Bytes]]:
    """If all of them left."""
    found: dict[_Way, dict[DeviceId, Bytes]] = {}
    for way, able in _by_use(state).items():
        freed: dict[DeviceId, Bytes] = {}
        for resident in able:
            for device, size in resident.footprint.parts:
                freed[device] = freed.get(device, 0) + size
        found[way] = freed
    return found


def ceiling(state: State, newcomer: VariantId) -> Mapping[DeviceId, Bytes]:
    """Room if everything that may ever be evicted were gone; at most, while a load is not yet on the driver's list."""
    pinned = pinned_beside(state, newcomer)
    if not pinned:
        return _ceiling(state)
    held = Footprint.total(r.footprint for r in pinned)
    return {device: size - held[device] for device, size in _ceiling(state).items()}


@remembered_with("residents", "devices", "policy", "yields", "now")
def _ceiling(state: State) -> Mapping[DeviceId, Bytes]:
    """The same if nobody were pinned."""
    most, budgets = state.mosts(), state.budgets()
    return {d.id: min(most[d.id], budgets[d.id] + state.unlisted(d)) for d in state.devices}


def pinned_beside(state: State, newcomer: VariantId) -> tuple[Resident, ...]:
    """Staying residents that never make room for it."""
    if not state.pins:
        return ()
    return tuple(r for r in state.in_phases(STAYING) if state.is_pinned(r) and r.variant.id != newcomer)


def next_deadline(state: State) -> Seconds | None:
    """When something becomes due by time alone, later than now; None: nothing will."""
    policy = state.policy
    times, soonest = list[Seconds](), math.inf
    for resident in state.residents.values():
        if state.now < resident.used_at + resident.keep_alive < soonest:
            soonest = state.expires_at(resident) or soonest
        if resident.phase is Phase.LOADING:
            times.append(resident.progress_at + policy.load_timeout)
        if resident.phase is Phase.READY and resident.loaded_at is not None and state.waiting:
            times.append(tenure_ends(state, resident))
    for group in state.waiting.values():
        times += [state.overdue_at(group), state.pressing_at(group)]
    times += (soonest, *sparing.next_look(state))
    due = [time for time in times if time > state.now and not math.isinf(time)]
    return min(due, default=None)
