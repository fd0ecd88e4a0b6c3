"""What a load will take: asked of llama.cpp once for each placement, estimated between, learnt for good."""

from __future__ import annotations

from dataclasses import replace

from swapd.core.messages import PlacementSized, SizePlacement
from swapd.core.model import Footprint, Placement, Variant
from swapd.units import GiB, MiB
from tests.core.builders import CARD, HOST, MEASURE, PROCESS, Desk, sized, started, stopped, variant

A, B = variant("a", 6 * GiB), variant("b", 4 * GiB)


def layered(name: str, layers: int, size: int) -> Variant:
    """Of so many equal layers, the output counted."""
    plain = variant(name, size)
    return replace(plain, shape=replace(plain.shape, layers=layers - 1))


def test_llama_cpp_is_asked_before_a_load_and_only_once() -> None:
    desk = Desk()
    desk.says = None
    desk.wants(A, "1")
    desk.wants(A, "2")
    desk.measured()
    desk.wants(A, "3")
    assert len(desk.asked()) == 1
    (order,) = [o for o in desk.orders if isinstance(o, SizePlacement)]
    assert desk.loads() == []
    assert started(desk.sized(order, sized(A, order.placement))) == ["a"]


def test_what_was_sized_once_is_not_asked_again() -> None:
    desk = Desk()
    desk.idle(A)
    desk.unload("a")
    desk.gone(1)
    desk.serve(A, "2")
    assert len(desk.asked()) == 1


def test_what_llama_cpp_says_is_believed_more_than_the_header() -> None:
    """The header says 6 GiB, llama.cpp 5: B of 5 fits beside."""
    desk = Desk()
    desk.says = lambda model, place: Footprint.of({CARD: 5 * GiB})
    desk.idle(A)
    desk.wants(variant("b", 9 * GiB), "1")
    orders = desk.measured()
    assert (stopped(orders), started(orders)) == ([], ["b"])


def test_a_file_that_cannot_be_sized_is_loaded_by_arithmetic() -> None:
    desk = Desk()
    desk.says = lambda model, place: None
    desk.idle(A)
    desk.wants(B, "1")
    assert started(desk.measured()) == ["b"]
    assert len(desk.asked()) == 2


def test_a_part_of_it_is_estimated_from_the_whole_and_then_asked_for() -> None:
    """llama.cpp finds everything a tenth larger than the header says; the second question is the last."""
    model = layered("m", 16, 16 * GiB)

    def says(wanted: Variant, place: Placement) -> Footprint:
        return Footprint.of({d: size * 11 // 10 for d, size in sized(wanted, place).parts})

    desk = Desk()
    desk.says = says
    desk.serve(model, "1")
    assert desk.resident(model).placement.gpu_layers == 9
    assert len(desk.asked()) <= 4
    assert len(set(desk.asked())) == len(desk.asked())


def test_what_a_process_takes_besides_is_learnt_for_all() -> None:
    """A is seen with half a GiB more than llama.cpp says; B, never loaded, is promised as much more."""
    desk = Desk()
    loaded = desk.serve(A, "1")
    desk.wants(variant("b", 3 * GiB), "2")
    desk.measured({(loaded, CARD): 6 * GiB + 512 * MiB})
    assert desk.resident(variant("b")).predicted[CARD] == 3 * GiB + 512 * MiB
    assert desk.state.overheads == {CARD: 512 * MiB}


def test_the_host_is_promised_the_process_too() -> None:
    """llama.cpp does not count it."""
    desk = Desk()
    desk.serve(A, "1")
    assert desk.resident(A).predicted[HOST] == PROCESS


def test_a_decision_needs_no_measurement_older_than_the_last_change() -> None:
    """The answer to a sizing comes late: memory is looked at again before anything is started."""
    desk = Desk()
    desk.says = None
    desk.wants(A, "1")
    desk.measured()
    place = desk.asked()[0]
    desk.at += 1.0
    desk.says = sized
    assert desk.tell(PlacementSized(desk.at, A.id, place, sized(A, place))) == [MEASURE]
    assert started(desk.measured()) == ["a"]
