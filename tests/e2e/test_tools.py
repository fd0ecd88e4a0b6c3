"""Tools and thinking through the official clients: forced calls on models whose templates know no tools."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import jsonschema
import ollama
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionMessageFunctionToolCall

from tests.e2e.conftest import GEMMA, SMOL, Daemon

pytestmark = pytest.mark.e2e

SCHEMA: Final = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
    },
    "required": ["city", "days"],
}
WEATHER: Final[Any] = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Tells the weather of a city.", "parameters": SCHEMA},
}
TIME: Final[Any] = {"type": "function", "function": {"name": "get_time", "description": "Tells the time."}}
QUESTION: Final[Any] = {"role": "user", "content": "What is the weather in Paris for three days?"}
NAMED: Final[Any] = {"type": "function", "function": {"name": "get_weather"}}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    started = Daemon(tmp_path_factory.mktemp("tools"), "", {})
    try:
        yield started.wait_ready()
    finally:
        started.close()


@pytest.fixture
def client(daemon: Daemon) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0) as official:
        yield official


def made(answer: ChatCompletion) -> list[ChatCompletionMessageFunctionToolCall]:
    calls = answer.choices[0].message.tool_calls or []
    return [call for call in calls if call.type == "function"]


def fits(arguments: str) -> bool:
    jsonschema.validate(json.loads(arguments), SCHEMA)
    return True


@pytest.mark.parametrize("model", [SMOL, GEMMA])
def test_forced_calls_are_valid_on_every_model(client: openai.OpenAI, model: str) -> None:
    for choice in ("required", NAMED):
        answer = client.chat.completions.create(
            model=model,
            messages=[QUESTION],
            tools=[WEATHER, TIME] if choice is NAMED else [WEATHER],
            tool_choice=choice,
            parallel_tool_calls=False,
            max_tokens=200,
            seed=3,
        )
        assert answer.choices[0].finish_reason == "tool_calls"
        (call,) = made(answer)
        assert call.function.name == "get_weather"
        assert fits(call.function.arguments)


@pytest.mark.parametrize("model", [SMOL, GEMMA])
def test_forced_calls_stream(client: openai.OpenAI, model: str) -> None:
    stream = client.chat.completions.create(
        model=model,
        messages=[QUESTION],
        tools=[WEATHER],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=200,
        temperature=0,
        stream=True,
    )
    choices = [chunk.choices[0] for chunk in stream]
    parts = [part for choice in choices for part in choice.delta.tool_calls or ()]
    assert choices[-1].finish_reason == "tool_calls"
    assert [part.function.name for part in parts if part.function and part.function.name] == ["get_weather"]
    assert len(parts) > 3, "arguments come as they grow"
    assert fits("".join(part.function.arguments or "" for part in parts if part.function))


def test_a_conversation_goes_on_with_results(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(
        model=SMOL, messages=[QUESTION], tools=[WEATHER], tool_choice=NAMED, parallel_tool_calls=False, temperature=0
    )
    (call,) = made(first)
    messages: Any = [
        QUESTION,
        first.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "Sunny, 21 degrees"},
    ]
    second = client.chat.completions.create(
        model=SMOL, messages=messages, tools=[WEATHER], tool_choice="none", max_tokens=30, temperature=0
    )
    assert second.choices[0].message.content
    assert not second.choices[0].message.tool_calls
    again = client.chat.completions.create(
        model=SMOL, messages=messages, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False, max_tokens=99
    )
    assert again.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("streamed", [False, True])
def test_ollamas_client_gives_tools_and_gets_words_or_calls(daemon: Daemon, streamed: bool) -> None:
    """Nothing forces a call there: what comes is text, or a call with arguments that are an object."""
    called = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "get_time", "arguments": {}}}]}
    messages: Any = [QUESTION, called, {"role": "tool", "tool_name": "get_time", "content": "noon"}]
    with ollama.Client(host=daemon.url) as other:
        options = {"temperature": 0, "num_predict": 24}
        if streamed:
            parts = list(other.chat(SMOL, messages, tools=[WEATHER, TIME], options=options, stream=True))
        else:
            parts = [other.chat(SMOL, messages, tools=[WEATHER, TIME], options=options, think=False)]
    assert parts[-1].done
    text = "".join(part.message.content or "" for part in parts)
    calls = [call for part in parts for call in part.message.tool_calls or ()]
    assert text or calls
    assert all(isinstance(call.function.arguments, dict) for call in calls)


def test_thoughts_come_apart_from_the_answer(daemon: Daemon) -> None:
    """A template that opens thoughts: all that is said up to its mark is one."""
    template = "{{ messages[0].content }}<think>\n{# </think> #}"
    status, answer = daemon.chat(SMOL, chat_template=template, response_format={"type": "json_object"}, max_tokens=24)
    assert status == 200, answer
    message = answer["choices"][0]["message"]
    assert message["reasoning_content"]
    assert message["content"] == "" or message["content"].startswith("{")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"tools": [TIME, TIME]}, "two tools"),
        ({"tools": [TIME], "tool_choice": NAMED}, "not among the tools"),
        (
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {
                            "name": "odd",
                            "parameters": {"type": "object", "properties": {"a": {"not": {"type": "string"}}}},
                        },
                    }
                ],
                "tool_choice": "required",
            },
            "cannot force tool 'odd'",
        ),
        ({"chat_template": "{{ raise_exception('only haiku') }}"}, "only haiku"),
    ],
)
def test_what_cannot_be_done_is_a_400_with_the_reason(daemon: Daemon, more: dict[str, Any], words: str) -> None:
    status, answer = daemon.chat(SMOL, **more)
    assert status == 400
    assert words in answer["error"]["message"]
