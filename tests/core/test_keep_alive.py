"""How long a resident stays after its last lease, and what moves that moment."""

from __future__ import annotations

import pytest

from swapd.core import eviction
from swapd.core.messages import TimerFired
from swapd.units import FOREVER
from tests.core.builders import Desk, Phase, granted, started, stopped, variant

A = variant("a", slots=2)


def test_it_starts_with_the_end_of_the_last_lease() -> None:
    desk = Desk(keep_alive=10.0)
    desk.serve(A, "1")
    desk.later(60.0)
    desk.ends("1")
    assert stopped(desk.later(9.99)) == []
    assert stopped(desk.later(0.01)) == [1]


def test_nothing_keeps_it_after_a_request_that_says_zero() -> None:
    """Scenario 14: with two in flight only after the second."""
    desk = Desk()
    desk.serve(A, "1", keep_alive=0.0)
    desk.wants(A, "2", keep_alive=0.0)
    assert stopped(desk.ends("1")) == []
    assert stopped(desk.ends("2")) == [1]


def test_for_ever_needs_no_timer() -> None:
    """Scenario 15, first half."""
    desk = Desk(keep_alive=10.0)
    desk.serve(A, "1", keep_alive=FOREVER)
    desk.ends("1")
    assert eviction.next_deadline(desk.state) is None
    assert stopped(desk.later(1e6)) == []


@pytest.mark.parametrize(("last", "stays"), [(1.0, 1.0), (None, 300.0), (0.0, 0.0), (3600.0, 3600.0)])
def test_the_last_that_says_one_wins(last: float | None, stays: float) -> None:
    """Scenario 15, second half: one that says none changes nothing."""
    desk = Desk(keep_alive=10.0)
    desk.serve(A, "1", keep_alive=300.0)
    desk.ends("1")
    desk.wants(A, "2", keep_alive=last)
    ended = desk.at = desk.at + 5.0
    desk.ends("2")
    desk.later(2 * stays)
    assert stopped(desk.orders) == [1]
    resident = desk.state.residents[desk.resident(A).id]
    assert resident.used_at == ended
    assert resident.keep_alive == stays


def test_the_owner_of_the_model_says_what_holds_without_a_request() -> None:
    desk = Desk(keep_alive=10.0)
    desk.serve(A, "1", owner_keep_alive=1800.0)
    desk.ends("1")
    assert eviction.next_deadline(desk.state) == 1800.0


def test_a_timer_that_fires_too_early_or_twice_ends_nobody() -> None:
    """Scenario 16."""
    desk = Desk(keep_alive=10.0)
    desk.serve(A, "1")
    desk.wants(A, "2")
    desk.ends("2")
    for _ in range(3):
        desk.at += 60.0
        assert desk.tell(TimerFired(desk.at)) == []
    assert desk.phase(1) is Phase.READY


def test_a_request_at_the_last_moment_gets_the_live_resident() -> None:
    """Scenario 17: told before the timer, it keeps it; the timer then finds it at work."""
    desk = Desk(keep_alive=10.0)
    desk.serve(A, "1")
    desk.ends("1")
    desk.at += 10.0
    assert granted(desk.wants(A, "2")) == ["2"]
    assert desk.tell(TimerFired(desk.at)) == []


def test_a_request_just_after_it_gets_a_clean_reload() -> None:
    """Scenario 17, told after the timer: never the one that is ending."""
    desk = Desk(keep_alive=10.0)
    desk.serve(A, "1")
    desk.ends("1")
    assert stopped(desk.later(10.0)) == [1]
    assert granted(desk.wants(A, "2")) == []
    assert started(desk.measured()) == ["a"]
    assert granted(desk.loaded(2)) == ["2"]
    desk.gone(1)
    assert desk.phase(2) is Phase.READY


def test_a_pinned_resident_does_not_expire() -> None:
    desk = Desk(keep_alive=10.0)
    desk.pin("a")
    desk.serve(A, "1")
    desk.ends("1")
    assert stopped(desk.later(1e6)) == []
    assert stopped(desk.pin()) == [1]


@pytest.mark.parametrize("start", [0.1, 0.7, 1.1, 27.476000000000006])
@pytest.mark.parametrize("limit", [0.1, 0.2, 0.3, 5.0])
def test_a_timer_that_fires_exactly_when_due_finds_it_due(start: float, limit: float) -> None:
    """Found by the simulated machine: `now - since >= limit` may be false where now is `since + limit`."""
    desk = Desk(max_wait=limit, load_timeout=limit, min_residency=limit)
    desk.at = start
    desk.wants(A, "1")
    desk.at = eviction.next_deadline(desk.state) or 0.0
    assert desk.state.is_overdue(desk.state.waiting[A.id]) is False
    desk.tell(TimerFired(desk.at))
    assert desk.state.is_overdue(desk.state.waiting[A.id])
    desk.measured()
    desk.at = eviction.next_deadline(desk.state) or 0.0
    assert stopped(desk.tell(TimerFired(desk.at))) == [1]
