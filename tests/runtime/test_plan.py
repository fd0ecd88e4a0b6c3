"""The plan's document: what is told of this machine, of made-up ones, and how sure it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from swapd.core.arithmetic import arithmetic
from swapd.core.messages import Policy
from swapd.core.model import (
    HOST,
    Device,
    DeviceId,
    DeviceKind,
    Footprint,
    Placement,
    ResidentId,
    Shape,
    Variant,
    VariantId,
)
from swapd.core.placement import wholes
from swapd.core.resident import Phase, Resident
from swapd.core.state import State
from swapd.runtime import plan
from swapd.runtime.plan import Question
from swapd.units import Bytes, GiB, MiB

CARD = DeviceId("cuda:0")
SHAPE = Shape("llama", 32, 4096, 32, (8,) * 32, 128, 128, 128_256, 32_768, 5 * GiB)


def model(name: str, weights: Bytes = 5 * GiB) -> Variant:
    return Variant(VariantId(name), name, f"/{name}.gguf", replace(SHAPE, weights=weights), 4096, 2)


def machine(card: Bytes | None = 12 * GiB, **facts: Any) -> State:
    host = Device(HOST, "host", DeviceKind.HOST, "psutil", 64 * GiB, 50 * GiB)
    cards = () if card is None else (Device(CARD, "A card", DeviceKind.GPU, "nvml", card, card),)
    return State(policy=Policy(), devices=(*cards, host), **facts)


def ask(state: State, *models: Variant, **more: Any) -> dict[str, Any]:
    return plan.document(state, Question(models, **more))


def whole(variant: Variant) -> Placement:
    return wholes(machine(), variant, None)[0]


def test_an_estimate_is_exact_once_llama_cpp_has_said_or_a_load_has_shown_it() -> None:
    a = model("a")
    assert ask(machine(), a)["models"][0]["exact"] is False
    size = Footprint.of({CARD: 6 * GiB, HOST: 300 * MiB})
    known = {(a.id, whole(a)): size}
    for state in (machine(sizes=known), machine(lessons=known)):
        told = ask(state, a)["models"][0]
        assert (told["exact"], told["bytes"]["cuda:0"]) == (True, 6 * GiB)


def test_a_model_that_llama_cpp_cannot_size_stays_an_estimate() -> None:
    a = model("a")
    assert ask(machine(unsizable=frozenset({a.id})), a)["models"][0]["exact"] is False


def test_another_context_moves_what_is_known_by_the_arithmetic() -> None:
    a = model("a")
    longer = replace(a, context=16_384)
    seen = Footprint.of({CARD: arithmetic(a, whole(a))[CARD] + 100 * MiB})
    state = machine(sizes={(a.id, whole(a)): seen})
    told = ask(state, a, context=16_384)["models"][0]
    assert told["bytes"]["cuda:0"] == arithmetic(longer, whole(a))[CARD] + 100 * MiB
    assert (told["context"], told["slots"], told["exact"]) == (16_384, 2, False)
    assert ask(state, a, context=4096)["models"][0]["exact"], "the one that is configured"


def test_on_another_card_it_takes_what_it_took_here() -> None:
    a = model("a")
    state = machine(lessons={(a.id, whole(a)): Footprint.of({CARD: 7 * GiB, HOST: GiB})})
    told = ask(state, a, cards=(24 * GiB, 24 * GiB))["models"][0]
    assert told["bytes"] == {"gpu:0": 7 * GiB, "host": GiB}
    assert told["exact"] is False


def test_a_made_up_card_costs_what_a_process_takes_on_a_card_here() -> None:
    a = model("a")
    without = ask(machine(None), a, cards=(24 * GiB,))["models"][0]["bytes"]["gpu:0"]
    learnt = ask(machine(overheads={CARD: GiB}), a, cards=(24 * GiB,))["models"][0]["bytes"]["gpu:0"]
    assert learnt - without == GiB - plan.CONTEXT


def test_a_made_up_machine_is_empty_and_has_this_ones_host_memory() -> None:
    document = ask(machine(), model("a"), cards=(24 * GiB,))
    gpu, host = document["devices"]
    assert (gpu["id"], gpu["name"], gpu["free"], gpu["room"]) == (
        "gpu:0",
        "24 GiB card",
        24 * GiB,
        24 * GiB - 512 * MiB,
    )
    assert (host["free"], host["room"]) == (50 * GiB, 48 * GiB)
    assert document["leave"] == []


def test_where_not_all_fit_each_takes_its_turn() -> None:
    document = ask(machine(), model("a"), model("b"), model("c", 90 * GiB))
    assert document["together"] is False
    assert [(told["name"], told["fits"]) for told in document["models"]] == [("a", "whole"), ("b", "part"), ("c", "no")]
    c = document["models"][2]
    assert (c["placement"], c["devices"], c["gpu_layers"]) == ("none", [], 0)
    assert c["bytes"]["cuda:0"] > 90 * GiB
    assert document["bytes"]["cuda:0"] > 100 * GiB


def test_the_largest_context_is_the_last_with_which_they_fit_wholly() -> None:
    a, b = model("a"), model("b", 3 * GiB)
    most = ask(machine(), a, b)["context"]
    assert most % plan.STEP == 0
    assert ask(machine(), a, b, context=most)["together"]
    assert not ask(machine(), a, b, context=most + plan.STEP)["together"]
    (both, *_), alone = ask(machine(), a, b)["combinations"], ask(machine(), b)["context"]
    assert (both["models"], both["context"]) == (["a", "b"], most)
    assert most < alone <= SHAPE.trained_context


def test_nobody_gets_more_context_than_it_was_trained_for_and_none_is_no_context() -> None:
    assert ask(machine(48 * GiB), model("a"))["context"] == SHAPE.trained_context
    assert ask(machine(), model("c", 90 * GiB))["context"] is None


def test_without_a_card_they_go_to_the_host() -> None:
    document = ask(machine(None), model("a"))
    assert (document["models"][0]["fits"], document["together"]) == ("cpu", True)


def test_who_would_leave_is_named_with_the_reason() -> None:
    old, a = model("old"), model("a", 8 * GiB)
    there = Resident(
        id=ResidentId(1),
        variant=old,
        placement=whole(old),
        phase=Phase.READY,
        predicted=Footprint.of({CARD: 7 * GiB}),
        keep_alive=300.0,
        since=0.0,
        asked_at=0.0,
        used_at=0.0,
        loaded_at=0.0,
    )
    state = machine()
    gpu = replace(state.devices[0], free=5 * GiB, held=((there.id, 7 * GiB),))
    state = replace(state, devices=(gpu, state.devices[1]), residents={there.id: there})
    document = ask(replace(state, next_resident=ResidentId(2)), a)
    (leaves,) = document["leave"]
    assert leaves["name"] == "old"
    assert leaves["reason"].startswith("for a, which needs ")
    assert document["devices"][0]["free"] == 5 * GiB
    assert document["devices"][0]["room"] == 12 * GiB - 512 * MiB
