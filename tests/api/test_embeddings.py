"""Vectors and ranks in each dialect's words."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest

from swapd.questions import Embed
from tests.api.conftest import Client, ScriptedGateway, make_model


async def post(client: Client, path: str, body: object, status: int = 200) -> Any:
    response = await client.post(path, json=body)
    document = await response.json()
    assert response.status == status, document
    return document


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("abc", ("abc",)),
        (["a", "bc"], ("a", "bc")),
        ([5, 6, 7], ((5, 6, 7),)),
        ([[5], [6, 7]], ((5,), (6, 7))),
    ],
)
async def test_openai_takes_text_and_tokens(
    client: Client, gateway: ScriptedGateway, given: object, read: tuple[object, ...]
) -> None:
    document = await post(client, "/v1/embeddings", {"model": "tiny", "input": given})
    assert [ask.question for ask in gateway.vectors.asks] == [Embed(read)]  # type: ignore[arg-type]
    assert [entry["index"] for entry in document["data"]] == list(range(len(read)))
    assert document["data"][0]["embedding"][:2] == [3.0, 4.0]
    assert (document["object"], document["model"]) == ("list", "tiny")
    count = document["usage"]["prompt_tokens"]
    assert count == document["usage"]["total_tokens"] > 0


async def test_openai_s_base64_is_of_32_bit_floats(client: Client, gateway: ScriptedGateway) -> None:
    body = {"model": "tiny", "input": "abc", "encoding_format": "base64", "dimensions": 3}
    document = await post(client, "/v1/embeddings", body)
    assert struct.unpack("<3f", base64.b64decode(document["data"][0]["embedding"])) == (3, 4, 3)
    assert gateway.vectors.asks[0].question == Embed(("abc",), dimensions=3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"input": []}, "at least one"),
        ({"input": [[]]}, "input"),
        ({"input": [1.5]}, "input"),
        ({"input": None}, "input"),
        ({"input": ["a"] * 2049}, "at most 2048"),
        ({"dimensions": 0}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"),
    ],
)
async def test_openai_refuses_by_name(client: Client, change: dict[str, object], words: str) -> None:
    error = (await post(client, "/v1/embeddings", {"model": "tiny", "input": "a", **change}, 400))["error"]
    assert words in error["message"]


async def test_ollama_cuts_unless_told_not_to(client: Client, gateway: ScriptedGateway) -> None:
    document = await post(client, "/api/embed", {"model": "tiny", "input": ["a", "bc"], "options": {"num_ctx": 5}})
    assert document["embeddings"] == [[3.0, 4.0, 1.0], [3.0, 4.0, 2.0]]
    assert document["prompt_eval_count"] == 3
    assert document["load_duration"] == 250_000_000
    await post(client, "/api/embed", {"model": "tiny", "input": "a", "truncate": False, "dimensions": 2})
    first, second = gateway.vectors.asks
    assert first.question == Embed(("a", "bc"), truncates=True)
    assert second.question == Embed(("a",), truncates=False, dimensions=2)


async def test_ollama_s_older_route_gives_the_vector_as_it_is(client: Client, gateway: ScriptedGateway) -> None:
    document = await post(client, "/api/embeddings", {"model": "tiny", "prompt": "abc"})
    assert document == {"embedding": [3.0, 4.0, 3.0]}
    assert gateway.vectors.asks[0].question == Embed(("abc",), truncates=True, is_normalised=False)


async def test_ollama_s_empty_input_loads_the_model(client: Client, gateway: ScriptedGateway) -> None:
    assert (await post(client, "/api/embed", {"model": "tiny", "keep_alive": "1h"}))["embeddings"] == []
    assert gateway.vectors.asks[0].keep_alive == 3600


async def test_llama_server_s_own_shape(client: Client) -> None:
    document = await post(client, "/embedding", {"model": "tiny", "content": "ab"})
    assert document == [{"index": 0, "embedding": [[3.0, 4.0, 2.0]]}]


async def test_answers_tell_who_made_them(client: Client) -> None:
    response = await client.post("/v1/embeddings", json={"model": "chat", "input": "a"})
    assert response.headers["X-Swapd-Model"] == "org/big:7b"
    assert response.headers["X-Swapd-Placement"] == "100% GPU"


async def test_documents_come_back_best_first(client: Client, gateway: ScriptedGateway) -> None:
    gateway.known["ranker"] = make_model("ranker", pooling="rank")
    body = {"model": "ranker", "query": "abc", "documents": ["a", {"text": "abc"}, "ab"], "top_n": 2}
    document = await post(client, "/v1/rerank", {**body, "return_documents": True})
    assert document["results"] == [
        {"index": 1, "relevance_score": 3.0, "document": {"text": "abc"}},
        {"index": 2, "relevance_score": 2.0, "document": {"text": "ab"}},
    ]
    assert document["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    told = await post(client, "/rerank", {"model": "ranker", "query": "abc", "texts": ["a", "ab"]})
    assert told == [{"index": 1, "score": 2.0}, {"index": 0, "score": 1.0}]


async def test_a_model_that_cannot_rerank_is_told_as_llama_server_tells_it(
    client: Client, gateway: ScriptedGateway
) -> None:
    error = (await post(client, "/rerank", {"model": "tiny", "query": "a", "documents": ["b"]}, 501))["error"]
    assert error["type"] == "not_supported_error"
    assert "cannot rerank with 'tiny'" in error["message"]
    gateway.known["ranker"] = make_model("ranker", pooling="rank")
    refused = (await post(client, "/v1/embeddings", {"model": "ranker", "input": "a"}, 400))["error"]
    assert "it ranks documents" in refused["message"]
    assert gateway.vectors.asks == []


@pytest.mark.parametrize("body", [{"query": "a"}, {"query": "a", "documents": []}, {"documents": ["a"]}])
async def test_rerank_needs_a_query_and_documents(client: Client, body: dict[str, object]) -> None:
    assert (await post(client, "/rerank", {"model": "tiny", **body}, 400))["error"]["code"] == 400
