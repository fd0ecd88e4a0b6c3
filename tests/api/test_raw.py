"""HTTP itself, as nobody's client speaks it: what comes back, and that the next request is served."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias

import pytest
from aiohttp.test_utils import TestServer

from swapd import __version__
from swapd.api import bodies
from swapd.api.app import GuardSettings, make_app
from swapd.api.patience import ASKED, close_silent
from tests.api.conftest import ScriptedGateway

Wire: TypeAlias = Callable[[bytes], Awaitable[bytes]]

BODY = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "stream": True}).encode()
POST = b"POST /v1/chat/completions HTTP/1.1"
LENGTH = b"Content-Length: %d" % len(BODY)
ENOUGH = 30.0
"""Seconds in which anything answers; nothing here waits for them to pass."""


def request(line: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([line, b"Host: localhost", b"Connection: close", *headers, b"", body])


@pytest.fixture
async def server(gateway: ScriptedGateway) -> AsyncIterator[TestServer]:
    running = TestServer(make_app(gateway, GuardSettings()))
    await running.start_server()
    yield running
    await running.close()


@pytest.fixture
async def wire(server: TestServer) -> AsyncIterator[Wire]:
    """Bytes there, bytes back, to the end of the connection; afterwards an honest request is served."""

    async def send(data: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            writer.write(data)
            return await asyncio.wait_for(reader.read(), ENOUGH)
        finally:
            writer.close()

    yield send
    assert (await send(request(b"GET /api/version HTTP/1.1"))).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("more", [(), (b"Connection: keep-alive",)])
async def test_a_client_of_http_1_0_gets_a_stream_that_ends_with_the_connection(
    server: TestServer, more: tuple[bytes, ...]
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    line = b"POST /v1/chat/completions HTTP/1.0"
    writer.write(b"\r\n".join([line, b"Host: localhost", LENGTH, *more, b"", BODY]))
    answer = await asyncio.wait_for(reader.read(), ENOUGH)
    assert b"Transfer-Encoding" not in answer
    assert answer.endswith(b"data: [DONE]\n\n")
    writer.close()


@pytest.mark.parametrize(
    "headers",
    [
        (b"Content-Length: -1",),
        (b"Content-Length: 12abc",),
        (LENGTH, b"Content-Length: 5"),
        (LENGTH, b"Transfer-Encoding: chunked"),
        (LENGTH, b"Content-Encoding: br"),
        (LENGTH, b"X: a\x00b"),
        (LENGTH, b"X: " + b"a" * 20_000),
        (LENGTH, *(b"X%d: a" % number for number in range(2000))),
        (b"Transfer-Encoding: chunked", b"", b"zz"),
        (b"Transfer-Encoding: chunked", b"", b"f" * 40),
    ],
)
async def test_broken_framing_is_refused_and_the_connection_ends(
    wire: Wire, gateway: ScriptedGateway, headers: tuple[bytes, ...]
) -> None:
    answer = await wire(request(POST, *headers, body=BODY))
    assert answer.startswith(b"HTTP/1.0 400")
    assert b"Traceback" not in answer
    assert b"site-packages" not in answer
    assert gateway.open == 0


@pytest.mark.parametrize(
    "data",
    [
        b"GET /\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50,
        b"\x00" * 100,
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /v1/models/\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
async def test_what_is_no_http_1_1_is_refused(wire: Wire, data: bytes) -> None:
    answer = await wire(data)
    assert answer.split()[1] in (b"400", b"403")
    assert b"Traceback" not in answer


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"OPTIONS /v1/chat/completions HTTP/1.1", b"405"),
        (b"HEAD /v1/chat/completions HTTP/1.1", b"405"),
        (b"GET /v1/chat/completions HTTP/1.1", b"405"),
        (b"PUT /api/chat HTTP/1.1", b"405"),
        (b"TRACE / HTTP/1.1", b"405"),
        (b"OPTIONS * HTTP/1.1", b"404"),
        (b"CONNECT localhost:80 HTTP/1.1", b"404"),
        (b"GET /../../etc/passwd HTTP/1.1", b"404"),
        (b"GET /v1/models/%ff%fe HTTP/1.1", b"404"),
        (b"GET /v1/models/%00 HTTP/1.1", b"404"),
        (b"HEAD /v1/models HTTP/1.1", b"200"),
        (b"HEAD / HTTP/1.1", b"200"),
    ],
)
async def test_methods_and_paths_that_nobody_serves_are_told_apart(wire: Wire, line: bytes, status: bytes) -> None:
    answer = await wire(request(line))
    assert answer.split()[1] == status
    head, _, body = answer.partition(b"\r\n\r\n")
    assert (b"\r\nAllow: " in head) == (status == b"405")
    if line.startswith(b"HEAD"):
        assert body == b""
    elif status != b"200":
        assert json.loads(body)["error"]


@pytest.mark.parametrize(
    "kind",
    [
        b"text/plain",
        b"application/x-www-form-urlencoded",
        b"multipart/form-data; boundary=x",
        b"application/json; charset=utf-16",
        b"\xff\xff",
    ],
)
async def test_a_body_is_read_as_json_whatever_it_is_called(wire: Wire, kind: bytes) -> None:
    answer = await wire(request(POST, LENGTH, b"Content-Type: " + kind, body=BODY))
    assert answer.startswith(b"HTTP/1.1 200")


async def test_of_a_key_said_twice_the_last_counts(wire: Wire, gateway: ScriptedGateway) -> None:
    body = b'{"model": "nope", "prompt": "a", "max_tokens": 1, "model": "tiny", "max_tokens": 7}'
    answer = await wire(request(b"POST /v1/completions HTTP/1.1", b"Content-Length: %d" % len(body), body=body))
    assert answer.startswith(b"HTTP/1.1 200")
    assert gateway.asks[-1].request.max_tokens == 7


@pytest.mark.parametrize("number", ["9" * 19, "9" * 400, "1e400", "-" + "9" * 400, "123456789.5"])
async def test_a_number_too_large_for_its_field_is_a_400(wire: Wire, number: str) -> None:
    for field in ("max_tokens", "seed", "n", "top_k", "temperature", "keep_alive"):
        body = b'{"model": "tiny", "prompt": "a", "%s": %s}' % (field.encode(), number.encode())
        answer = await wire(request(b"POST /v1/completions HTTP/1.1", b"Content-Length: %d" % len(body), body=body))
        assert answer.split()[1] in (b"400", b"200")
        if len(number) > 300 or "e" in number:
            assert answer.split()[1] == b"400", field


async def test_answers_name_swapd_and_not_what_it_is_made_of(wire: Wire) -> None:
    head = (await wire(request(b"GET /v1/models HTTP/1.1"))).partition(b"\r\n\r\n")[0]
    assert b"\r\nServer: swapd/" + __version__.encode() in head
    assert b"aiohttp" not in head


async def test_a_body_that_stops_coming_is_given_up(
    wire: Wire, gateway: ScriptedGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "STALLED_AFTER", 0.05)
    cut = await wire(request(POST, b"Content-Length: 5000", body=BODY))
    assert cut.startswith(b"HTTP/1.1 400")
    assert f"it stopped after {len(BODY)} bytes".encode() in cut
    endless = await wire(request(POST, b"Transfer-Encoding: chunked", body=b"5\r\n     \r\n"))
    assert b"it stopped after 5 bytes" in endless
    assert gateway.open == 0


async def test_a_connection_on_which_nothing_is_asked_is_closed_and_others_are_not(server: TestServer) -> None:
    assert server.runner is not None
    assert server.runner.server is not None
    silent_reader, silent_writer = await asyncio.open_connection("127.0.0.1", server.port)
    silent_writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: loc")
    busy_reader, busy_writer = await asyncio.open_connection("127.0.0.1", server.port)
    busy_writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await busy_reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    guard = asyncio.create_task(close_silent(server.runner.server, server.app[ASKED], patience=0.05))
    try:
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(silent_reader.read(), ENOUGH) == b""
        await busy_reader.readexactly(len(f"Ollama is running (swapd {__version__})"))
        busy_writer.write(b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await busy_reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    finally:
        guard.cancel()
        silent_writer.close()
        busy_writer.close()
