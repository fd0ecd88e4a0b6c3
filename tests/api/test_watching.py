"""What is decided and what happens, told over HTTP."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from swapd.runtime.happenings import KEPT, Happenings
from tests.api.conftest import Client, ScriptedGateway

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def tell(happenings: Happenings, *kinds: str) -> None:
    for kind in kinds:
        happenings.tell(NOON, kind, {"model": "tiny"})


def parsed(text: str) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]


async def test_events_that_are_still_known_come_oldest_first_and_end_where_asked(
    client: Client, gateway: ScriptedGateway
) -> None:
    tell(gateway.told, "load", "loaded", "unload")
    response = await client.get("/swapd/events?follow=false")
    assert response.content_type == "text/event-stream"
    told = parsed(await response.text())
    assert [(each["id"], each["event"], each["model"]) for each in told] == [
        (1, "load", "tiny"),
        (2, "loaded", "tiny"),
        (3, "unload", "tiny"),
    ]


async def test_a_reader_goes_on_after_the_last_id_that_it_saw(client: Client, gateway: ScriptedGateway) -> None:
    tell(gateway.told, "load", "loaded", "unload")
    response = await client.get("/swapd/events?follow=false", headers={"Last-Event-ID": "2"})
    assert [each["id"] for each in parsed(await response.text())] == [3]


async def test_events_come_as_they_happen(client: Client, gateway: ScriptedGateway) -> None:
    tell(gateway.told, "load")
    async with asyncio.timeout(10):
        response = await client.get("/swapd/events?since=now")
        assert await response.content.readline() == b": nothing yet\n"
        tell(gateway.told, "loaded")
        lines = [await response.content.readline() for _ in range(4)]
        response.close()
    assert lines[1:3] == [b"id: 2\n", b"event: loaded\n"]


async def test_only_so_many_events_are_kept_and_their_ids_tell_what_is_missing(
    client: Client, gateway: ScriptedGateway
) -> None:
    tell(gateway.told, *(["grant"] * (KEPT + 5)))
    told = parsed(await (await client.get("/swapd/events?follow=false")).text())
    assert (told[0]["id"], told[-1]["id"], len(told)) == (6, KEPT + 5, KEPT)


async def test_decisions_are_asked_of_one_model_and_one_request(client: Client, gateway: ScriptedGateway) -> None:
    response = await client.get("/swapd/decisions?model=tiny&request=req-1&limit=3")
    assert (response.status, await response.json()) == (200, {"decisions": []})
    assert gateway.calls[-1] == ("decisions", "tiny", "req-1", 3)
    assert (await client.get("/swapd/queue")).status == 200


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/swapd/decisions?limit=0", 400, "invalid_request"),
        ("/swapd/decisions?limit=9999999999999999999999", 400, "invalid_request"),
        ("/swapd/decisions?limit=x", 400, "invalid_request"),
        ("/swapd/decisions?model=nobody", 404, "model_not_found"),
        ("/swapd/events?follow=perhaps", 400, "invalid_request"),
        ("/swapd/events?since=yesterday", 400, "invalid_request"),
    ],
)
async def test_mistaken_questions_are_told_so(client: Client, path: str, status: int, code: str) -> None:
    response = await client.get(path)
    assert (response.status, (await response.json())["error"]["code"]) == (status, code)


async def test_a_last_id_that_is_none_is_told_so(client: Client) -> None:
    assert (await client.get("/swapd/events", headers={"Last-Event-ID": "-1"})).status == 400
