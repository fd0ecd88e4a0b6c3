"""Who is served at once, by what, and what is loaded for whom."""

from __future__ import annotations

import pytest

from swapd.core.messages import GrantLease, RequestArrived
from swapd.core.model import RequestId, ResidentId
from swapd.core.scheduler import ImpossibleFact
from swapd.units import GiB
from tests.core.builders import MEASURE, Desk, Phase, granted, started, stopped, variant

A, B = variant("a"), variant("b")


def test_the_first_request_measures_loads_and_is_granted() -> None:
    """Scenario 1."""
    desk = Desk()
    assert desk.wants(A, "1") == [MEASURE]
    assert started(desk.measured()) == ["a"]
    assert desk.loaded(1) == [GrantLease(RequestId("1"), ResidentId(1))]


def test_a_request_for_a_resident_with_a_free_slot_is_granted_at_once() -> None:
    """Scenario 2: no load, and nothing is measured for it."""
    desk = Desk()
    resident = desk.idle(A)
    assert desk.wants(A, "2") == [GrantLease(RequestId("2"), resident)]


def test_two_models_that_fit_both_stay() -> None:
    """Scenario 3."""
    desk = Desk()
    desk.idle(A)
    desk.serve(B, "1")
    assert desk.loads() == ["a", "b"]
    assert stopped(desk.orders) == []


def test_two_first_requests_load_once() -> None:
    """From the field: two simultaneous first requests loaded the model twice."""
    desk = Desk()
    two = variant("a", slots=2)
    desk.wants(two, "1")
    desk.wants(two, "2")
    desk.measured()
    assert desk.wants(two, "3") == []
    assert granted(desk.loaded(1)) == ["1", "2"]
    assert desk.loads() == ["a"]


def test_a_newcomer_is_no_victim_before_its_first_request_had_it() -> None:
    """From the field: the model just loaded was evicted between load and first answer."""
    desk = Desk(keep_alive=0.0)
    desk.wants(A, "1")
    desk.wants(variant("big", 8 * GiB), "2")
    desk.measured()
    assert granted(desk.loaded(1)) == ["1"]
    assert stopped(desk.measured()) == []


def test_slots_are_never_oversold() -> None:
    desk = Desk()
    two = variant("a", slots=2)
    desk.serve(two, "1")
    assert granted(desk.wants(two, "2")) == ["2"]
    assert granted(desk.wants(two, "3")) == []
    assert granted(desk.ends("1")) == ["3"]


def test_a_load_request_takes_no_slot() -> None:
    desk = Desk()
    desk.serve(A, "1")
    assert granted(desk.wants(A, "load", slotless=True)) == ["load"]
    assert desk.holder("load") is None


def test_a_load_that_names_other_layers_replaces_the_resident() -> None:
    desk = Desk()
    desk.idle(A)
    assert stopped(desk.wants(A, "load", slotless=True, gpu_layers=2)) == [1]
    desk.gone(1)
    desk.measured()
    assert desk.resident(A).placement.gpu_layers == 2
    assert granted(desk.loaded(2)) == ["load"]


def test_loads_on_one_device_come_one_after_the_other() -> None:
    desk = Desk()
    desk.wants(A, "1")
    desk.wants(B, "2")
    assert started(desk.measured()) == ["a"]
    assert desk.loaded(1)[-1] == MEASURE
    assert started(desk.measured()) == ["b"]


def test_a_request_told_twice_is_a_bug_of_the_shell_and_changes_nothing() -> None:
    desk = Desk()
    desk.wants(A, "1")
    before = desk.state
    with pytest.raises(ImpossibleFact):
        desk.tell(RequestArrived(desk.at, RequestId("1"), A))
    with pytest.raises(ImpossibleFact):
        desk.gone(7)
    assert desk.state == before
    assert desk.phase(7) is Phase.GONE
