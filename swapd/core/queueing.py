"""Who waits, whose turn it is, and what a waiting request is told. Pure questions over the state."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from heapq import nsmallest
from operator import itemgetter
from typing import Final

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
    return tuple(_in_order(state, frozenset(), len(state.waiting)))


def first(state: State) -> Iterator[VariantId]:
    """The same of groups without a resident of their own that stays, as far as one step may look."""
    served = frozenset(r.variant.id for r in state.in_phases(STAYING))
    return _in_order(state, served, PRICED)


def _in_order(state: State, served: frozenset[VariantId], most: int) -> Iterator[VariantId]:
    """At most so many that are not served, whose turn first: the overdue by age, then by highest priority, then those
    of whom most are helped soonest (load and answers of all, by their number; Smith's rule), or, not priced, by age.
    """
    groups, now, max_wait = state.waiting, state.now, state.policy.max_wait
    # In a step of a thousand groups this is much of the work: not `State.is_overdue`.
    everybody = [(g.since, v, -g.priority) for v, g in groups.items() if v not in served]
    oldest = nsmallest(most, everybody)
    were_overdue = bisect_left(oldest, True, key=lambda one: now < one[0] + max_wait)
    left = most - were_overdue
    yield from [variant for _, variant, _ in oldest[:were_overdue]]
    if left <= 0:
        return
    by_age = [(priority, since, variant) for since, variant, priority in oldest[were_overdue:]]
    if any(map(itemgetter(2), everybody)):
        by_age = nsmallest(left, [(p, since, v) for since, v, p in everybody if now < since + max_wait])
    priced = 0 if state.policy.ranking is Ranking.LRU else max(0, PRICED - were_overdue)
    yield from (variant for *_, variant in sorted(_by_help(state, *age) for age in by_age[:priced]))
    yield from (variant for *_, variant in by_age[priced:])


def _by_help(
    state: State, priority: int, since: Seconds, variant: VariantId
) -> tuple[int, Seconds, Seconds, VariantId]:
    group = state.waiting[variant]
    pains = (costs.load(state, group.variant) + costs.service(state, group)) / len(group)
    return priority, pains, since, variant


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
