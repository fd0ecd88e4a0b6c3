"""Vectors and ranks by a real daemon: models made for them, and one that writes text too."""

from __future__ import annotations

import base64
import json
import struct
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from swapd.demo import models
from tests.e2e.conftest import SMOL, Daemon
from tests.gguf_models import tiny_bert

pytestmark = pytest.mark.e2e

CONFIG = """
[catalog]
dirs = ["{folder}"]
[models.writer]
context = 256
slots = 2
[models.vectors]
path = "{smol}"
embedding = true
context = 128
[models.huge]
path = "{smol}"
embedding = true
context = 8192
slots = 64
[memory]
vram_limit = "2GiB"
host_reserve = "0"
[routes]
rerank = ["absent", "ranker"]
embedding = ["huge", "bert"]
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("models")
    smol = Path(models.folder()) / f"{SMOL}.gguf"
    tiny_bert(folder / "bert.gguf")
    tiny_bert(folder / "ranker.gguf", ranks=True)
    (folder / "writer.gguf").symlink_to(smol)
    config = CONFIG.format(folder=folder, smol=smol)
    daemon = Daemon(tmp_path_factory.mktemp("daemon"), config, {}, common="")
    try:
        yield daemon.wait_ready()
    finally:
        daemon.close()


def test_the_official_client_gets_vectors_of_a_model_made_for_them(daemon: Daemon) -> None:
    client = openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="any")
    with client:
        found = client.embeddings.create(model="bert", input=["the cat sat", "the sky is blue"])
    assert [len(entry.embedding) for entry in found.data] == [32, 32]
    assert abs(sum(x * x for x in found.data[0].embedding) - 1) < 1e-4
    assert found.usage.prompt_tokens > 6


def test_a_list_has_the_vectors_that_its_texts_have_alone(daemon: Daemon) -> None:
    texts = ["the cat sat", "a dog", "blue sky is a red mat"] * 40
    _, together = daemon.call("/api/embed", {"model": "bert", "input": texts})
    _, alone = daemon.call("/api/embed", {"model": "bert", "input": texts[2]})
    assert len(together["embeddings"]) == 120
    assert together["embeddings"][-1] == pytest.approx(alone["embeddings"][0], abs=1e-4)


def test_too_long_is_a_400_with_both_numbers_unless_ollama_s_client_lets_it_be_cut(daemon: Daemon) -> None:
    long = "cat " * 200
    status, document = daemon.call("/v1/embeddings", {"model": "bert", "input": [long]})
    assert status == 400
    assert document["error"]["code"] == "context_length_exceeded"
    assert "202 tokens" in document["error"]["message"]
    assert "64" in document["error"]["message"]
    assert daemon.call("/api/embed", {"model": "bert", "input": long, "truncate": False})[0] == 400
    status, document = daemon.call("/api/embed", {"model": "bert", "input": long})
    assert (status, document["prompt_eval_count"]) == (200, 64)


def test_a_model_that_writes_makes_vectors_beside_its_answers(daemon: Daemon) -> None:
    status, document = daemon.call("/v1/embeddings", {"model": "writer", "input": "Hello", "encoding_format": "base64"})
    assert status == 200, document
    assert len(struct.unpack("<576f", base64.b64decode(document["data"][0]["embedding"]))) == 576
    status, document = daemon.call("/v1/embeddings", {"model": "writer", "input": "cat " * 600})
    assert (status, document["error"]["code"]) == (400, "context_length_exceeded")
    assert "`embedding = true`" in document["error"]["message"]
    status, document = daemon.chat("writer")
    assert status == 200, document
    assert document["choices"][0]["message"]["content"]
    loaded = [model for model in daemon.status()["models"] if model["name"] == "writer"]
    assert len(loaded) == 2
    assert daemon.swapctl("unload", "writer").returncode == 0
    assert not [model for model in daemon.status()["models"] if model["name"] == "writer"]


def test_a_model_configured_for_vectors_writes_no_text(daemon: Daemon) -> None:
    assert daemon.call("/api/embeddings", {"model": "vectors", "prompt": "Hello"})[0] == 200
    status, document = daemon.chat("vectors")
    assert status == 400
    assert "makes vectors, no text" in document["error"]["message"]


def test_documents_are_ranked_by_the_model_of_the_route(daemon: Daemon) -> None:
    documents = ["the sky is blue", "a cat sat on the mat", "red"]
    status, document = daemon.call("/v1/rerank", {"query": "the cat", "documents": documents})
    assert status == 200, document
    scores = [result["relevance_score"] for result in document["results"]]
    assert sorted(scores, reverse=True) == scores
    assert sorted(result["index"] for result in document["results"]) == [0, 1, 2]
    status, document = daemon.call("/v1/rerank", {"model": "bert", "query": "the cat", "documents": documents})
    assert status == 501
    assert "cannot rerank" in document["error"]["message"]


def test_the_prediction_covers_what_was_taken(daemon: Daemon) -> None:
    daemon.call("/v1/embeddings", {"model": "bert", "input": ["cat " * 60]})
    (loaded,) = [model for model in daemon.status()["models"] if model["name"] == "bert"]
    assert loaded["predicted"]["host"] >= loaded["measured"]["host"]


def test_routes_fall_back_to_what_can_be_served_and_say_why(daemon: Daemon) -> None:
    model, told = fallback(daemon, "/v1/rerank", {"query": "the cat", "documents": ["a cat"]})
    assert model == "ranker"
    assert told.startswith("absent: model 'absent' not found")
    for path, key in (("/v1/embeddings", "input"), ("/api/embed", "input"), ("/api/embeddings", "prompt")):
        model, told = fallback(daemon, path, {"model": "embedding", key: "the cat"})
        assert model == "bert"
        assert told.startswith("huge: cannot load 'huge': it needs")
    status, document = daemon.call("/v1/embeddings", {"model": "huge", "input": "the cat"})
    assert (status, document["error"]["code"]) == (507, "does_not_fit")


def fallback(daemon: Daemon, path: str, body: object) -> tuple[str, str]:
    """Which model answered, and what is told of those before it."""
    request = urllib.request.Request(daemon.url + path, data=json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=90) as response:
        return response.headers["X-Swapd-Model"], response.headers["X-Swapd-Fallback"]
