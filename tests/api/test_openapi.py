"""The description of the API is complete, and nothing that follows it makes the daemon stumble."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from aiohttp.test_utils import TestServer
from schemathesis.checks import not_a_server_error

from swapd.api.app import GuardSettings, make_app
from swapd.api.openapi import document
from swapd.api.operations import OPERATIONS
from tests.api.conftest import Client, ScriptedGateway, make_model
from tests.api.test_hostile import LEAKS, says_error


async def test_every_route_is_described_and_every_description_is_of_a_route(gateway: ScriptedGateway) -> None:
    app = make_app(gateway, GuardSettings())
    there = {(route.method, route.resource.canonical) for route in app.router.routes() if route.resource is not None}
    assert {(method, path) for method, path in there if method != "HEAD"} == set(OPERATIONS)


def test_what_is_allowed_is_told_in_words_that_programs_know() -> None:
    told = document()["components"]["schemas"]
    assert not {"ge", "gt", "le", "lt"} & set(re.findall(r'"(\w+)":', json.dumps(told)))
    chat, infill = told["swapd__api__openai_bodies__ChatBody"]["properties"], told["InfillBody"]["properties"]
    assert {"type": "integer", "minimum": 1, "maximum": 128} in chat["n"]["anyOf"]
    assert {"type": "integer", "minimum": -1, "maximum": 2**31 - 1} in chat["max_tokens"]["anyOf"]
    assert [option["type"] for option in chat["response_format"]["anyOf"]] == ["object", "null"]
    assert {"type": "integer", "minimum": 0, "maximum": 128} in infill["n_probs"]["anyOf"]


async def test_the_document_is_served_and_its_references_lead_somewhere(client: Client) -> None:
    response = await client.get("/openapi.json")
    assert response.status == 200
    told = await response.json()
    assert told["openapi"].startswith("3.1")

    def refs(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            for inner in value.values():
                yield from refs(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from refs(inner)

    known = {f"#/components/schemas/{name}" for name in told["components"]["schemas"]}
    assert set(refs(told)) <= known
    assert len({op["operationId"] for methods in told["paths"].values() for op in methods.values()}) == len(OPERATIONS)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The application on a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> TestServer:
        gateway = ScriptedGateway()
        gateway.known["ranker"] = make_model("ranker", pooling="rank")
        server = TestServer(make_app(gateway, GuardSettings()))
        await server.start_server()
        return server

    server = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    yield str(server.make_url("/")).rstrip("/")
    asyncio.run_coroutine_threadsafe(server.close(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


schema = schemathesis.openapi.from_dict(document()).exclude(path="/swapd/events")


@schema.parametrize()
@hypothesis.settings(max_examples=6, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
def test_no_request_makes_it_stumble(case: schemathesis.Case[Any], url: str) -> None:
    """No 5xx but those that are meant, and every error in its dialect's shape."""
    response = case.call(base_url=url)
    if response.status_code != 501:  # what llama-server can do and swapd does otherwise
        case.validate_response(response, checks=[not_a_server_error])
    if response.status_code >= 400:
        assert says_error(case.path, response.text), response.text
        assert not LEAKS.search(response.text), response.text
