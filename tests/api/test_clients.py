"""The official clients against the application: what they understand is what users see."""

from __future__ import annotations

from collections.abc import AsyncIterator

import ollama
import openai
import pytest

from swapd.errors import DoesNotFit, Overloaded, WorkerCrashed
from swapd.generation import Chunk
from swapd.units import GiB
from tests.api.conftest import Client, ScriptedGateway


@pytest.fixture
async def openai_client(client: Client) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=str(client.make_url("/v1")), api_key="none", max_retries=0) as official:
        yield official


@pytest.fixture
async def ollama_client(client: Client) -> AsyncIterator[ollama.AsyncClient]:
    async with ollama.AsyncClient(host=str(client.make_url("/"))) as official:
        yield official


async def test_openai_chats(openai_client: openai.AsyncOpenAI) -> None:
    answer = await openai_client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hi"}])
    assert answer.choices[0].message.content == "Hello"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 5


async def test_openai_streams(openai_client: openai.AsyncOpenAI) -> None:
    stream = await openai_client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "hi"}],
        stream=True,
        stream_options={"include_usage": True},
        extra_headers={"X-Swapd-Progress": "1"},
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hello"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 14


async def test_openai_completes(openai_client: openai.AsyncOpenAI) -> None:
    answer = await openai_client.completions.create(model="tiny", prompt=["a", "b"])
    assert [choice.text for choice in answer.choices] == ["Hello", "Hello"]
    stream = await openai_client.completions.create(model="tiny", prompt="a", stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == "Hello"


async def test_openai_lists_models(openai_client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in openai_client.models.list()] == ["tiny", "org/big:7b"]
    assert (await openai_client.models.retrieve("org/big:7b")).owned_by == "swapd"


async def test_openai_understands_our_errors(openai_client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        await openai_client.chat.completions.create(model="nope", messages=[{"role": "user", "content": "hi"}])
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        await openai_client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hi"}], n=0)
    assert bad.value.param == "n"


async def test_openai_raises_what_fails_in_a_stream(
    openai_client: openai.AsyncOpenAI, gateway: ScriptedGateway
) -> None:
    gateway.script = [Chunk("Hel", 1), WorkerCrashed("tiny", "killed by signal 9")]
    stream = await openai_client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "hi"}], stream=True
    )
    with pytest.raises(openai.APIError, match="killed by signal 9"):
        _ = [chunk async for chunk in stream]


async def test_openai_retries_what_may_pass_and_not_what_stays(client: Client, gateway: ScriptedGateway) -> None:
    """The client would ask three times; the answers tell it when that helps."""
    async with openai.AsyncOpenAI(base_url=str(client.make_url("/v1")), api_key="none", max_retries=1) as official:
        for error, attempts in ((DoesNotFit("tiny", "cuda:0", GiB, 0, ()), 1), (Overloaded("full", 0.0), 2)):
            gateway.asks.clear()
            gateway.refusal = error
            with pytest.raises(openai.InternalServerError):
                await official.completions.create(model="tiny", prompt="hi")
            assert len(gateway.asks) == attempts


async def test_ollama_chats_and_generates(ollama_client: ollama.AsyncClient, gateway: ScriptedGateway) -> None:
    chat = await ollama_client.chat("tiny", messages=[{"role": "user", "content": "hi"}], options={"temperature": 0})
    assert chat.message.content == "Hello"
    assert (chat.done_reason, chat.prompt_eval_count, chat.eval_count) == ("stop", 7, 2)
    generated = await ollama_client.generate("tiny", "hi", system="be kind", keep_alive="5m", think=False)
    assert generated.response == "Hello"
    assert gateway.asks[0].request.sampling.temperature == 0
    assert gateway.asks[1].keep_alive == 300


async def test_ollama_streams(ollama_client: ollama.AsyncClient) -> None:
    chat = await ollama_client.chat("tiny", messages=[{"role": "user", "content": "hi"}], stream=True)
    parts = [part async for part in chat]
    assert "".join(part.message.content or "" for part in parts) == "Hello"
    assert [part.done for part in parts] == [False, False, True]


async def test_ollama_loads_and_unloads(ollama_client: ollama.AsyncClient) -> None:
    assert (await ollama_client.generate("tiny")).done_reason == "load"
    assert (await ollama_client.generate("tiny", keep_alive=0)).done_reason == "unload"


async def test_ollama_reads_lists_and_shows(ollama_client: ollama.AsyncClient) -> None:
    listed = (await ollama_client.list()).models
    assert [model.model for model in listed] == ["tiny", "org/big:7b"]
    assert listed[0].details is not None
    assert listed[0].details.quantization_level == "Q4_1"
    running = (await ollama_client.ps()).models
    assert running[0].expires_at is not None
    assert running[0].context_length == 4096
    shown = await ollama_client.show("tiny")
    assert shown.modelinfo is not None
    assert shown.modelinfo["llama.context_length"] == 8192


async def test_ollama_understands_our_errors(ollama_client: ollama.AsyncClient, gateway: ScriptedGateway) -> None:
    with pytest.raises(ollama.ResponseError, match="model 'nope' not found") as unknown:
        await ollama_client.chat("nope", messages=[{"role": "user", "content": "hi"}])
    assert unknown.value.status_code == 404
    with pytest.raises(ollama.ResponseError) as refused:
        await ollama_client.delete("tiny")
    assert refused.value.status_code == 403
    gateway.script = [Chunk("Hel", 1), WorkerCrashed("tiny", "killed by signal 9")]
    stream = await ollama_client.generate("tiny", "hi", stream=True)
    with pytest.raises(ollama.ResponseError, match="killed by signal 9"):
        _ = [part async for part in stream]
