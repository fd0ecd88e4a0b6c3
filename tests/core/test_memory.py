"""What is promised, what is measured, and what is learnt: no byte is given twice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from swapd.core.arithmetic import PROCESS, arithmetic
from swapd.core.messages import MeasurementDue, MemoryMeasured, RefuseRequest
from swapd.core.model import HOST, Device, DeviceKind, Footprint, Placement
from swapd.core.planner import OOM_MARGIN
from swapd.core.state import FRESH
from swapd.units import GiB
from tests.core.builders import CARD, MEASURE, Death, Desk, Phase, refused, started, stopped, variant

A, B = variant("a", 6 * GiB), variant("b", 4 * GiB)


def test_a_model_that_fills_the_card_to_the_byte_fits() -> None:
    desk = Desk()
    desk.idle(A)
    desk.wants(B, "1")
    orders = desk.measured()
    assert (stopped(orders), started(orders)) == ([], ["b"])


def test_a_byte_more_does_not() -> None:
    desk = Desk()
    desk.idle(A)
    desk.wants(variant("b", 4 * GiB + 1), "1")
    assert stopped(desk.measured()) == [1]


def test_the_reserve_and_the_limit_are_kept_free() -> None:
    desk = Desk(vram_reserve=GiB, vram_limit="50%", host=GiB)
    desk.wants(variant("a", 4 * GiB + 1), "1")
    (order,) = desk.measured()
    assert isinstance(order, RefuseRequest)
    assert order.available == 4 * GiB
    desk.wants(B, "2")
    desk.measured()
    assert desk.loads() == ["b"]


def test_without_a_card_the_host_stands_in_for_one() -> None:
    desk = Desk(cards=(), vram_limit="50%")
    desk.wants(variant("a", 6 * GiB), "1")
    assert refused(desk.measured()) == {"1": "does not fit"}
    desk.wants(variant("b", 5 * GiB - PROCESS), "2")
    desk.measured()
    assert desk.loads() == ["b"]


def test_what_others_took_is_not_given_away() -> None:
    """Scenario 26: another program takes 3 GiB after A was loaded."""
    desk = Desk()
    desk.idle(A)
    desk.foreign[CARD] = 3 * GiB
    desk.wants(B, "1")
    assert stopped(desk.measured()) == [1]


def test_a_late_release_delays_the_load_and_no_longer() -> None:
    """Scenario 27: the process is gone, its memory not yet: nothing is started until it is seen free."""
    desk = Desk()
    desk.idle(A)
    desk.wants(variant("b", 8 * GiB), "1")
    assert stopped(desk.measured()) == [1]
    unlisted = (Device(CARD, CARD, DeviceKind.GPU, "test", 10 * GiB, 4 * GiB), desk.look().devices[1])
    assert started(desk.tell(MemoryMeasured(desk.at, unlisted))) == []
    assert refused(desk.tell(MemoryMeasured(desk.at, unlisted))) == {}
    assert desk.gone(1) == [MEASURE]
    assert started(desk.measured()) == ["b"]


def test_memory_that_never_comes_back_makes_the_budget_smaller() -> None:
    """Scenario 27, the settle limit passed: the newcomer is loaded in part, and nobody waits for ever."""
    desk = Desk()
    desk.idle(A)
    desk.wants(variant("b", 8 * GiB), "1")
    desk.measured()
    desk.foreign[CARD] = 6 * GiB
    desk.gone(1)
    assert started(desk.measured()) == ["b"]
    assert desk.resident(variant("b")).placement.gpu_layers == 2


def test_nothing_is_started_on_an_old_measurement() -> None:
    desk = Desk()
    desk.idle(A)
    desk.wants(B, "1")
    desk.measured()
    desk.ends("1")
    desk.at += 0.001 + FRESH
    assert desk.wants(variant("c", GiB), "2") == [MEASURE]


def test_an_answer_that_memory_has_outrun_is_asked_again() -> None:
    """Ordered before A was loaded, it may show half of it: nothing is started on it, and nothing learnt from it."""
    desk = Desk()
    desk.wants(A, "1")
    desk.measured()
    desk.at += 1.0
    assert desk.wants(B, "2") == [MEASURE]
    desk.loaded(1)
    assert desk.tell(desk.look({(1, CARD): GiB})) == [MEASURE]
    assert desk.state.lessons == {}
    assert desk.state.residents[desk.resident(A).id].footprint[CARD] == 6 * GiB


def test_what_a_load_really_took_is_promised_the_next_time() -> None:
    desk = Desk()
    loaded = desk.serve(A, "1")
    desk.wants(B, "2")
    desk.measured({(loaded, CARD): 5 * GiB})
    assert desk.resident(A).footprint[CARD] == 5 * GiB
    desk.ends("1")
    desk.unload("a")
    desk.gone(loaded)
    desk.wants(A, "3")
    desk.measured()
    assert desk.resident(A).predicted[CARD] == 5 * GiB


def test_whoever_is_not_listed_any_more_counts_as_measured_and_nobody_else_leaves() -> None:
    """Its process has died and nobody has said so yet: what was predicted of it once is no news."""
    desk = Desk()
    loaded = desk.serve(A, "1")
    desk.wants(variant("b", 5 * GiB), "2")
    desk.measured({(loaded, CARD): 5 * GiB})
    desk.loaded(desk.resident(variant("b")).id)
    assert desk.resident(A).footprint[CARD] == 5 * GiB

    desk.tell(MeasurementDue(desk.at))
    assert stopped(desk.measured({(loaded, CARD): 0})) == []

    assert desk.resident(A).footprint[CARD] == 5 * GiB
    assert desk.state.lessons[A.id, desk.resident(A).placement][CARD] == 5 * GiB


def test_host_memory_counts_as_predicted_until_it_is_touched() -> None:
    """Buffers there become resident only as they are used."""
    desk = Desk(cards=())
    loaded = desk.serve(A, "1")
    desk.wants(variant("b", 5 * GiB), "2")
    desk.measured({(loaded, HOST): 2 * GiB})
    assert desk.loads() == ["a"]


def test_a_driver_that_lists_nobody_does_not_make_our_own_memory_foreign() -> None:
    """Found by the simulated machine: what A held counted as taken by others, and B was refused."""
    desk = Desk()
    loaded = desk.idle(A)
    desk.wants(variant("b", 8 * GiB), "1")
    unnamed = (Device(CARD, CARD, DeviceKind.GPU, "test", 10 * GiB, 4 * GiB), desk.look().devices[1])
    assert stopped(desk.tell(MemoryMeasured(desk.at, unnamed))) == [loaded]


def test_a_room_taken_by_others_is_promised_to_nobody_any_more() -> None:
    """The reservation is given up, and its requests get another turn."""
    desk = Desk(host=GiB)
    desk.idle(A)
    desk.wants(variant("b", 8 * GiB), "1")
    desk.measured()
    assert desk.phase(2) is Phase.RESERVED
    desk.foreign[CARD] = 3 * GiB
    desk.gone(1)
    assert refused(desk.measured()) == {"1": "does not fit"}
    assert desk.phase(2) is Phase.GONE


def test_what_running_out_of_memory_at_work_has_taught_outlives_later_measurements() -> None:
    """Found by reading: the next load, measured before it was at work, took the lesson back."""
    desk = Desk()
    desk.serve(A, "1")
    desk.died(1, Death.OUT_OF_MEMORY)
    desk.ends("1")
    desk.gone(1)
    taught = int(6 * GiB * OOM_MARGIN)
    for resident in (2, 3):
        assert desk.serve(A, str(resident)) == resident
        assert desk.resident(A).predicted[CARD] == taught
        desk.later(1.0)
        desk.wants(variant("b", 9 * GiB), f"look {resident}")
        desk.measured({(resident, CARD): 6 * GiB})
        assert (desk.resident(A).measured or Footprint())[CARD] == 6 * GiB
        desk.ends(f"look {resident}")
        desk.ends(str(resident))
        desk.unload("a")
        desk.gone(resident)
    assert [lesson[CARD] for lesson in desk.state.lessons.values()] == [taught]


def test_a_lesson_above_what_running_out_of_memory_taught_still_counts() -> None:
    desk = Desk()
    desk.serve(A, "1")
    desk.died(1, Death.OUT_OF_MEMORY)
    desk.ends("1")
    desk.gone(1)
    desk.serve(A, "2")
    desk.later(1.0)
    desk.wants(variant("b", 9 * GiB), "look")
    desk.measured({(2, CARD): 8 * GiB})
    assert [lesson[CARD] for lesson in desk.state.lessons.values()] == [8 * GiB]


# --- refusals


def test_a_refusal_for_a_cap_of_ones_own_names_it() -> None:
    desk = Desk(host=GiB)
    desk.wants(replace(A, max_vram="50%"), "1")
    (order,) = desk.measured()
    assert isinstance(order, RefuseRequest)
    assert order.reason == "a needs 6 GiB on cuda:0, and its max_vram allows 5 GiB there"
    assert (order.device, order.needed, order.available, order.is_capped) == (CARD, 6 * GiB, 5 * GiB, True)


@pytest.mark.parametrize("max_vram", ["", "95%"])
def test_a_refusal_for_want_of_a_larger_card_names_no_cap(max_vram: str) -> None:
    desk = Desk(host=GiB, vram_reserve=GiB)
    desk.wants(replace(variant("a", 11 * GiB), max_vram=max_vram), "1")
    (order,) = desk.measured()
    assert isinstance(order, RefuseRequest)
    assert (order.reason, order.available, order.is_capped) == ("a needs 11 GiB on cuda:0", 9 * GiB, False)


# --- header arithmetic


def test_weights_and_cache_are_shared_between_card_and_host() -> None:
    model = variant("a", 4 * GiB)
    assert arithmetic(model, Placement((CARD,), 4, 4, 512)) == Footprint.of({CARD: 4 * GiB, HOST: PROCESS})
    assert arithmetic(model, Placement((CARD,), 1, 4, 512)) == Footprint.of({CARD: GiB, HOST: PROCESS + 3 * GiB})
    assert arithmetic(model, Placement((), 0, 4, 512)) == Footprint.of({HOST: PROCESS + 4 * GiB})
