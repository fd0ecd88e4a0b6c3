"""What is told of one model's memory: where it would go now, what that is predicted to take, what loads took."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from swapd.core.messages import Overflow, Policy
from swapd.core.model import HOST, Footprint, ResidentId
from swapd.core.resident import Phase
from swapd.core.state import Measurement, State
from swapd.runtime import foresight
from swapd.units import GiB, MiB
from tests.core.builders import CARD, Desk, variant

A, B = variant("a", 6 * GiB), variant("b", 5 * GiB)


def told(desk: Desk | State, of: Any = A) -> dict[str, Any]:
    return foresight.document(desk.state if isinstance(desk, Desk) else desk, of)


def looked_at(**settings: Any) -> Desk:
    """An empty machine whose memory was measured."""
    desk = Desk(**settings)
    desk.tell(desk.look())
    return desk


def placement(document: dict[str, Any]) -> Any:
    return document["now"]["outcome"], document["now"]["placement"], document["now"]["leaving"]


def used_up(desk: Desk, held: int) -> None:
    """A is loaded, seen with so much, and unloaded."""
    resident = desk.serve(A, "1")
    desk.tell(desk.look({(resident, CARD): held}))
    desk.ends("1")
    desk.unload("a")
    desk.gone(resident)
    desk.tell(desk.look())


def test_of_a_model_never_loaded_only_the_prediction_is_known() -> None:
    document = told(looked_at())
    assert placement(document) == ("loads", "100% GPU", [])
    assert document["now"]["predicted"][CARD] == 6 * GiB
    assert (document["now"]["exact"], document["last"]) == (False, None)


def test_once_unloaded_its_prediction_measurement_and_the_error_are_still_told() -> None:
    desk = looked_at()
    used_up(desk, 7 * GiB)
    assert desk.state.residents == {}
    document = told(desk)
    assert document["now"]["predicted"][CARD] == 7 * GiB
    assert document["now"]["exact"] is True
    last = document["last"]
    assert (last["predicted"][CARD], last["measured"][CARD], last["error"][CARD]) == (6 * GiB, 7 * GiB, GiB)
    assert (last["gpu_layers"], last["devices"]) == (4, [CARD])


def test_of_a_loaded_model_it_is_as_it_is_placed() -> None:
    desk = looked_at()
    desk.serve(A, "1", gpu_layers=2)
    assert desk.phase(1) is Phase.READY
    document = told(desk)
    assert placement(document) == ("loaded", "50%/50% GPU/CPU", [])


def test_who_would_leave_or_is_waited_for_is_named() -> None:
    desk = looked_at(host=GiB)
    desk.idle(B)
    assert placement(told(desk)) == ("loads", "100% GPU", ["b"])
    desk.wants(B, "work")
    assert placement(told(desk)) == ("waits", "100% GPU", ["b"])


def test_beside_others_at_work_it_is_told_as_it_would_be_placed_in_part() -> None:
    desk = looked_at(overflow=Overflow.OFFLOAD)
    desk.serve(B, "work")
    document = told(desk)
    assert placement(document) == ("loads", "75%/25% GPU/CPU", [])
    assert document["now"]["predicted"] == {CARD: 4 * GiB + 512 * MiB, HOST: document["now"]["predicted"][HOST]}


def test_what_does_not_fit_is_told_with_what_it_would_take() -> None:
    document = told(looked_at(host=GiB), variant("huge", 90 * GiB))
    assert document["now"]["outcome"] == "refused"
    assert document["now"]["predicted"][CARD] == 90 * GiB
    desk = looked_at(max_loaded=1)
    desk.idle(B)
    desk.pin("b")
    assert told(desk)["now"]["outcome"] == "refused"


def test_a_measurement_so_placed_counts_before_a_later_one_elsewhere() -> None:
    desk = looked_at()
    used_up(desk, 7 * GiB)
    (here,) = desk.state.measurements
    whole = here[1]
    elsewhere = (A.id, replace(whole, gpu_layers=1))
    later = Measurement(None, Footprint.of({CARD: GiB}))
    both = replace(desk.state, measurements={**desk.state.measurements, elsewhere: later})
    assert told(both)["last"]["measured"][CARD] == 7 * GiB
    only = told(replace(desk.state, measurements={elsewhere: later}, lessons={}))["last"]
    assert (only["gpu_layers"], only["measured"], only["error"]) == (1, {CARD: GiB}, None)


def test_a_lesson_without_a_prediction_is_told_as_it_is() -> None:
    desk = looked_at()
    used_up(desk, 7 * GiB)
    last = told(replace(desk.state, measurements={}))["last"]
    assert (last["predicted"], last["measured"][CARD], last["error"]) == (None, 7 * GiB, None)


def test_asking_changes_nothing() -> None:
    desk = looked_at()
    desk.idle(B)
    before = desk.state
    told(desk)
    assert desk.state == before
    assert desk.state.next_resident == ResidentId(2)
    assert desk.state.policy == Policy(vram_reserve=0, host_reserve=0, keep_alive=float("inf"))
