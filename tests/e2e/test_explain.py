"""A swap on real models, explained afterwards by everything that can be asked."""

from __future__ import annotations

import json

import pytest

from tests.e2e.conftest import GEMMA, SMOL, RoomForOne, Start

pytestmark = pytest.mark.e2e


def test_a_swap_is_explained_by_model_by_request_and_as_the_last_one(start: Start, room_for_one: RoomForOne) -> None:
    daemon = start(room_for_one())
    daemon.chat(SMOL)
    body = {"model": GEMMA, "prompt": "One, two,", "max_tokens": 4}
    assert daemon.call("/v1/completions", body, headers={"X-Request-Id": "the-swap"})[0] == 200

    for subject in (["the-swap"], [GEMMA]):
        told = json.loads(daemon.swapctl("explain", *subject, "--json").stdout)["decisions"]
        swap = next(each for each in told if each["choice"] == "evict")
        chosen = next(each for each in swap["candidates"] if each["chosen"])
        assert chosen["leaving"] == [SMOL]
        assert chosen["price_s"] == pytest.approx(sum(chosen["costs"].values()), abs=0.01)
        assert any("more room on host" in each for each in swap["avoid"])
    assert f"{SMOL} to leave" in daemon.swapctl("explain", GEMMA).stdout
    assert daemon.swapctl("explain", "nobody").returncode == 4
    events = json.loads(daemon.swapctl("events", "--json").stdout)["events"]
    kinds = [each["event"] for each in events if each.get("model") == GEMMA]
    assert kinds.index("request") < kinds.index("load") < kinds.index("loaded") < kinds.index("grant")
    assert daemon.swapctl("queue").stdout.strip() == "No request is waiting."
    assert daemon.call("/health") == (200, {"status": "ok"})
