"""Who may talk to the daemon."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from swapd.api.app import GUARD, RUNNER_OPTIONS, GuardSettings, make_app
from tests.api.conftest import Client, ScriptedGateway, Serve

PATHS = ["/", "/health", "/v1/models", "/api/tags", "/swapd/status", "/nope"]


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:80",
        "localhost.",
        "a.localhost:1",
        "127.0.0.1:11435",
        "127.8.8.8",
        "[::1]",
        "[::1]:99",
        "box.lan",
        "box.lan:11435",
        "BOX.lan",
        "exact.lan:7",
    ],
)
async def test_hosts_that_are_ours(serve: Serve, host: str) -> None:
    client = await serve(GuardSettings(allowed_hosts=("box.lan", "exact.lan:7")))
    assert (await client.get("/v1/models", headers={"Host": host})).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "10.0.0.1",
        "0.0.0.0",
        "[::2]",
        "[::1",
        "exact.lan",
        "exact.lan:8",
        "box.lan.evil.example",
        "::1",
        "notlocalhost",
        "127.0.0.1.evil.example",
        "127.0.0.1:1:1",
        "user@localhost",
        "localhost:x",
    ],
)
async def test_hosts_that_are_not(serve: Serve, host: str) -> None:
    client = await serve(GuardSettings(allowed_hosts=("box.lan", "exact.lan:7")))
    for path in PATHS:
        response = await client.get(path, headers={"Host": host})
        assert response.status == 403, path


async def test_a_request_without_host_is_refused_on_tcp(client: Client) -> None:
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(b"GET /health HTTP/1.0\r\n\r\n")
    assert b" 403 " in await reader.readline()
    writer.close()


async def test_foreign_origins_are_refused_on_every_route(client: Client) -> None:
    for origin in ("http://evil.example", "null", "", "https://localhost:1", f"https://localhost:{client.port}"):
        for path in PATHS:
            response = await client.get(path, headers={"Origin": origin, "Host": f"localhost:{client.port}"})
            assert response.status == 403, (origin, path)
            assert "Access-Control-Allow-Origin" not in response.headers
    response = await client.post("/swapd/reload", headers={"Origin": "http://evil.example"})
    assert response.status == 403


async def test_every_route_there_is_refuses_foreign_hosts_and_pages_and_asks_nobody(
    client: Client, gateway: ScriptedGateway
) -> None:
    """Streams and what is watched too: the routes are the application's own list."""
    routes = {
        (route.method, route.resource.canonical.replace("{name}", "tiny").replace("{id}", "tiny"))
        for route in client.app.router.routes()
        if route.resource is not None
    }
    streams = {("GET", "/swapd/events"), ("POST", "/v1/chat/completions"), ("POST", "/api/chat")}
    assert routes >= streams | {("GET", "/swapd/decisions"), ("POST", "/swapd/models/tiny/load"), ("GET", "/health")}
    own = f"localhost:{client.port}"
    strangers = ({"Host": "evil.example"}, {"Host": own, "Origin": "http://evil.example"})
    async with asyncio.timeout(30):
        for method, path in sorted(routes):
            for headers in strangers:
                response = await client.request(method, path, headers=headers)
                assert response.status == 403, (method, path, headers)
                response.close()
    assert (gateway.asks, gateway.calls) == ([], [])


async def test_the_daemons_own_page_is_welcome(client: Client) -> None:
    own = f"http://localhost:{client.port}"
    response = await client.get("/v1/models", headers={"Origin": own, "Host": f"localhost:{client.port}"})
    assert response.status == 200
    foreign_port = await client.get("/v1/models", headers={"Origin": own, "Host": "localhost:1"})
    assert foreign_port.status == 403


@pytest.mark.parametrize(("allowed", "status"), [("https://app.example", 200), ("*", 200), ("https://x.example", 403)])
async def test_allowed_origins_may_read_answers(serve: Serve, allowed: str, status: int) -> None:
    client = await serve(GuardSettings(allowed_origins=(allowed,)))
    response = await client.get("/v1/models", headers={"Origin": "https://app.example"})
    assert response.status == status
    if status == 200:
        assert response.headers["Access-Control-Allow-Origin"] == "https://app.example"
        assert response.headers["Vary"] == "Origin"


async def test_streams_carry_the_headers_for_allowed_origins_too(serve: Serve) -> None:
    client = await serve(GuardSettings(allowed_origins=("https://app.example",)))
    body = {"model": "tiny", "prompt": "hi"}
    response = await client.post("/api/generate", json=body, headers={"Origin": "https://app.example"})
    assert response.headers["Access-Control-Allow-Origin"] == "https://app.example"


async def test_preflights_of_allowed_origins_are_answered_without_a_key(serve: Serve) -> None:
    client = await serve(GuardSettings(allowed_origins=("https://app.example",), api_keys=("k",)))
    headers = {
        "Origin": "https://app.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type",
    }
    response = await client.options("/v1/chat/completions", headers=headers)
    assert response.status == 204
    assert "POST" in response.headers["Access-Control-Allow-Methods"]
    assert response.headers["Access-Control-Allow-Headers"] == "authorization, content-type"
    foreign = await client.options("/v1/chat/completions", headers={**headers, "Origin": "https://x.example"})
    assert foreign.status == 403


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (None, 401),
        ("Bearer", 401),
        ("Bearer wrong", 401),
        ("Bearer first ", 200),
        ("bearer second", 200),
        ("Basic first", 401),
        ("first", 401),
        ("Bearer fürst", 401),
        ("Bearer firs", 401),
    ],
)
async def test_keys(serve: Serve, given: str | None, status: int) -> None:
    client = await serve(GuardSettings(api_keys=("first", "second")))
    headers = {} if given is None else {"Authorization": given}
    response = await client.get("/v1/models", headers=headers)
    assert response.status == status
    if status == 401:
        assert response.headers["WWW-Authenticate"] == "Bearer"
        error = (await response.json())["error"]
        assert (error["type"], error["code"]) == ("authentication_error", "unauthorized")


async def test_every_route_but_health_needs_the_key(serve: Serve) -> None:
    client = await serve(GuardSettings(api_keys=("k",)))
    assert [(await client.get(path)).status for path in PATHS] == [401, 200, 401, 401, 401, 401]


async def test_new_settings_meet_the_next_request(gateway: ScriptedGateway) -> None:
    app = make_app(gateway, GuardSettings())
    async with TestClient(TestServer(app)) as client:
        assert (await client.get("/v1/models")).status == 200
        app[GUARD].settings = GuardSettings(api_keys=("k",))
        assert (await client.get("/v1/models")).status == 401


async def test_the_unix_socket_needs_no_key_and_no_host(gateway: ScriptedGateway, tmp_path: Path) -> None:
    runner = web.AppRunner(make_app(gateway, GuardSettings(api_keys=("k",))), **RUNNER_OPTIONS)
    await runner.setup()
    path = str(tmp_path / "s")
    await web.UnixSite(runner, path).start()
    try:
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session:
            assert (await session.get("http://localhost/v1/models")).status == 200
            assert (await session.get("http://evil.example/v1/models")).status == 403
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET /v1/models HTTP/1.0\r\n\r\n")
        assert b" 200 " in await reader.readline()
        writer.close()
    finally:
        await runner.cleanup()
