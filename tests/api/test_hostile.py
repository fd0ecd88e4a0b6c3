"""Bodies that nobody honest sends: a refusal in the right shape, and the next request is served."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given, settings
from hypothesis import strategies as st

from swapd.api.app import GuardSettings, make_app
from tests.api.conftest import Client, ScriptedGateway, make_model

VALID: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": "tiny",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "temperature": 0.5,
        "seed": 1,
        "max_tokens": 5,
        "stop": ["a"],
        "stream": True,
        "stream_options": {"include_usage": True},
        "keep_alive": "5m",
        "n": 1,
    },
    "/v1/completions": {"model": "tiny", "prompt": ["a", [1, 2]], "top_k": 3, "top_p": 0.5, "echo": True},
    "/api/generate": {"model": "tiny", "prompt": "hi", "options": {"num_ctx": 10, "stop": "x"}, "keep_alive": 3},
    "/api/chat": {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "options": {"seed": 1}},
    "/api/show": {"model": "tiny", "name": "tiny"},
    "/api/embed": {"model": "tiny", "input": ["a", "b"], "truncate": True, "dimensions": 3, "keep_alive": "1m"},
    "/api/embeddings": {"model": "tiny", "prompt": "a"},
    "/v1/embeddings": {"model": "tiny", "input": ["a", [1, 2]], "encoding_format": "base64", "dimensions": 2},
    "/v1/responses": {
        "model": "tiny",
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
        "instructions": "Be brief.",
        "max_output_tokens": 20,
        "text": {"format": {"type": "text"}},
        "reasoning": {"effort": "low"},
    },
    "/v1/messages": {
        "model": "tiny",
        "max_tokens": 9,
        "system": [{"type": "text", "text": "Be brief."}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "stop_sequences": ["a"],
        "thinking": {"type": "disabled"},
        "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "auto"},
    },
    "/v1/messages/count_tokens": {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]},
    "/completion": {
        "model": "tiny",
        "prompt": ["a", [1, "b"]],
        "n_predict": 3,
        "n_probs": 2,
        "logit_bias": [[1, -1.5], ["a", False]],
        "json_schema": {"type": "object"},
        "response_fields": ["content", "timings/prompt_n"],
        "samplers": ["top_k"],
        "cache_prompt": True,
    },
    "/infill": {
        "model": "tiny",
        "input_prefix": "a",
        "input_suffix": "b",
        "input_extra": [{"filename": "f", "text": "t"}],
        "prompt": "c",
    },
    "/tokenize": {"model": "tiny", "content": ["a", 7], "add_special": True, "with_pieces": True},
    "/detokenize": {"model": "tiny", "tokens": [1, 2]},
    "/apply-template": {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]},
    "/embedding": {"model": "tiny", "content": ["a"], "embd_normalize": 2},
    "/rerank": {"model": "ranker", "query": "a", "documents": ["b", {"text": "c"}], "top_n": 1},
    "/swapd/plan": {"models": ["tiny"], "gpu": ["24GiB"], "context": 2048, "slots": 2},
    "/swapd/yield": {"bytes": "1GiB", "seconds": "5m"},
    "/swapd/models/tiny/load": {"keep_alive": 1, "gpu_layers": 1},
    "/swapd/models/tiny/unload": {"force": False},
}

EXAMPLES = int(os.environ.get("HOSTILE_EXAMPLES", "200"))
"""Of each dialect; many more now and then: HOSTILE_EXAMPLES=5000 make test ARGS=tests/api/test_hostile.py"""
PATIENCE = max(120, EXAMPLES // 2)
"""Seconds."""

LEAKS = re.compile(r"Traceback|site-packages|pydantic|\.py\b|0x[0-9a-f]{6}")
"""What errors must not tell: where the code lies, and whose it is."""

NOT_JSON = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'"text"',
    b"\x00",
    b"\xff\xfe",
    b'{"model": NaN}',
    b'{"model": "tiny", "temperature": NaN, "prompt": "x"}',
    b'{"model": "tiny", "temperature": -Infinity, "prompt": "x"}',
    b'{"model": "tiny", "temperature": 1e999, "prompt": "x"}',
    b'{"model": "tiny", "prompt": "\\ud800"}',
    b'{"model": "tiny", "prompt": "\\udc00\\ud800"}',
    b'{"model": "tiny", "\\ud800": 1}',
    b'{"model": "tiny", "prompt": "\xed\xa0\x80"}',
    b'{"model": "tiny",}',
    b"{'model': 'tiny'}",
    b'{"model": "tiny"} {}',
    b'{"a":' * 100_000,
    b'{"x":' + b"[" * 500 + b"]" * 500 + b"}",
    b'{"seed": ' + b"9" * 5000 + b"}",
]


def says_error(path: str, text: str) -> bool:
    """Whether this is an error in the shape of the path's dialect."""
    said = json.loads(text)["error"]
    if path.startswith("/api/"):
        return isinstance(said, str) and bool(said)
    if path.startswith("/v1/messages"):
        return set(said) == {"type", "message"} and json.loads(text)["type"] == "error"
    if path.startswith(("/v1/", "/chat/", "/responses")) and "rerank" not in path:
        return {"message", "type", "param", "code"} <= set(said) and not isinstance(said["code"], int)
    if path.startswith(("/swapd/", "/ui")) or path in ("/", "/health", "/openapi.json"):
        return {"code", "message"} <= set(said) and isinstance(said["code"], str)
    return {"code", "message", "type"} <= set(said) and said["code"] in range(400, 600)


@pytest.mark.parametrize("body", NOT_JSON)
@pytest.mark.parametrize("path", [path for path in VALID if not path.startswith("/swapd/")])
async def test_what_is_no_json_object_is_refused(
    client: Client, gateway: ScriptedGateway, path: str, body: bytes
) -> None:
    gateway.known["ranker"] = make_model("ranker", pooling="rank")
    response = await client.post(path, data=body)
    text = await response.text()
    assert response.status == 400, text
    assert says_error(path, text)
    assert len(text) < 500
    assert (await client.post(path, json=VALID[path])).status == 200


@pytest.mark.parametrize("path", ["/swapd/models/tiny/load", "/swapd/models/tiny/unload"])
async def test_swapds_own_bodies_may_be_empty_but_not_broken(client: Client, path: str) -> None:
    assert (await client.post(path, data=b"")).status == 200
    assert (await client.post(path, data=b"{")).status == 400


async def test_a_byte_order_mark_and_compression_are_no_harm(client: Client) -> None:
    body = json.dumps(VALID["/api/chat"]).encode()
    assert (await client.post("/api/chat", data=b"\xef\xbb\xbf" + body)).status == 200
    headers = {"Content-Encoding": "gzip"}
    assert (await client.post("/api/chat", data=gzip.compress(body), headers=headers)).status == 200
    broken = await client.post("/api/chat", data=b"no gzip at all", headers=headers)
    assert broken.status == 400
    bomb = await client.post("/api/chat", data=gzip.compress(b" " * 2**26), headers=headers)
    assert bomb.status == 413


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.sampled_from([2**31, 2**63, 2**64, -(2**64), 10**400, 1e308, -1, "-1", "9" * 400, ""]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def spoiled(draw: st.DrawFn, paths: list[str]) -> tuple[str, Any]:
    """A valid body of which one place, at any depth, holds something else."""
    path = draw(st.sampled_from(paths))
    body: Any = json.loads(json.dumps(VALID[path]))
    place = body
    while True:
        key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not place[key] or not isinstance(place[key], (dict, list)) or draw(st.booleans()):
            place[key] = draw(JSON)
            return path, body
        place = place[key]


class _Daemon:
    """The application on an event loop of its own, so that every example meets the same one."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner
        self.gateway = ScriptedGateway()
        self.gateway.known["ranker"] = make_model("ranker", pooling="rank")
        self._client = runner.run(self._start())

    async def _start(self) -> Client:
        client = TestClient(TestServer(make_app(self.gateway, GuardSettings())))
        await client.start_server()
        return client

    def post(self, path: str, data: bytes) -> tuple[int, str]:
        async def post() -> tuple[int, str]:
            response = await self._client.post(path, data=data)
            return response.status, await response.text()

        return self._runner.run(post())

    def close(self) -> None:
        self._runner.run(self._client.close())


@pytest.fixture(scope="module")
def daemon() -> Iterator[_Daemon]:
    with asyncio.Runner() as runner:
        daemon = _Daemon(runner)
        yield daemon
        daemon.close()


def check(daemon: _Daemon, path: str, data: bytes) -> None:
    status, text = daemon.post(path, data)
    assert status in {200, 400, 404}, text
    assert status == 200 or says_error(path, text)
    assert not LEAKS.search(text), text
    assert daemon.post("/api/show", b'{"model": "tiny"}')[0] == 200
    assert daemon.gateway.open == 0


PATHS = {
    "openai": ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"],
    "anthropic": ["/v1/messages", "/v1/messages/count_tokens"],
    "ollama": [path for path in VALID if path.startswith("/api/")],
    "swapd": [path for path in VALID if path.startswith("/swapd/")],
    "llama-server": [path for path in VALID if path.count("/") == 1],
}


def test_every_body_belongs_to_a_dialect() -> None:
    assert sorted(path for paths in PATHS.values() for path in paths) == sorted(VALID)


@pytest.mark.timeout(PATIENCE)
@pytest.mark.parametrize("dialect", sorted(PATHS))
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_one_wrong_value_anywhere(daemon: _Daemon, dialect: str, data: st.DataObject) -> None:
    path, body = data.draw(spoiled(PATHS[dialect]))
    check(daemon, path, json.dumps(body).encode())


@pytest.mark.timeout(PATIENCE)
@settings(max_examples=EXAMPLES // 2, deadline=None)
@given(st.sampled_from(sorted(VALID)), JSON)
def test_any_json(daemon: _Daemon, path: str, body: Any) -> None:
    check(daemon, path, json.dumps(body).encode())


@pytest.mark.timeout(PATIENCE)
@settings(max_examples=EXAMPLES // 2, deadline=None)
@given(st.sampled_from(sorted(VALID)), st.binary(max_size=200))
def test_any_bytes(daemon: _Daemon, path: str, data: bytes) -> None:
    check(daemon, path, data)


@pytest.mark.timeout(PATIENCE)
@settings(max_examples=EXAMPLES, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), st.sampled_from(["load", "pin", "unload"]))
def test_any_name_in_a_path(daemon: _Daemon, name: str, verb: str) -> None:
    status, text = daemon.post(f"/swapd/models/{quote(name, safe='')}/{verb}", b"")
    assert status in {200, 404}, text
    assert status == 200 or says_error("/swapd/", text)
