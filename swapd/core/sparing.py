"""Who is not yet made to leave for a group that waits, though it could be: a swap now would cost more than it gives.

Pure questions over the state for `planner`, in seconds of waiting as in `costs`. Whoever is spared leaves at last when
the group is overdue (the idle), or pressing (those at work): the bound on waiting does not depend on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from swapd.core import costs
from swapd.core.group import Group
from swapd.core.messages import Ranking
from swapd.core.model import Footprint, ResidentId
from swapd.core.past import GAPS
from swapd.core.resident import Phase, Resident
from swapd.core.state import State, remembered
from swapd.units import Seconds

BUSY: Final = 0.75
"""Requests a second times seconds of an answer, over all models. With less to do a swap costs hardly anybody but the
one who waits for it, and the idle are not kept."""
OFTEN: Final = 0.5
"""Nobody is kept for less likely newcomers, wanted within `costs.HORIZON`: where one is rare so are its swaps."""
KNOWN: Final = 3.0
"""Rests that must be remembered before anything is expected of the next one."""
DOUBT: Final = 1.0
"""So many rests are always on the side of a long one."""
COMPANY: Final = 0.5
"""Whoever comes while a model is away does not come alone: of those expected in the time so many count as its loss."""
DEAR: Final = 2.0
"""Of what is lost where one at work leaves: who comes meanwhile waits for the others too, once it is back."""


def spared(state: State, group: Group) -> frozenset[ResidentId]:
    """Who stays for now. Nobody by plain LRU, which prices nothing, nor for a group that is pressing."""
    if state.policy.ranking is Ranking.LRU or state.is_pressing(group):
        return frozenset()
    return frozenset(_spared(state, group))


def _spared(state: State, group: Group) -> Iterator[ResidentId]:
    is_overdue = state.is_overdue(group)
    if not is_overdue and (group.clients > 1 or _is_rare(state, group)):
        return
    until_answered = 2 * costs.UNLOAD + (costs.load(state, group.variant) + costs.service(state, group))
    for resident in state.in_phases([Phase.READY]):
        if state.is_idle(resident) is not is_overdue:
            away = until_answered + costs.load(state, resident.variant)  # until it could be back
            if is_worth_more(state, resident, group, away) if is_overdue else is_kept(state, resident, away):
                yield resident.id


def _is_rare(state: State, group: Group) -> bool:
    return costs.past(state, group.variant).chance(state.now, costs.HORIZON) < OFTEN


def is_kept(state: State, resident: Resident, away: Seconds) -> bool:
    """An idle one that is likely to be asked for again within moments, if one request waits for its room.

    What is won is the wait of whoever asks for it next, until it would be back; what is lost is that the other one
    waits until then, and through one answer more. Kept as long as there is a time to which that is worth it.
    """
    past = costs.past(state, resident.variant)
    if past.rested_at is None or sum(past.gaps) < KNOWN:
        return False
    rested = state.now - past.rested_at
    if rested >= GAPS[-1] or work(state) < BUSY:
        return False
    won = away * (1.0 + COMPANY * costs.rate(state, resident.variant) * away)
    expected, begin = [], 0.0
    for end, count in zip(GAPS, past.gaps, strict=False):
        if end > rested:  # of a rest of this length already; within one of GAPS all are as likely
            expected.append((end, count * (end - max(begin, rested)) / (end - begin)))
        begin = end
    every = DOUBT + past.gaps[-1] + sum(count for _, count in expected)
    chance, waited, begin = 0.0, 0.0, rested
    for end, count in expected:
        chance += count / every
        waited += count / every * ((begin + end) / 2 - rested)
        lost = waited + (1.0 - chance) * (end - rested) + chance * costs.answer(state, resident.variant)
        if chance * won > lost:
            return True
        begin = end
    return False


def is_worth_more(state: State, resident: Resident, group: Group, away: Seconds) -> bool:
    """One at work whose own would wait longer, all together, than those who are overdue until they are pressing."""
    own = state.waiting.get(resident.variant.id)
    coming = costs.past(state, resident.variant).surge(state.now) * away
    lost = ((0 if own is None else own.clients) + coming) * away
    return DEAR * lost > group.clients * (state.pressing_at(group) - state.now)


def is_too_soon(state: State, group: Group, need: Footprint, leaving: Iterable[Resident]) -> bool:
    """Whether these would leave in vain for now: the load has to wait for others who drain, and the group can.

    Those who drain may take long, and whoever is idle can answer until then.
    """
    draining = state.in_phases([Phase.DRAINING])
    if not draining or state.is_overdue(group):
        return False
    held, budgets = state.held(), state.budgets()
    gone = [*leaving, *state.in_phases([Phase.UNLOADING])]
    return any(
        held[device] - sum(r.takes(device) for r in gone) + size > budgets[device]
        and any(r.takes(device) for r in draining)
        for device, size in need.parts
    )


def next_look(state: State) -> Iterator[Seconds]:
    """When somebody who is kept may not be worth it any more."""
    if not state.waiting or state.policy.ranking is Ranking.LRU:
        return
    for resident in state.in_phases([Phase.READY]):
        rested_at = costs.past(state, resident.variant).rested_at
        if rested_at is not None and state.is_idle(resident):
            yield from (rested_at + gap for gap in GAPS)


@remembered
def work(state: State) -> float:
    """Seconds of answers that are asked for in a second, lately."""
    return sum(past.rate(state.now) * past.answer for past in state.pasts.values() if past.answer is not None)
