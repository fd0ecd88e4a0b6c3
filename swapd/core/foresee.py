"""What is likely to be asked for next, and what can be done for it that costs nobody anything. Pure questions.

Asked by `ahead`. A guess is loaded only wholly, only into room that nobody has or wants, and whoever wants it later
gets it; so a wrong one costs others at most the end of a worker.
"""

from __future__ import annotations

from typing import Final

from swapd.core import footprint, placement, planner
from swapd.core.decision import Choice
from swapd.core.model import Footprint, Placement
from swapd.core.resident import STAYING, Phase, Resident
from swapd.core.state import State, work_device
from swapd.core.succession import Habit
from swapd.units import Seconds

LIKELY: Final = 0.6
"""A guess less sure than this is not loaded. A wrong one costs whoever comes instead up to the two seconds in which a
worker ends and its memory is seen free, a right one saves a load; at evens they would be about equal on a fast disk."""
CALM: Final[Seconds] = 5.0
"""So long must memory have been enough before anybody is loaded ahead."""


def unused(state: State) -> Resident | None:
    """The one that was loaded ahead and that nobody has asked for."""
    return next((r for r in state.residents.values() if r.is_foreseen and r.phase in STAYING), None)


def is_in_the_way(resident: Resident, verdict: planner.Verdict) -> bool:
    """Whether somebody else would be helped better, or sooner, without it: all but a whole load beside it, on one
    card, while it does not load there itself.
    """
    if isinstance(verdict, planner.Size):
        return resident.phase is not Phase.READY
    if not isinstance(verdict, planner.Go) or verdict.plan.choice is not Choice.LOAD or verdict.plan.leaving:
        return True
    place = verdict.plan.placement
    is_contested = bool(set(work_device(place)) & set(work_device(resident.placement)))
    return len(place.devices) > 1 or (resident.phase is not Phase.READY and is_contested)


def disturbs(state: State, resident: Resident) -> bool:
    """Whether it loads with the cores and the memory with which answers are being made."""
    return resident.phase is Phase.LOADING and computes_on_host(state)


def expected(state: State) -> tuple[Habit, float] | None:
    """Which model is most likely the next other one, and how likely; whether it is there or not."""
    succession = state.succession
    here = None if succession.last is None else succession.habits.get(succession.last)
    if here is None:
        return None
    likely = [v for v in here.followers if v in succession.habits]
    if not likely:
        return None
    first = min(likely, key=lambda v: (-here.followers[v].weight, v))
    return succession.habits[first], here.chance(first)


def may_be_loaded(state: State) -> Habit | None:
    """Whom to load ahead, if there is room; memory is not asked yet."""
    guess = expected(state) if state.policy.prefetch and not state.is_stopping and not state.waiting else None
    if guess is None or guess[1] < LIKELY or state.now < state.relieved_at + CALM:
        return None
    habit, variant = guess[0], guess[0].variant.id
    if variant in state.succession.tried | state.succession.barred | state.pins:
        return None
    residents = state.residents.values()
    if any(r.phase is not Phase.READY or r.is_foreseen or r.variant.id == variant for r in residents):
        return None
    if 0 < state.policy.max_loaded <= len(state.residents) or computes_on_host(state):
        return None
    if state.has_gpu() and any(r.placement.share < 1 and not r.is_fixed for r in residents):
        return None  # the room is for placing it better
    keep_alive = state.policy.keep_alive if habit.owner_keep_alive is None else habit.owner_keep_alive
    assert state.succession.last is not None
    lag = state.succession.habits[state.succession.last].followers[variant].lag
    return habit if lag < keep_alive else None  # else it would be gone before it is asked for


def loadable(state: State) -> tuple[Habit, Placement, Footprint] | None:
    """Whom to load ahead now, and where: all of it, beside everybody, as was sized or measured before."""
    habit = may_be_loaded(state) if state.is_fresh() else None
    if habit is None or any(d.is_stale or state.lent(d) for d in state.devices):
        return None
    variant, room, cap = habit.variant, state.room(), state.cap(habit.variant)
    room = {device: min(size, cap[device]) for device, size in room.items()}
    for place in placement.wholes(state, variant, None):
        is_whole = place.share >= 1 or not state.has_gpu()
        if is_whole and footprint.is_known(state, variant, place):
            need = footprint.predict(state, variant, place)
            if need.fits(room):
                return habit, place, need
    return None


def computes_on_host(state: State) -> bool:
    """Whether an answer is being made, or read into, outside of a card."""
    if not state.leases:
        return False
    return not state.has_gpu() or any(state.residents[r].placement.share < 1 for r in set(state.leases.values()))


__all__ = [
    "computes_on_host",
    "disturbs",
    "expected",
    "is_in_the_way",
    "loadable",
    "may_be_loaded",
    "unused",
]
