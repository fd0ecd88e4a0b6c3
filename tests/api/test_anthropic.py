"""The Anthropic dialect: what its official client sends and understands, and what it is told when it errs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest

from swapd.api.guard import GuardSettings
from swapd.errors import ContextLengthExceeded, Overloaded, WorkerCrashed
from swapd.generation import CallPart, Chunk, Ending, Message, Role, StopReason, ToolCall, ToolChoice, Usage
from tests.api.conftest import ENDING, Client, Script, ScriptedGateway, Serve

HI: list[Any] = [{"role": "user", "content": "hi"}]
WEATHER: dict[str, Any] = {
    "name": "weather",
    "description": "Tells the weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
USAGE = Usage(prompt=12, cached=5, completion=9)
CALLS: Script = [
    Chunk("", 1, thinking="Hm, "),
    Chunk("", 1, thinking="rain."),
    Chunk("I will ", 1),
    Chunk("ask.", 1),
    Chunk("", 1, calls=(CallPart(0, "toolu_1", "weather", '{"city": '),)),
    Chunk("", 1, calls=(CallPart(0, arguments='"Oslo"}'), CallPart(1, "toolu_2", "weather", "{}"))),
    Ending(StopReason.TOOL_CALLS, USAGE),
]
SHARED = "/v1/models"


@pytest.fixture
async def official(client: Client) -> AsyncIterator[anthropic.AsyncAnthropic]:
    base = str(client.make_url("/"))
    async with anthropic.AsyncAnthropic(base_url=base, api_key="none", max_retries=0) as made:
        yield made


async def post(client: Client, body: dict[str, object]) -> tuple[int, Any]:
    async with client.post("/v1/messages", json={"model": "tiny", "max_tokens": 9, **body}) as response:
        return response.status, await response.json()


async def test_a_message_is_answered(official: anthropic.AsyncAnthropic) -> None:
    answer = await official.messages.create(model="tiny", max_tokens=100, messages=HI)
    assert [block.text for block in answer.content if block.type == "text"] == ["Hello"]
    assert (answer.stop_reason, answer.stop_sequence, answer.model) == ("end_turn", None, "tiny")
    assert (answer.usage.input_tokens, answer.usage.cache_read_input_tokens, answer.usage.output_tokens) == (7, 5, 2)
    assert answer._request_id


async def test_thoughts_text_and_calls_are_blocks(official: anthropic.AsyncAnthropic, gateway: ScriptedGateway) -> None:
    gateway.script = CALLS
    answer = await official.messages.create(model="tiny", max_tokens=100, messages=HI, tools=[WEATHER])  # type: ignore[list-item]
    thought, said, first, second = answer.content
    assert thought.type == "thinking"
    assert thought.thinking == "Hm, rain."
    assert said.type == "text"
    assert said.text == "I will ask."
    assert first.type == "tool_use"
    assert (first.id, first.name, first.input) == ("toolu_1", "weather", {"city": "Oslo"})
    assert second.type == "tool_use"
    assert second.input == {}
    assert answer.stop_reason == "tool_use"


async def test_a_stream_gives_what_a_whole_answer_does(
    official: anthropic.AsyncAnthropic, gateway: ScriptedGateway
) -> None:
    gateway.script = CALLS
    whole = await official.messages.create(model="tiny", max_tokens=100, messages=HI)
    async with official.messages.stream(model="tiny", max_tokens=100, messages=HI) as stream:
        texts = [text async for text in stream.text_stream]
        streamed = await stream.get_final_message()
    assert texts == ["I will ", "ask."]
    assert streamed.model_dump(exclude={"id"}, exclude_none=True) == whole.model_dump(exclude={"id"}, exclude_none=True)


@pytest.mark.parametrize(
    "script", [(Chunk("Hi", 1, prompt=(12, 5)), Ending(StopReason.STOP, USAGE)), (Ending(StopReason.STOP, USAGE),)]
)
async def test_a_stream_begins_with_what_the_prompt_costs(
    client: Client, gateway: ScriptedGateway, script: Script
) -> None:
    gateway.script = script
    async with client.post("/v1/messages", json={"model": "tiny", "messages": HI, "stream": True}) as response:
        text = await response.text()
    data = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    begun = data[0]["message"]["usage"]
    assert (begun["input_tokens"], begun["cache_read_input_tokens"], begun["output_tokens"]) == (7, 5, 0)


@pytest.mark.parametrize(
    ("thinking", "budget"),
    [
        ({"type": "enabled", "budget_tokens": 1024}, 1024),
        ({"type": "enabled", "budget_tokens": 0}, 0),
        ({"type": "enabled"}, None),
        ({"type": "disabled", "budget_tokens": 1024}, None),
        ({"type": "adaptive"}, None),
    ],
)
async def test_the_budget_for_thoughts_reaches_the_gateway(
    client: Client, gateway: ScriptedGateway, thinking: dict[str, object], budget: int | None
) -> None:
    await post(client, {"messages": HI, "thinking": thinking})
    assert gateway.asks[0].request.thinking_budget == budget


async def test_the_events_of_a_stream_come_in_anthropics_order(client: Client, gateway: ScriptedGateway) -> None:
    gateway.script = CALLS
    async with client.post("/v1/messages", json={"model": "tiny", "messages": HI, "stream": True}) as response:
        assert response.content_type == "text/event-stream"
        text = await response.text()
    events = [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]
    data = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    start, delta, stop = "content_block_start", "content_block_delta", "content_block_stop"
    assert events == [
        "message_start",
        "ping",
        *(start, delta, delta, delta, stop),  # two thoughts and their signature
        *(start, delta, delta, stop),
        *(start, delta, delta, stop),
        *(start, delta, stop),
        "message_delta",
        "message_stop",
    ]
    assert [one["type"] for one in data] == events
    assert [one["index"] for one in data if one["type"] == start] == [0, 1, 2, 3]
    assert data[-2]["usage"]["cache_read_input_tokens"] == 5


@pytest.mark.parametrize(
    ("ending", "reason", "stop"),
    [
        (Ending(StopReason.STOP, USAGE), "end_turn", None),
        (Ending(StopReason.STOP, USAGE, "END"), "stop_sequence", "END"),
        (Ending(StopReason.LENGTH, USAGE), "max_tokens", None),
        (Ending(StopReason.TOOL_CALLS, USAGE), "tool_use", None),
    ],
)
async def test_it_says_why_an_answer_ended(
    client: Client, gateway: ScriptedGateway, ending: Ending, reason: str, stop: str | None
) -> None:
    gateway.script = [Chunk("x", 1), ending]
    _, answer = await post(client, {"messages": HI})
    assert (answer["stop_reason"], answer["stop_sequence"]) == (reason, stop)


async def test_a_call_that_was_cut_off_has_no_arguments(client: Client, gateway: ScriptedGateway) -> None:
    gateway.script = [
        Chunk("", 1, calls=(CallPart(0, "a", "weather", '{"city": "Os'),)),
        Ending(StopReason.LENGTH, USAGE),
    ]
    _, answer = await post(client, {"messages": HI})
    assert answer["content"] == [{"type": "tool_use", "id": "a", "name": "weather", "input": {}}]


async def test_a_conversation_with_tools_is_read(client: Client, gateway: ScriptedGateway) -> None:
    body = {
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2; cch=1a2b;"},
            {"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "Be brief."},
        ],
        "metadata": {"user_id": "somebody"},
        "tools": [WEATHER, {"type": "web_search_20250305", "name": "web_search"}],
        "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        "thinking": {"type": "enabled", "budget_tokens": 2000},
        "stop_sequences": ["END"],
        "top_k": 5,
        "messages": [
            {"role": "user", "content": "Rain in Oslo?"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "I must ask.", "signature": "swapd"},
                    {"type": "redacted_thinking", "data": "xyz"},
                    {"type": "text", "text": "One moment."},
                    {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Oslo"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "rain"}]},
                    {"type": "text", "text": "And tomorrow?"},
                ],
            },
            {"role": "user", "content": [{"type": "text", "text": "And then?"}]},
        ],
    }
    status, _ = await post(client, body)
    assert status == 200
    request = gateway.asks[0].request
    assert request.messages == (
        Message(Role.SYSTEM, "Be kind.\nBe brief."),
        Message(Role.USER, "Rain in Oslo?"),
        Message(Role.ASSISTANT, "One moment.", "I must ask.", (ToolCall("t1", "weather", '{"city":"Oslo"}'),)),
        Message(Role.TOOL, "rain", call_id="t1", name="weather"),
        Message(Role.USER, "And tomorrow?\nAnd then?"),
    )
    assert [tool.name for tool in request.tools] == ["weather"]
    assert json.loads(request.tools[0].parameters) == WEATHER["input_schema"]
    assert (request.tool_choice, request.tool_name, request.parallel_calls) == (ToolChoice.REQUIRED, "weather", False)
    assert request.thinking is True
    assert (request.stop, request.sampling.top_k, request.max_tokens, request.continues) == (("END",), 5, 9, False)


async def test_an_assistants_last_message_is_gone_on_from(client: Client, gateway: ScriptedGateway) -> None:
    await post(client, {"messages": [*HI, {"role": "assistant", "content": "The answer is ("}]})
    assert gateway.asks[0].request.continues


@pytest.mark.parametrize(
    ("given", "choice", "parallel"),
    [
        ({"type": "auto"}, ToolChoice.AUTO, True),
        ({"type": "any", "disable_parallel_tool_use": True}, ToolChoice.REQUIRED, False),
        ({"type": "none"}, ToolChoice.NONE, True),
    ],
)
async def test_tool_choices(
    client: Client, gateway: ScriptedGateway, given: dict[str, object], choice: ToolChoice, parallel: bool
) -> None:
    await post(client, {"messages": HI, "tools": [WEATHER], "tool_choice": given})
    request = gateway.asks[0].request
    assert (request.tool_choice, request.parallel_calls) == (choice, parallel)


async def test_a_schema_and_an_effort_are_passed_on(client: Client, gateway: ScriptedGateway) -> None:
    form = {"type": "json_schema", "schema": {"type": "object"}}
    await post(client, {"messages": HI, "output_config": {"effort": "max", "format": form}})
    await post(client, {"messages": HI, "output_format": form, "thinking": {"type": "disabled"}})
    assert [ask.request.schema for ask in gateway.asks] == ['{"type":"object"}'] * 2
    assert [ask.request.effort for ask in gateway.asks] == ["high", ""]
    assert [ask.request.thinking for ask in gateway.asks] == [None, False]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"messages": []}, "at least one message"),
        ({"messages": "hi"}, "a list of messages"),
        ({"messages": [{"role": "oracle", "content": "hi"}]}, "message 0: the role 'oracle' is unknown"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "of the type 'base64'"),
        ({"messages": [{"role": "user", "content": [{"type": "poem"}]}]}, "blocks of the type 'poem' are not served"),
        ({"messages": [{"role": "user", "content": 5}]}, "a string or a list of blocks"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "'tool_use_id'"),
        ({"messages": HI, "tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "their vendor's servers"),
        ({"messages": HI, "tools": [WEATHER, WEATHER]}, "two tools have the name 'weather'"),
        ({"messages": HI, "tools": [{"name": ""}]}, "a tool needs a 'name'"),
        ({"messages": HI, "tools": [WEATHER], "tool_choice": {"type": "tool", "name": "x"}}, "not among the tools"),
        ({"messages": HI, "tool_choice": {"type": "any"}}, "there are no tools"),
        ({"messages": HI, "tools": [WEATHER], "tool_choice": {"type": "tool"}}, "'name' belongs to the type 'tool'"),
        ({"messages": HI, "max_tokens": 0}, "'max_tokens'"),
        ({"messages": HI, "mcp_servers": [{"type": "url", "url": "http://x", "name": "x"}]}, "'mcp_servers'"),
        ({"messages": HI, "system": [{"type": "image"}]}, "an image has its place"),
    ],
)
async def test_what_cannot_be_served_is_refused_in_anthropics_words(
    client: Client, gateway: ScriptedGateway, body: dict[str, object], words: str
) -> None:
    status, answer = await post(client, body)
    assert status == 400
    assert answer["type"] == "error"
    assert answer["error"]["type"] == "invalid_request_error"
    assert words in answer["error"]["message"]
    assert answer["request_id"]
    assert not gateway.asks


async def test_the_official_client_understands_our_errors(
    client: Client, official: anthropic.AsyncAnthropic, gateway: ScriptedGateway
) -> None:
    with pytest.raises(anthropic.NotFoundError, match="model 'nope' not found") as unknown:
        await official.messages.create(model="nope", max_tokens=9, messages=HI)
    assert isinstance(unknown.value.body, dict)
    assert unknown.value.body["error"]["type"] == "not_found_error"
    gateway.refusal = ContextLengthExceeded(5000, 4096)
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long: 5000 tokens > 4096 maximum"):
        await official.messages.create(model="tiny", max_tokens=9, messages=HI)
    gateway.refusal = Overloaded("full")
    with pytest.raises(anthropic.APIStatusError) as busy:
        await official.messages.create(model="tiny", max_tokens=9, messages=HI)
    assert busy.value.response.headers["request-id"] == busy.value.body["request_id"]  # type: ignore[index]
    assert busy.value.body["error"]["type"] == "overloaded_error"  # type: ignore[index]


async def test_what_fails_in_a_stream_is_told_in_it(
    official: anthropic.AsyncAnthropic, gateway: ScriptedGateway
) -> None:
    gateway.script = [Chunk("Hel", 1), WorkerCrashed("tiny", "killed by signal 9")]
    stream = await official.messages.create(model="tiny", max_tokens=9, messages=HI, stream=True)
    with pytest.raises(anthropic.APIStatusError, match="killed by signal 9"):
        _ = [event async for event in stream]


async def test_both_ways_to_send_a_key_are_good(serve: Serve) -> None:
    client = await serve(GuardSettings(api_keys=("secret",)))
    body = {"model": "tiny", "messages": HI}
    document: dict[str, Any] = {}
    for headers, status in (
        ({"x-api-key": "secret"}, 200),
        ({"Authorization": "Bearer secret"}, 200),
        ({"x-api-key": "wrong", "Authorization": "Bearer secret"}, 200),
        ({"x-api-key": "wrong"}, 401),
        ({}, 401),
    ):
        async with client.post("/v1/messages?beta=true", json=body, headers=headers) as response:
            assert response.status == status
            document = await response.json()
    assert document["error"]["type"] == "authentication_error"


async def test_each_vendors_client_gets_the_list_of_models_that_it_can_parse(
    client: Client, official: anthropic.AsyncAnthropic
) -> None:
    listed = [model async for model in official.models.list()]
    assert [model.id for model in listed] == ["tiny", "org/big:7b"]
    shown = await official.models.retrieve("tiny")
    assert (shown.display_name, shown.max_input_tokens, shown.created_at.year) == ("tiny", 4096, 2023)
    with pytest.raises(anthropic.NotFoundError):
        await official.models.retrieve("nope")
    async with client.get(SHARED) as response:
        assert (await response.json())["object"] == "list"


async def test_an_empty_answer_has_no_blocks(client: Client, gateway: ScriptedGateway) -> None:
    gateway.script = [ENDING]
    _, answer = await post(client, {"messages": HI})
    assert answer["content"] == []


async def test_tokens_are_counted_of_the_prompt_that_the_messages_would_make(
    official: anthropic.AsyncAnthropic, client: Client, gateway: ScriptedGateway
) -> None:
    counted = await official.messages.count_tokens(
        model="tiny",
        system="Be kind.",
        messages=HI,
        tools=[WEATHER],  # type: ignore[list-item]
    )
    assert counted.input_tokens == 3
    (asked,) = gateway.questions.rendered
    assert [tool.name for tool in asked.tools] == ["weather"]
    assert not gateway.asks
    with pytest.raises(anthropic.NotFoundError):
        await official.messages.count_tokens(model="nope", messages=HI)
