"""Who leaves: keep-alives that ended, victims for a need, and when to look again.

Pure questions over the state; `scheduler` retires whom they name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final

from swapd.core import costs
from swapd.core.messages import Ranking
from swapd.core.model import DeviceId, Footprint, VariantId
from swapd.core.resident import STAYING, Phase, Resident
from swapd.core.state import State, remembered
from swapd.units import Bytes, Seconds

TENURE: Final = 3.0
"""A resident at work stays so many times as long as it was waited for, whoever is overdue."""
CLEARLY: Final = 0.7
"""The order of last use is left only for victims that cost less than so much of it: measured seconds are noisy."""


def expired(state: State) -> tuple[Resident, ...]:
    """Idle residents whose keep-alive has ended."""
    return tuple(
        resident
        for resident in state.residents.values()
        if (end := state.expires_at(resident)) is not None and end <= state.now
    )


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
    waited = min(state.policy.max_wait, resident.since - resident.asked_at)
    return loaded_at + max(state.policy.min_residency, TENURE * waited)


def victims(
    state: State,
    need: Footprint,
    newcomer: VariantId,
    room: Mapping[DeviceId, Bytes],
    *,
    places: int = 0,
    busy: bool = False,
    is_hurried: bool = True,
) -> tuple[Resident, ...] | None:
    """Residents whose leaving makes room for `need` and frees `places` more; None: not enough.

    The least recently used, or those whose loss costs clearly less. With `busy`, residents at work come after
    all idle ones.
    """
    able = [r for r in _able(state)[busy, is_hurried] if r.variant.id != newcomer]
    if not _is_enough(need, room, able, places):
        return None
    oldest = _sufficient(need, room, able, places)
    if oldest is None or state.policy.ranking is Ranking.LRU:
        return oldest
    regrets = costs.regrets(state)
    idle = {r.id: state.is_idle(r) for r in able}
    by_regret = sorted(able, key=lambda r: (not idle[r.id], regrets[r.id], r.used_at, r.id))
    cheapest = _sufficient(need, room, by_regret, places) or oldest
    at_work = [sum(not idle[r.id] for r in chosen) for chosen in (cheapest, oldest)]
    losses = [sum(regrets[r.id] for r in chosen) for chosen in (cheapest, oldest)]
    return cheapest if at_work[0] <= at_work[1] and losses[0] < CLEARLY * losses[1] else oldest


@remembered
def _able(state: State) -> Mapping[tuple[bool, bool], tuple[Resident, ...]]:
    """Who may be a victim, by `busy` and `is_hurried`: the idle before those at work, the least recently used first."""
    idle = {r.id: state.is_idle(r) for r in state.residents.values()}
    by_use = sorted(state.residents.values(), key=lambda r: (not idle[r.id], r.used_at, r.id))
    ways = ((False, True), (True, True), (True, False))
    return {
        (busy, is_hurried): tuple(r for r in by_use if is_evictable(state, r, busy=busy, is_hurried=is_hurried))
        for busy, is_hurried in ways
    }


def _sufficient(
    need: Footprint, room: Mapping[DeviceId, Bytes], order: Iterable[Resident], places: int
) -> tuple[Resident, ...] | None:
    """The first in that order that make room; whoever turns out not to be needed stays, the last first."""
    chosen: list[Resident] = []
    for resident in order:
        if _is_enough(need, room, chosen, places):
            break
        chosen.append(resident)
    if not _is_enough(need, room, chosen, places):
        return None
    for resident in reversed(tuple(chosen)):
        others = [r for r in chosen if r is not resident]
        if _is_enough(need, room, others, places):
            chosen = others
    return tuple(chosen)


def ceiling(state: State, newcomer: VariantId) -> Mapping[DeviceId, Bytes]:
    """Room if everything that may ever be evicted were gone; at most, while a load is not yet on the driver's list."""
    pinned = Footprint.total(r.footprint for r in pinned_beside(state, newcomer))
    budgets = state.budgets()
    room: dict[DeviceId, Bytes] = {}
    for device in state.devices:
        room[device.id] = min(state.most(device), budgets[device.id] + state.unlisted(device))
        room[device.id] -= pinned[device.id]
    return room


def pinned_beside(state: State, newcomer: VariantId) -> tuple[Resident, ...]:
    """Staying residents that never make room for it."""
    return tuple(r for r in state.in_phases(STAYING) if state.is_pinned(r) and r.variant.id != newcomer)


def _is_enough(need: Footprint, room: Mapping[DeviceId, Bytes], leaving: list[Resident], places: int) -> bool:
    if len(leaving) < places:
        return False
    freed = ((device, size, sum(r.takes(device) for r in leaving)) for device, size in need.parts)
    return all(device in room and size <= room[device] + more for device, size, more in freed)


def next_deadline(state: State) -> Seconds | None:
    """When something becomes due by time alone, later than now; None: nothing will."""
    policy = state.policy
    times: list[Seconds] = []
    for resident in state.residents.values():
        if (end := state.expires_at(resident)) is not None:
            times.append(end)
        if resident.phase is Phase.LOADING:
            times.append(resident.progress_at + policy.load_timeout)
        if resident.phase is Phase.READY and resident.loaded_at is not None and state.waiting:
            times.append(tenure_ends(state, resident))
    for group in state.waiting.values():
        times += [state.overdue_at(group), state.pressing_at(group)]
    due = [time for time in times if time > state.now and not math.isinf(time)]
    return min(due, default=None)
