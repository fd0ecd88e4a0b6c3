"""The OpenAI dialect: what is asked of the gateway, and what comes back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from swapd.api import openai
from swapd.generation import Chunk, Ending, Message, Role, Sampling, StopReason, Usage
from swapd.units import FOREVER
from tests.api.conftest import ENDING, Client, ScriptedGateway

CHAT = "/v1/chat/completions"
PLAIN = "/v1/completions"


def a_chat(**more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], **more}


def a_prompt(**more: Any) -> dict[str, Any]:
    return {"model": "tiny", "prompt": "hi", **more}


async def events(client: Client, path: str, body: dict[str, Any]) -> list[Any]:
    """The events of a stream, which ends as OpenAI's do."""
    response = await client.post(path, json={**body, "stream": True})
    assert response.status == 200, await response.text()
    assert response.content_type == "text/event-stream"
    text = await response.text()
    frames = text.split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    assert all(frame.startswith("data: ") and "\n" not in frame for frame in frames[:-1])
    return [json.loads(frame.removeprefix("data: ")) for frame in frames[:-2]]


async def test_a_chat_is_answered_whole(client: Client) -> None:
    response = await client.post(CHAT, json=a_chat(model="chat"))
    assert response.status == 200
    assert response.headers["X-Swapd-Model"] == "org/big:7b"
    assert response.headers["X-Swapd-Placement"] == "100% GPU"
    answer = await response.json()
    assert answer.pop("id").startswith("chatcmpl-")
    assert isinstance(answer.pop("created"), int)
    assert answer.pop("system_fingerprint").startswith("swapd-")
    assert answer.pop("timings") == pytest.approx(
        {
            "cache_n": 5,
            "prompt_n": 7,
            "prompt_ms": 70,
            "prompt_per_token_ms": 10,
            "prompt_per_second": 100,
            "predicted_n": 2,
            "predicted_ms": 500,
            "predicted_per_token_ms": 250,
            "predicted_per_second": 4,
        }
    )
    assert answer == {
        "object": "chat.completion",
        "model": "chat",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 12,
            "completion_tokens": 2,
            "total_tokens": 14,
            "prompt_tokens_details": {"cached_tokens": 5},
        },
    }


async def test_a_streamed_chat_names_the_role_once_and_ends_with_a_chunk_of_its_own(client: Client) -> None:
    chunks = await events(client, CHAT, a_chat())
    assert {(chunk["object"], chunk["model"]) for chunk in chunks} == {("chat.completion.chunk", "tiny")}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert [(chunk["choices"][0]["delta"], chunk["choices"][0]["finish_reason"]) for chunk in chunks] == [
        ({"role": "assistant", "content": ""}, None),
        ({"content": "Hel"}, None),
        ({"content": "lo"}, None),
        ({}, "stop"),
    ]
    assert chunks[-1]["timings"]["prompt_n"] == 7
    assert all("usage" not in chunk for chunk in chunks)


@pytest.mark.parametrize(("path", "body"), [(CHAT, a_chat()), (PLAIN, a_prompt())])
async def test_usage_comes_last_with_no_choices_when_asked(client: Client, path: str, body: dict[str, Any]) -> None:
    *chunks, last = await events(client, path, {**body, "stream_options": {"include_usage": True}})
    assert [chunk["usage"] for chunk in chunks] == [None] * len(chunks)
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 14


async def test_a_streamed_completion(client: Client) -> None:
    chunks = await events(client, PLAIN, a_prompt())
    assert [(chunk["choices"][0]["text"], chunk["choices"][0]["finish_reason"]) for chunk in chunks] == [
        ("Hel", None),
        ("lo", None),
        ("", "stop"),
    ]


async def test_running_into_the_limit_is_told(client: Client, gateway: ScriptedGateway) -> None:
    gateway.script = [Ending(StopReason.LENGTH, Usage(prompt=1))]
    response = await client.post(CHAT, json=a_chat(max_tokens=0))
    answer = await response.json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["timings"]["predicted_per_second"] == 0
    assert gateway.asks[0].request.max_tokens == 0


async def test_several_prompts_give_several_choices_in_their_order(client: Client, gateway: ScriptedGateway) -> None:
    response = await client.post(PLAIN, json=a_prompt(prompt=["a", "b", [1, 2]]))
    answer = await response.json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert answer["usage"]["prompt_tokens"] == 36
    assert sorted(str(ask.request.prompt) for ask in gateway.asks) == ["(1, 2)", "a", "b"]
    assert len({ask.request.id for ask in gateway.asks}) == 3


async def test_several_prompts_stream_side_by_side(client: Client) -> None:
    chunks = await events(client, PLAIN, a_prompt(prompt=["a", "b"], stream_options={"include_usage": True}))
    texts = {0: "", 1: ""}
    for chunk in chunks[:-1]:
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert texts == {0: "Hello", 1: "Hello"}
    assert chunks[-1]["usage"]["total_tokens"] == 28


@pytest.mark.parametrize("streamed", [False, True])
async def test_one_of_several_prompts_that_fails_fails_the_request(
    client: Client, gateway: ScriptedGateway, streamed: bool
) -> None:
    gateway.known.pop("tiny")
    response = await client.post(PLAIN, json=a_prompt(prompt=["a", "b"], stream=streamed))
    assert response.status == 404
    await gateway.wait_open(0)


@pytest.mark.parametrize(
    ("given", "expected"), [("hi", "hi"), (["hi"], "hi"), ([1, 2, 3], (1, 2, 3)), ([[1, 2]], (1, 2)), ("", "")]
)
async def test_a_prompt_is_text_or_token_numbers(
    client: Client, gateway: ScriptedGateway, given: object, expected: object
) -> None:
    assert (await client.post(PLAIN, json=a_prompt(prompt=given))).status == 200
    assert gateway.asks[0].request.prompt == expected
    assert gateway.asks[0].request.messages == ()


async def test_messages_reach_the_gateway_as_text(client: Client, gateway: ScriptedGateway) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    messages = [
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": parts, "name": "Ada"},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": "42", "tool_call_id": "x"},
    ]
    assert (await client.post(CHAT, json=a_chat(messages=messages))).status == 200
    assert gateway.asks[0].request.messages == (
        Message(Role.DEVELOPER, "be kind"),
        Message(Role.USER, "one\ntwo", name="Ada"),
        Message(Role.ASSISTANT, ""),
        Message(Role.TOOL, "42", call_id="x"),
    )


async def test_what_the_request_says_is_kept_apart_from_the_dialects_defaults(
    client: Client, gateway: ScriptedGateway
) -> None:
    """The model's own options come between the two: the gateway needs to know who said what."""
    await client.post(CHAT, json=a_chat(temperature=0, top_k=-1, seed=7, presence_penalty=None))
    ask = gateway.asks[0]
    assert ask.request.sampling == Sampling(temperature=0, top_k=0, seed=7)
    assert ask.defaults == openai.DEFAULTS
    assert ask.request.sampling.over(Sampling(top_p=0.1)).over(ask.defaults) == Sampling(
        temperature=0,
        top_k=0,
        top_p=0.1,
        min_p=0.05,
        repeat_penalty=1,
        repeat_last_n=64,
        presence_penalty=0,
        frequency_penalty=0,
        seed=7,
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"max_tokens": None}, None),
        ({"max_tokens": -1}, None),
        ({"max_tokens": 5}, 5),
        ({"max_tokens": 5.0}, 5),
        ({"max_tokens": 5, "max_completion_tokens": 7}, 7),
    ],
)
async def test_limits(client: Client, gateway: ScriptedGateway, given: dict[str, Any], expected: int | None) -> None:
    assert (await client.post(CHAT, json=a_chat(**given))).status == 200
    assert gateway.asks[0].request.max_tokens == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [(-1, None), (0, 0), (2**32 - 2, 2**32 - 2), (2**32 - 1, 2**32 - 2), (2**32, 1), (2**64 - 1, 0), (-2, 1)],
)
async def test_any_64_bit_seed_becomes_one_of_32_bits(
    client: Client, gateway: ScriptedGateway, given: int, expected: int | None
) -> None:
    assert (await client.post(CHAT, json=a_chat(seed=given))).status == 200
    assert gateway.asks[0].request.sampling.seed == expected


@pytest.mark.parametrize(
    ("given", "expected"), [(None, ()), ("END", ("END",)), (["a", "", "b"], ("a", "b")), ("", ()), ([], ())]
)
async def test_stop_strings(client: Client, gateway: ScriptedGateway, given: object, expected: tuple[str, ...]) -> None:
    assert (await client.post(CHAT, json=a_chat(stop=given))).status == 200
    assert gateway.asks[0].request.stop == expected


@pytest.mark.parametrize(
    ("given", "expected"), [(0, 0), (30, 30), ("5m", 300), ("90", 90), (-1, FOREVER), ("-1m", FOREVER), (None, None)]
)
async def test_keep_alive_is_read_in_ollamas_syntax(
    client: Client, gateway: ScriptedGateway, given: object, expected: float | None
) -> None:
    assert (await client.post(CHAT, json=a_chat(keep_alive=given))).status == 200
    assert gateway.asks[0].keep_alive == expected


async def test_headers_carry_priority_and_session(client: Client, gateway: ScriptedGateway) -> None:
    headers = {"X-Swapd-Priority": "-3", "X-Swapd-Session": "Ada's"}
    await client.post(CHAT, json=a_chat(), headers=headers)
    await client.post(CHAT, json=a_chat())
    assert [(ask.priority, ask.session) for ask in gateway.asks] == [(-3, "Ada's"), (None, None)]


@pytest.mark.parametrize("headers", [{"X-Swapd-Priority": "high"}, {"X-Swapd-Session": "x" * 257}])
async def test_headers_out_of_range_are_refused(client: Client, headers: dict[str, str]) -> None:
    response = await client.post(CHAT, json=a_chat(), headers=headers)
    assert response.status == 400
    assert (await response.json())["error"]["param"] == next(iter(headers))


@pytest.mark.parametrize(
    "harmless",
    [
        {"tools": [], "tool_choice": "none", "functions": []},
        {"tool_choice": "auto", "parallel_tool_calls": True},
        {"response_format": {"type": "text"}, "modalities": ["text"]},
        {"logprobs": False, "top_logprobs": 0, "logit_bias": {}, "n": 1},
        {"user": "Ada", "metadata": {}, "store": True, "service_tier": "auto", "whatever": [1]},
        {"stop": None, "stream": None, "stream_options": None, "tools": None},
    ],
)
async def test_what_changes_nothing_is_ignored(client: Client, harmless: dict[str, Any]) -> None:
    response = await client.post(CHAT, json=a_chat(**harmless))
    assert response.status == 200, await response.text()


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, a_chat(tools=[{"type": "function"}]), "tools"),
        (CHAT, a_chat(tool_choice="required"), "tool_choice"),
        (CHAT, a_chat(tool_choice={"type": "function"}), "tool_choice"),
        (CHAT, a_chat(functions=[{}]), "functions"),
        (CHAT, a_chat(top_logprobs=3), "top_logprobs"),
        (CHAT, a_chat(audio={"voice": "x"}), "audio"),
        (CHAT, a_chat(modalities=["audio"]), "modalities"),
        (CHAT, a_chat(web_search_options={}), "web_search_options"),
        (CHAT, a_chat(n=True), "n"),
        (CHAT, a_chat(messages=[{"role": "user", "content": [{"type": "image_url"}]}]), "messages[0].content"),
        (CHAT, a_chat(messages=[{"role": "assistant", "tool_calls": [{}]}]), "messages[0].tool_calls[0].function"),
    ],
)
async def test_what_would_change_the_answer_and_is_not_served_is_refused_by_name(
    client: Client, gateway: ScriptedGateway, path: str, body: dict[str, Any], param: str
) -> None:
    response = await client.post(path, json=body)
    assert response.status == 400
    error = (await response.json())["error"]
    assert (error["code"], error["param"], error["type"]) == ("invalid_request", param, "invalid_request_error")
    assert param in error["message"]
    assert gateway.asks == []


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, a_chat(model="x" * 1025), "model"),
        (CHAT, a_chat(model=3), "model"),
        (CHAT, {"model": "tiny"}, "messages"),
        (CHAT, a_chat(messages=[]), "messages"),
        (CHAT, a_chat(messages="hi"), "messages"),
        (CHAT, a_chat(messages=[{"role": "user", "content": "hi"}] * 4097), "messages"),
        (CHAT, a_chat(messages=[{"role": "robot", "content": "hi"}]), "messages[0].role"),
        (CHAT, a_chat(messages=[{"role": "user"}]), "messages[0]"),
        (CHAT, a_chat(messages=[{"role": "user", "content": 3}]), "messages[0].content"),
        (CHAT, a_chat(max_tokens="12"), "max_tokens"),
        (CHAT, a_chat(max_tokens=True), "max_tokens"),
        (CHAT, a_chat(max_tokens=1.5), "max_tokens"),
        (CHAT, a_chat(max_tokens=-2), "max_tokens"),
        (CHAT, a_chat(max_tokens=2**31), "max_tokens"),
        (CHAT, a_chat(temperature="1"), "temperature"),
        (CHAT, a_chat(temperature=True), "temperature"),
        (CHAT, a_chat(temperature=-0.1), "temperature"),
        (CHAT, a_chat(temperature=1e300), "temperature"),
        (CHAT, a_chat(top_p=1.01), "top_p"),
        (CHAT, a_chat(min_p=-1), "min_p"),
        (CHAT, a_chat(top_k=-2), "top_k"),
        (CHAT, a_chat(repeat_penalty=0), "repeat_penalty"),
        (CHAT, a_chat(seed=2**64), "seed"),
        (CHAT, a_chat(seed="1"), "seed"),
        (CHAT, a_chat(stream="yes"), "stream"),
        (CHAT, a_chat(stream_options={"include_usage": "yes"}), "stream_options.include_usage"),
        (CHAT, a_chat(stop=3), "stop"),
        (CHAT, a_chat(stop=["x"] * 17), "stop"),
        (CHAT, a_chat(stop="x" * 1025), "stop"),
        (CHAT, a_chat(keep_alive="soon"), "keep_alive"),
        (CHAT, a_chat(keep_alive=True), "keep_alive"),
        (CHAT, a_chat(keep_alive=[]), "keep_alive"),
        (CHAT, a_chat(keep_alive=10**400), "keep_alive"),
        (PLAIN, {"model": "tiny"}, "prompt"),
        (PLAIN, a_prompt(prompt=None), "prompt"),
        (PLAIN, a_prompt(prompt=[]), "prompt"),
        (PLAIN, a_prompt(prompt=[True]), "prompt"),
        (PLAIN, a_prompt(prompt=[1, "a"]), "prompt"),
        (PLAIN, a_prompt(prompt=[-1]), "prompt"),
        (PLAIN, a_prompt(prompt=["x"] * 129), "prompt"),
        (PLAIN, a_prompt(echo="x"), "echo"),
    ],
)
async def test_wrong_types_and_ranges_are_refused_by_name(
    client: Client, gateway: ScriptedGateway, path: str, body: dict[str, Any], param: str
) -> None:
    response = await client.post(path, json=body)
    assert response.status == 400, await response.text()
    error = (await response.json())["error"]
    assert (error["code"], error["param"]) == ("invalid_request", param)
    assert param in error["message"]
    assert gateway.asks == []


async def test_echo_reaches_the_gateway(client: Client, gateway: ScriptedGateway) -> None:
    await client.post(PLAIN, json=a_prompt(echo=True))
    assert gateway.asks[0].request.echo


TEXT_ONLY = {"input_modalities": ["text"], "output_modalities": ["text"]}


async def test_models_are_listed_by_name_without_the_unusable(client: Client, gateway: ScriptedGateway) -> None:
    listed = await (await client.get("/v1/models")).json()
    assert listed["object"] == "list"
    own = [{key: model[key] for key in ("id", "object", "created", "owned_by")} for model in listed["data"]]
    assert own == [
        {"id": "tiny", "object": "model", "created": 1_700_000_000, "owned_by": "swapd"},
        {"id": "org/big:7b", "object": "model", "created": 1_700_000_000, "owned_by": "swapd"},
    ]
    assert [model["architecture"] for model in listed["data"]] == [TEXT_ONLY, TEXT_ONLY]
    assert [model["status"]["value"] for model in listed["data"]] == ["loaded", "unloaded"]
    assert [model["aliases"] for model in listed["data"]] == [[], ["chat"]]
    assert {(model["meta"]["n_ctx"], model["meta"]["n_ctx_train"]) for model in listed["data"]} == {(4096, 8192)}
    assert ("refresh",) in gateway.calls


@pytest.mark.parametrize(
    ("path", "id_"), [("org/big:7b", "org/big:7b"), ("org%2Fbig%3A7b", "org/big:7b"), ("chat", "chat")]
)
async def test_a_model_is_shown_under_the_name_it_was_asked_by(client: Client, path: str, id_: str) -> None:
    response = await client.get(f"/v1/models/{path}")
    assert response.status == 200
    assert (await response.json())["id"] == id_


async def test_streams_end_with_one_empty_line_each(client: Client, gateway: ScriptedGateway) -> None:
    """SSE framing to the byte: text with line ends cannot break it."""
    gateway.script = [Chunk("a\n\ndata: b\r\n\u2028é", 1), ENDING]
    chunks = await events(client, CHAT, a_chat())
    assert chunks[1]["choices"][0]["delta"]["content"] == "a\n\ndata: b\r\n\u2028é"
