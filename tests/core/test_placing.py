"""Where a model is put: on one card, on several, in part; what `overflow`, `max_vram` and `gpu_layers` make of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from swapd.core.messages import Overflow, PlacementSized, Ranking, RefuseRequest
from swapd.core.model import Footprint, Placement, Variant
from swapd.core.resident import Phase
from swapd.units import GiB, MiB
from tests.core.builders import (
    CARD,
    OTHER_CARD,
    Desk,
    refused,
    sized,
    started,
    stopped,
    variant,
)

A, B = variant("a", 6 * GiB), variant("b", 4 * GiB)
TIGHT = 10 * GiB - 10 * MiB
"""A card that lacks 10 MiB for A and B together."""


def layered(name: str, layers: int, size: int) -> Variant:
    """Of so many equal layers, the output counted."""
    plain = variant(name, size)
    return replace(plain, shape=replace(plain.shape, layers=layers - 1))


def mixture(name: str, layers: int, size: int) -> Variant:
    """A mixture of experts: three quarters of every layer but the output are experts."""
    each = size // layers
    shape = replace(
        layered(name, layers, size).shape,
        expert_layers=layers - 1,
        layer_weights=(each,) * (layers - 1),
        expert_weights=(each * 3 // 4,) * (layers - 1),
        host_weights=tuple(each * n for n in range(layers + 1)),
        output_weights=each,
    )
    return replace(variant(name, size), shape=shape)


def roomy(name: str, size: int) -> Variant:
    """One that takes 14 MiB at a micro-batch of 512 to compute in."""
    return replace(variant(name, size), shape=replace(variant(name, size).shape, embedding=512))


# --- 10 MiB too small


def test_two_that_fit_to_the_byte_stay_together() -> None:
    """Scenario 3."""
    desk = Desk(overflow=Overflow.EVICT)
    desk.idle(A)
    desk.wants(B, "1")
    orders = desk.measured()
    assert (stopped(orders), started(orders)) == ([], ["b"])


@pytest.mark.parametrize("overflow", [Overflow.EVICT, Overflow.AUTO])
def test_on_a_card_too_small_by_10_mib_the_idle_one_goes(overflow: Overflow) -> None:
    """Scenario 4."""
    desk = Desk(total=TIGHT, overflow=overflow)
    desk.idle(A)
    desk.wants(B, "1")
    assert stopped(desk.measured()) == [1]
    desk.gone(1)
    assert started(desk.measured()) == ["b"]
    assert desk.resident(B).placement.share == 1.0


def test_with_offload_the_newcomer_stands_beside_in_part_and_nobody_goes() -> None:
    desk = Desk(total=TIGHT, overflow=Overflow.OFFLOAD)
    desk.idle(A)
    newcomer = layered("b", 16, 4 * GiB)
    desk.wants(newcomer, "1")
    orders = desk.measured()
    assert (stopped(orders), started(orders)) == ([], ["b"])
    assert desk.resident(newcomer).placement.gpu_layers == 15


def test_with_offload_the_cpu_alone_comes_before_an_eviction() -> None:
    desk = Desk(overflow=Overflow.OFFLOAD)
    desk.idle(variant("full", 10 * GiB))
    desk.wants(B, "1")
    orders = desk.measured()
    assert (stopped(orders), started(orders)) == ([], ["b"])
    assert desk.resident(B).placement.devices == ()


def test_with_offload_somebody_goes_where_the_newcomer_could_not_run_at_all() -> None:
    desk = Desk(overflow=Overflow.OFFLOAD, host=GiB)
    desk.idle(variant("full", 10 * GiB))
    desk.wants(B, "1")
    assert stopped(desk.measured()) == [1]


def test_with_offload_a_fixed_number_of_layers_is_evicted_for_where_the_host_is_too_small() -> None:
    """Found by the simulated machine: it was refused, though it would have fitted the emptied card."""
    desk = Desk(overflow=Overflow.OFFLOAD, host=GiB)
    desk.idle(A)
    desk.wants(variant("b", 6 * GiB), "1", gpu_layers=99)
    orders = desk.measured()
    assert (refused(orders), stopped(orders)) == ({}, [1])


def test_beside_one_at_work_most_of_it_is_better_than_waiting() -> None:
    """Scenario 29: B fits to 15 of 16 layers while A is hot, and says so."""
    desk = Desk(total=TIGHT)
    desk.serve(A, "busy")
    newcomer = layered("b", 16, 4 * GiB)
    desk.wants(newcomer, "1")
    orders = desk.measured()
    assert (stopped(orders), started(orders)) == ([], ["b"])
    assert str(desk.resident(newcomer).placement) == "94%/6% GPU/CPU"


def test_without_prices_it_is_waited_for_and_loaded_whole() -> None:
    """In part it would stay so, and slow, for as long as it is asked for."""
    desk = Desk(total=TIGHT, ranking=Ranking.LRU)
    desk.serve(A, "busy")
    newcomer = layered("b", 16, 4 * GiB)
    desk.wants(newcomer, "1")
    assert started(desk.measured()) == []
    assert stopped(desk.ends("busy") + desk.measured()) == [1]
    desk.gone(1)
    desk.measured()
    assert str(desk.resident(newcomer).placement) == "100% GPU"


def test_beside_one_at_work_a_small_part_is_not() -> None:
    desk = Desk()
    desk.serve(variant("a", 8 * GiB), "busy")
    desk.wants(layered("b", 16, 4 * GiB), "1")
    orders = desk.measured()
    assert (stopped(orders), started(orders)) == ([], [])


def test_one_that_never_fits_whole_does_not_wait_for_a_little_more() -> None:
    """Alone it would have 10 of 16 layers, beside the busy embedder 9."""
    desk = Desk()
    desk.serve(variant("embedder", GiB // 2), "busy")
    large = layered("large", 16, 16 * GiB)
    desk.wants(large, "1")
    assert started(desk.measured()) == ["large"]
    assert desk.resident(large).placement.gpu_layers == 9


def test_with_evict_it_waits_for_those_at_work() -> None:
    desk = Desk(total=TIGHT, overflow=Overflow.EVICT, max_wait=5.0)
    desk.serve(A, "busy")
    desk.wants(layered("b", 16, 4 * GiB), "1")
    assert started(desk.measured()) == []
    desk.later(5.0)
    desk.measured()
    assert desk.phase(1) is Phase.DRAINING


# --- in part


def test_a_smaller_micro_batch_comes_before_fewer_layers() -> None:
    model = roomy("m", 4 * GiB)
    desk = Desk(total=4 * GiB + 8 * MiB)
    desk.serve(model, "1")
    place = desk.resident(model).placement
    assert (place.gpu_layers, place.micro_batch) == (4, 128)


def test_experts_leave_the_card_before_whole_layers() -> None:
    model = mixture("moe", 4, 12 * GiB)
    desk = Desk(total=10 * GiB)
    desk.serve(model, "1")
    place = desk.resident(model).placement
    assert (place.gpu_layers, place.experts_on_cpu) == (4, 2)


def test_then_layers_leave_too() -> None:
    """All experts on the CPU leave a quarter of three layers, and the output."""
    model = mixture("moe", 4, 24 * GiB)
    desk = Desk(total=10 * GiB)
    desk.serve(model, "1")
    place = desk.resident(model).placement
    assert (place.gpu_layers, place.experts_on_cpu) == (2, 2)


def test_a_host_that_holds_only_a_part_is_enough() -> None:
    """Found by reading: one layer alone on the card was asked for first, and that left too much to the host."""
    desk = Desk(host=4 * GiB)
    model = variant("m", 12 * GiB)
    desk.wants(model, "1")
    assert started(desk.measured()) == ["m"]
    assert desk.resident(model).placement.gpu_layers == 3


def test_on_the_cpu_too_a_smaller_micro_batch_may_make_it_fit() -> None:
    model = roomy("m", 4 * GiB)
    desk = Desk(cards=(), total=4 * GiB + 70 * MiB)
    desk.serve(model, "1")
    assert desk.resident(model).placement.micro_batch == 128


# --- several cards


def test_the_card_with_most_room_is_taken() -> None:
    desk = Desk(cards=(CARD, OTHER_CARD))
    desk.idle(A)
    desk.idle(variant("c", 8 * GiB))
    assert [desk.resident(m).placement.devices for m in (A, variant("c"))] == [(CARD,), (OTHER_CARD,)]


def test_one_that_no_card_holds_is_split_over_two() -> None:
    model = layered("m", 16, 16 * GiB)
    desk = Desk(cards=(CARD, OTHER_CARD))
    desk.serve(model, "1")
    resident = desk.resident(model)
    assert resident.placement == Placement((CARD, OTHER_CARD), 16, 16, 512, 0, (0.5, 0.5))
    assert (resident.footprint[CARD], resident.footprint[OTHER_CARD]) == (8 * GiB, 8 * GiB)


def test_unequal_cards_get_unequal_shares() -> None:
    model = layered("m", 16, 12 * GiB)
    desk = Desk(cards=(CARD, OTHER_CARD))
    desk.cards[OTHER_CARD] = 5 * GiB
    desk.serve(model, "1")
    resident = desk.resident(model)
    assert resident.placement.split == (0.67, 0.33)
    assert resident.footprint[CARD] == 11 * 12 * GiB // 16


def test_beside_another_it_is_split_as_there_is_room_and_nobody_leaves() -> None:
    """Half on each card would not fit; the output, last of all, is on the card with most room."""
    model = layered("m", 16, 13 * GiB)
    desk = Desk(cards=(CARD, OTHER_CARD))
    desk.idle(A)
    desk.serve(model, "1")
    resident = desk.resident(model)
    assert resident.placement == Placement((CARD, OTHER_CARD), 16, 16, 512, 0, (3.5, 12.5))
    assert resident.footprint[OTHER_CARD] == 12 * 13 * GiB // 16
    assert desk.resident(A).phase is Phase.READY


def test_what_others_keep_of_one_card_is_no_reason_to_put_less_on_the_other() -> None:
    model = layered("m", 16, 14 * GiB)
    desk = Desk(cards=(CARD, OTHER_CARD))
    desk.foreign[CARD] = 5 * GiB
    desk.serve(model, "1")
    assert desk.resident(model).placement.share == 1.0


def test_in_part_each_card_holds_as_many_layers_as_it_has_room_for() -> None:
    model = layered("m", 20, 20 * GiB)
    desk = Desk(cards=(CARD, OTHER_CARD), overflow=Overflow.OFFLOAD)
    desk.idle(A)
    desk.serve(model, "1")
    resident = desk.resident(model)
    assert resident.placement.gpu_layers == 14
    assert (resident.footprint[CARD], resident.footprint[OTHER_CARD]) == (4 * GiB, 10 * GiB)


def test_where_two_cards_together_would_take_more_than_was_said_of_one_only_one_is_used() -> None:
    """Of loads on one card it is known that they take less than the header says, of those on two it is not."""
    model = replace(layered("m", 4, 4 * GiB), max_vram=str(14 * GiB // 5))
    desk = Desk(cards=(CARD, OTHER_CARD), host=3 * GiB // 2)
    desk.foreign[OTHER_CARD] = 87 * GiB // 10

    def says(wanted: Variant, place: Placement) -> Footprint:
        said = dict(sized(wanted, place).parts)
        return Footprint.of({device: size - (device in place.devices) * GiB // 2 for device, size in said.items()})

    desk.says = says
    whole = Placement((CARD,), 4, 4, 512)
    desk.tell(PlacementSized(desk.at, model.id, whole, says(model, whole)))
    desk.wants(model, "1")
    desk.measured()
    assert refused(desk.orders) == {}
    resident = desk.resident(model)
    assert (resident.placement.devices, resident.placement.gpu_layers) == ((CARD,), 3)


def test_a_large_output_is_put_where_there_is_room_for_it() -> None:
    plain = layered("m", 9, 12 * GiB)
    shape = replace(plain.shape, layer_weights=(GiB // 2,) * 8, output_weights=8 * GiB)
    model = replace(plain, shape=shape)
    desk = Desk(cards=(CARD, OTHER_CARD))
    desk.cards[OTHER_CARD] = 4 * GiB
    desk.serve(model, "1")
    resident = desk.resident(model)
    assert resident.placement.share == 1.0
    assert resident.placement.devices == (OTHER_CARD, CARD)


def test_what_one_card_holds_is_not_split() -> None:
    desk = Desk(cards=(CARD, OTHER_CARD))
    desk.serve(variant("m", 10 * GiB), "1")
    assert desk.resident(variant("m")).placement.split == ()


def test_whoever_costs_least_is_evicted_whichever_card_it_is_on() -> None:
    """A was used last; C, on the other card, goes."""
    desk = Desk(cards=(CARD, OTHER_CARD))
    desk.idle(variant("c", 8 * GiB))
    desk.idle(variant("d", 8 * GiB))
    desk.wants(A, "1")
    assert stopped(desk.measured()) == [1]


def test_loads_on_two_cards_go_side_by_side() -> None:
    desk = Desk(cards=(CARD, OTHER_CARD))
    desk.wants(A, "1")
    desk.wants(variant("c", 8 * GiB), "2")
    assert sorted(started(desk.measured())) == ["a", "c"]


# --- what the owner fixed


def test_two_models_of_55_and_35_percent_of_a_card_share_it() -> None:
    """Each alone would take all of it."""
    desk = Desk()
    first = replace(layered("a", 32, 12 * GiB), max_vram="55%")
    second = replace(layered("b", 32, 12 * GiB), max_vram="35%")
    desk.idle(first)
    desk.serve(second, "1")
    held = [desk.resident(m).footprint[CARD] for m in (first, second)]
    assert stopped(desk.orders) == []
    assert 5 * GiB < held[0] <= 5.5 * GiB
    assert 3 * GiB < held[1] <= 3.5 * GiB


def test_a_cap_below_the_whole_is_no_reason_to_evict() -> None:
    desk = Desk()
    desk.idle(B)
    capped = replace(layered("m", 16, 8 * GiB), max_vram=str(4 * GiB))
    desk.wants(capped, "1")
    orders = desk.measured()
    assert (stopped(orders), started(orders)) == ([], ["m"])
    assert desk.resident(capped).placement.gpu_layers == 8


def test_the_owner_says_how_many_layers() -> None:
    desk = Desk()
    desk.serve(variant("m", 4 * GiB, gpu_layers=2), "1")
    assert desk.resident(variant("m")).placement.gpu_layers == 2


def test_a_wish_for_other_layers_is_granted_by_a_reload_also_from_the_cpu() -> None:
    """Found by reading: once on the CPU a model answered every wish for layers as if it had them."""
    desk = Desk()
    desk.serve(A, "1", gpu_layers=0)
    desk.ends("1")
    assert stopped(desk.wants(A, "2", slotless=True, gpu_layers=3)) == [1]
    desk.gone(1)
    desk.measured()
    assert desk.resident(A).placement.gpu_layers == 3


def test_a_wish_for_layers_is_met_or_refused_and_never_by_the_cpu() -> None:
    desk = Desk(total=4 * GiB)
    huge = variant("huge", 8 * GiB)
    desk.wants(huge, "1", gpu_layers=99)
    assert refused(desk.measured()) == {"1": "does not fit"}


# --- 507 and stale drivers


def test_what_would_not_fit_even_on_the_cpu_is_refused_and_nobody_goes() -> None:
    """Scenario 13."""
    desk = Desk(host=2 * GiB)
    desk.idle(B)
    desk.wants(variant("huge", 14 * GiB), "1")
    orders = desk.measured()
    assert refused(orders) == {"1": "does not fit"}
    assert stopped(orders) == []
    (order,) = orders
    assert isinstance(order, RefuseRequest)
    assert order.needed > order.available


def test_where_the_driver_does_not_answer_nothing_is_placed_and_nobody_leaves() -> None:
    desk = Desk()
    desk.idle(A)
    desk.stale.add(CARD)
    desk.wants(variant("b", 8 * GiB), "1")
    orders = desk.measured()
    assert (stopped(orders), started(orders)) == ([], ["b"])
    assert desk.resident(variant("b")).placement.devices == ()


def test_on_another_card_it_is() -> None:
    desk = Desk(cards=(CARD, OTHER_CARD))
    desk.stale.add(CARD)
    desk.serve(A, "1")
    assert desk.resident(A).placement.devices == (OTHER_CARD,)


def test_one_in_part_that_is_asked_for_again_and_again_gets_all_of_it_on_the_card() -> None:
    desk = Desk(total=TIGHT)
    desk.serve(A, "busy")
    newcomer = layered("b", 16, 4 * GiB)
    desk.serve(newcomer, "0")
    assert desk.resident(newcomer).placement.share < 1
    desk.ends("busy")
    desk.ends("0")
    for number in range(1, 200):
        desk.wants(newcomer, str(number))
        desk.measured()
        if desk.phase(2) is not Phase.READY:
            break
        desk.ends(str(number))
        desk.later(1.0)
    desk.gone(2)
    desk.measured()
    desk.gone(1)
    desk.measured()
    assert desk.resident(newcomer).placement.share == 1
    assert number > 1, "not for one more request"
