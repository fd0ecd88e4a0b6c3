"""swapd's own routes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from swapd.errors import DoesNotFit, InvalidConfig
from swapd.runtime.asking import Progress
from swapd.units import FOREVER, GiB
from tests.api.conftest import Client, ScriptedGateway, lines_of


async def test_health_follows_the_daemon(client: Client, gateway: ScriptedGateway) -> None:
    response = await client.get("/health")
    assert (response.status, await response.json()) == (200, {"status": "ok"})
    gateway.complaint = "measuring memory has taken 12 s"
    response = await client.get("/health")
    assert (response.status, (await response.json())["reason"]) == (503, gateway.complaint)
    assert response.headers["Retry-After"] == "1"


async def test_status_is_the_gateways(client: Client) -> None:
    assert await (await client.get("/swapd/status")).json() == {"version": "0", "models": []}


async def test_the_catalog_lists_everything_with_reasons_and_states(client: Client) -> None:
    models = (await (await client.get("/swapd/models")).json())["models"]
    tiny, big, broken = models
    assert (tiny["name"], tiny["state"], tiny["usable"], tiny["context"], tiny["slots"]) == (
        "tiny",
        "ready",
        True,
        4096,
        4,
    )
    assert (big["aliases"], big["state"]) == (["chat"], "draining")
    assert (broken["usable"], broken["reason"], broken["state"], broken["context"]) == (
        False,
        "it is no GGUF file",
        None,
        None,
    )


async def test_a_models_footprint_is_told_whether_it_is_loaded_or_not(client: Client) -> None:
    response = await client.get("/swapd/models/org/big:7b/footprint")
    assert response.status == 200
    footprint = await response.json()
    assert footprint.keys() == {"name", "now", "last"}
    assert (footprint["name"], footprint["last"]) == ("org/big:7b", None)
    assert footprint["now"].pop("predicted").keys() == {"cuda:0", "host"}
    assert footprint["now"] == {
        "outcome": "loads",
        "placement": "100% GPU",
        "gpu_layers": 31,
        "layers": 31,
        "micro_batch": 512,
        "experts_on_cpu": 0,
        "devices": ["cuda:0"],
        "exact": False,
        "leaving": [],
    }


@pytest.mark.parametrize(
    ("name", "status", "code"), [("nope", 404, "model_not_found"), ("broken", 422, "model_unusable")]
)
async def test_models_without_a_footprint(client: Client, name: str, status: int, code: str) -> None:
    response = await client.get(f"/swapd/models/{name}/footprint")
    assert (response.status, (await response.json())["error"]["code"]) == (status, code)


async def test_load_answers_with_the_resident_when_it_is_ready(client: Client, gateway: ScriptedGateway) -> None:
    response = await client.post("/swapd/models/tiny/load", json={"keep_alive": "-1", "gpu_layers": 3})
    assert response.status == 200
    resident = await response.json()
    assert (resident["name"], resident["state"], resident["pid"]) == ("tiny", "ready", 4711)
    assert resident["expires_at"].startswith("2026-01-01T12:06:00")
    assert resident["expires_at"].endswith("Z")
    assert gateway.calls == [("load", "tiny", FOREVER, 3)]


async def test_load_need_not_be_waited_for(client: Client, gateway: ScriptedGateway) -> None:
    response = await client.post("/swapd/models/chat/load?wait=false")
    assert (response.status, await response.json()) == (202, {"name": "org/big:7b", "state": "loading"})
    assert gateway.calls == [("load_soon", "chat", None, None)]
    assert (await client.post("/swapd/models/nope/load?wait=false")).status == 404


async def test_a_watched_load_tells_how_it_goes(client: Client, gateway: ScriptedGateway) -> None:
    gateway.tells = [Progress("waiting", 1, None), Progress("loading tiny: 42%", 0, 0.42)]
    response = await client.post("/swapd/models/tiny/load", headers={"X-Swapd-Progress": "1"})
    first, second, last = [json.loads(line) for line in await lines_of(response)]
    assert first == {"status": "waiting", "position": 1, "fraction": None}
    assert second["fraction"] == 0.42
    assert last["state"] == "ready"


async def test_a_watched_load_that_fails_ends_with_the_error(client: Client, gateway: ScriptedGateway) -> None:
    gateway.tells = [Progress("waiting", 1, None)]
    gateway.refusal = DoesNotFit("tiny", "cuda:0", 8 * GiB, -1, ("big",))
    response = await client.post("/swapd/models/tiny/load", headers={"X-Swapd-Progress": "1"})
    *_, last = [json.loads(line) for line in await lines_of(response)]
    assert last["error"].pop("message").startswith("cannot load 'tiny'")
    assert last == {
        "error": {
            "code": "does_not_fit",
            "name": "tiny",
            "device": "cuda:0",
            "needed": 8 * GiB,
            "available": 0,
            "pinned": ["big"],
        }
    }


@pytest.mark.parametrize(
    ("query", "body", "force", "wait"),
    [("", None, False, True), ("?wait=false", {}, False, False), ("", {"force": True}, True, True)],
)
async def test_unload(
    client: Client, gateway: ScriptedGateway, query: str, body: dict[str, Any] | None, force: bool, wait: bool
) -> None:
    response = (
        await client.post(f"/swapd/models/tiny/unload{query}", json=body)
        if body is not None
        else (await client.post(f"/swapd/models/tiny/unload{query}"))
    )
    assert (response.status, await response.json()) == (200, {"name": "tiny", "unloaded": True})
    assert gateway.calls == [("unload", "tiny", force, wait)]


@pytest.mark.parametrize(("verb", "pinned"), [("pin", True), ("unpin", False)])
@pytest.mark.parametrize("name", ["org/big:7b", "org%2Fbig%3A7b"])
async def test_names_in_paths_may_hold_slashes_and_colons(
    client: Client, gateway: ScriptedGateway, verb: str, pinned: bool, name: str
) -> None:
    response = await client.post(f"/swapd/models/{name}/{verb}")
    assert (response.status, await response.json()) == (200, {"name": "org/big:7b", "pinned": pinned})
    assert gateway.calls == [(verb, "org/big:7b")]


@pytest.mark.parametrize("verb", ["load", "unload", "pin", "unpin"])
async def test_names_that_stand_for_nothing(client: Client, verb: str) -> None:
    response = await client.post(f"/swapd/models/no%2Fpe/{verb}")
    assert response.status == 404
    error = (await response.json())["error"]
    assert (error["code"], error["name"], error["nearest"]) == ("model_not_found", "no/pe", ["tiny"])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("load", {"gpu_layers": "all"}),
        ("load", {"gpu_layers": -1}),
        ("load", {"keep_alive": "soon"}),
        ("unload", {"force": "yes"}),
        ("unload?wait=maybe", {}),
        ("load?wait=1", {}),
    ],
)
async def test_bad_parameters_are_refused(client: Client, gateway: ScriptedGateway, path: str, body: object) -> None:
    response = await client.post(f"/swapd/models/tiny/{path}", json=body)
    assert response.status == 400
    assert (await response.json())["error"]["code"] == "invalid_request"
    assert gateway.calls == []


async def test_reload_names_what_is_wrong_with_the_file(client: Client, gateway: ScriptedGateway) -> None:
    assert (await client.post("/swapd/reload")).status == 200
    gateway.failing_reload = InvalidConfig(("config.toml: server.max_queue: -1; a whole number is needed",))
    response = await client.post("/swapd/reload")
    assert response.status == 400
    error = (await response.json())["error"]
    assert error["code"] == "invalid_config"
    assert "server.max_queue" in error["problems"][0]
