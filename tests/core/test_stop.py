"""Unloading on request and going down: what drains, what is cut off, what is refused."""

from __future__ import annotations

from swapd.core.messages import Refusal, RevokeLease
from swapd.core.model import RequestId
from tests.core.builders import Desk, Phase, granted, refused, started, stopped, variant

A, B = variant("a"), variant("b")


def test_an_unload_drains() -> None:
    """Scenario 18, first half."""
    desk = Desk()
    desk.serve(A, "1")
    assert stopped(desk.unload("a")) == []
    assert desk.phase(1) is Phase.DRAINING
    assert granted(desk.wants(A, "2")) == []
    assert stopped(desk.ends("1")) == [1]
    desk.gone(1)
    assert desk.phase(1) is Phase.GONE
    desk.measured()
    assert granted(desk.loaded(2)) == ["2"]


def test_by_force_it_ends_what_runs_and_what_waits() -> None:
    """Scenario 18, second half."""
    desk = Desk()
    desk.serve(A, "1")
    desk.wants(A, "2")
    desk.wants(B, "3")
    orders = desk.unload("a", force=True)
    assert RevokeLease(RequestId("1"), Refusal.UNLOADED, "unloaded by force") in orders
    assert refused(orders) == {"2": "unloaded"}
    assert stopped(orders) == [1]
    assert desk.state.find_waiting(RequestId("3")) is not None


def test_force_also_ends_a_drain_that_takes_too_long() -> None:
    desk = Desk()
    desk.serve(A, "1")
    desk.unload("a")
    assert stopped(desk.unload("a", force=True)) == [1]


def test_unloading_an_idle_model_stops_it_at_once_even_a_pinned_one() -> None:
    desk = Desk()
    desk.idle(A)
    desk.pin("a")
    assert stopped(desk.unload("a")) == [1]


def test_unloading_what_still_loads_serves_those_who_asked_before() -> None:
    desk = Desk()
    desk.wants(A, "1")
    desk.measured()
    assert stopped(desk.unload("a")) == []
    assert granted(desk.loaded(1)) == ["1"]
    assert stopped(desk.ends("1")) == [1]


def test_an_unload_while_it_is_ending_wedges_nothing() -> None:
    """From the field: an unload during the stop after the keep-alive never came back."""
    desk = Desk(keep_alive=10.0)
    desk.serve(A, "1")
    desk.ends("1")
    assert stopped(desk.later(10.0)) == [1]
    assert desk.unload("a") == []
    assert desk.unload("a", force=True) == []
    desk.gone(1)
    desk.wants(A, "2")
    assert started(desk.measured()) == ["a"]


def test_unloading_what_is_not_there_is_nothing() -> None:
    assert Desk().unload("nobody", force=True) == []


def test_going_down_refuses_those_who_wait_and_lets_those_at_work_finish() -> None:
    desk = Desk()
    desk.serve(A, "1")
    idle = desk.idle(B)
    desk.wants(A, "2")
    orders = desk.stop()
    assert refused(orders) == {"2": "stopping"}
    assert stopped(orders) == [idle]
    assert refused(desk.wants(A, "3")) == {"3": "stopping"}
    assert stopped(desk.ends("1")) == [1]
    desk.gone(1)
    desk.gone(idle)
    assert desk.state.residents == {}


def test_going_down_ends_loads_and_reservations() -> None:
    desk = Desk()
    desk.wants(A, "1")
    desk.wants(B, "2")
    desk.measured()
    assert stopped(desk.stop()) == [1]
    assert desk.phase(2) is Phase.GONE
    assert desk.stop() == []
