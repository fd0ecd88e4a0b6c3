"""`swapctl plan` and `swapctl yield`: what they ask, and what people read."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from swapd.ctl import planned
from swapd.ctl.__main__ import main
from swapd.ctl.client import Exit

if TYPE_CHECKING:
    from tests.ctl.conftest import Daemon, Script

GIB = 2**30
NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def columns(line: str) -> list[str]:
    return [text.strip() for text in line.split("    ") if text.strip()]


@pytest.mark.parametrize(
    ("words", "more"),
    [
        ([], {}),
        (["--gpu", "24GiB"], {"gpu": [24 * GIB]}),
        (["--gpu", "24GiB,16GiB", "--context", "8192"], {"gpu": [24 * GIB, 16 * GIB], "context": 8192}),
        (["--slots", "2"], {"slots": 2}),
    ],
)
def test_plan_asks_what_was_typed_and_nothing_else(words: list[str], more: dict[str, Any], daemon: Daemon) -> None:
    assert main(["plan", "smollm2-135m", "gemma", *words]) == 0
    assert daemon.bodies("/swapd/plan") == [{"models": ["smollm2-135m", "gemma"]} | more]


@pytest.mark.parametrize(
    ("words", "body"),
    [
        (["8GiB"], {"bytes": 8 * GIB, "seconds": 1800.0}),
        (["512MiB", "--for", "2h"], {"bytes": 512 * 2**20, "seconds": 7200.0}),
        (["8GiB", "--for", "90"], {"bytes": 8 * GIB, "seconds": 90.0}),
        (["8GiB", "--for", "-1"], {"bytes": 8 * GIB, "seconds": -1}),
        (["0"], {"bytes": 0, "seconds": 1800.0}),
    ],
)
def test_yield_asks_in_bytes_and_seconds(words: list[str], body: dict[str, Any], daemon: Daemon) -> None:
    assert main(["yield", *words]) == 0
    assert daemon.bodies("/swapd/yield") == [body]


@pytest.mark.parametrize(
    "words",
    [
        ["plan"],
        ["plan", "a", "--gpu", "big"],
        ["plan", "a", "--gpu", "24GiB,"],
        ["plan", "a", "--gpu", "0"],
        ["plan", "a", "--context", "0"],
        ["plan", "a", "--slots", "few"],
        ["yield"],
        ["yield", "lots"],
        ["yield", "8GiB", "--for", "0"],
        ["yield", "8GiB", "--for", "ever"],
    ],
)
def test_wrong_usage_asks_nothing(words: list[str], daemon: Daemon) -> None:
    assert main(words) == Exit.USAGE
    assert daemon.requests == []


def test_an_unknown_model_is_not_found(daemon: Daemon, script: type[Script]) -> None:
    error = {"error": {"code": "model_not_found", "message": "model 'nope' not found"}}
    daemon.replies["POST", "/swapd/plan"] = script.Reply(error, 404)
    assert main(["plan", "nope"]) == Exit.NOT_FOUND


def test_json_is_the_daemons_document(daemon: Daemon, script: type[Script], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "smollm2-135m", "gemma", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == script.PLAN
    assert main(["yield", "8GiB", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == script.YIELDED


# --- the page


def test_a_row_a_model_the_verdict_who_leaves_and_the_sets(script: type[Script]) -> None:
    models, verdict, leaving, sets = planned.page(script.PLAN).split("\n\n")
    head, first, second = models.splitlines()
    assert head.split() == ["NAME", "PLACEMENT", "DEVICE", "VRAM", "HOST", "CONTEXT", "SLOTS"]
    assert columns(first) == ["smollm2-135m", "100% GPU", "cuda:0", "600 MiB", "60 MiB", "4096", "4"]
    assert columns(second)[3:5] == ["~600 MiB", "~60 MiB"], "an estimate"
    assert verdict == "All fit together: yes (1.17 GiB of 23 GiB on cuda:0)"
    assert leaving == "Would have to leave:\n  old: for gemma, which needs 600 MiB on cuda:0"
    rows = [columns(line) for line in sets.splitlines()[1:]]
    assert rows == [
        ["smollm2-135m", "gemma", "VRAM", "HOST", "MOST CONTEXT"],
        ["*", "x", "x", "1.17 GiB", "120 MiB", "4096"],
        ["x", "600 MiB", "60 MiB"],
        ["x", "600 MiB", "60 MiB"],
    ]


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({}, "100% GPU"),
        ({"gpu_layers": 23, "fits": "part"}, "23/31 layers on GPU"),
        ({"micro_batch": 128, "fits": "part"}, "100% GPU, micro-batch 128"),
        ({"experts_on_cpu": 7, "fits": "part"}, "31/31 layers on GPU, experts of 7 layers on CPU"),
        ({"gpu_layers": 0, "devices": [], "fits": "cpu"}, "100% CPU"),
        ({"gpu_layers": 0, "devices": [], "fits": "no"}, "does not fit"),
    ],
)
def test_where_a_model_goes(facts: dict[str, Any], told: str, script: type[Script]) -> None:
    plan = script.PLAN | {"models": [script.PLACED | facts]}
    assert columns(planned.page(plan).splitlines()[1])[1] == told


def test_a_model_alone_has_no_table_of_sets(script: type[Script]) -> None:
    plan = script.PLAN | {"models": [script.PLACED], "combinations": [], "leave": []}
    assert len(planned.page(plan).split("\n\n")) == 2


def test_no_says_what_they_would_need(script: type[Script]) -> None:
    plan = script.PLAN | {"together": False, "bytes": {"cuda:0": 30 * GIB, "host": GIB}}
    assert "All fit together: no (wholly they need 30 GiB; they can have 23 GiB on cuda:0)" in planned.page(plan)
    assert "no ([scheduler] max_loaded is 1)" in planned.page(plan | {"max_loaded": 1})


@pytest.mark.parametrize(
    ("together", "context", "told"),
    [
        (True, 12_288, "They would with up to 12288 tokens a slot."),
        (True, 4096, None),
        (False, 2048, "They would with up to 2048 tokens a slot."),
        (False, None, None),
    ],
)
def test_what_context_would_do_or_could_be_had(
    together: bool, context: int | None, told: str | None, script: type[Script]
) -> None:
    verdict = planned.page(script.PLAN | {"together": together, "context": context}).split("\n\n")[1]
    assert verdict.splitlines()[1:] == ([told] if told else [])


def test_one_model_that_fits_nowhere_is_told_what_the_host_has(script: type[Script]) -> None:
    alone = {"models": [script.PLACED | {"fits": "no", "devices": []}], "combinations": [], "leave": []}
    verdict = planned.page(script.PLAN | alone | {"together": False, "context": None}).split("\n\n")[1]
    first, second = verdict.splitlines()
    assert first == "It fits wholly: no (wholly it needs 1.17 GiB; it can have 23 GiB on cuda:0)"
    assert second == "What is not on a GPU has to fit into 48 GiB of host memory."


def test_several_cards_and_none(script: type[Script]) -> None:
    gpu, host = script.PLAN["devices"]
    cards = script.PLAN | {"devices": [gpu, gpu | {"id": "cuda:1", "room": 7 * GIB}, host]}
    assert "(1.17 GiB of 23 GiB + 7 GiB on cuda:0, cuda:1)" in planned.page(cards)
    assert "(120 MiB of 48 GiB on host)" in planned.page(script.PLAN | {"devices": [host]})


def test_when_nothing_fits_wholly_it_says_so(script: type[Script]) -> None:
    sets = [each | {"fits": False, "maximal": False} for each in script.PLAN["combinations"]]
    assert planned.page(script.PLAN | {"combinations": sets}).endswith("None of them fits wholly.")


def test_names_cannot_command_the_terminal(script: type[Script]) -> None:
    evil = "\x1b[2Jevil"
    plan = script.PLAN | {
        "models": [script.PLACED | {"name": evil}, script.PLACED],
        "leave": [{"name": evil, "reason": evil}],
        "combinations": [script.PLAN["combinations"][0] | {"models": [evil]}],
    }
    assert "\x1b" not in planned.page(plan)


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({}, "8 GiB of cuda:0 are yielded for 30 minutes: 9 GiB are free"),
        ({"until": None}, "8 GiB of cuda:0 are yielded for good: 9 GiB are free"),
        (
            {"freed": False, "free": GIB},
            (
                "8 GiB of cuda:0 are yielded for 30 minutes, but only 1 GiB are free: "
                "what holds the rest is pinned, at work, or no model of swapd"
            ),
        ),
        ({"bytes": 0}, "what was yielded is taken back; 9 GiB are free on cuda:0"),
    ],
)
def test_what_was_given_and_until_when(facts: dict[str, Any], told: str, script: type[Script]) -> None:
    yielded = script.YIELDED | {"until": "2026-01-01T12:29:59Z"} | facts
    assert planned.yielded(yielded, NOW) == told
