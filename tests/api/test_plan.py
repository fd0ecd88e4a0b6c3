"""POST /swapd/plan and /swapd/yield."""

from __future__ import annotations

from typing import Any

import pytest

from swapd.units import FOREVER, GiB
from tests.api.conftest import Client, ScriptedGateway

DEVICE_KEYS = {"id", "name", "kind", "total", "reserve", "limit", "free", "room"}
MODEL_KEYS = {
    *("name", "placement", "gpu_layers", "layers", "micro_batch", "experts_on_cpu"),
    *("devices", "context", "slots", "bytes", "exact", "fits"),
}


async def test_a_plan_says_what_goes_where(client: Client, gateway: ScriptedGateway) -> None:
    response = await client.post("/swapd/plan", json={"models": ["tiny", "chat"]})
    assert response.status == 200
    plan = await response.json()
    assert plan.keys() == {"devices", "models", "together", "context", "bytes", "max_loaded", "leave", "combinations"}
    assert [device["id"] for device in plan["devices"]] == ["cuda:0", "host"]
    assert all(device.keys() == DEVICE_KEYS for device in plan["devices"])
    tiny, big = plan["models"]
    assert tiny.keys() == MODEL_KEYS
    assert (tiny["placement"], tiny["fits"], tiny["devices"], tiny["exact"]) == ("100% GPU", "whole", ["cuda:0"], False)
    assert plan["together"] is True
    assert plan["bytes"]["cuda:0"] == tiny["bytes"]["cuda:0"] + big["bytes"]["cuda:0"]
    assert [(each["models"], each["fits"], each["maximal"]) for each in plan["combinations"]] == [
        (["tiny", "org/big:7b"], True, True),
        (["tiny"], True, False),
        (["org/big:7b"], True, False),
    ]
    assert gateway.calls == [("plan", ("tiny", "chat"), None, None, None)]


async def test_a_plan_for_other_cards_context_and_slots(client: Client, gateway: ScriptedGateway) -> None:
    question = {"models": ["tiny"], "gpu": ["24GiB", 12 * GiB], "context": 8192.0, "slots": 2}
    response = await client.post("/swapd/plan", json=question)
    plan = await response.json()
    assert [(device["id"], device["total"]) for device in plan["devices"][:2]] == [
        ("gpu:0", 24 * GiB),
        ("gpu:1", 12 * GiB),
    ]
    assert (plan["models"][0]["context"], plan["models"][0]["slots"]) == (8192, 2)
    assert plan["combinations"] == []
    assert gateway.calls == [("plan", ("tiny",), (24 * GiB, 12 * GiB), 8192, 2)]


@pytest.mark.parametrize(
    ("name", "status", "code"), [("nope", 404, "model_not_found"), ("broken", 422, "model_unusable")]
)
async def test_models_that_cannot_be_planned_for(client: Client, name: str, status: int, code: str) -> None:
    response = await client.post("/swapd/plan", json={"models": ["tiny", name]})
    assert response.status == status
    assert (await response.json())["error"]["code"] == code


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "models"),
        ({"models": []}, "models"),
        ({"models": "tiny"}, "models"),
        ({"models": ["tiny", 3]}, "models[1]"),
        ({"models": [""]}, "models[0]"),
        ({"models": ["tiny"] * 17}, "models"),
        ({"models": ["tiny"], "gpu": "24GiB"}, "gpu"),
        ({"models": ["tiny"], "gpu": []}, "gpu"),
        ({"models": ["tiny"], "gpu": ["24GiB"] * 9}, "gpu"),
        ({"models": ["tiny"], "gpu": ["24 bananas"]}, "gpu[0]"),
        ({"models": ["tiny"], "gpu": ["24GiB", 0]}, "gpu[1]"),
        ({"models": ["tiny"], "gpu": [-1]}, "gpu[0]"),
        ({"models": ["tiny"], "gpu": [True]}, "gpu[0]"),
        ({"models": ["tiny"], "gpu": [1.5]}, "gpu[0]"),
        ({"models": ["tiny"], "gpu": ["9" * 400]}, "gpu[0]"),
        ({"models": ["tiny"], "gpu": [2**63]}, "gpu[0]"),
        ({"models": ["tiny"], "context": 0}, "context"),
        ({"models": ["tiny"], "context": "8k"}, "context"),
        ({"models": ["tiny"], "slots": 0}, "slots"),
        ({"models": ["tiny"], "slots": 257}, "slots"),
    ],
)
async def test_bad_questions_are_refused(
    client: Client, gateway: ScriptedGateway, body: dict[str, Any], param: str
) -> None:
    response = await client.post("/swapd/plan", json=body)
    assert response.status == 400
    error = (await response.json())["error"]
    assert (error["code"], error["param"]) == ("invalid_request", param)
    assert gateway.calls == []


@pytest.mark.parametrize(
    ("body", "size", "duration"),
    [
        ({"bytes": GiB}, GiB, 1800.0),
        ({"bytes": "8GiB", "seconds": 60}, 8 * GiB, 60.0),
        ({"bytes": "8GiB", "seconds": "2h"}, 8 * GiB, 7200.0),
        ({"bytes": 8.0 * GiB, "seconds": -1}, 8 * GiB, FOREVER),
        ({"bytes": 0, "seconds": None}, 0, 1800.0),
    ],
)
async def test_yield(
    client: Client, gateway: ScriptedGateway, body: dict[str, Any], size: int, duration: float
) -> None:
    response = await client.post("/swapd/yield", json=body)
    assert response.status == 200
    assert (await response.json()).keys() == {"device", "bytes", "until", "freed", "free"}
    assert gateway.calls == [("yield", size, duration)]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "bytes"),
        ({"bytes": -1}, "bytes"),
        ({"bytes": "lots"}, "bytes"),
        ({"bytes": None}, "bytes"),
        ({"bytes": [1]}, "bytes"),
        ({"bytes": GiB, "seconds": 0}, "seconds"),
        ({"bytes": GiB, "seconds": "soon"}, "seconds"),
    ],
)
async def test_bad_yields_are_refused(
    client: Client, gateway: ScriptedGateway, body: dict[str, Any], param: str
) -> None:
    response = await client.post("/swapd/yield", json=body)
    assert response.status == 400
    error = (await response.json())["error"]
    assert (error["code"], error["param"]) == ("invalid_request", param)
    assert gateway.calls == []
