"""OpenAI's Responses dialect: what its official client sends and understands."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from swapd.errors import ContextLengthExceeded, WorkerCrashed
from swapd.generation import (
    CallPart,
    Chunk,
    Ending,
    Likelihood,
    Message,
    Role,
    StopReason,
    TokenLogprob,
    ToolCall,
    ToolChoice,
    Usage,
)
from tests.api.conftest import ENDING, Client, Script, ScriptedGateway

PATH = "/v1/responses"
WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "weather",
    "description": "Tells the weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
SPAWN: dict[str, Any] = {
    "type": "namespace",
    "name": "agents",
    "tools": [{"type": "function", "name": "spawn", "parameters": {"type": "object"}}],
}
PATCH: dict[str, Any] = {"type": "custom", "name": "patch", "description": "Changes files."}
USAGE = Usage(prompt=12, cached=5, completion=9)
CALLS: Script = [
    Chunk("", 1, thinking="Hm, "),
    Chunk("", 1, thinking="rain."),
    Chunk("I will ", 1),
    Chunk("ask.", 1),
    Chunk("", 1, calls=(CallPart(0, "c1", "weather", '{"city": '),)),
    Chunk("", 1, calls=(CallPart(0, arguments='"Oslo"}'), CallPart(1, "c2", "agents__spawn", "{}"))),
    Chunk("", 1, calls=(CallPart(2, "c3", "patch", '{"input": "+ one\\n'), CallPart(2, arguments='+ two"}'))),
    Ending(StopReason.TOOL_CALLS, USAGE),
]
ITEMS: list[dict[str, Any]] = [
    {"role": "developer", "content": "Be brief."},
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Rain in Oslo?"}]},
    {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "I must ask."}]},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "One moment."}]},
    {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Oslo"}'},
    {"type": "function_call", "call_id": "c2", "name": "spawn", "namespace": "agents", "arguments": ""},
    {"type": "custom_tool_call", "call_id": "c3", "name": "patch", "input": "+ one"},
    {"type": "function_call_output", "call_id": "c1", "output": "rain"},
    {"type": "custom_tool_call_output", "call_id": "c3", "output": [{"type": "input_text", "text": "done"}]},
    {"type": "message", "role": "system", "content": "The user is tired."},
    {"role": "user", "content": "And tomorrow?"},
]


@pytest.fixture
async def official(client: Client) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=str(client.make_url("/v1")), api_key="none", max_retries=0) as made:
        yield made


async def post(client: Client, body: dict[str, object]) -> tuple[int, Any]:
    async with client.post(PATH, json={"model": "tiny", "input": "hi", **body}) as response:
        return response.status, await response.json()


async def test_a_response_is_created(official: openai.AsyncOpenAI, gateway: ScriptedGateway) -> None:
    answer = await official.responses.create(
        model="tiny", input="hi", instructions="Be kind.", max_output_tokens=50, temperature=0, store=True
    )
    assert answer.output_text == "Hello"
    assert (answer.status, answer.model, answer.instructions) == ("completed", "tiny", "Be kind.")
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.input_tokens_details.cached_tokens) == (12, 5)
    request = gateway.asks[0].request
    assert request.messages == (Message(Role.SYSTEM, "Be kind."), Message(Role.USER, "hi"))
    assert (request.max_tokens, request.sampling.temperature) == (50, 0)


async def test_likelihoods_stand_beside_the_text(official: openai.AsyncOpenAI, gateway: ScriptedGateway) -> None:
    likely = Likelihood(7, b"Hi", -0.5)
    gateway.script = [Chunk("Hi", 1, logprobs=(TokenLogprob(likely, (likely,)),)), ENDING]
    more: Any = {"top_logprobs": 1, "include": ["message.output_text.logprobs"]}
    whole = await official.responses.create(model="tiny", input="hi", **more)
    (part,) = whole.output[0].content
    (told,) = part.logprobs
    assert (told.token, told.logprob, told.bytes) == ("Hi", -0.5, [72, 105])
    assert [other.token for other in told.top_logprobs] == ["Hi"]
    stream = await official.responses.create(model="tiny", input="hi", stream=True, **more)
    events = [event async for event in stream]
    deltas = [event.logprobs for event in events if event.type == "response.output_text.delta"]
    assert [[one.token for one in told] for told in deltas] == [["Hi"]]
    await official.responses.create(model="tiny", input="hi")
    await official.responses.create(model="tiny", input="hi", include=["message.output_text.logprobs"])
    assert [ask.request.logprobs for ask in gateway.asks] == [1, 1, None, 0]


async def test_a_response_tells_what_was_thought_and_when_it_was_done(
    official: openai.AsyncOpenAI, gateway: ScriptedGateway
) -> None:
    gateway.script = [Chunk("", 3, thinking="Hm."), Chunk("4", 1), ENDING]
    whole = await official.responses.create(model="tiny", input="2+2")
    assert whole.usage is not None
    assert whole.usage.output_tokens_details.reasoning_tokens == 3
    assert whole.completed_at is not None
    assert whole.completed_at >= whole.created_at
    stream = await official.responses.create(model="tiny", input="2+2", stream=True)
    last = [event async for event in stream][-1]
    assert last.type == "response.completed"
    assert last.response.usage == whole.usage


async def test_thoughts_text_and_calls_are_items(official: openai.AsyncOpenAI, gateway: ScriptedGateway) -> None:
    gateway.script = CALLS
    answer = await official.responses.create(model="tiny", input="hi", tools=[WEATHER, SPAWN, PATCH])  # type: ignore[list-item]
    thought, said, call, spawned, patched = answer.output
    assert thought.type == "reasoning"
    assert thought.content is not None
    assert thought.content[0].text == "Hm, rain."
    assert said.type == "message"
    assert answer.output_text == "I will ask."
    assert call.type == "function_call"
    assert (call.call_id, call.name, json.loads(call.arguments)) == ("c1", "weather", {"city": "Oslo"})
    assert spawned.type == "function_call"
    assert (spawned.name, spawned.namespace) == ("spawn", "agents")
    assert patched.type == "custom_tool_call"
    assert (patched.name, patched.input) == ("patch", "+ one\n+ two")
    assert len({item.id for item in answer.output}) == 5


async def test_a_stream_gives_what_a_whole_answer_does(official: openai.AsyncOpenAI, gateway: ScriptedGateway) -> None:
    gateway.script = CALLS
    tools: Any = [WEATHER, SPAWN, PATCH]
    whole = await official.responses.create(model="tiny", input="hi", tools=tools)
    streamed = await official.responses.create(model="tiny", input="hi", tools=tools, stream=True)
    events = [event async for event in streamed]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = events[-1]
    assert last.type == "response.completed"
    different = {"id", "created_at", "completed_at", "output"}
    assert last.response.model_dump(exclude=different) == whole.model_dump(exclude=different)
    assert [item.model_dump(exclude={"id"}) for item in last.response.output] == [
        item.model_dump(exclude={"id"}) for item in whole.output
    ]
    assert [event.item for event in events if event.type == "response.output_item.done"] == last.response.output


async def test_the_official_client_puts_a_stream_together(
    official: openai.AsyncOpenAI, gateway: ScriptedGateway
) -> None:
    gateway.script = CALLS
    async with official.responses.stream(model="tiny", input="hi") as stream:
        texts = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        final = await stream.get_final_response()
    assert texts == ["I will ", "ask."]
    assert final.output_text == "I will ask."


async def test_the_events_of_an_item_come_in_order(client: Client) -> None:
    async with client.post(PATH, json={"model": "tiny", "input": "hi", "stream": True}) as response:
        text = await response.text()
    assert [line.removeprefix("event: response.") for line in text.splitlines() if line.startswith("event: ")] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]


async def test_an_answer_that_was_cut_off_is_incomplete(official: openai.AsyncOpenAI, gateway: ScriptedGateway) -> None:
    gateway.script = [Chunk("Hel", 1), Ending(StopReason.LENGTH, USAGE)]
    answer = await official.responses.create(model="tiny", input="hi")
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    stream = await official.responses.create(model="tiny", input="hi", stream=True)
    assert [event.type async for event in stream][-1] == "response.incomplete"


async def test_a_conversation_of_items_is_read(client: Client, gateway: ScriptedGateway) -> None:
    status, answer = await post(
        client,
        {
            "instructions": "You are a weatherman.",
            "input": ITEMS,
            "tools": [WEATHER, SPAWN, PATCH, {"type": "web_search"}],
            "tool_choice": {"type": "function", "name": "weather"},
            "parallel_tool_calls": False,
            "reasoning": {"effort": "xhigh", "summary": "auto"},
            "text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "array"}}, "verbosity": "low"},
            "include": ["reasoning.encrypted_content"],
        },
    )
    assert status == 200, answer
    request = gateway.asks[0].request
    assert request.messages == (
        Message(Role.SYSTEM, "You are a weatherman.\n\nBe brief."),
        Message(Role.USER, "Rain in Oslo?"),
        Message(
            Role.ASSISTANT,
            "One moment.",
            "I must ask.",
            (
                ToolCall("c1", "weather", '{"city": "Oslo"}'),
                ToolCall("c2", "agents__spawn", "{}"),
                ToolCall("c3", "patch", '{"input":"+ one"}'),
            ),
        ),
        Message(Role.TOOL, "rain", call_id="c1", name="weather"),
        Message(Role.TOOL, "done", call_id="c3", name="patch"),
        Message(Role.USER, "<system>\nThe user is tired.\n</system>\nAnd tomorrow?"),
    )
    assert [tool.name for tool in request.tools] == ["weather", "agents__spawn", "patch"]
    assert (request.tool_choice, request.tool_name, request.parallel_calls) == (ToolChoice.REQUIRED, "weather", False)
    assert (request.effort, request.schema, request.thinking) == ("high", '{"type":"array"}', None)
    assert answer["tools"][0] == WEATHER


async def test_only_allowed_tools_are_offered(client: Client, gateway: ScriptedGateway) -> None:
    chosen = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "custom", "name": "patch"}]}
    await post(client, {"tools": [WEATHER, PATCH], "tool_choice": chosen, "reasoning": {"effort": "none"}})
    request = gateway.asks[0].request
    assert [tool.name for tool in request.tools] == ["patch"]
    assert request.tool_choice is ToolChoice.REQUIRED
    assert request.thinking is False


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "send the whole conversation"),
        ({"background": True}, "background", "does not have it"),
        ({"input": []}, "input", "at least one item"),
        ({"input": 5}, "input", "a list of items is expected"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input", "send the item itself"),
        ({"input": [{"type": "poem"}]}, "input", "item 0: items of the type 'poem' are not served"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input", "the role 'tool' is unknown"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input", "address"),
        ({"input": [{"type": "function_call", "call_id": "a", "name": "b", "arguments": "["}]}, "input", "JSON object"),
        ({"tools": [{"type": "web_search"}]}, "tools", "their vendor's servers"),
        ({"tool_choice": "required"}, None, "there are no tools"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "x"}}, None, "not among the tools"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format", "'schema' is required"),
    ],
)
async def test_what_cannot_be_served_is_refused(
    client: Client, gateway: ScriptedGateway, body: dict[str, object], param: str | None, words: str
) -> None:
    status, answer = await post(client, body)
    assert status == 400
    assert words in answer["error"]["message"]
    assert answer["error"]["param"] == param
    assert not gateway.asks


async def test_the_official_client_understands_our_errors(
    official: openai.AsyncOpenAI, gateway: ScriptedGateway
) -> None:
    gateway.refusal = ContextLengthExceeded(5000, 4096)
    with pytest.raises(openai.BadRequestError) as long:
        await official.responses.create(model="tiny", input="hi")
    assert long.value.code == "context_length_exceeded"


async def test_what_fails_in_a_stream_is_told_in_it(
    client: Client, official: openai.AsyncOpenAI, gateway: ScriptedGateway
) -> None:
    """As a response that failed, which some clients look for, and as an error, which the official one raises."""
    gateway.script = [Chunk("Hel", 1), WorkerCrashed("tiny", "killed by signal 9")]
    stream = await official.responses.create(model="tiny", input="hi", stream=True)
    with pytest.raises(openai.APIError, match="killed by signal 9"):
        _ = [event async for event in stream]
    async with client.post(PATH, json={"model": "tiny", "input": "hi", "stream": True}) as response:
        lines = (await response.text()).splitlines()
    failed, error = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")][-2:]
    assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
    assert failed["response"]["error"] == {"code": error["code"], "message": error["message"]}
    assert error["code"] == "worker_crashed"
