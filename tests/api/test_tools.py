"""Tools and thinking in the OpenAI and Ollama dialects: what is asked of the gateway, and what clients understand."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Final

import ollama
import openai
import pytest

from swapd.generation import CallPart, Chunk, Ending, Message, Role, StopReason, Tool, ToolCall, ToolChoice, Usage
from tests.api.conftest import Client, ScriptedGateway

CHAT: Final = "/v1/chat/completions"
API_CHAT: Final = "/api/chat"
SCHEMA: Final = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOL: Final[Any] = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": SCHEMA}}
HI: Final[Any] = [{"role": "user", "content": "hi"}]
CALLED: Final = Ending(StopReason.TOOL_CALLS, Usage(prompt=3, completion=9))
SCRIPT: Final = (
    Chunk("", 2, thinking="I add."),
    Chunk("Well.", 1),
    Chunk("", 2, calls=(CallPart(0, "call_x", "add", '{"a"'),)),
    Chunk("", 2, calls=(CallPart(0, arguments=": 1}"), CallPart(1, "call_y", "add", "{}"))),
    CALLED,
)


@pytest.fixture
async def openai_client(client: Client) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=str(client.make_url("/v1")), api_key="none", max_retries=0) as official:
        yield official


@pytest.fixture
async def ollama_client(client: Client) -> AsyncIterator[ollama.AsyncClient]:
    async with ollama.AsyncClient(host=str(client.make_url("/"))) as official:
        yield official


async def ask(client: Client, path: str, status: int = 200, **body: Any) -> Any:
    response = await client.post(path, json={"model": "tiny", "messages": HI, "stream": False, **body})
    assert response.status == status, await response.text()
    return await response.json()


# --- OpenAI


async def test_openai_gets_calls_and_thoughts_whole(
    openai_client: openai.AsyncOpenAI, gateway: ScriptedGateway
) -> None:
    gateway.script = SCRIPT
    answer = await openai_client.chat.completions.create(model="tiny", messages=HI, tools=[TOOL])
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Well."
    assert choice.message.model_extra == {"reasoning_content": "I add."}
    assert choice.message.tool_calls is not None
    assert [(call.id, call.type) for call in choice.message.tool_calls] == [
        ("call_x", "function"),
        ("call_y", "function"),
    ]
    assert [call.model_dump()["function"] for call in choice.message.tool_calls] == [
        {"name": "add", "arguments": '{"a": 1}'},
        {"name": "add", "arguments": "{}"},
    ]


async def test_openai_gets_them_in_a_stream(openai_client: openai.AsyncOpenAI, gateway: ScriptedGateway) -> None:
    gateway.script = SCRIPT
    stream = await openai_client.chat.completions.create(model="tiny", messages=HI, tools=[TOOL], stream=True)
    choices = [chunk.choices[0] async for chunk in stream]
    calls: dict[int, str] = {}
    for part in (part for choice in choices for part in choice.delta.tool_calls or ()):
        assert part.function is not None
        calls[part.index] = calls.get(part.index, "") + (part.function.arguments or "")
    assert calls == {0: '{"a": 1}', 1: "{}"}
    assert "".join(choice.delta.content or "" for choice in choices) == "Well."
    assert choices[-1].finish_reason == "tool_calls"


async def test_the_deltas_of_a_call_say_its_name_once(client: Client, gateway: ScriptedGateway) -> None:
    gateway.script = SCRIPT
    response = await client.post(CHAT, json={"model": "tiny", "messages": HI, "tools": [TOOL], "stream": True})
    lines = [line for line in (await response.text()).splitlines() if line.startswith("data: {")]
    deltas = [json.loads(line.removeprefix("data: "))["choices"][0]["delta"] for line in lines]
    assert deltas == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "I add."},
        {"content": "Well."},
        {
            "tool_calls": [
                {"index": 0, "id": "call_x", "type": "function", "function": {"name": "add", "arguments": '{"a"'}}
            ]
        },
        {
            "tool_calls": [
                {"index": 0, "function": {"arguments": ": 1}"}},
                {"index": 1, "id": "call_y", "type": "function", "function": {"name": "add", "arguments": "{}"}},
            ]
        },
        {},
    ]


async def test_calls_without_text_have_no_content(client: Client, gateway: ScriptedGateway) -> None:
    gateway.script = [Chunk("", 1, calls=(CallPart(0, "x", "add", "{}"),)), CALLED]
    assert (await ask(client, CHAT, tools=[TOOL]))["choices"][0]["message"]["content"] is None


async def test_openai_tools_reach_the_gateway(client: Client, gateway: ScriptedGateway) -> None:
    await ask(client, CHAT, tools=[TOOL, {"type": "function", "function": {"name": "now"}}])
    request = gateway.asks[0].request
    assert [tool.name for tool in request.tools] == ["add", "now"]
    assert (request.tools[0].description, json.loads(request.tools[0].parameters)) == ("Adds.", SCHEMA)
    assert json.loads(request.tools[1].parameters) == {"type": "object", "properties": {}}
    assert (request.tool_choice, request.tool_name, request.parallel_calls) == (ToolChoice.AUTO, "", True)


@pytest.mark.parametrize(
    ("given", "choice", "name"),
    [
        ("none", ToolChoice.NONE, ""),
        ("required", ToolChoice.REQUIRED, ""),
        ({"type": "function", "function": {"name": "add"}}, ToolChoice.REQUIRED, "add"),
    ],
)
async def test_openai_choices(
    client: Client, gateway: ScriptedGateway, given: Any, choice: ToolChoice, name: str
) -> None:
    await ask(client, CHAT, tools=[TOOL], tool_choice=given, parallel_tool_calls=False)
    request = gateway.asks[0].request
    assert (request.tool_choice, request.tool_name, request.parallel_calls) == (choice, name, False)


async def test_openai_may_allow_some_of_the_tools(client: Client, gateway: ScriptedGateway) -> None:
    tools = [TOOL, {"type": "function", "function": {"name": "now"}}]
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "now"}}]}
    await ask(client, CHAT, tools=tools, tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert [tool.name for tool in gateway.asks[0].request.tools] == ["now"]
    assert gateway.asks[0].request.tool_choice is ToolChoice.REQUIRED


async def test_a_conversation_with_calls_reaches_the_gateway(client: Client, gateway: ScriptedGateway) -> None:
    called = {"id": "x", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    messages = [
        *HI,
        {"role": "assistant", "reasoning_content": "Hm.", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "x", "content": [{"type": "text", "text": "2"}]},
        {"role": "assistant", "function_call": {"name": "now", "arguments": "{}"}},
        {"role": "function", "name": "now", "content": "noon"},
    ]
    await ask(client, CHAT, messages=messages)
    assert gateway.asks[0].request.messages[1:] == (
        Message(Role.ASSISTANT, "", "Hm.", (ToolCall("x", "add", '{"a": 1}'),)),
        Message(Role.TOOL, "2", call_id="x", name="add"),
        Message(Role.ASSISTANT, "", calls=(ToolCall("call_now", "now", "{}"),)),
        Message(Role.TOOL, "noon", call_id="call_now", name="now"),
    )
    assert not gateway.asks[0].request.continues


@pytest.mark.parametrize(
    ("more", "thinking", "effort"),
    [
        ({}, None, ""),
        ({"reasoning_effort": "none"}, False, ""),
        ({"reasoning_effort": "minimal"}, True, "low"),
        ({"reasoning_effort": "high"}, True, "high"),
        ({"enable_thinking": False}, False, ""),
    ],
)
async def test_openai_thinking(
    client: Client, gateway: ScriptedGateway, more: dict[str, Any], thinking: bool | None, effort: str
) -> None:
    await ask(client, CHAT, **more)
    assert (gateway.asks[0].request.thinking, gateway.asks[0].request.effort) == (thinking, effort)


async def test_openai_templates(client: Client, gateway: ScriptedGateway) -> None:
    await ask(client, CHAT, chat_template_kwargs={"enable_thinking": False}, chat_template="x")
    assert json.loads(gateway.asks[0].request.template_values) == {"enable_thinking": False}
    assert gateway.asks[0].request.template == "x"


@pytest.mark.parametrize("path", [CHAT, API_CHAT])
async def test_an_assistants_last_message_is_gone_on_from(client: Client, gateway: ScriptedGateway, path: str) -> None:
    await ask(client, path, messages=[*HI, {"role": "assistant", "content": "It"}])
    assert gateway.asks[0].request.continues


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"tools": [{"type": "web_search"}]}, "web_search"),
        ({"tools": [TOOL, TOOL]}, "two tools"),
        ({"tools": [{"type": "function", "function": {"name": "a", "parameters": 3}}]}, "JSON Schema"),
        ({"tool_choice": "required"}, "there are none"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "sub"}}}, "not among the tools"),
        ({"tools": [TOOL], "tool_choice": "perhaps"}, '"required"'),
        ({"functions": [{"name": "a"}]}, "say the same in 'tools'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "address of an image"),
        ({"messages": [{"role": "critic", "content": "x"}]}, "'assistant'"),
    ],
)
async def test_openai_refuses_with_reason(client: Client, more: dict[str, Any], words: str) -> None:
    error = (await ask(client, CHAT, 400, **more))["error"]
    assert error["code"] == "invalid_request"
    assert words in error["message"]


# --- Ollama


async def test_ollama_gets_calls_and_thoughts_whole(
    ollama_client: ollama.AsyncClient, gateway: ScriptedGateway
) -> None:
    gateway.script = SCRIPT
    gateway.questions.template = "<think>"
    answer = await ollama_client.chat("tiny", HI, tools=[TOOL], think=True)
    assert (answer.message.content, answer.message.thinking, answer.done_reason) == ("Well.", "I add.", "stop")
    assert answer.message.tool_calls is not None
    assert [(call.function.name, call.function.arguments) for call in answer.message.tool_calls] == [
        ("add", {"a": 1}),
        ("add", {}),
    ]
    request = gateway.asks[0].request
    assert (request.thinking, request.effort, request.tools[0].name) == (True, "", "add")


async def test_ollama_streams_calls_when_they_are_whole(
    ollama_client: ollama.AsyncClient, gateway: ScriptedGateway
) -> None:
    gateway.script = SCRIPT
    parts = [part async for part in await ollama_client.chat("tiny", HI, tools=[TOOL], stream=True)]
    assert [(part.message.thinking, part.message.content) for part in parts[:2]] == [("I add.", ""), (None, "Well.")]
    called = [part for part in parts if part.message.tool_calls]
    assert len(called) == 1
    assert [call.function.arguments for call in called[0].message.tool_calls or ()] == [{"a": 1}, {}]
    assert [part.done for part in parts] == [False, False, False, True]


@pytest.mark.parametrize("streamed", [False, True])
async def test_ollama_gets_a_call_that_broke_off_as_text(
    client: Client, gateway: ScriptedGateway, streamed: bool
) -> None:
    gateway.script = [
        Chunk("", 1, calls=(CallPart(0, "x", "add", '{"b": {}, "a'),)),
        Ending(StopReason.LENGTH, Usage(prompt=1)),
    ]
    response = await client.post(API_CHAT, json={"model": "tiny", "messages": HI, "tools": [TOOL], "stream": streamed})
    last = json.loads((await response.text()).splitlines()[-1])
    assert last["message"] == {"role": "assistant", "content": '{"name": "add", "arguments": {"b": {}, "a'}
    assert last["done_reason"] == "length"


@pytest.mark.parametrize("path", [API_CHAT, "/api/generate"])
async def test_thoughts_of_a_model_that_has_none_are_refused_in_ollamas_words(
    client: Client, gateway: ScriptedGateway, path: str
) -> None:
    refused = await ask(client, path, 400, prompt="2+2", think=True)
    assert '"tiny" does not support thinking' in refused["error"]
    assert gateway.asks == []
    await ask(client, path, prompt="2+2", think=False)
    await ask(client, "/api/generate", prompt="2+2", think="high", template="{{ enable_thinking }}")
    await ask(client, "/api/generate", prompt="2+2", think=True, raw=True)


@pytest.mark.parametrize(
    ("think", "thinking", "effort"),
    [(None, None, ""), (True, True, ""), (False, False, ""), ("low", True, "low"), ("max", True, "high")],
)
async def test_ollama_thinking(
    client: Client, gateway: ScriptedGateway, think: object, thinking: bool | None, effort: str
) -> None:
    gateway.questions.template = "{{ enable_thinking }}"
    await ask(client, API_CHAT, think=think)
    gateway.script = [Chunk("", 1, thinking="Hm."), Chunk("4", 1), Ending(StopReason.STOP, Usage(prompt=1))]
    answer = await ask(client, "/api/generate", prompt="2+2", think=think)
    assert (answer["thinking"], answer["response"]) == ("Hm.", "4")
    assert {(one.request.thinking, one.request.effort) for one in gateway.asks} == {(thinking, effort)}


async def test_ollamas_results_find_their_calls(client: Client, gateway: ScriptedGateway) -> None:
    calls = [{"function": {"name": "add", "arguments": {"a": 1}}}, {"function": {"name": "now", "arguments": {}}}]
    messages = [
        *HI,
        {"role": "assistant", "thinking": "Hm.", "content": "", "tool_calls": calls},
        {"role": "tool", "tool_name": "now", "content": "noon"},
        {"role": "tool", "content": "2"},
    ]
    await ask(client, API_CHAT, messages=messages, tools=[TOOL])
    assert gateway.asks[0].request.messages[1:] == (
        Message(Role.ASSISTANT, "", "Hm.", (ToolCall("call_1", "add", '{"a":1}'), ToolCall("call_2", "now", "{}"))),
        Message(Role.TOOL, "noon", call_id="call_2", name="now"),
        Message(Role.TOOL, "2", call_id="call_1", name="add"),
    )
    assert gateway.asks[0].request.tools == (Tool("add", "Adds.", json.dumps(SCHEMA, separators=(",", ":"))),)


@pytest.mark.parametrize(
    ("more", "budget", "end"),
    [
        ({"reasoning_budget_tokens": 100}, 100, ""),
        ({"thinking_budget_tokens": 0, "reasoning_budget_message": "Enough."}, 0, "Enough."),
        ({"reasoning_budget_tokens": -1}, None, ""),
        ({}, None, ""),
    ],
)
async def test_a_budget_for_thoughts_is_read(
    client: Client, gateway: ScriptedGateway, more: dict[str, Any], budget: int | None, end: str
) -> None:
    await ask(client, CHAT, **more)
    assert (gateway.asks[0].request.thinking_budget, gateway.asks[0].request.thinking_end) == (budget, end)
