"""Who leaves: keep-alives that ended, victims for a need, and when to look again.

Pure questions over the state; `scheduler` retires whom they name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from swapd.core.model import DeviceId, Footprint, VariantId
from swapd.core.resident import STAYING, Phase, Resident
from swapd.core.state import State
from swapd.units import Bytes, Seconds


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


def is_evictable(state: State, resident: Resident, *, busy: bool) -> bool:
    """Ready and not pinned; idle, or with `busy` also at work once it has served `min_residency`."""
    if resident.phase is not Phase.READY or state.is_pinned(resident):
        return False
    if state.is_idle(resident):
        return True
    loaded_at = state.now if resident.loaded_at is None else resident.loaded_at
    return busy and state.now >= loaded_at + state.policy.min_residency


def victims(
    state: State,
    need: Footprint,
    newcomer: VariantId,
    room: Mapping[DeviceId, Bytes],
    *,
    places: int = 0,
    busy: bool = False,
) -> tuple[Resident, ...] | None:
    """The least recently used residents whose leaving makes room for `need` and frees `places` more; None: not enough.

    Whoever turns out not to be needed stays, the most recently used first. With `busy`, residents at
    work come after all idle ones.
    """
    order = sorted(
        (r for r in state.residents.values() if r.variant.id != newcomer and is_evictable(state, r, busy=busy)),
        key=lambda r: (not state.is_idle(r), r.used_at, r.id),
    )
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
    room: dict[DeviceId, Bytes] = {}
    for device in state.devices:
        room[device.id] = min(state.most(device), state.budget(device) + state.unlisted(device))
        room[device.id] -= pinned[device.id]
    return room


def pinned_beside(state: State, newcomer: VariantId) -> tuple[Resident, ...]:
    """Staying residents that never make room for it."""
    return tuple(r for r in state.in_phases(STAYING) if state.is_pinned(r) and r.variant.id != newcomer)


def _is_enough(need: Footprint, room: Mapping[DeviceId, Bytes], leaving: list[Resident], places: int) -> bool:
    freed = Footprint.total(r.footprint for r in leaving)
    return len(leaving) >= places and need.fits({d: size + freed[d] for d, size in room.items()})


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
            times.append(resident.loaded_at + policy.min_residency)
    times += [group[0].since + policy.max_wait for group in state.waiting.values() if not state.is_overdue(group)]
    due = [time for time in times if time > state.now and not math.isinf(time)]
    return min(due, default=None)
