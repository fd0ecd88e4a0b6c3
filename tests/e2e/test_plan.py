"""`swapctl plan` and `swapctl yield` against a real daemon on a soft card."""

from __future__ import annotations

import json
from typing import Any

import pytest

from swapd.units import MiB
from tests.e2e.conftest import GEMMA, SMOL, Daemon, Start
from tests.softgpu.fixtures import MakeSoftGPU

pytestmark = pytest.mark.e2e

SETTINGS = '[memory]\nvram_reserve = "16MiB"\nhost_reserve = "256MiB"\n'


def ask(daemon: Daemon, *words: str) -> Any:
    done = daemon.swapctl(*words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def vram(daemon: Daemon) -> int:
    return sum(model["measured"].get("cuda:0", 0) for model in daemon.status()["models"])


def test_what_was_planned_is_what_is_loaded(start: Start, soft_gpu: MakeSoftGPU) -> None:
    """On a card for both: first an estimate, then, for the one that was loaded, what it takes."""
    gpu = soft_gpu("1GiB", context="32MiB", lag=0.2)
    daemon = start(SETTINGS, environ=gpu.env)
    first = ask(daemon, "plan", SMOL, GEMMA)
    assert first["together"] is True
    assert [model["fits"] for model in first["models"]] == ["whole", "whole"]
    assert gpu.used() == 0, "nothing is loaded for a question"
    named = ask(daemon, "plan", SMOL.upper(), SMOL, f"{SMOL}:latest")["models"]
    assert [model["name"] for model in named] == [SMOL.upper()], "three names of one, told by the first"
    assert daemon.swapctl("load", SMOL).returncode == 0
    daemon.wait_status(lambda status: any(model["measured"] for model in status["models"]))
    told = ask(daemon, "plan", SMOL)["models"][0]
    assert told["exact"] is True
    assert told["bytes"]["cuda:0"] == vram(daemon)
    assert abs(told["bytes"]["cuda:0"] - first["models"][0]["bytes"]["cuda:0"]) < 64 * MiB


def test_who_would_have_to_leave_does(start: Start, soft_gpu: MakeSoftGPU) -> None:
    """A card for one of them: the plan names the one that is there, and asking for the other makes it leave."""
    gpu = soft_gpu("360MiB", context="32MiB")
    daemon = start(SETTINGS, environ=gpu.env)
    assert daemon.swapctl("load", SMOL).returncode == 0
    plan = ask(daemon, "plan", GEMMA)
    assert [each["name"] for each in plan["leave"]] == [SMOL]
    assert ask(daemon, "plan", SMOL, GEMMA)["together"] is False
    assert daemon.resident_names() == {SMOL}
    assert daemon.swapctl("load", GEMMA).returncode == 0
    assert daemon.resident_names() == {GEMMA}


def test_what_is_yielded_is_free_on_the_card(start: Start, soft_gpu: MakeSoftGPU) -> None:
    """Another program then takes it, and nothing more has to leave; taken back, the room is ours again."""
    gpu = soft_gpu("1GiB", context="32MiB", lag=0.3)
    daemon = start(SETTINGS, environ=gpu.env)
    assert daemon.swapctl("load", SMOL).returncode == 0
    assert daemon.swapctl("load", GEMMA).returncode == 0
    given = ask(daemon, "yield", "650MiB", "--for", "10m")
    assert (given["device"], given["freed"]) == ("cuda:0", True)
    assert gpu.total() - gpu.used() >= 650 * MiB
    left = daemon.resident_names()
    assert GEMMA in left, "the least recently used goes first"
    with gpu.foreign("650MiB"):
        before = len(daemon.log)
        (card,) = [d for d in daemon.wait_status(_sees_foreign)["devices"] if d["kind"] == "gpu"]
        assert card["reserve"] == 16 * MiB, "what was lent is taken"
        assert daemon.resident_names() == left
        assert not [line for line in daemon.log[before:] if "event=unload" in line]
    assert ask(daemon, "yield", "0")["bytes"] == 0


def test_more_than_there_is_is_refused(start: Start, soft_gpu: MakeSoftGPU) -> None:
    daemon = start(SETTINGS, environ=soft_gpu("512MiB").env)
    done = daemon.swapctl("yield", "1GiB")
    assert (done.returncode, done.stderr) == (1, "swapctl: cannot yield 1 GiB: cuda:0 has 512 MiB\n")


def _sees_foreign(status: Any) -> bool:
    return any(device["kind"] == "gpu" and device["foreign"] >= 650 * MiB for device in status["devices"])
