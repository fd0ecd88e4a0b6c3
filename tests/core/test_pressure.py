"""Other programs take memory and give it back; loads and work run out of it: who gives way, who comes back.

They can take only what is free: what comes to be short is the reserve.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from swapd.core.messages import GrantLease, Overflow, SizePlacement
from swapd.core.model import Device, DeviceKind, Footprint, RequestId, ResidentId, Variant
from swapd.core.relief import CALM
from swapd.core.resident import Cause
from swapd.units import GiB, MiB
from tests.core.builders import CARD, OTHER_CARD, Death, Desk, Phase, granted, refused, started, stopped, variant

A, B = variant("a", 6 * GiB), variant("b", 4 * GiB)
WISH = RequestId("swapd/1")


def layered(name: str, layers: int, size: int) -> Variant:
    plain = variant(name, size)
    return replace(plain, shape=replace(plain.shape, layers=layers - 1))


LARGE = layered("large", 16, 7 * GiB)
SMALLER = 11
"""Of its 16 layers, where 5 GiB are left for it."""


def cause(desk: Desk, resident: int) -> Cause | None:
    retired = desk.state.residents[ResidentId(resident)].retired
    return None if retired is None else retired.cause


def reload(desk: Desk, resident: int) -> None:
    """The one that was retired is gone, and its successor is loaded."""
    desk.gone(resident)
    desk.measured()
    desk.loaded(desk.resident(LARGE).id)


def demoted() -> Desk:
    """LARGE was used, and stands with 11 of 16 layers since others took the 3 GiB that were free."""
    desk = Desk(vram_reserve=2 * GiB)
    desk.idle(LARGE)
    desk.foreign[CARD] = 3 * GiB
    assert stopped(desk.watch()) == [1]
    reload(desk, 1)
    desk.later(1.0)
    return desk


# --- memory is taken


def test_an_idle_model_is_placed_smaller() -> None:
    desk = Desk(vram_reserve=2 * GiB)
    desk.idle(LARGE)
    desk.foreign[CARD] = 3 * GiB
    assert stopped(desk.watch()) == [1]
    assert cause(desk, 1) is Cause.DEMOTED
    desk.gone(1)
    assert started(desk.measured()) == ["large"]
    assert desk.resident(LARGE).placement.gpu_layers == SMALLER
    assert desk.loaded(2)[0] == GrantLease(WISH, desk.resident(LARGE).id)
    assert desk.phase(2) is Phase.READY


def test_one_of_which_little_could_stay_leaves() -> None:
    desk = Desk(vram_reserve=4 * GiB)
    desk.idle(B)
    desk.foreign[CARD] = 6 * GiB
    assert stopped(desk.watch()) == [1]
    desk.gone(1)
    desk.watch()
    assert desk.loads() == ["b"]


def test_one_whose_layers_were_asked_for_leaves_too() -> None:
    """Nobody places it smaller against its owner's word."""
    desk = Desk(vram_reserve=2 * GiB)
    desk.idle(replace(LARGE, gpu_layers=16))
    desk.foreign[CARD] = 3 * GiB
    assert stopped(desk.watch()) == [1]
    desk.gone(1)
    desk.watch()
    assert desk.loads() == ["large"]


def test_where_another_card_has_room_it_moves_there_whole() -> None:
    """Found by reading: only less of it was thought of, and it was unloaded."""
    desk = Desk(cards=(CARD, OTHER_CARD), vram_reserve=2 * GiB)
    desk.idle(LARGE)
    desk.foreign[CARD] = 3 * GiB
    orders = desk.watch()
    assert (stopped(orders), started(orders)) == ([1], ["large"])
    assert desk.resident(LARGE).placement.devices == (OTHER_CARD,)


def test_a_smaller_micro_batch_is_enough_to_stay_whole() -> None:
    desk = Desk(vram_reserve=10 * MiB)
    model = replace(
        variant("m", 10 * GiB - 30 * MiB), shape=replace(variant("m", 10 * GiB - 30 * MiB).shape, embedding=512)
    )
    desk.idle(model)
    desk.foreign[CARD] = 12 * MiB
    assert stopped(desk.watch()) == [1]
    desk.gone(1)
    desk.measured()
    place = desk.resident(model).placement
    assert (place.share, place.micro_batch) == (1.0, 128)


def test_the_idle_go_before_those_at_work_and_no_more_than_needed() -> None:
    desk = Desk(vram_reserve=2 * GiB)
    busy = desk.serve(variant("busy", 4 * GiB), "1")
    idle = desk.idle(variant("idle", 3 * GiB))
    other = desk.idle(variant("other", GiB))
    desk.foreign[CARD] = 2 * GiB
    assert stopped(desk.watch()) == [idle]
    assert [desk.phase(r) for r in (busy, other)] == [Phase.READY, Phase.READY]


def test_then_those_at_work_drain_and_what_comes_for_them_waits() -> None:
    desk = Desk(vram_reserve=2 * GiB)
    desk.serve(LARGE, "1")
    desk.foreign[CARD] = 3 * GiB
    assert stopped(desk.watch()) == []
    assert desk.phase(1) is Phase.DRAINING
    assert granted(desk.wants(LARGE, "2")) == []
    assert stopped(desk.ends("1")) == [1]
    reload(desk, 1)
    assert desk.holder("2") == 2
    assert desk.resident(LARGE).placement.gpu_layers == SMALLER


def test_a_pinned_model_never_gives_way() -> None:
    desk = Desk(vram_reserve=2 * GiB)
    desk.idle(LARGE)
    desk.pin("large")
    desk.foreign[CARD] = 3 * GiB
    assert desk.watch() == []
    assert desk.phase(1) is Phase.READY


def test_beside_a_pinned_one_on_the_worst_card_the_others_give_way_on_theirs() -> None:
    """Found by reading: the pinned one on the first card ended the search."""
    desk = Desk(cards=(CARD, OTHER_CARD), vram_reserve=2 * GiB)
    desk.idle(variant("pinned", 8 * GiB))
    desk.idle(LARGE)
    desk.pin("pinned")
    desk.foreign = {CARD: 2 * GiB, OTHER_CARD: 2 * GiB + GiB // 2}
    assert stopped(desk.watch()) == [2]


def test_half_of_the_reserve_may_be_taken_before_anybody_goes() -> None:
    desk = Desk(vram_reserve=GiB)
    desk.idle(variant("a", 8 * GiB))
    desk.foreign[CARD] = GiB + GiB // 2
    assert desk.watch() == []
    desk.foreign[CARD] += 1
    assert stopped(desk.watch()) == [1]


def test_a_silent_driver_presses_nobody() -> None:
    desk = Desk(vram_reserve=2 * GiB)
    desk.idle(LARGE)
    desk.stale.add(CARD)
    assert desk.watch() == []


def test_a_load_that_the_driver_does_not_name_yet_presses_nobody() -> None:
    """Found by reading: what it had taken already counted as taken by others."""
    desk = Desk(vram_reserve=0)
    desk.idle(B)
    desk.wants(A, "1")
    desk.measured()
    assert desk.phase(2) is Phase.LOADING
    desk.later(1.0)
    desk.wants(variant("c", GiB), "2")
    card = Device(CARD, CARD, DeviceKind.GPU, "test", 10 * GiB, 2 * GiB)
    looked = desk.look()
    assert stopped(desk.tell(replace(looked, devices=(card, looked.devices[1])))) == []


def test_a_reservation_presses_nobody() -> None:
    """B is to come when A is gone; others take that room: the reservation is given up, C stays."""
    desk = Desk(host=GiB)
    desk.idle(A)
    desk.idle(variant("c", GiB))
    desk.wants(variant("b", 9 * GiB), "1", gpu_layers=99)
    assert stopped(desk.measured()) == [1]
    desk.foreign[CARD] = 7 * GiB
    desk.gone(1)
    orders = desk.measured()
    assert refused(orders) == {"1": "does not fit"}
    assert stopped(orders) == []


def test_our_own_wish_evicts_nobody() -> None:
    """A is placed smaller beside the idle B, which stays."""
    desk = Desk(vram_reserve=2 * GiB, overflow=Overflow.EVICT)
    desk.idle(layered("large", 16, 5 * GiB))
    desk.idle(variant("b", 3 * GiB))
    desk.foreign[CARD] = 2 * GiB
    assert stopped(desk.watch()) == [1]
    desk.gone(1)
    orders = desk.measured()
    assert (stopped(orders), started(orders)) == ([], ["large"])


def test_our_own_wish_takes_no_place_in_the_queue() -> None:
    desk = Desk(vram_reserve=2 * GiB, max_queue=1)
    desk.idle(LARGE)
    desk.foreign[CARD] = 3 * GiB
    desk.watch()
    assert refused(desk.wants(B, "1")) == {}


def test_an_unload_ends_our_own_wish() -> None:
    """Found by reading: the model came back by itself after its owner had unloaded it."""
    desk = Desk(vram_reserve=2 * GiB)
    desk.idle(LARGE)
    desk.foreign[CARD] = 3 * GiB
    desk.watch()
    desk.unload("large")
    desk.gone(1)
    desk.watch()
    assert desk.loads() == ["large"]


def last_used(desk: Desk) -> tuple[float, float]:
    """When LARGE was, and how long it stays after that."""
    large = desk.resident(LARGE)
    return large.used_at, large.keep_alive


def test_being_placed_smaller_is_no_use() -> None:
    """Found by reading: it came back as the most recently used, and B, used since, was evicted before it."""
    desk = Desk(vram_reserve=2 * GiB)
    desk.idle(LARGE, keep_alive=500.0)
    before = last_used(desk)
    desk.later(100.0)
    desk.foreign[CARD] = 3 * GiB
    assert stopped(desk.watch()) == [1]
    desk.later(3.0)
    reload(desk, 1)
    assert last_used(desk) == before
    assert desk.state.waiting == {}


def test_one_that_moves_before_its_old_place_is_free_is_not_younger_either() -> None:
    desk = Desk(cards=(CARD, OTHER_CARD), vram_reserve=2 * GiB)
    desk.idle(LARGE)
    before = last_used(desk)
    desk.foreign[CARD] = 3 * GiB
    desk.watch()
    assert desk.loaded(2)[0] == GrantLease(WISH, ResidentId(2))
    assert last_used(desk) == before
    desk.gone(1)
    assert desk.state.left == {}


def test_its_keep_alive_goes_on_while_it_is_placed_again() -> None:
    desk = Desk(vram_reserve=2 * GiB)
    desk.idle(LARGE, keep_alive=60.0)
    ends_at = desk.resident(LARGE).used_at + 60.0
    desk.later(30.0)
    desk.foreign[CARD] = 3 * GiB
    desk.watch()
    reload(desk, 1)
    assert desk.state.expires_at(desk.resident(LARGE)) == ends_at


def test_a_crash_while_it_is_placed_again_makes_it_no_younger() -> None:
    desk = Desk(vram_reserve=2 * GiB)
    desk.idle(LARGE, keep_alive=60.0)
    ends_at = desk.resident(LARGE).used_at + 60.0
    desk.foreign[CARD] = 3 * GiB
    desk.watch()
    desk.gone(1)
    desk.measured()
    desk.later(5.0)
    desk.died(2)
    desk.measured()
    desk.gone(2)
    desk.measured()
    desk.loaded(3)
    assert desk.state.expires_at(desk.resident(LARGE)) == ends_at


def test_whoever_waited_for_it_meanwhile_uses_it() -> None:
    desk = Desk(vram_reserve=2 * GiB)
    desk.idle(LARGE)
    desk.foreign[CARD] = 3 * GiB
    desk.watch()
    desk.wants(LARGE, "meanwhile")
    desk.later(1.0)
    reload(desk, 1)
    assert desk.holder("meanwhile") == 2
    assert last_used(desk)[0] == desk.at


# --- and given back


def test_what_was_used_comes_back_whole_after_some_calm() -> None:
    desk = demoted()
    desk.wants(LARGE, "again")
    desk.ends("again")
    desk.foreign[CARD] = 0
    short = desk.state.relieved_at
    while not (orders := stopped(desk.watch())):
        assert desk.at < short + CALM + 1.0
    assert desk.at >= short + CALM
    assert orders == [2]
    assert cause(desk, 2) is Cause.PROMOTED
    reload(desk, 2)
    assert str(desk.resident(LARGE).placement) == "100% GPU"


def test_the_last_layer_comes_back_too() -> None:
    """Less than a tenth of it, but then it is whole."""
    desk = Desk(vram_reserve=100 * MiB)
    desk.idle(LARGE)
    desk.foreign[CARD] = 3 * GiB + 200 * MiB
    assert stopped(desk.watch()) == [1]
    reload(desk, 1)
    assert desk.resident(LARGE).placement.gpu_layers == 15
    desk.later(1.0)
    desk.wants(LARGE, "again")
    desk.ends("again")
    desk.foreign[CARD] = 0
    assert watched(desk, 8) == [2]
    reload(desk, 2)
    assert str(desk.resident(LARGE).placement) == "100% GPU"


def watched(desk: Desk, seconds: int) -> list[int]:
    return [resident for _ in range(seconds) for resident in stopped(desk.watch())]


def test_what_was_not_used_since_stays_as_it_is() -> None:
    desk = demoted()
    desk.foreign[CARD] = 0
    assert watched(desk, 20) == []


@pytest.mark.parametrize("keeps", ["busy", "pinned", "somebody waits", "somebody drains"])
def test_nobody_is_placed_better_while(keeps: str) -> None:
    desk = demoted()
    desk.wants(LARGE, "again")
    if keeps != "busy":
        desk.ends("again")
    if keeps == "pinned":
        desk.pin("large")
    if keeps == "somebody waits":
        desk.serve(variant("on the cpu", GiB, gpu_layers=0), "work")
        desk.wants(variant("on the cpu", GiB, gpu_layers=0), "waits")
    desk.foreign[CARD] = 0
    if keeps == "somebody drains":
        desk.serve(variant("other", GiB), "work")
        desk.unload("other")
    assert watched(desk, 20) == []


def test_one_whose_layers_were_asked_for_is_left_alone() -> None:
    desk = Desk()
    desk.idle(LARGE, gpu_layers=5)
    assert watched(desk, 20) == []


def test_for_a_little_more_nobody_is_reloaded() -> None:
    desk = demoted()
    desk.wants(LARGE, "again")
    desk.ends("again")
    desk.foreign[CARD] = 2 * GiB + 512 * MiB
    assert watched(desk, 20) == []


def test_memory_that_comes_and_goes_reloads_once_each_way() -> None:
    desk = demoted()
    for turn in range(1, 4):
        desk.later(1.0)
        desk.wants(LARGE, f"use {turn}")
        desk.ends(f"use {turn}")
        desk.foreign[CARD] = 0
        assert watched(desk, 7) == [2 * turn]
        reload(desk, 2 * turn)
        assert watched(desk, 7) == []
        desk.foreign[CARD] = 3 * GiB
        assert watched(desk, 1) == [2 * turn + 1]
        reload(desk, 2 * turn + 1)
        assert watched(desk, 7) == []


def test_a_better_place_is_sized_before_anybody_is_unloaded_for_it() -> None:
    """Found by reading: an estimate unloaded it, and what was then asked for did not fit."""
    desk = demoted()
    desk.wants(LARGE, "again")
    desk.ends("again")
    desk.says = None
    desk.foreign[CARD] = GiB + GiB // 2
    orders = [order for _ in range(7) for order in desk.watch()]
    (asked,) = [order for order in orders if isinstance(order, SizePlacement)]
    assert (stopped(orders), asked.placement.gpu_layers) == ([], 14)
    desk.sized(asked, Footprint.of({CARD: 8 * GiB}))
    assert all(stopped(desk.watch()) == [] for _ in range(3))


# --- out of memory


def test_a_load_out_of_memory_is_tried_smaller() -> None:
    """Nobody is there to evict: nine tenths of the card are counted on, then it is refused."""
    desk = Desk()
    big = layered("big", 16, 10 * GiB - 16 * MiB)
    desk.wants(big, "1")
    desk.measured()
    assert desk.resident(big).placement.gpu_layers == 16
    desk.died(1, Death.OUT_OF_MEMORY)
    desk.gone(1)
    assert started(desk.measured()) == ["big"]
    assert desk.resident(big).placement.gpu_layers == 14
    assert granted(desk.loaded(2)) == ["1"]


def test_where_smaller_is_not_possible_it_is_tried_once_more_as_it_is() -> None:
    desk = Desk(host=GiB // 2)
    big = variant("big", 10 * GiB - 16 * MiB)
    desk.wants(big, "1")
    desk.measured()
    desk.died(1, Death.OUT_OF_MEMORY)
    desk.gone(1)
    assert started(desk.measured()) == ["big"]
    assert refused(desk.died(2, Death.OUT_OF_MEMORY)) == {"1": "crashed"}


def test_with_an_idle_neighbour_one_more_is_evicted_instead() -> None:
    """Scenario 23."""
    desk = Desk()
    desk.idle(B)
    big = layered("big", 16, 6 * GiB)
    desk.wants(big, "1")
    desk.measured()
    desk.died(2, Death.OUT_OF_MEMORY)
    desk.gone(2)
    assert stopped(desk.measured()) == [1]
    desk.gone(1)
    assert started(desk.measured()) == ["big"]
    assert desk.resident(big).placement.share == 1.0


def test_out_of_memory_at_work_is_a_lesson_and_the_neighbours_stay() -> None:
    """Scenario 25: it comes back with a tenth more, beside the idle one or smaller."""
    desk = Desk()
    desk.idle(B)
    model = layered("m", 16, 5 * GiB)
    desk.serve(model, "1")
    desk.died(2, Death.OUT_OF_MEMORY)
    desk.ends("1")
    desk.gone(2)
    desk.wants(model, "2")
    orders = desk.measured()
    assert (stopped(orders), started(orders)) == ([], ["m"])
    assert desk.resident(model).predicted[CARD] == int(5 * GiB * 1.1)


def test_what_a_dead_one_teaches_is_never_more_than_the_card() -> None:
    desk = Desk()
    full = variant("full", 10 * GiB)
    for number in range(3):
        desk.serve(full, str(number))
        resident = desk.resident(full).id
        desk.died(resident, Death.OUT_OF_MEMORY)
        desk.gone(resident)
        desk.ends(str(number))
    lessons = [size[CARD] for (_, place), size in desk.state.lessons.items() if place.share == 1.0]
    assert lessons == [10 * GiB]
