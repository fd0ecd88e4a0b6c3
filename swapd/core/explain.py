"""Decisions in words and numbers: what the journal keeps of a verdict. Read by nobody who decides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from swapd.core.decision import Candidate, Choice, Decision
from swapd.core.group import Group
from swapd.core.model import DeviceId, DeviceKind, Footprint, RequestId, ResidentId
from swapd.core.planner import Plan
from swapd.core.resident import Resident
from swapd.core.state import State
from swapd.units import Bytes, format_bytes

NAMED: Final = 8
"""So many of the requests concerned are named."""


def placed(state: State, group: Group, plan: Plan, others: Iterable[Plan], resident: ResidentId) -> Decision:
    """A reservation was made."""
    leaving = ", ".join(r.variant.name for r in plan.leaving)
    match plan.choice:
        case Choice.EVICT:
            reason = f"{leaving} to leave: {group.variant.name} does not fit beside"
        case Choice.OFFLOAD:
            reason = f"{plan.placement}: no more of it fits beside the others"
        case _ if state.has_gpu() and plan.placement.share < 1:
            reason = f"so it fits beside the others: {plan.placement}"
        case _:
            reason = "it fits beside the others"
    return _of_group(state, group, plan, others, reason, resident)


def waits(state: State, group: Group, plan: Plan | None, others: Iterable[Plan]) -> Decision:
    """Nothing can be done yet, or waiting is cheapest."""
    busy = ", ".join(r.variant.name for r in plan.leaving) if plan is not None else ""
    reason = f"waits for {busy} to have no work" if busy else "waits for others to leave or to be loaded"
    if plan is None:
        requests, count = _requests(group)
        return Decision(Choice.WAIT, group.variant.name, group.variant.id, reason, requests, count)
    return _of_group(state, group, plan, others, reason, None)


def too_large(need: Footprint, ceiling: Mapping[DeviceId, Bytes], pinned: tuple[str, ...]) -> str:
    """Why it fits nowhere. `ceiling`: what could be had with everybody gone but the pinned, who are named."""
    most = ", ".join(f"{format_bytes(max(0, ceiling.get(device, 0)))} on {device}" for device in need)
    kept = f" without {', '.join(pinned)}, pinned" if pinned else ""
    return f"it needs {needs(need)}; at most {most} can be made free{kept}"


def refused(group: Group, reason: str) -> Decision:
    requests, count = _requests(group)
    return Decision(Choice.REFUSE, group.variant.name, group.variant.id, reason, requests, count)


def prefetched(resident: Resident, reason: str) -> Decision:
    return Decision(Choice.PREFETCH, resident.variant.name, resident.variant.id, reason, resident=resident.id)


def retired(resident: Resident, reason: str) -> Decision:
    return Decision(Choice.UNLOAD, resident.variant.name, resident.variant.id, reason, resident=resident.id)


def _of_group(
    state: State, group: Group, plan: Plan, others: Iterable[Plan], reason: str, resident: ResidentId | None
) -> Decision:
    others = tuple(others)
    requests, count = _requests(group)
    candidates = [_candidate(plan, is_chosen=True, note="")]
    for other in others:
        dearer = other.price - plan.price
        note = f"{dearer:.1f} s dearer" if plan.costs and other.costs else ""
        candidates.append(_candidate(other, is_chosen=False, note=note))
    return Decision(
        plan.choice,
        group.variant.name,
        group.variant.id,
        reason,
        requests,
        count,
        resident,
        tuple(candidates),
        _avoid(state, plan, others),
    )


def _requests(group: Group) -> tuple[tuple[RequestId, ...], int]:
    return tuple(w.request for w, _ in zip(group, range(NAMED), strict=False)), len(group)


def _candidate(plan: Plan, *, is_chosen: bool, note: str) -> Candidate:
    leaving = tuple(r.variant.name for r in plan.leaving)
    return Candidate(plan.choice, plan.placement, plan.need, leaving, plan.costs, is_chosen, note)


def _avoid(state: State, plan: Plan, others: tuple[Plan, ...]) -> tuple[str, ...]:
    """What would have spared the swap, the waiting or the slower answers."""
    if plan.choice is Choice.LOAD:
        return ()
    told: list[str] = []
    room = state.room()
    whole = next((p.need for p in (plan, *others) if p.placement.share >= 1), plan.need)
    for device in state.devices:
        lack = whole[device.id] - room[device.id]
        if lack <= 0:
            continue
        told.append(f"{format_bytes(lack)} more room on {device.id}")
        foreign = state.foreign(device)
        if device.kind is DeviceKind.GPU and foreign >= lack:
            who = ", ".join(dict.fromkeys(other.name for other in device.others[:3])) or "other programs"
            told.append(f"less memory of {device.id} in use by {who}: {format_bytes(foreign)} now")
        if state.configured_reserve(device) >= lack:
            told.append(f"a smaller reserve on {device.id}: {format_bytes(state.configured_reserve(device))} now")
    if any(other.choice is Choice.OFFLOAD for other in others):
        told.append('overflow = "offload", which would have loaded it in part')
    return tuple(told)


def needs(need: Footprint) -> str:
    """`3 GiB on cuda:0, 96 MiB on host`."""
    return ", ".join(f"{format_bytes(size)} on {device}" for device, size in need.parts)
