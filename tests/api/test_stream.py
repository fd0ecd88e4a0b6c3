"""Streams: what is sent when, progress, late failures, and callers that go away."""

from __future__ import annotations

import asyncio
import json

import pytest

from swapd.api.stream import SSE
from swapd.errors import Overloaded, Unloaded, WorkerCrashed
from swapd.generation import Chunk
from swapd.runtime.asking import Progress
from tests.api.conftest import ENDING, Client, ScriptedGateway, lines_of

CHAT = "/v1/chat/completions"
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "prompt": "hi"}
PROGRESS = {"X-Swapd-Progress": "1"}
STREAMED = ["/v1/chat/completions", "/v1/completions", "/api/chat", "/api/generate"]


async def post_raw(
    client: Client, path: str, body: dict[str, object]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A request whose answer is read by hand, or not at all."""
    reader, writer = await asyncio.open_connection(client.host, client.port)
    data = json.dumps(body).encode()
    writer.write(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
    await writer.drain()
    return reader, writer


@pytest.mark.parametrize("path", STREAMED)
@pytest.mark.parametrize("streamed", [True, False])
async def test_a_caller_that_goes_away_while_it_waits_leaves_the_queue(
    client: Client, gateway: ScriptedGateway, path: str, streamed: bool
) -> None:
    gateway.hold = asyncio.Event()
    _, writer = await post_raw(client, path, {**BODY, "stream": streamed})
    await gateway.wait_open(1)
    writer.close()
    await gateway.wait_open(0)


@pytest.mark.parametrize("path", STREAMED)
@pytest.mark.parametrize("streamed", [True, False])
async def test_a_caller_that_goes_away_during_the_answer_frees_its_slot(
    client: Client, gateway: ScriptedGateway, path: str, streamed: bool
) -> None:
    gateway.script = [Chunk("a", 1), asyncio.Event(), ENDING]
    _, writer = await post_raw(client, path, {**BODY, "stream": streamed})
    await gateway.wait_open(1)
    writer.close()
    await gateway.wait_open(0)
    assert gateway.cleaned == 1


async def test_a_caller_that_stops_reading_and_goes_away_frees_its_slot(
    client: Client, gateway: ScriptedGateway
) -> None:
    """The write waits for the caller, and the answer, which has not ended, for the write: both end, in order."""
    gateway.script = [Chunk("a" * 2**24, 1), asyncio.Event(), ENDING]
    reader, writer = await post_raw(client, CHAT, {**BODY, "stream": True})
    await reader.readuntil(b"aaa")
    writer.transport.abort()
    await gateway.wait_open(0)
    assert gateway.cleaned == 1


@pytest.mark.parametrize("streamed", [True, False])
async def test_several_prompts_all_end_with_their_caller(
    client: Client, gateway: ScriptedGateway, streamed: bool
) -> None:
    gateway.script = [Chunk("a", 1), asyncio.Event(), ENDING]
    _, writer = await post_raw(client, "/v1/completions", {"model": "tiny", "prompt": ["a", "b"], "stream": streamed})
    await gateway.wait_open(2)
    writer.close()
    await gateway.wait_open(0)
    assert gateway.cleaned == 2


async def test_a_load_that_nobody_waits_for_any_more_is_left(client: Client, gateway: ScriptedGateway) -> None:
    gateway.hold = asyncio.Event()
    _, writer = await post_raw(client, "/swapd/models/tiny/load", {})
    await gateway.wait_open(1)
    writer.close()
    await gateway.wait_open(0)


@pytest.mark.parametrize("path", STREAMED)
async def test_what_fails_before_the_first_piece_has_its_own_status(
    client: Client, gateway: ScriptedGateway, path: str
) -> None:
    gateway.refusal = Overloaded("512 requests wait already")
    response = await client.post(path, json={**BODY, "stream": True})
    assert response.status == 503
    assert response.content_type == "application/json"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_what_fails_later_is_an_error_event(client: Client, gateway: ScriptedGateway, path: str) -> None:
    gateway.script = [Chunk("Hel", 1), WorkerCrashed("tiny", "killed by signal 9")]
    response = await client.post(path, json={**BODY, "stream": True})
    assert response.status == 200
    frames = (await response.text()).split("\n\n")
    name, data = frames[-2].split("\n")
    assert (name, frames[-1]) == ("event: error", "")
    assert json.loads(data.removeprefix("data: "))["error"] == {
        "message": "the worker of 'tiny' died: killed by signal 9",
        "type": "server_error",
        "param": None,
        "code": "worker_crashed",
    }
    assert "Hel" in frames[-3]


async def test_one_of_several_prompts_may_fail_late(client: Client, gateway: ScriptedGateway) -> None:
    gateway.script = [Chunk("Hel", 1), WorkerCrashed("tiny", "killed by signal 9")]
    response = await client.post("/v1/completions", json={"model": "tiny", "prompt": ["a", "b"], "stream": True})
    assert (await response.text()).count("event: error") == 1
    await gateway.wait_open(0)


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
async def test_what_fails_later_is_a_last_line_with_error(client: Client, gateway: ScriptedGateway, path: str) -> None:
    gateway.script = [Chunk("Hel", 1), Unloaded("tiny")]
    response = await client.post(path, json=BODY)
    first, last = [json.loads(line) for line in await lines_of(response)]
    assert first["done"] is False
    assert last == {"error": "'tiny' was unloaded by force while it answered"}


async def test_an_unknown_failure_in_a_stream_tells_nothing_of_the_inside(
    client: Client, gateway: ScriptedGateway
) -> None:
    gateway.script = [Chunk("Hel", 1), ValueError("/secret/path")]
    response = await client.post("/api/chat", json=BODY)
    text = await response.text()
    assert "internal error" in text
    assert "secret" not in text


async def test_who_asks_for_progress_is_told_its_place_in_comments(client: Client, gateway: ScriptedGateway) -> None:
    gateway.tells = [Progress("waiting:\nplace 2", 2, None), Progress("loading tiny: 42%", 0, 0.42)]
    response = await client.post(CHAT, json={**BODY, "stream": True}, headers=PROGRESS)
    frames = (await response.text()).split("\n\n")
    assert frames[:2] == [": waiting: place 2", ": loading tiny: 42%"]
    assert frames[2].startswith("data: ")


async def test_who_asks_for_progress_is_told_its_place_in_lines(client: Client, gateway: ScriptedGateway) -> None:
    gateway.tells = [Progress("loading tiny: 42%", 0, 0.42)]
    response = await client.post("/api/chat", json=BODY, headers=PROGRESS)
    first, second, *_ = [json.loads(line) for line in await lines_of(response)]
    assert first == {"status": "loading tiny: 42%", "position": 0, "fraction": 0.42}
    assert second["done"] is False


async def test_progress_is_told_as_it_happens(client: Client, gateway: ScriptedGateway) -> None:
    gateway.tells = [Progress("loading tiny: 1%", 0, 0.01)]
    gateway.hold = asyncio.Event()
    response = await client.post(CHAT, json={**BODY, "stream": True}, headers=PROGRESS)
    assert await response.content.readline() == b": loading tiny: 1%\n"
    gateway.hold.set()
    assert (await response.text()).endswith("data: [DONE]\n\n")


async def test_a_failure_after_progress_is_told_in_the_stream(client: Client, gateway: ScriptedGateway) -> None:
    gateway.tells = [Progress("waiting", 1, None)]
    gateway.refusal = Overloaded("too many")
    response = await client.post("/api/chat", json=BODY, headers=PROGRESS)
    assert response.status == 200
    assert [json.loads(line) for line in await lines_of(response)][-1] == {"error": "too many"}


@pytest.mark.parametrize("path", STREAMED)
async def test_nobody_else_sees_progress(client: Client, gateway: ScriptedGateway, path: str) -> None:
    gateway.tells = [Progress("waiting", 1, None)]
    response = await client.post(path, json={**BODY, "stream": True})
    assert "waiting" not in await response.text()


async def read_chunk(reader: asyncio.StreamReader) -> bytes:
    """What the server wrote at one time."""
    data = await reader.readexactly(int(await reader.readline(), 16) + 2)
    return data[:-2]


async def test_what_comes_together_is_one_write_and_each_piece_a_frame_of_its_own(
    client: Client, gateway: ScriptedGateway
) -> None:
    more, last = asyncio.Event(), asyncio.Event()
    gateway.script = [(Chunk("a", 1), Chunk("b", 1)), more, Chunk("c", 1), last, (Chunk("d", 1), ENDING)]
    reader, writer = await post_raw(client, "/v1/completions", {**BODY, "stream": True})
    await reader.readuntil(b"\r\n\r\n")
    first = await read_chunk(reader)
    more.set()
    second = await read_chunk(reader)
    last.set()
    third = await read_chunk(reader)
    writer.close()
    assert [texts_of(data) for data in (first, second, third)] == [["a", "b"], ["c"], ["d", "", None]]
    assert third.endswith(b"data: [DONE]\n\n")


def texts_of(data: bytes) -> list[str | None]:
    """Of each frame; None: it is not JSON."""
    frames = [frame.removeprefix(b"data: ") for frame in data.split(b"\n\n")[:-1]]
    return [None if frame == b"[DONE]" else json.loads(frame)["choices"][0]["text"] for frame in frames]


async def test_who_reads_late_misses_nothing(client: Client, gateway: ScriptedGateway) -> None:
    """Its connection is full: what comes meanwhile waits, and keeps its order."""
    texts = ["a", "b" * 2**24, *(f"{number} " for number in range(100))]
    gateway.script = [*(Chunk(text, 1) for text in texts), ENDING]
    response = await client.post("/v1/completions", json={**BODY, "stream": True})
    assert texts_of(await response.read()) == [*texts, "", None]


async def test_what_one_of_several_answers_brings_does_not_wait_for_the_others(
    client: Client, gateway: ScriptedGateway
) -> None:
    held = asyncio.Event()
    gateway.scripts = [[Chunk("a", 1), held, ENDING], [Chunk("b", 1), held, ENDING]]
    reader, writer = await post_raw(client, "/v1/completions", {"model": "tiny", "prompt": ["x", "y"], "stream": True})
    await reader.readuntil(b"\r\n\r\n")
    async with asyncio.timeout(10):
        seen = texts_of(await read_chunk(reader))
        while len(seen) < 2:
            seen += texts_of(await read_chunk(reader))
        assert set(seen) == {"a", "b"}
        held.set()
        while seen[-1] is not None:
            seen += texts_of(await read_chunk(reader))
    writer.close()
    assert seen[2:] == ["", "", None]


def test_a_status_of_several_lines_stays_one_comment() -> None:
    assert SSE.progress(Progress("a\r\nb\n\ndata: c", 1, None)) == b": a b data: c\n\n"
