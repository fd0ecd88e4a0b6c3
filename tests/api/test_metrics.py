"""GET /metrics, and which requests are counted how."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from swapd.errors import DoesNotFit, WorkerCrashed
from swapd.generation import Chunk
from tests.api.conftest import Client, ScriptedGateway

PROMISED = {
    "swapd_requests_total",
    "swapd_request_seconds",
    "swapd_time_to_first_token_seconds",
    "swapd_queue_seconds",
    "swapd_load_seconds",
    "swapd_loads_total",
    "swapd_evictions_total",
    "swapd_resident_bytes",
    "swapd_device_free_bytes",
    "swapd_device_total_bytes",
    "swapd_tokens_total",
    "swapd_prompt_tokens_restored_total",
    "swapd_worker_crashes_total",
}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}


async def page(client: Client) -> str:
    response = await client.get("/metrics")
    assert response.status == 200
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    return await response.text()


async def requests(client: Client) -> dict[tuple[str, str, str], float]:
    """By model, dialect and outcome."""
    return {
        (sample.labels["model"], sample.labels["dialect"], sample.labels["outcome"]): sample.value
        for family in text_string_to_metric_families(await page(client))
        for sample in family.samples
        if sample.name == "swapd_requests_total"
    }


async def test_every_promised_name_is_there_and_parses(client: Client) -> None:
    text = await page(client)
    assert {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")} == PROMISED
    assert list(text_string_to_metric_families(text))


async def test_requests_count_by_the_catalog_s_name_and_their_dialect(client: Client) -> None:
    await client.post("/v1/chat/completions", json=CHAT)
    await client.post("/v1/chat/completions", json=CHAT | {"model": "chat"})
    await client.post("/api/chat", json=CHAT)
    await client.post("/completion", json={"model": "tiny", "prompt": "Hi"})
    await client.post("/v1/embeddings", json={"model": "tiny", "input": "Hi"})
    assert await requests(client) == {
        ("tiny", "openai", "ok"): 2,
        ("org/big:7b", "openai", "ok"): 1,
        ("tiny", "ollama", "ok"): 1,
        ("tiny", "llama-server", "ok"): 1,
    }


async def test_names_that_callers_make_up_are_no_labels(client: Client) -> None:
    for number in range(5):
        await client.post("/v1/chat/completions", json=CHAT | {"model": f"made-up-{number}"})
    assert await requests(client) == {("", "openai", "model_not_found"): 5}


@pytest.mark.parametrize("streamed", [False, True])
async def test_failures_count_by_their_code(client: Client, gateway: ScriptedGateway, streamed: bool) -> None:
    gateway.refusal = DoesNotFit("tiny", "cuda:0", 2, 1, ())
    await client.post("/v1/chat/completions", json=CHAT | {"stream": streamed})
    assert await requests(client) == {("tiny", "openai", "does_not_fit"): 1}


async def test_a_failure_inside_a_stream_counts_too(client: Client, gateway: ScriptedGateway) -> None:
    gateway.script = (Chunk("Hel", 1), WorkerCrashed("tiny", "killed"))
    response = await client.post("/v1/chat/completions", json=CHAT | {"stream": True})
    assert response.status == 200
    await response.text()
    assert await requests(client) == {("tiny", "openai", "worker_crashed"): 1}


async def test_who_goes_away_is_counted_as_cancelled(client: Client, gateway: ScriptedGateway) -> None:
    gateway.hold = asyncio.Event()
    asked = asyncio.create_task(client.post("/v1/chat/completions", json=CHAT))
    await gateway.wait_open(1)
    asked.cancel()
    await gateway.wait_open(0)
    assert await requests(client) == {("tiny", "openai", "cancelled"): 1}
