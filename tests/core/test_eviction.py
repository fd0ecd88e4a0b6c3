"""Who has to leave when a newcomer needs room, and who never."""

from __future__ import annotations

from swapd.core.eviction import Victims
from swapd.core.messages import RefuseRequest, TimerFired
from swapd.core.model import HOST, Footprint
from swapd.units import GiB, MiB
from tests.core.builders import CARD, MEASURE, OTHER_CARD, Desk, Phase, granted, refused, started, stopped, variant

A, B, C = variant("a"), variant("b"), variant("c")
BIG = variant("big", 8 * GiB)


def test_an_idle_resident_goes_before_the_newcomer_is_started() -> None:
    """Scenario 4."""
    desk = Desk()
    desk.idle(A)
    desk.wants(BIG, "1")
    orders = desk.measured()
    assert stopped(orders) == [1]
    assert started(orders) == []
    assert desk.gone(1) == [MEASURE]
    assert started(desk.measured()) == ["big"]


def test_the_least_recently_used_goes() -> None:
    """Scenario 10, by use and not by age: A came first and was used last."""
    desk = Desk()
    desk.idle(A)
    desk.idle(B)
    desk.wants(A, "again")
    desk.ends("again")
    desk.wants(C, "1")
    assert stopped(desk.measured()) == [desk.resident(B).id]


def test_who_is_not_needed_stays() -> None:
    """Scenario 11: the small one was used least recently, but only the large one makes the room."""
    desk = Desk()
    small, large = variant("embedder", GiB // 2), variant("large", 9 * GiB)
    desk.idle(small)
    desk.idle(large)
    desk.wants(BIG, "1")
    assert stopped(desk.measured()) == [desk.resident(large).id]


def test_a_pinned_model_stays_and_is_named() -> None:
    """Scenario 12, where the host is too small for what the card cannot take."""
    desk = Desk(host=GiB)
    desk.idle(A)
    desk.pin("a")
    desk.wants(BIG, "1")
    (order,) = desk.measured()
    assert isinstance(order, RefuseRequest)
    assert (order.device, order.needed, order.available, order.pinned) == (CARD, 8 * GiB, 6 * GiB, ("a",))
    assert "at most 6 GiB on cuda:0" in desk.notes[-1].reason
    assert "without a, pinned" in desk.notes[-1].reason


def test_beside_a_pinned_model_a_newcomer_is_loaded_in_part() -> None:
    """Scenario 12, where the host has memory: three of four layers stand beside."""
    desk = Desk()
    desk.idle(A)
    desk.pin("a")
    desk.wants(BIG, "1")
    orders = desk.measured()
    assert (stopped(orders), started(orders)) == ([], ["big"])
    assert desk.resident(BIG).placement.gpu_layers == 3


def test_who_is_loaded_in_part_for_want_of_more_is_not_said_to_fit() -> None:
    desk = Desk()
    desk.idle(variant("a", 4 * GiB))
    desk.pin("a")
    desk.wants(variant("b", 8 * GiB), "1")
    desk.measured()
    assert desk.notes[-1].reason == "so it fits beside the others: 75%/25% GPU/CPU"


def test_the_pinned_stay_also_when_somebody_is_overdue() -> None:
    desk = Desk(max_wait=5.0)
    desk.idle(A)
    desk.serve(B, "1")
    desk.pin("a")
    desk.wants(C, "2")
    desk.later(6.0)
    desk.measured()
    assert desk.phase(desk.resident(A).id) is Phase.READY
    assert desk.phase(desk.resident(B).id) is Phase.DRAINING


def test_a_load_on_the_cpu_evicts_nobody_from_the_card() -> None:
    """Scenario 34."""
    desk = Desk()
    desk.idle(variant("a", 10 * GiB))
    desk.wants(variant("b", 10 * GiB, gpu_layers=0), "1")
    orders = desk.measured()
    assert (stopped(orders), started(orders)) == ([], ["b"])


def test_pressure_on_one_card_stops_no_load_on_another() -> None:
    """Found by the simulated machine: the newcomer waited for ever for a card that it did not want."""
    desk = Desk(cards=(CARD, OTHER_CARD), vram_reserve=GiB)
    desk.idle(A)
    desk.pin("a")
    desk.foreign[CARD] = 6 * GiB
    desk.wants(B, "1")
    assert started(desk.measured()) == ["b"]
    assert desk.resident(B).placement.devices == (OTHER_CARD,)


def test_max_loaded_makes_room_by_count() -> None:
    desk = Desk(max_loaded=1)
    desk.idle(A)
    desk.wants(B, "1")
    assert stopped(desk.measured()) == [1]


def test_where_all_places_are_pinned_a_newcomer_is_refused() -> None:
    """Found by the simulated machine: it waited for ever."""
    desk = Desk(max_loaded=1)
    desk.idle(A)
    desk.pin("a")
    desk.wants(B, "1")
    orders = desk.measured()
    assert refused(orders) == {"1": "does not fit"}
    assert isinstance(orders[0], RefuseRequest)
    assert orders[0].pinned == ("a",)


def test_a_resident_at_work_is_no_victim_before_somebody_is_overdue() -> None:
    desk = Desk()
    desk.serve(BIG, "1")
    need = Footprint.of({CARD: 4 * GiB, HOST: 96 * MiB})
    assert Victims(desk.state, A.id, desk.state.room()).of(need) is None
    early = Victims(desk.state, A.id, desk.state.room(), busy=True)
    assert early.of(need) is None, "it has not served min_residency"
    desk.later(desk.policy.min_residency)
    desk.tell(TimerFired(desk.at))
    leaving = Victims(desk.state, A.id, desk.state.room(), busy=True).of(need)
    assert leaving is not None
    assert [r.variant.name for r in leaving] == ["big"]


def test_a_victim_is_given_up_only_for_somebody_who_fits() -> None:
    """Scenario 13: refused at once with the sizes, and nobody is evicted."""
    desk = Desk(host=GiB)
    desk.idle(A)
    desk.wants(variant("huge", 11 * GiB), "1")
    (order,) = desk.measured()
    assert isinstance(order, RefuseRequest)
    assert (order.needed, order.available) == (11 * GiB, 10 * GiB)
    assert granted(desk.wants(A, "2")) == ["2"]
