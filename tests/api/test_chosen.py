"""Requests that name no model, as llama-server's clients send them, and what else they say in its words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from swapd.generation import Chunk
from swapd.served import ModelEntry
from tests.api.conftest import ENDING, Client, Script, ScriptedGateway, lines_of, make_model

HELLO = [{"role": "user", "content": "Hello"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HELLO},
    "/v1/completions": {"prompt": "Hello"},
    "/v1/responses": {"input": "Hello"},
    "/completion": {"prompt": "Hello"},
    "/v1/embeddings": {"input": "Hello"},
    "/embedding": {"content": "Hello"},
}
WRITES = [path for path in BODIES if "embedding" not in path]


async def post(client: Client, path: str, body: object, status: int = 200) -> Any:
    response = await client.post(path, json=body)
    document = await response.json()
    assert response.status == status, document
    return document


def models(gateway: ScriptedGateway, **poolings: str) -> None:
    """Only these are there, none is loaded."""
    gateway.known = {name: make_model(name, pooling=pooling) for name, pooling in poolings.items()}
    gateway.loaded = ()


def asked(gateway: ScriptedGateway) -> list[str]:
    return [ask.model for ask in gateway.asks] + [ask.model for ask in gateway.vectors.asks]


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("said", [{}, {"model": ""}, {"model": None}], ids=str)
async def test_the_only_model_needs_no_name(
    client: Client, gateway: ScriptedGateway, path: str, said: dict[str, Any]
) -> None:
    models(gateway, tiny="")
    document = await post(client, path, BODIES[path] | said)
    assert asked(gateway) == ["tiny"]
    if path.startswith("/v1/"):
        assert document["model"] == "tiny"


@pytest.mark.parametrize("path", BODIES)
async def test_of_several_the_one_that_was_made_for_it_is_meant(
    client: Client, gateway: ScriptedGateway, path: str
) -> None:
    models(gateway, writer="", vectors="mean", ranker="rank")
    await post(client, path, BODIES[path])
    assert asked(gateway) == ["writer" if path in WRITES else "vectors"]


@pytest.mark.parametrize("path", WRITES)
async def test_the_route_of_chats_is_meant_before_the_model_used_last(
    client: Client, gateway: ScriptedGateway, path: str
) -> None:
    gateway.known = {name: make_model(name) for name in ("one", "other")}
    gateway.loaded = ("other",)
    await post(client, path, BODIES[path])
    gateway.known["one"] = make_model("one", entry=ModelEntry(aliases=("chat",)))
    await post(client, path, BODIES[path])
    assert [ask.model for ask in gateway.asks] == ["other", "chat"]


@pytest.mark.parametrize("path", BODIES)
async def test_where_none_stands_out_the_names_are_told(client: Client, gateway: ScriptedGateway, path: str) -> None:
    models(gateway, one="", other="")
    error = (await post(client, path, BODIES[path], 400))["error"]
    assert "one, other" in error["message"]
    assert "[routes]" in error["message"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/completion"])
async def test_llama_servers_own_fields_have_their_effect_in_openais_routes_too(
    client: Client, gateway: ScriptedGateway, path: str
) -> None:
    gateway.known["tiny"] = make_model("tiny", entry=ModelEntry(lora=(("sql", "/sql.gguf"), ("law", "/law.gguf"))))
    body = BODIES[path] | {
        "model": "tiny",
        "n_predict": 3,
        "cache_prompt": False,
        "t_max_predict_ms": 1500,
        "n_indent": 4,
        "post_sampling_probs": True,
        "lora": [{"id": 1, "scale": 0.5}, {"id": 0, "scale": 0}],
        "id_slot": 2,
    }
    await post(client, path, body)
    (request,) = (ask.request for ask in gateway.asks)
    assert (request.max_tokens, request.caches, request.line_limit) == (3, False, 1.5)
    assert (request.indent, request.after_filters) == (4, True)
    assert request.adapters == (("law", 0.5), ("sql", 0.0))


async def test_openais_limits_win_over_llama_servers(client: Client, gateway: ScriptedGateway) -> None:
    body = BODIES["/v1/chat/completions"] | {"model": "tiny", "n_predict": 3, "max_tokens": 5}
    await post(client, "/v1/chat/completions", body)
    await post(client, "/v1/chat/completions", body | {"max_completion_tokens": 7})
    await post(client, "/v1/chat/completions", BODIES["/v1/chat/completions"] | {"model": "tiny", "n_predict": -1})
    assert [ask.request.max_tokens for ask in gateway.asks] == [5, 7, None]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/completion"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lora": [{"id": 0, "scale": 1}]}, "has no adapter 0"),
        ({"lora": [{"id": 0}]}, "scale"),
        ({"adaptive_target": 0.5}, "adaptive_target"),
        ({"grammar_lazy": True}, "grammar_lazy"),
        ({"image_data": [1]}, "image_data"),
        ({"n_predict": -3}, "n_predict"),
    ],
)
async def test_what_of_them_is_not_served_is_refused_by_name(
    client: Client, gateway: ScriptedGateway, path: str, change: dict[str, Any], words: str
) -> None:
    error = (await post(client, path, BODIES[path] | {"model": "tiny"} | change, 400))["error"]
    assert words in error["message"]
    assert gateway.asks == []


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
async def test_a_tool_that_is_named_is_called_once(client: Client, gateway: ScriptedGateway, path: str) -> None:
    about = {"name": "weather", "parameters": {"type": "object", "properties": {}}}
    tool = {"type": "function", **about} if path == "/v1/responses" else {"type": "function", "function": about}
    body = BODIES[path] | {"model": "tiny", "tools": [tool]}
    named = {"type": "function", "name": "weather"}
    for choice in ("required", named):
        await post(client, path, body | {"tool_choice": choice})
    assert [ask.request.parallel_calls for ask in gateway.asks] == [True, False]


async def test_the_last_chunk_of_a_stream_tells_its_timings_and_thoughts(
    client: Client, gateway: ScriptedGateway
) -> None:
    gateway.script = [Chunk("", 3, thinking="Hm."), Chunk("4", 1), ENDING]
    body = BODIES["/v1/chat/completions"] | {"model": "tiny"}
    whole = await post(client, "/v1/chat/completions", body)
    assert whole["usage"]["completion_tokens_details"] == {"reasoning_tokens": 3}
    response = await client.post(
        "/v1/chat/completions", json=body | {"stream": True, "stream_options": {"include_usage": True}}
    )
    last = json.loads((await lines_of(response))[-2].removeprefix("data: "))
    assert (last["choices"], last["usage"]) == ([], whole["usage"])
    assert last["timings"] == whole["timings"]


async def test_pieces_of_a_completion_tell_how_long_the_prompt_is(client: Client, gateway: ScriptedGateway) -> None:
    gateway.script = [Chunk("Hel", 1, prompt=(12, 5)), Chunk("lo", 1), ENDING]
    response = await client.post("/completion", json=BODIES["/completion"] | {"model": "tiny", "stream": True})
    told = [json.loads(line.removeprefix("data: ")) for line in await lines_of(response)]
    assert [piece["tokens_evaluated"] for piece in told] == [12, 12, 12]


async def test_slots_are_those_of_the_model_that_writes(client: Client, gateway: ScriptedGateway) -> None:
    """Not also of the same file loaded beside it, to make vectors."""
    both = (gateway.resident("tiny"), gateway.resident("tiny", variant="tiny-vectors", slots=1))
    gateway.residents = lambda: both  # type: ignore[method-assign]
    response = await client.get("/slots?model=tiny")
    assert [slot["id"] for slot in await response.json()] == [0, 1, 2, 3]


THOUGHT: Script = [Chunk("", 1, thinking="Hm"), Chunk("", 1, thinking=", two."), Chunk("4", 1), Chunk("!", 1), ENDING]


@pytest.mark.parametrize(
    ("wanted", "content", "reasoning"),
    [
        (None, "4!", "Hm, two."),
        ("auto", "4!", "Hm, two."),
        ("none", "<think>Hm, two.</think>4!", None),
        ("deepseek-legacy", "<think>Hm, two.</think>4!", "Hm, two."),
    ],
)
async def test_thoughts_stand_where_the_client_wants_them(
    client: Client, gateway: ScriptedGateway, wanted: str | None, content: str, reasoning: str | None
) -> None:
    gateway.script = THOUGHT
    body = BODIES["/v1/chat/completions"] | {"model": "tiny", "n": 2, "reasoning_format": wanted}
    whole = await post(client, "/v1/chat/completions", body)
    messages = [choice["message"] for choice in whole["choices"]]
    assert [(told["content"], told.get("reasoning_content")) for told in messages] == [(content, reasoning)] * 2
    response = await client.post("/v1/chat/completions", json=body | {"stream": True})
    chunks = [json.loads(line.removeprefix("data: ")) for line in (await lines_of(response))[:-1]]
    for index in range(2):
        deltas = [one["delta"] for chunk in chunks for one in chunk["choices"] if one["index"] == index]
        assert "".join(delta.get("content") or "" for delta in deltas) == content
        assert "".join(delta.get("reasoning_content", "") for delta in deltas) == (reasoning or "")
    await post(client, "/v1/chat/completions", body | {"reasoning_format": "parsed"}, 400)


async def test_settings_tell_the_adapters_and_all_that_llama_server_tells(
    client: Client, gateway: ScriptedGateway
) -> None:
    gateway.known["tiny"] = make_model("tiny", entry=ModelEntry(lora=(("sql", "/sql.gguf"),)))
    body = BODIES["/completion"] | {"model": "tiny", "lora": [{"id": 0, "scale": 0.5}]}
    told = (await post(client, "/completion", body))["generation_settings"]
    assert told["lora"] == [{"id": 0, "scale": 0.5}]
    theirs = """seed temperature dynatemp_range dynatemp_exponent top_k top_p min_p top_n_sigma xtc_probability
        xtc_threshold typical_p repeat_last_n repeat_penalty presence_penalty frequency_penalty dry_multiplier dry_base
        dry_allowed_length dry_penalty_last_n dry_sequence_breakers mirostat mirostat_tau mirostat_eta adaptive_target
        adaptive_decay stop max_tokens n_predict n_keep n_discard ignore_eos stream logit_bias n_probs min_keep grammar
        grammar_lazy grammar_triggers preserved_tokens chat_format reasoning_format reasoning_in_content
        generation_prompt samplers speculative.types timings_per_token post_sampling_probs backend_sampling lora"""
    assert set(theirs.split()) <= set(told)
