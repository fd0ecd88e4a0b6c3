"""Who is kept for a moment though a group waits, who stays at work though it is overdue, and for how long at most."""

from __future__ import annotations

from dataclasses import replace

import pytest

from swapd.core.messages import Ranking
from swapd.core.past import GAPS, Past
from swapd.units import GiB
from tests.core.builders import Desk, Phase, stopped, variant

A, B = variant("a", 8 * GiB), variant("b", 8 * GiB)
SMALL, OTHER = variant("small", 4 * GiB), variant("other", 4 * GiB)
WAIT = 30.0
SOON = tuple(20.0 * (gap == 0.5) for gap in (*GAPS, 0.0))
"""Asked for again within half a second, always."""
LATE = tuple(20.0 * (gap == 0.0) for gap in (*GAPS, 0.0))


def remembering(
    desk: Desk, *, gaps: tuple[float, ...] = SOON, busy: float = 0.2, newcomer: float = 0.05, answer: float = 4.0
) -> None:
    """A has just ended an answer, and it is known how often both were asked for: so many times a second."""
    now = desk.state.now
    pasts = {
        A.id: Past(now, busy * 600, load=3.0, answer=answer, rested_at=now, gaps=gaps),
        B.id: Past(now, newcomer * 600, load=3.0, answer=4.0),
    }
    desk.state = replace(desk.state, pasts=pasts)


def resting(ranking: Ranking = Ranking.COST) -> Desk:
    desk = Desk(max_wait=WAIT, min_residency=0.0, overflow="evict", ranking=ranking)
    desk.serve(A, "a1")
    desk.ends("a1")
    return desk


def wanted(desk: Desk, *requests: str) -> Phase:
    """The phase of A after B is asked for."""
    for request in requests:
        desk.wants(B, request)
    desk.measured()
    return desk.phase(1)


def test_an_idle_model_that_is_asked_for_again_at_once_is_kept_for_that_moment_and_no_longer() -> None:
    desk = resting()
    remembering(desk)
    assert wanted(desk, "b1") is Phase.READY
    desk.later(0.5)
    desk.measured()
    assert desk.phase(1) is Phase.UNLOADING


def test_whoever_comes_in_that_moment_is_answered_without_a_swap() -> None:
    desk = resting()
    remembering(desk)
    assert wanted(desk, "b1") is Phase.READY
    desk.later(0.3)
    desk.wants(A, "a2")
    assert desk.holder("a2") == 1
    desk.ends("a2")
    assert desk.loads() == ["a"]


@pytest.mark.parametrize(
    ("case", "more"),
    [
        ("it rests for long", {"gaps": LATE}),
        ("nothing is known of its rests", {"gaps": (0.0,) * len(SOON)}),
        ("there is little to do", {"busy": 0.1}),
        ("the other one is rare", {"newcomer": 0.001}),
    ],
)
def test_it_leaves_at_once_if(case: str, more: dict[str, float]) -> None:
    desk = resting()
    remembering(desk, **more)  # type: ignore[arg-type]  # of several types, by name
    assert wanted(desk, "b1") is Phase.UNLOADING, case


def test_nobody_is_kept_by_plain_lru() -> None:
    desk = resting(Ranking.LRU)
    remembering(desk)
    assert wanted(desk, "b1") is Phase.UNLOADING


def test_a_second_request_ends_the_keeping() -> None:
    desk = resting()
    remembering(desk)
    assert wanted(desk, "b1") is Phase.READY
    assert wanted(desk, "b2") is Phase.UNLOADING


def at_work() -> Desk:
    desk = Desk(max_wait=WAIT, min_residency=0.0, overflow="evict")
    desk.serve(A, "a1")
    desk.later(0.5)
    desk.wants(B, "b1")
    for number in range(20):
        desk.wants(A, f"more{number}")
    return desk


def test_one_at_work_whose_own_queue_is_much_longer_stays_until_the_other_is_pressing() -> None:
    desk = at_work()
    served = desk.ends("a1")
    assert served
    desk.later(WAIT)
    desk.measured()
    assert desk.phase(1) is Phase.READY
    desk.later(2 * WAIT - 0.1)
    desk.measured()
    assert desk.phase(1) is Phase.READY
    desk.later(0.2)
    desk.measured()
    assert desk.phase(1) is Phase.DRAINING


def test_one_at_work_with_a_short_queue_leaves_at_max_wait() -> None:
    desk = Desk(max_wait=WAIT, min_residency=0.0, overflow="evict")
    desk.serve(A, "a1")
    desk.wants(B, "b1")
    desk.later(WAIT)
    desk.measured()
    assert desk.phase(1) is Phase.DRAINING


def draining() -> Desk:
    """Of two small ones one is idle and the other, at work, is to leave; B needs the room of both."""
    desk = Desk(max_wait=WAIT, min_residency=0.0, overflow="evict")
    desk.serve(SMALL, "1")
    desk.ends("1")
    desk.serve(OTHER, "2")
    desk.unload(OTHER.name)
    desk.wants(B, "3")
    return desk


def test_nobody_idle_leaves_before_those_who_drain_have_ended_and_until_then_it_answers() -> None:
    desk = draining()
    assert stopped(desk.measured()) == []
    desk.wants(SMALL, "4")
    assert desk.holder("4") == 1
    desk.ends("4")
    desk.ends("2")
    desk.gone(2)
    assert stopped(desk.measured()) == [1]


def test_an_overdue_group_has_the_idle_leave_though_others_still_drain() -> None:
    desk = draining()
    desk.measured()
    desk.later(WAIT)
    desk.measured()
    assert desk.phase(1) is Phase.UNLOADING
    assert desk.phase(2) is Phase.DRAINING


def test_one_at_work_in_a_surge_is_kept_longer_than_its_usual_rate_says() -> None:
    """Both were asked for as often in the last ten minutes; of one all in the last minute."""
    kept = {}
    for lately in (0.0, 60.0):
        desk = resting()
        desk.wants(A, "a2")
        remembering(desk, busy=0.1)
        past = desk.state.pasts[A.id]
        surging = replace(past, lately=lately, rested_at=None)
        desk.state = replace(desk.state, pasts={**desk.state.pasts, A.id: surging})
        desk.wants(B, "b1")
        desk.measured()
        desk.later(WAIT)
        desk.measured()
        kept[lately] = desk.phase(1)
    assert kept == {0.0: Phase.DRAINING, 60.0: Phase.READY}
