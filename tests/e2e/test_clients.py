"""The official clients of the imitated APIs against a live daemon with a real model."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import anthropic
import ollama
import openai
import pydantic
import pytest

from tests.e2e.conftest import GEMMA, SMOL, Daemon

pytestmark = pytest.mark.e2e

HELLO: Any = [{"role": "user", "content": "Say hello."}]
COLD = {"temperature": 0}
"""As an extra: newer releases of Anthropic's client have no such argument any more."""
LONG: Any = [{"role": "user", "content": "word " * 3000}]
"""More than the context of 2048 tokens."""


CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]}
RAIN: Any = [{"role": "user", "content": "Does it rain in Oslo?"}]


@pytest.fixture
def chat(daemon: Daemon) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def claude(daemon: Daemon) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=daemon.url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def llama(daemon: Daemon) -> Iterator[ollama.Client]:
    with ollama.Client(host=daemon.url) as client:
        yield client


class TestOpenAI:
    def test_a_stream_says_what_a_whole_answer_does(self, chat: openai.OpenAI) -> None:
        about: Any = {"model": SMOL, "messages": HELLO, "temperature": 0, "max_tokens": 16}
        whole = chat.chat.completions.create(**about)
        stream = chat.chat.completions.create(**about, stream=True, stream_options={"include_usage": True})
        chunks = list(stream)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == whole.choices[0].message.content != ""
        assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens

    async def test_several_callers_are_answered_at_one_time(self, daemon: Daemon) -> None:
        async with openai.AsyncOpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0) as client:
            asked = [
                client.chat.completions.create(model=model, messages=HELLO, max_tokens=8)
                for model in (SMOL, GEMMA, SMOL, SMOL)
            ]
            answers = await asyncio.gather(*asked)
        assert [answer.model for answer in answers] == [SMOL, GEMMA, SMOL, SMOL]

    def test_an_answer_follows_a_class(self, chat: openai.OpenAI) -> None:
        class City(pydantic.BaseModel):
            name: str
            is_capital: bool

        messages: Any = [{"role": "user", "content": "Describe Paris."}]
        parsed = chat.chat.completions.parse(
            model=SMOL, messages=messages, temperature=0, max_tokens=100, response_format=City
        )
        assert isinstance(parsed.choices[0].message.parsed, City)
        response = chat.responses.parse(
            model=SMOL, input="Describe Paris.", temperature=0, max_output_tokens=100, text_format=City
        )
        assert isinstance(response.output_parsed, City)

    def test_responses_are_created_and_streamed(self, chat: openai.OpenAI) -> None:
        about: Any = {"model": SMOL, "input": "Say hello.", "temperature": 0, "max_output_tokens": 64}
        whole = chat.responses.create(**about)
        with chat.responses.stream(**about) as stream:
            text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
            assert stream.get_final_response().output_text == text == whole.output_text != ""
        cut_off = chat.responses.create(**{**about, "max_output_tokens": 1})
        assert cut_off.status == "incomplete"

    def test_a_tool_is_called_and_its_result_read(self, chat: openai.OpenAI) -> None:
        weather: Any = {"type": "function", "name": "weather", "parameters": CITY}
        about: Any = {"model": SMOL, "tools": [weather], "temperature": 0, "max_output_tokens": 60}
        (call,) = chat.responses.create(input=RAIN, tool_choice="required", parallel_tool_calls=False, **about).output
        assert call.type == "function_call"
        assert (call.name, list(json.loads(call.arguments))) == ("weather", ["city"])
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "It rains."}
        items: Any = [*RAIN, call.model_dump(), result]
        answer = chat.responses.create(input=items, tool_choice="none", **about)
        assert answer.output_text

    def test_plain_completions(self, chat: openai.OpenAI) -> None:
        answer = chat.completions.create(model=SMOL, prompt=["One, two,", "A, b,"], max_tokens=4, temperature=0)
        assert len(answer.choices) == 2

    def test_errors_are_its_own(self, chat: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError, match="smollm2-135m"):
            chat.responses.create(model="smollm3-135m", input="hi")
        with pytest.raises(openai.BadRequestError) as long:
            chat.chat.completions.create(model=SMOL, messages=LONG)
        assert long.value.code == "context_length_exceeded"

    def test_models_are_listed(self, chat: openai.OpenAI) -> None:
        assert {SMOL, GEMMA} <= {model.id for model in chat.models.list()}


class TestAnthropic:
    def test_a_stream_says_what_a_whole_answer_does(self, claude: anthropic.Anthropic) -> None:
        about: Any = {"model": SMOL, "system": "Be brief.", "messages": HELLO, "max_tokens": 16, "extra_body": COLD}
        whole = claude.messages.create(**about)
        with claude.messages.stream(**about) as stream:
            text = stream.get_final_text()
            usage = stream.get_final_message().usage
        (block,) = whole.content
        assert block.type == "text"
        assert block.text == text != ""
        assert usage.cache_read_input_tokens
        assert usage.input_tokens + usage.cache_read_input_tokens == whole.usage.input_tokens + (
            whole.usage.cache_read_input_tokens or 0
        )

    def test_tokens_are_counted_as_they_are_read(self, claude: anthropic.Anthropic) -> None:
        about: Any = {"model": SMOL, "system": "Be brief.", "messages": HELLO}
        counted = claude.messages.count_tokens(**about).input_tokens
        usage = claude.messages.create(**about, max_tokens=1).usage
        assert counted == usage.input_tokens + (usage.cache_read_input_tokens or 0)

    def test_an_answer_goes_on_from_a_beginning(self, claude: anthropic.Anthropic) -> None:
        beginning: Any = [*HELLO, {"role": "assistant", "content": "Hello, my dear"}]
        answer = claude.messages.create(model=SMOL, messages=beginning, max_tokens=8, extra_body=COLD)
        (block,) = answer.content
        assert block.type == "text"
        assert not block.text.startswith("Hello, my dear")

    def test_a_stop_sequence_ends_it(self, claude: anthropic.Anthropic) -> None:
        about: Any = {"model": SMOL, "messages": HELLO, "max_tokens": 32, "extra_body": COLD}
        (said,) = claude.messages.create(**about).content
        assert said.type == "text"
        word = said.text.split()[1]
        answer = claude.messages.create(**about, stop_sequences=[word])
        assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", word)

    def test_a_tool_is_called_and_its_result_read(self, claude: anthropic.Anthropic) -> None:
        weather = {"name": "weather", "description": "Tells the weather.", "input_schema": CITY}
        about: Any = {"model": SMOL, "tools": [weather], "max_tokens": 60, "extra_body": COLD}
        forced: Any = {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}
        asked = claude.messages.create(messages=RAIN, tool_choice=forced, **about)
        with claude.messages.stream(messages=RAIN, tool_choice=forced, **about) as stream:
            assert [b.to_dict() | {"id": ""} for b in stream.get_final_message().content] == [
                b.to_dict() | {"id": ""} for b in asked.content
            ]
        (call,) = asked.content
        assert call.type == "tool_use"
        assert (asked.stop_reason, call.name, list(call.input)) == ("tool_use", "weather", ["city"])
        result: Any = [{"type": "tool_result", "tool_use_id": call.id, "content": "It rains."}]
        turns: Any = [*RAIN, {"role": "assistant", "content": asked.content}, {"role": "user", "content": result}]
        answer = claude.messages.create(messages=turns, **about)
        assert answer.content

    async def test_callers_may_be_asynchronous(self, daemon: Daemon) -> None:
        async with anthropic.AsyncAnthropic(base_url=daemon.url, api_key="none", max_retries=0) as client:
            async with client.messages.stream(model=SMOL, messages=HELLO, max_tokens=8) as stream:
                texts = [text async for text in stream.text_stream]
            assert texts
            assert {SMOL, GEMMA} <= {model.id async for model in client.models.list()}

    def test_errors_are_its_own(self, claude: anthropic.Anthropic) -> None:
        with pytest.raises(anthropic.NotFoundError):
            claude.messages.create(model="nope", messages=HELLO, max_tokens=8)
        with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: 30\d\d tokens > 2048 maximum"):
            claude.messages.create(model=SMOL, messages=LONG, max_tokens=8)


class TestOllama:
    def test_chats_and_generates(self, llama: ollama.Client) -> None:
        options = {"temperature": 0, "num_predict": 16, "num_ctx": 1024, "num_gpu": 0, "num_thread": 1}
        whole = llama.chat(SMOL, messages=HELLO, options=options)
        parts = list(llama.chat(SMOL, messages=HELLO, options=options, stream=True))
        assert "".join(part.message.content or "" for part in parts) == whole.message.content != ""
        assert parts[-1].done_reason in ("stop", "length")
        generated = llama.generate(SMOL, "Say hello.", options=options)
        assert generated.response == whole.message.content

    def test_options_of_the_load_reload_nothing(self, daemon: Daemon, llama: ollama.Client) -> None:
        llama.generate(SMOL, "hi", options={"num_predict": 1})
        loads = daemon.status()["counters"]["loads"]
        for options in ({"num_ctx": 512}, {"num_ctx": 2048}, {"num_gpu": 5}, {"num_thread": 4}, {"num_batch": 64}):
            llama.generate(SMOL, "hi", options={"num_predict": 1, **options})
        with pytest.raises(ollama.ResponseError, match="a context of 2048"):
            llama.generate(SMOL, "hi", options={"num_ctx": 4096})
        assert daemon.status()["counters"]["loads"] == loads

    def test_a_conversation_goes_on_with_its_context(self, llama: ollama.Client) -> None:
        options = {"temperature": 0, "num_predict": 12}
        first = llama.generate(SMOL, "My name is Ann. Say hello to me.", options=options)
        second = llama.generate(SMOL, "What is my name?", context=first.context, options=options)
        assert first.context is not None
        assert second.context is not None
        assert second.context[: len(first.context)] == first.context
        # What was said before is still in the slot.
        assert second.prompt_eval_count is not None
        assert second.prompt_eval_count < len(first.context)

    def test_models_are_shown_loaded_and_let_go(self, daemon: Daemon, llama: ollama.Client) -> None:
        assert {SMOL, GEMMA} <= {model.model for model in llama.list().models}
        shown = llama.show(SMOL)
        assert shown.template is not None
        assert "<|im_start|>" in shown.template
        assert shown.capabilities == ["completion", "tools"]
        assert llama.generate(SMOL, keep_alive="10m").done_reason == "load"
        running = {model.model: model for model in llama.ps().models}
        assert running[SMOL].context_length == 2048
        assert llama.generate(SMOL, keep_alive=0).done_reason == "unload"
        daemon.wait_status(lambda status: SMOL not in {model["name"] for model in status["models"]})

    def test_formats_are_followed(self, llama: ollama.Client) -> None:
        schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
        answer = llama.chat(SMOL, messages=HELLO, format=schema, options={"num_predict": 60, "temperature": 0})
        assert answer.message.content is not None
        assert answer.message.content.lstrip().startswith("{")

    async def test_callers_may_be_asynchronous(self, daemon: Daemon) -> None:
        async with ollama.AsyncClient(host=daemon.url) as client:
            stream = await client.chat(SMOL, messages=HELLO, stream=True, options={"num_predict": 8})
            assert [part async for part in stream][-1].eval_count

    def test_errors_are_its_own(self, llama: ollama.Client) -> None:
        for status, call in (
            (404, lambda: llama.show("nope")),
            (403, lambda: llama.pull("nope")),
            (403, lambda: llama.delete(SMOL)),
            (400, lambda: llama.generate(SMOL, "hi", images=[b"x"])),
            (400, lambda: llama.chat(SMOL, messages=LONG)),
            (400, lambda: llama.generate(SMOL, "hi", suffix="x")),
        ):
            with pytest.raises(ollama.ResponseError) as refused:
                call()
            assert refused.value.status_code == status


@pytest.mark.parametrize("name", ["openai-python", "ollama-python"])
def test_the_programs_that_swapctl_prints_run(daemon: Daemon, name: str) -> None:
    line = [sys.executable, "-m", "swapd.ctl", "--url", daemon.url, "clients", name, "--model", SMOL]
    program = subprocess.run(line, capture_output=True, text=True, check=True, timeout=60).stdout
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
