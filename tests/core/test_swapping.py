"""Swaps: who is drained for whom, what goes on meanwhile, and in which order those who wait are served."""

from __future__ import annotations

import pytest

from swapd.core.messages import Ranking, RequestEnded, RevokeLease
from swapd.core.model import RequestId
from swapd.units import GiB
from tests.core.builders import Desk, Phase, granted, started, stopped, variant

A, B, C = variant("a", 8 * GiB), variant("b", 8 * GiB), variant("c", 1 * GiB)
WAIT = 5.0


def test_running_requests_finish_before_their_model_leaves() -> None:
    """Scenario 5."""
    desk = Desk(max_wait=WAIT)
    desk.serve(A, "1")
    desk.wants(B, "2")
    desk.measured()
    desk.later(WAIT)
    assert stopped(desk.measured()) == []
    assert desk.phase(1) is Phase.DRAINING
    assert stopped(desk.ends("1")) == [1]
    assert not any(isinstance(order, RevokeLease) for order in desk.orders)
    desk.gone(1)
    assert started(desk.measured()) == ["b"]


def test_new_requests_do_not_bring_a_draining_model_back() -> None:
    """Scenario 6, whatever keep-alive they bring: they wait behind the swap."""
    desk = Desk(max_wait=WAIT)
    desk.serve(A, "1")
    desk.wants(B, "2")
    desk.later(WAIT)
    desk.measured()
    assert granted(desk.wants(A, "3", keep_alive=float("inf"))) == []
    desk.ends("1")
    desk.gone(1)
    assert started(desk.measured()) == ["b"]
    assert granted(desk.loaded(desk.resident(B).id)) == ["2"]
    assert desk.state.find_waiting(RequestId("3")) is not None


@pytest.mark.parametrize(("ranking", "latest"), [(Ranking.LRU, WAIT), (Ranking.COST, 3 * WAIT)])
def test_traffic_without_a_gap_keeps_nobody_out_longer_than_max_wait(ranking: Ranking, latest: float) -> None:
    """Scenario 7: once overdue, no later request gets a slot of the model that has to leave; it may stay three times
    as long where its own lose more.
    """
    desk = Desk(max_wait=WAIT, ranking=ranking)
    two = variant("a", 8 * GiB, slots=2)
    desk.serve(two, "0")
    desk.wants(B, "b")
    for turn in range(1, 40):
        desk.later(0.5)
        desk.wants(two, str(turn))
        desk.measured() if desk.state.is_measuring else []
        desk.tell(RequestEnded(desk.at, RequestId(str(turn - 1))))
        desk.measured() if desk.state.is_measuring else []
        if desk.phase(1) is Phase.UNLOADING:
            break
    assert desk.at <= latest + 1.0
    desk.gone(1)
    assert started(desk.measured()) == ["b"]


def test_a_resident_that_is_not_concerned_answers_during_a_swap() -> None:
    """Scenario 8."""
    desk = Desk()
    desk.idle(C)
    desk.idle(A)
    desk.wants(B, "1")
    assert stopped(desk.measured()) == [desk.resident(A).id]
    assert granted(desk.wants(C, "2")) == ["2"]
    desk.gone(desk.resident(A).id)
    desk.measured()
    assert granted(desk.wants(C, "3")) == []
    assert granted(desk.ends("2")) == ["3"]


def test_the_end_of_one_model_is_not_taken_for_that_of_another() -> None:
    """Scenario 9: A and C leave together, B needs A's room."""
    desk = Desk()
    small = desk.idle(C)
    large = desk.idle(A)
    desk.wants(B, "1")
    assert stopped(desk.measured()) == [large]
    desk.unload("c")
    desk.gone(small)
    assert started(desk.measured()) == []
    desk.gone(large)
    assert started(desk.measured()) == ["b"]


def test_a_mixed_queue_is_served_by_model() -> None:
    """Scenario 30: A B A B A B with room for one makes two loads, first come first served within each."""
    desk = Desk()
    for number in range(3):
        desk.wants(A, f"a{number}")
        desk.wants(B, f"b{number}")
    desk.measured()
    served = granted(desk.loaded(1))
    while served[-1:] != ["b2"]:
        orders = desk.ends(served[-1])
        if desk.state.is_measuring:
            orders += desk.measured()
        if stopped(orders):
            desk.gone(stopped(orders)[0])
            desk.measured()
            orders += desk.loaded(desk.resident(B).id)
        served += granted(orders)
    assert served == ["a0", "a1", "a2", "b0", "b1", "b2"]
    assert desk.loads() == ["a", "b"]


def test_an_overdue_group_that_cannot_be_helped_yet_lets_nobody_take_room_before_it() -> None:
    """A serves its min_residency; C, which would fit, waits its turn behind B."""
    desk = Desk(max_wait=WAIT, min_residency=60.0)
    desk.serve(A, "1")
    desk.wants(B, "2")
    desk.later(WAIT)
    assert started(desk.measured()) == []
    desk.wants(C, "3")
    assert started(desk.measured()) == []


def test_before_it_is_overdue_others_pass_by() -> None:
    desk = Desk(max_wait=WAIT)
    desk.serve(A, "1")
    desk.wants(B, "2")
    desk.measured()
    assert started(desk.wants(C, "3")) == ["c"]


def test_priority_goes_first_until_somebody_is_overdue() -> None:
    desk = Desk(max_wait=WAIT)
    desk.serve(A, "1")
    desk.wants(A, "low")
    desk.wants(A, "high", priority=5)
    assert granted(desk.ends("1")) == ["high"]
    desk.later(WAIT)
    desk.wants(A, "higher", priority=9)
    assert granted(desk.ends("high")) == ["low"]
