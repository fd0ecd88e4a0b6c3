"""Workers that die, loads that fail or stand still, facts that come late or twice."""

from __future__ import annotations

import pytest

from swapd.core.messages import MeasureMemory, Refusal, RevokeLease
from swapd.core.model import RequestId
from swapd.units import GiB
from tests.core.builders import CARD, Death, Desk, Phase, granted, refused, started, stopped, variant

A, B = variant("a"), variant("b")


def test_a_crash_revokes_its_leases_and_the_next_request_reloads() -> None:
    """Scenario 32."""
    desk = Desk()
    desk.serve(A, "1")
    orders = desk.died(1)
    assert RevokeLease(RequestId("1"), Refusal.CRASHED, "for a reason") in orders
    assert stopped(orders) == [1]
    assert desk.ends("1") == []
    desk.wants(A, "2")
    assert started(desk.measured()) == ["a"]
    assert granted(desk.loaded(2)) == ["2"]


def test_a_crash_is_nothing_to_anybody_else() -> None:
    """Scenario 25, as far as it is one today: the neighbour keeps its lease and its place."""
    desk = Desk()
    desk.serve(A, "1")
    desk.serve(B, "2")
    assert stopped(desk.died(1, Death.OUT_OF_MEMORY)) == [1]
    assert desk.holder("2") == 2
    assert desk.phase(2) is Phase.READY


def test_those_who_waited_for_a_slot_of_a_dead_resident_get_another() -> None:
    desk = Desk()
    desk.serve(A, "1")
    desk.wants(A, "2")
    desk.died(1)
    desk.measured()
    assert granted(desk.loaded(2)) == ["2"]


def test_a_file_that_is_no_model_is_refused_at_once_and_not_tried_again() -> None:
    desk = Desk()
    desk.wants(A, "1")
    desk.measured()
    assert refused(desk.died(1, Death.UNUSABLE)) == {"1": "unusable"}
    desk.gone(1)
    assert desk.loads() == ["a"]


def test_a_load_that_fails_twice_under_a_request_is_its_end() -> None:
    desk = Desk()
    desk.wants(A, "1")
    desk.measured()
    assert refused(desk.died(1)) == {}
    desk.measured()
    desk.wants(A, "2")
    assert refused(desk.died(2)) == {"1": "crashed"}
    desk.gone(1)
    desk.measured()
    assert granted(desk.loaded(3)) == ["2"]


def test_out_of_memory_makes_more_room_and_tries_once_more() -> None:
    """Scenario 23, first half: B is evicted for the second try, then it is reported."""
    desk = Desk()
    desk.idle(B)
    big = variant("big", 6 * GiB)
    desk.wants(big, "1")
    orders = desk.measured()
    assert (stopped(orders), started(orders)) == ([], ["big"])
    desk.died(2, Death.OUT_OF_MEMORY)
    desk.gone(2)
    assert stopped(desk.measured()) == [1]
    desk.gone(1)
    assert started(desk.measured()) == ["big"]
    assert refused(desk.died(3, Death.OUT_OF_MEMORY)) == {"1": "crashed"}


def test_any_other_failure_evicts_nobody() -> None:
    """Scenario 23, second half."""
    desk = Desk()
    desk.idle(B)
    desk.wants(variant("big", 6 * GiB), "1")
    desk.measured()
    desk.died(2)
    desk.gone(2)
    orders = desk.measured()
    assert (stopped(orders), started(orders)) == ([], ["big"])


def test_running_out_of_memory_is_no_lesson_for_ever() -> None:
    """Found by the simulated machine: each failure asked for a tenth more, until the model fitted nowhere."""
    desk = Desk()
    big = variant("big", 9 * GiB)
    for number in range(10):
        desk.wants(big, f"{number}")
        for _ in range(2):
            desk.measured()
            resident = desk.resident(big).id
            desk.died(resident, Death.OUT_OF_MEMORY)
            desk.gone(resident)
    desk.wants(big, "last")
    desk.measured()
    assert desk.resident(big).predicted[CARD] == 9 * GiB


def test_a_load_that_stands_still_is_ended_and_one_that_goes_on_is_not() -> None:
    desk = Desk(load_timeout=30.0)
    desk.wants(A, "1")
    desk.measured()
    for tenth in range(1, 10):
        assert stopped(desk.later(29.0)) == []
        desk.progressed(1, tenth / 10)
    desk.progressed(1, 0.9)  # says nothing new
    assert stopped(desk.later(30.0)) == [1]
    assert desk.state.waiting[A.id].oldest.tries == 1


def test_a_load_reported_after_the_stop_is_late() -> None:
    """The resident is on its way out and stays so; nobody is granted it."""
    desk = Desk()
    desk.wants(A, "1")
    desk.measured()
    desk.unload("a", force=True)
    desk.wants(A, "2")
    assert granted(desk.loaded(1)) == []
    assert desk.phase(1) is Phase.UNLOADING


@pytest.mark.parametrize("reach", [Phase.LOADING, Phase.READY, Phase.DRAINING])
def test_an_end_that_nobody_ordered_is_not_believed(reach: Phase) -> None:
    """WorkerGone counts only after StopWorker: the memory of a live worker is not given away."""
    desk = Desk()
    desk.wants(A, "1")
    desk.measured()
    if reach is not Phase.LOADING:
        desk.loaded(1)
    if reach is Phase.DRAINING:
        desk.unload("a")
    assert desk.phase(1) is reach
    desk.gone(1)
    assert desk.phase(1) is reach


def test_facts_that_come_twice_or_too_late_change_nothing() -> None:
    desk = Desk()
    desk.serve(A, "1")
    desk.loaded(1)
    desk.progressed(1, 0.3)
    desk.ends("1")
    assert stopped(desk.unload("a")) == [1]
    desk.died(1)
    desk.gone(1)
    before = desk.state
    for late in (desk.gone, desk.loaded, desk.died):
        assert late(1) == []
    assert desk.progressed(1, 0.99) == []
    assert desk.state == before


def test_ids_are_never_used_again() -> None:
    """A fact about the first resident cannot be taken for one about the second."""
    desk = Desk()
    desk.wants(A, "1")
    desk.measured()
    desk.died(1)
    desk.measured()
    assert desk.resident(A).id == 2
    assert desk.loaded(1) == []
    assert desk.phase(2) is Phase.LOADING


def test_only_one_measurement_is_under_way() -> None:
    desk = Desk()
    orders = desk.wants(A, "1") + desk.wants(B, "2") + desk.wants(A, "3")
    assert orders == [MeasureMemory()]
