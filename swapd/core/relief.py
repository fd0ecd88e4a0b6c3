"""When other programs take memory, who gives way; when it comes back, who is placed better. Pure questions.

Asked by `scheduler` after every measurement.
"""

from __future__ import annotations

from typing import Final

from swapd.core import costs, eviction, footprint, placement
from swapd.core.messages import Overflow, Ranking
from swapd.core.model import Device, DeviceId, DeviceKind, Placement
from swapd.core.resident import Phase, Resident
from swapd.core.state import State
from swapd.units import Bytes, Seconds, format_bytes

TOLERATED: Final = 0.5
"""Of the configured reserve: so much of it others may take before anybody has to leave. Of what is lent nothing."""
CALM: Final[Seconds] = 5.0
"""So long must memory have been enough before somebody is placed better."""
WORTH: Final = 0.1
"""A better placement has at least so much more of the model on the GPU, or all of it."""
WORTH_KEEPING: Final = 0.3
"""An idle model is placed smaller if so much of it can stay on the GPU; else it leaves."""


def pressed(state: State) -> tuple[tuple[DeviceId, Bytes], ...]:
    """Devices that lack memory for those who have it and stay, and how much, the worst first.

    A reservation presses nobody: it has taken nothing yet.
    """
    budgets = state.budgets()
    staying = state.in_phases([Phase.LOADING, Phase.READY])
    lacks: list[tuple[DeviceId, Bytes]] = []
    for device in state.devices:
        lack = sum([r.footprint[device.id] for r in staying]) - budgets[device.id]
        tolerated = TOLERATED * state.configured_reserve(device)
        if lack > tolerated and _is_watched(state, device) and lack - state.unlisted(device) > tolerated:
            lacks.append((device.id, lack - state.unlisted(device)))
    return tuple(sorted(lacks, key=lambda short: (-short[1], short[0])))


def cause(state: State, device: DeviceId, lack: Bytes) -> str:
    """Why so much is lacking, for people."""
    lent = sum(state.lent(each) for each in state.devices if each.id == device)
    if lent:
        return f"{format_bytes(lent)} of {device} is yielded to other programs"
    return f"other programs took {format_bytes(lack)} too much of {device}"


def yielder(state: State, device: DeviceId) -> Resident | None:
    """Who leaves that device first: the least recently used of the idle, then of those at work; never a pinned one."""
    there = [r for r in state.in_phases([Phase.READY]) if r.footprint[device] and not state.is_pinned(r)]
    return min(there, key=lambda r: (not state.is_idle(r), r.used_at, r.id), default=None)


def is_settled(state: State, device: DeviceId, since: Seconds) -> bool:
    """Whether what is lent there is seen free, measured since then, or nobody is left who could make room for it."""
    known = next((each for each in state.devices if each.id == device), None)
    if known is None or state.measured_at is None or state.measured_at < since:
        return False
    if known.free >= state.lent(known):
        return True
    there = [r for r in state.residents.values() if r.footprint[device]]
    is_pressed = bool(pressed(state))
    return not any(
        r.phase in (Phase.DRAINING, Phase.UNLOADING) or (is_pressed and r.phase in (Phase.RESERVED, Phase.LOADING))
        for r in there
    )


def is_worth_keeping(state: State, resident: Resident) -> bool:
    """Whether enough of it would fit on the GPUs once it has left."""
    if resident.is_fixed:
        return False
    other = _best(state, resident)
    return other is not None and other.share >= WORTH_KEEPING and other != resident.placement


def promotable(state: State) -> tuple[Resident, Placement] | None:
    """An idle resident that has been used and would fit better than it is placed, and how; the last used first."""
    if state.waiting or state.now < state.relieved_at + CALM:
        return None
    if any(r.phase is not Phase.READY for r in state.residents.values()):
        return None  # whoever is on the way out may take long, and the better place would have to wait for it
    for resident in sorted(state.in_phases([Phase.READY]), key=lambda r: (-r.used_at, r.id)):
        was_used = resident.loaded_at is not None and resident.used_at > resident.loaded_at
        partial = resident.placement.share < 1 and not resident.is_fixed and not state.is_pinned(resident)
        if partial and was_used and state.is_idle(resident):
            better = _best(state, resident)
            if better is not None and better.share >= min(1.0, resident.placement.share + WORTH):
                return resident, better
    return None


def is_outgrown(state: State, resident: Resident, waiting: int) -> bool:
    """Whether it is asked for so much more than when it was placed in part that making room for all of it is
    cheaper, in seconds, than answering these and those expected so slowly.
    """
    policy, variant = state.policy, resident.variant
    if resident.placement.share >= 1 or policy.ranking is not Ranking.COST or policy.overflow is not Overflow.AUTO:
        return False
    was_used = resident.loaded_at is not None and resident.used_at > resident.loaded_at
    if not was_used or resident.is_fixed or state.is_pinned(resident) or not state.has_gpu():
        return False
    slower = costs.slower_answers(state, variant, resident.placement, waiting)
    load = waiting * (costs.load(state, variant) + costs.UNLOAD)
    if slower <= load:
        return False
    own, cap = resident.footprint, state.cap(variant)
    room = {d: min(size + own[d], cap[d]) for d, size in state.room().items()}
    victims = eviction.Victims(state, variant.id, room)
    for whole in placement.wholes(state, variant, None):
        leaving = victims.of(footprint.predict(state, variant, whole))
        if leaving is not None:
            return slower > load + sum(costs.regret(state, r) for r in leaving)
    return False


def _best(state: State, resident: Resident) -> Placement | None:
    """The most of it that would fit if it were gone."""
    own, cap = resident.footprint, state.cap(resident.variant)
    room = {d: min(size + own[d], cap[d]) for d, size in state.room().items()}
    for whole in placement.wholes(state, resident.variant, None):
        if footprint.predict(state, resident.variant, whole).fits(room):
            return whole
    return placement.largest(state, resident.variant, room)


def _is_watched(state: State, device: Device) -> bool:
    """Cards whose driver answers. The host's own pressure is the kernel's to tell, but for what was yielded there."""
    return not device.is_stale and (device.kind is DeviceKind.GPU or state.lent(device) > 0)
