"""What a load will take: asked of llama.cpp once for each placement, estimated between, learnt for good."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from swapd.core.facts import SIZE_AGAIN, SIZE_AGAIN_MOST
from swapd.core.messages import LessonsRead, PlacementSized, SizePlacement
from swapd.core.model import DeviceId, Footprint, Placement, Variant
from swapd.core.state import Measurement
from swapd.units import GiB, KiB, MiB
from tests.core.builders import CARD, HOST, MEASURE, PROCESS, Desk, sized, started, stopped, variant

A, B = variant("a", 6 * GiB), variant("b", 4 * GiB)


def layered(name: str, layers: int, size: int) -> Variant:
    """Of so many equal layers, the output counted."""
    plain = variant(name, size)
    return replace(plain, shape=replace(plain.shape, layers=layers - 1))


def whole() -> Placement:
    """Of A, as the desk places it."""
    desk = Desk()
    desk.serve(A, "1")
    return desk.asked()[0]


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


def asks_again(desk: Desk, request: str) -> int:
    """How often llama.cpp was asked because of one more request, which is then served and over."""
    before = len(desk.asked())
    desk.serve(A, request)
    desk.ends(request)
    desk.unload("a")
    desk.gone(desk.resident(A).id)
    return len(desk.asked()) - before


def test_what_could_not_be_sized_is_asked_for_again_after_a_while() -> None:
    """Found by reading: a sizing that failed for want of memory left the model to arithmetic until the next start."""
    desk = Desk()
    desk.says = lambda model, place: None
    assert asks_again(desk, "1") == 1
    desk.later(SIZE_AGAIN - 1.0)
    assert asks_again(desk, "2") == 0
    desk.says = sized
    desk.later(1.0)
    assert asks_again(desk, "3") == 1
    assert desk.state.unsizable == frozenset()
    assert desk.state.sizes.keys() == {(A.id, desk.asked()[0])}


def test_the_more_often_it_fails_the_later_it_is_asked_for_again() -> None:
    desk = Desk()
    desk.says = lambda model, place: None
    asked = []
    for number in range(24 * 60):
        if asks_again(desk, str(number)):
            asked.append(desk.at)
        desk.later(60.0)
    pauses = [later - earlier for earlier, later in pairwise(asked)]
    assert pauses == [60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, *[SIZE_AGAIN_MOST] * (len(pauses) - 6)]
    assert len(pauses) > 20


def test_whoever_does_not_ask_has_nothing_sized_again() -> None:
    desk = Desk()
    desk.says = lambda model, place: None
    asks_again(desk, "1")
    desk.later(10 * SIZE_AGAIN)
    desk.serve(B, "2")
    assert [place.gpu_layers for place in desk.asked()] == [4, 4]
    assert desk.state.unsizable == {"a", "b"}


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


@pytest.mark.parametrize(("cards", "layers"), [((), None), ((CARD,), 0)])
def test_nobody_is_refused_on_an_estimate(cards: tuple[DeviceId, ...], layers: int | None) -> None:
    """With smaller buffers it fits the host just so: llama.cpp is asked before anybody is told that it does not."""
    model = variant("m", GiB)

    def says(model: Variant, place: Placement) -> Footprint:
        return sized(model, place) + Footprint.of({HOST: 16 * KiB * place.micro_batch})

    host = GiB + PROCESS + 4 * MiB
    desk = Desk(cards=cards, total=host, host=host)
    desk.says = says
    desk.wants(model, "1", gpu_layers=layers)
    assert started(desk.measured()) == ["m"]
    assert [place.micro_batch for place in desk.asked()] == [512, 128]
    assert desk.resident(model).placement.gpu_layers == 0


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


def test_what_was_predicted_first_is_remembered_beside_what_was_measured_last() -> None:
    desk = Desk()
    for number, held in enumerate((5 * GiB, 7 * GiB)):
        loaded = desk.serve(A, str(number))
        desk.later(1.0)
        desk.wants(variant("other", 9 * GiB), f"look {number}")
        desk.measured({(loaded, CARD): held})
        desk.ends(f"look {number}")
        desk.ends(str(number))
        desk.unload("a")
        desk.gone(loaded)
    (key,) = desk.state.measurements
    assert key == (A.id, desk.asked()[0])
    known = desk.state.measurements[key]
    assert known.predicted is not None
    assert (known.predicted[CARD], known.measured[CARD]) == (6 * GiB, 7 * GiB)
    assert desk.state.lessons[key][CARD] == 7 * GiB


def test_the_prediction_before_a_lesson_of_an_earlier_run_is_not_made_up() -> None:
    """That lesson is what was predicted now, and says nothing of how good predictions are."""
    desk = Desk()
    place = whole()
    desk.tell(LessonsRead(desk.at, ((A.id, place, Footprint.of({CARD: 5 * GiB})),)))
    loaded = desk.serve(A, "1")
    desk.later(1.0)
    desk.wants(B, "2")
    desk.measured({(loaded, CARD): 5 * GiB + MiB})
    known = desk.state.measurements[A.id, place]
    assert (known.predicted, known.measured[CARD]) == (None, 5 * GiB + MiB)


def test_what_earlier_runs_predicted_measured_and_were_taught_is_known_again() -> None:
    """Newer measurements stand; the prediction before the first load stays the oldest one, and the floor holds."""
    desk = Desk()
    place = whole()
    first, took, floor = (Footprint.of({CARD: size * GiB}) for size in (3, 8, 7))
    lessons = ((A.id, place, took),)
    desk.tell(LessonsRead(desk.at, lessons, (), ((A.id, place, first, took),), ((A.id, place, floor),)))
    assert desk.state.measurements == {(A.id, place): Measurement(first, took)}
    loaded = desk.serve(A, "1")
    assert desk.resident(A).predicted[CARD] == 8 * GiB
    desk.later(1.0)
    desk.wants(B, "2")
    desk.measured({(loaded, CARD): 5 * GiB})
    known = desk.state.measurements[A.id, place]
    assert (known.predicted, known.measured[CARD]) == (first, 5 * GiB)
    assert desk.state.lessons[A.id, place][CARD] == 7 * GiB


def test_what_is_read_late_does_not_hide_what_was_measured_since() -> None:
    desk = Desk()
    place = whole()
    loaded = desk.serve(A, "1")
    desk.later(1.0)
    desk.wants(B, "2")
    desk.measured({(loaded, CARD): 5 * GiB})
    first, took = Footprint.of({CARD: 3 * GiB}), Footprint.of({CARD: 8 * GiB})
    desk.tell(LessonsRead(desk.at, ((A.id, place, took),), (), ((A.id, place, first, took),)))
    known = desk.state.measurements[A.id, place]
    assert (known.predicted, known.measured[CARD], desk.state.lessons[A.id, place][CARD]) == (first, 5 * GiB, 5 * GiB)
