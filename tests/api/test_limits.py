"""How much one request may hold: what is over a limit is refused, and the message names the field and the limit."""

from __future__ import annotations

from typing import Any

import pytest

from swapd.api.app import GuardSettings
from swapd.api.bodies import MAX_DEPTH
from swapd.api.fields import MAX_MESSAGES
from tests.api.conftest import Client, ScriptedGateway, Serve

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
TEXT: dict[str, Any] = {"model": "tiny", "prompt": "Hi"}
MANY = CHAT["messages"] * (MAX_MESSAGES + 1)
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
ANTHROPIC = CHAT | {"max_tokens": 5}
DEEP: list[Any] = []
for _ in range(MAX_DEPTH + 1):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/v1/chat/completions", CHAT | {"messages": MANY}, ("messages", str(MAX_MESSAGES))),
        ("/api/chat", CHAT | {"messages": MANY}, ("messages", str(MAX_MESSAGES))),
        ("/v1/messages", ANTHROPIC | {"messages": MANY}, ("messages", str(MAX_MESSAGES))),
        ("/apply-template", CHAT | {"messages": MANY}, ("messages", str(MAX_MESSAGES))),
        ("/v1/chat/completions", CHAT | {"tools": [TOOL] * 2000}, ("tools", "at most")),
        ("/v1/chat/completions", CHAT | {"stop": ["a"] * 17}, ("stop", "at most 16")),
        ("/v1/chat/completions", CHAT | {"stop": ["a" * 1025]}, ("stop", "1024 characters")),
        ("/api/chat", CHAT | {"options": {"stop": ["a"] * 17}}, ("stop", "at most 16")),
        ("/completion", TEXT | {"stop": ["a"] * 17}, ("stop", "at most 16")),
        ("/v1/chat/completions", CHAT | {"n": 100_000}, ("'n'", "less than or equal to")),
        ("/v1/chat/completions", CHAT | {"logprobs": True, "top_logprobs": 1000}, ("top_logprobs", "less than")),
        ("/completion", TEXT | {"n_probs": 1000}, ("n_probs", "less than or equal to 128")),
        ("/completion", TEXT | {"prompt": ["a"] * 129}, ("prompt", "at most 128")),
        ("/v1/embeddings", {"model": "tiny", "input": ["a"] * 2049}, ("input", "at most 2048")),
        ("/rerank", {"model": "tiny", "query": "a", "documents": ["a"] * 2049}, ("documents", "at most 2048")),
        ("/v1/chat/completions", CHAT | {"metadata": DEEP}, ("nested too deeply",)),
    ],
)
async def test_over_a_limit_is_a_400_that_says_which(
    client: Client, gateway: ScriptedGateway, path: str, body: dict[str, Any], words: tuple[str, ...]
) -> None:
    response = await client.post(path, json=body)
    document = await response.json()
    assert response.status == 400, document
    message = document["error"] if path.startswith("/api/") else document["error"]["message"]
    assert all(word in message for word in words), message
    assert len(message) < 300
    assert gateway.asks == []


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat", "/v1/messages", "/completion", "/swapd/plan"])
async def test_a_body_over_the_limit_is_a_413_that_says_the_limit(serve: Serve, path: str) -> None:
    client = await serve(GuardSettings(max_body=2000))
    response = await client.post(path, json=CHAT | {"filler": "x" * 3000})
    text = await response.text()
    assert response.status == 413
    assert "max_body" in text
    assert "1.95 KiB" in text
