"""Whose file to have in the page cache before it is loaded. Pure questions, asked by `ahead`.

One file at a time, into memory that is free beyond the reserve, never beside a load, which needs the disk: first that
of whoever is to have room, then of those who wait for others to finish; where nobody waits, that of the likely next;
then those of whoever was asked for lately or is named in the configuration, as many as there is room for beside each
other, so that none pushes out another.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from swapd.core import foresee
from swapd.core.model import HOST, Variant
from swapd.core.resident import Phase
from swapd.core.state import State
from swapd.units import Bytes, MiB, Seconds, parse_share

POSSIBLE: Final = 0.3
"""Not even the file of a model that is less sure to be next is read for that: it costs the disk's time, not that of
the requests.
"""
WARM: Final = 0.95
"""With so much of its file in the page cache there is nothing to read ahead."""
LEAST: Final = 64 * MiB
"""Less than that of a file is not worth reading without the rest."""
SHARE_OF_HOST: Final = "50%"
"""Of its memory, for files read ahead, where the owner says nothing."""
AGAIN: Final[Seconds] = 3600.0
"""A file that was read and is there no more: others want the memory more, so it is not read again at once."""


def worth_reading(state: State) -> tuple[Variant, Bytes, str] | None:
    """Whose file, so much of it from its start, and why; None: nobody's, or the disk is in use."""
    host = next((device for device in state.devices if device.id == HOST), None)
    limit = None if host is None else _limit(state, host.total)
    if host is None or not limit or state.is_stopping or state.in_phases([Phase.LOADING]):
        return None
    free = host.free - state.configured_reserve(host)
    promised = min(state.in_phases([Phase.RESERVED]), key=lambda r: r.id, default=None)
    if promised is not None:
        size = _unread(state, promised.variant, free)
        return (promised.variant, size, "it is loaded as soon as there is room") if size else None
    if not state.policy.prefetch:
        return None
    if state.waiting:
        return _waiting(state, free)
    if all(share >= WARM for share in state.cached.values()):
        return None
    room = min(limit, free, state.room()[HOST])  # the memory is left alone that was promised
    return _guessed(state, room) or _usual(state, room)


def _waiting(state: State, most: Bytes) -> tuple[Variant, Bytes, str] | None:
    """Of those who wait for the ones at work, whoever waits longest; not before it is seen that they have to."""
    if state.reading is None and not state.is_fresh():
        return None
    unread = [v for v, share in state.cached.items() if share < WARM and v in state.waiting]
    for group in sorted((state.waiting[v] for v in unread), key=lambda group: (group.since, group.variant.id)):
        size = _unread(state, group.variant, most) if _may_be_read(state, group.variant) else 0
        if size:
            return group.variant, size, "it is loaded as soon as those at work are done"
    return None


def _guessed(state: State, most: Bytes) -> tuple[Variant, Bytes, str] | None:
    guess = foresee.expected(state)
    if guess is None or guess[1] < POSSIBLE or not _may_be_read(state, guess[0].variant):
        return None
    size = _unread(state, guess[0].variant, most)
    return (guess[0].variant, size, f"it is likely next ({guess[1]:.0%})") if size else None


def _usual(state: State, room: Bytes) -> tuple[Variant, Bytes, str] | None:
    """What is cached already, of those that come before it, has its part of the room."""
    if foresee.computes_on_host(state):
        return None
    for variant, reason in _familiar(state):
        cached, size = state.cached.get(variant.id), variant.shape.weights
        if cached is None or size > room or not _may_be_read(state, variant):
            continue
        room -= size
        if cached < WARM and state.now >= state.read_at.get(variant.id, -AGAIN) + AGAIN:
            return variant, size, reason
    return None


def _familiar(state: State) -> Iterator[tuple[Variant, str]]:
    """The one being read, then the last asked for, then those that are only named, of which the smallest are first:
    that is most of them soonest.
    """
    habits = state.succession.habits
    asked = [habit.variant for habit in reversed(list(habits.values()))]
    both = [(v, "it was asked for lately") for v in asked]
    named = sorted((v for v in state.named if v.id not in habits), key=lambda v: v.shape.weights)
    both += [(v, "it is named in the configuration") for v in named]
    yield from sorted(both, key=lambda each: each[0].id != state.reading)


def _may_be_read(state: State, variant: Variant) -> bool:
    return state.staying(variant.id) is None and variant.id not in state.succession.barred


def _unread(state: State, variant: Variant, most: Bytes) -> Bytes:
    """How much of its file to read, from the start; 0: it is there, or never mind. Who does not look reads nothing."""
    cached = state.cached.get(variant.id)
    was_tried = variant.id in state.succession.read and variant.id != state.reading
    if most <= 0 or cached is None or cached >= WARM or was_tried:
        return 0
    size = min(variant.shape.weights, most)
    more = size - int(cached * variant.shape.weights)
    return size if more >= min(LEAST, variant.shape.weights // 2) else 0


def _limit(state: State, total: Bytes) -> Bytes:
    most = state.policy.warm_cache
    return parse_share(SHARE_OF_HOST, total) if most is None else most


__all__ = ["worth_reading"]
