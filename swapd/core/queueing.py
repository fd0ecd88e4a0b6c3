"""Who waits, whose turn it is, and what a waiting request is told. Pure questions over the state."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from swapd.core import costs
from swapd.core.group import Group, Waiting
from swapd.core.messages import Ranking
from swapd.core.model import RequestId, VariantId
from swapd.core.resident import Phase
from swapd.core.state import State
from swapd.units import Seconds

PRICED: Final = 32
"""So many groups are ordered by price; nobody looks further than that in one step."""


def turns(state: State) -> tuple[VariantId, ...]:
    """The waiting groups, whose turn first: the overdue by age, then by highest priority, then those of whom most
    are helped soonest (load and answers of all, by their number; Smith's rule), or, not priced, by age.
    """
    groups = sorted(state.waiting.items(), key=lambda pair: _by_age(state, pair[1]))
    if state.policy.ranking is Ranking.LRU:
        return tuple(variant for variant, _ in groups)
    first = sorted(groups[:PRICED], key=lambda pair: _by_help(state, pair[1]))
    return tuple(variant for variant, _ in (*first, *groups[PRICED:]))


def _by_age(state: State, group: Group) -> tuple[bool, int, Seconds, VariantId]:
    if state.is_overdue(group):
        return False, 0, group.since, group.variant.id
    return True, -group.priority, group.since, group.variant.id


def _by_help(state: State, group: Group) -> tuple[bool, int, Seconds, Seconds, VariantId]:
    if state.is_overdue(group):
        return False, 0, 0.0, group.since, group.variant.id
    pains = (costs.load(state, group.variant) + costs.service(state, group)) / len(group)
    return True, -group.priority, pains, group.since, group.variant.id


def next_in(state: State, group: Group) -> Waiting:
    """Who of the group gets the next slot: the oldest once overdue, else the highest priority, then the oldest."""
    return group.oldest if len(group.priorities) == 1 else first_of(group, is_overdue=state.is_overdue(group))


def first_of(group: Iterable[Waiting], *, is_overdue: bool) -> Waiting:
    """The same of some of them, in order of arrival."""
    return next(iter(group)) if is_overdue else max(group, key=lambda w: w.priority)  # of equals the oldest


@dataclass(frozen=True, slots=True)
class Place:
    """What a waiting request is told: how many groups are served before it, and what it waits for."""

    position: int
    reason: str
    fraction: float | None


def place(state: State, request: RequestId) -> Place | None:
    """None: it does not wait."""
    waiting = state.find_waiting(request)
    if waiting is None:
        return None
    name = waiting.variant.name
    position = turns(state).index(waiting.variant.id)
    resident = state.staying(waiting.variant.id)
    if resident is None:
        busy = [r.variant.name for r in state.in_phases([Phase.READY]) if state.leases_of(r.id)]
        what = f"waiting for room for {name}: {', '.join(sorted(busy))} at work" if busy else f"finding room for {name}"
        return Place(position, what, None)
    match resident.phase:
        case Phase.LOADING:
            return Place(0, f"loading {name}: {resident.progress:.0%}", resident.progress)
        case Phase.RESERVED:
            leaving = [r.variant.name for r in state.in_phases([Phase.DRAINING, Phase.UNLOADING])]
            what = f"{', '.join(sorted(leaving))} to leave" if leaving else "the load before it"
            return Place(0, f"waiting for {what}, then loading {name}", 0.0)
        case _:
            ahead = state.waiting[waiting.variant.id].position(request)
            return Place(ahead, f"waiting for a free slot of {name}", None)
