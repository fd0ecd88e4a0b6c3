"""Who may wait, who no longer does, and what is done for those who went away."""

from __future__ import annotations

from swapd.core import queueing
from swapd.core.model import RequestId
from swapd.units import GiB
from tests.core.builders import Desk, Phase, granted, refused, started, stopped, variant

A, B = variant("a", 8 * GiB), variant("b", 8 * GiB)


def test_a_request_cancelled_while_it_waits_is_gone_at_once() -> None:
    """Scenario 19: its place in the queue is free, and nothing is done for it any more."""
    desk = Desk(max_queue=1)
    desk.serve(A, "1")
    desk.wants(A, "2")
    assert desk.ends("2") == []
    assert refused(desk.wants(A, "3")) == {}
    assert granted(desk.ends("1")) == ["3"]
    assert desk.ends("2") == []


def test_a_cancel_takes_away_nobody_else() -> None:
    desk = Desk()
    for number in "12345":
        desk.wants(A, number)
    desk.wants(B, "6")
    desk.ends("3")
    left = [w.request for group in desk.state.waiting.values() for w in group]
    assert sorted(left) == ["1", "2", "4", "5", "6"]


def test_a_load_goes_on_for_those_who_still_wait() -> None:
    """Scenario 20."""
    desk = Desk()
    three = variant("a", slots=3)
    for number in "123":
        desk.wants(three, number)
    desk.measured()
    desk.ends("1")
    assert desk.phase(1) is Phase.LOADING
    assert granted(desk.loaded(1)) == ["2", "3"]


def test_nothing_is_loaded_for_somebody_who_went_away_during_the_eviction() -> None:
    """Scenario 21."""
    desk = Desk()
    desk.idle(A)
    desk.wants(B, "1")
    assert stopped(desk.measured()) == [1]
    desk.ends("1")
    assert desk.phase(2) is Phase.GONE
    assert desk.gone(1) == []
    assert desk.loads() == ["a"]


def test_nobody_is_evicted_for_somebody_who_went_away() -> None:
    """Scenario 21, before the victim was at its end: the drain goes on, the load does not come."""
    desk = Desk(max_wait=5.0)
    desk.serve(A, "1")
    desk.wants(B, "2")
    desk.ends("2")
    desk.later(10.0)
    assert desk.phase(1) is Phase.READY


def test_a_full_queue_refuses_at_once() -> None:
    """Scenario 22: also for a model that is loaded, when its slots are taken."""
    desk = Desk(max_queue=1)
    desk.serve(A, "1")
    desk.wants(A, "2")
    assert refused(desk.wants(A, "3")) == {"3": "overloaded"}
    assert refused(desk.wants(B, "4")) == {"4": "overloaded"}
    assert granted(desk.ends("1")) == ["2"]


def test_who_need_not_wait_is_not_counted() -> None:
    """Scenario 22: a free slot is granted though nobody may wait."""
    desk = Desk(max_queue=0)
    assert refused(desk.wants(A, "1")) == {"1": "overloaded"}
    desk = Desk(max_queue=1)
    desk.idle(A)
    desk.wants(B, "1")
    assert granted(desk.wants(A, "2")) == ["2"]


def test_those_who_wait_are_told_their_place_and_why() -> None:
    desk = Desk()
    desk.serve(A, "1")
    desk.wants(A, "2")
    desk.wants(A, "3")
    desk.wants(B, "4")
    desk.measured()
    waits = {name: queueing.place(desk.state, RequestId(name)) for name in "1234"}
    assert waits["1"] is None
    assert waits["3"] == queueing.Place(1, "waiting for a free slot of a", None)
    assert waits["4"] == queueing.Place(1, "waiting for room for b: a at work", None)


def test_the_progress_of_a_load_is_told() -> None:
    desk = Desk()
    desk.wants(A, "1")
    desk.measured()
    desk.progressed(1, 0.5)
    assert queueing.place(desk.state, RequestId("1")) == queueing.Place(0, "loading a: 50%", 0.5)


def test_a_group_is_not_refused_for_the_wish_of_one() -> None:
    """Found by the simulated machine: one wants layers on a card that nothing has room for, the other any."""
    desk = Desk(host=4 * GiB)
    huge = variant("huge", 11 * GiB)
    desk.wants(huge, "on the card", slotless=True, gpu_layers=99)
    desk.wants(huge, "anywhere")
    orders = desk.measured()
    assert refused(orders) == {"on the card": "does not fit"}
    assert started(orders) == ["huge"]
    assert desk.resident(huge).placement.gpu_layers == 3
