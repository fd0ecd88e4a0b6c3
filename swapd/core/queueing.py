"""Who waits, whose turn it is, and what a waiting request is told. Pure questions over the state."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from heapq import nsmallest
from typing import Final, TypeAlias

from swapd.core import costs
from swapd.core.group import Group, Waiting
from swapd.core.messages import Ranking
from swapd.core.model import RequestId, VariantId
from swapd.core.resident import STAYING, Phase
from swapd.core.state import State
from swapd.units import Seconds

PRICED: Final = 32
"""So many groups are ordered by price; nobody looks further than that in one step."""


def turns(state: State) -> tuple[VariantId, ...]:
    """All waiting groups in the order of their turns; for people, the scheduler asks for the `first` of them only."""
    return _in_order(state, state.waiting)


def first(state: State) -> tuple[VariantId, ...]:
    """The same of groups without a resident of their own that stays, as far as one step may look."""
    served = {r.variant.id for r in state.in_phases(STAYING)}
    return _in_order(state, [variant for variant in state.waiting if variant not in served], PRICED)


def _in_order(state: State, variants: Iterable[VariantId], most: int | None = None) -> tuple[VariantId, ...]:
    """At most so many, whose turn first: the overdue by age, then by highest priority, then those of whom most
    are helped soonest (load and answers of all, by their number; Smith's rule), or, not priced, by age.
    """
    groups, now, max_wait = state.waiting, state.now, state.policy.max_wait
    by_age: list[_Age] = []
    for variant in variants:  # in a step of a thousand groups this is most of the work
        group = groups[variant]
        since = group.since
        is_timely = now < since + max_wait  # not `State.is_overdue`
        by_age.append((is_timely, -group.priority if is_timely else 0, since, variant))
    by_age = sorted(by_age) if most is None else nsmallest(most, by_age)
    if state.policy.ranking is Ranking.LRU:
        return tuple(variant for *_, variant in by_age)
    priced = sorted(_by_help(state, age) for age in by_age[:PRICED])
    return (*(variant for *_, variant in priced), *(variant for *_, variant in by_age[PRICED:]))


_Age: TypeAlias = tuple[bool, int, Seconds, VariantId]


def _by_help(state: State, age: _Age) -> tuple[bool, int, Seconds, Seconds, VariantId]:
    is_timely, priority, since, variant = age
    if not is_timely:
        return False, 0, 0.0, since, variant
    group = state.waiting[variant]
    pains = (costs.load(state, group.variant) + costs.service(state, group)) / len(group)
    return True, priority, pains, since, variant


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
