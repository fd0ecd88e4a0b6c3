"""How tokens are drawn, formats, logarithms and several answers: what the dialects ask for and what they tell."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from swapd.generation import Chunk, Likelihood, Sampling, TokenLogprob, Usage
from tests.api.conftest import ENDING, Client, ScriptedGateway, lines_of

CHAT, PLAIN, GENERATE = "/v1/chat/completions", "/v1/completions", "/api/generate"
HI = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "integer"}}}
HE = TokenLogprob(Likelihood(7, b"He", -0.5), (Likelihood(7, b"He", -0.5), Likelihood(9, b"\xc3", -1.5)))
YO = TokenLogprob(Likelihood(8, b"yo", -0.25), (Likelihood(8, b"yo", -0.25),))


def body(path: str, **more: Any) -> dict[str, Any]:
    return {"model": "tiny", **({"messages": HI} if path == CHAT else {"prompt": "hi"}), **more}


EVERYTHING = {
    "temperature": 0.5,
    "top_k": 5,
    "top_p": 0.5,
    "min_p": 0.1,
    "repeat_penalty": 1.1,
    "repeat_last_n": -1,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "seed": 3,
    "typical_p": 0.9,
    "top_n_sigma": 1.5,
    "min_keep": 2,
    "xtc_probability": 0.5,
    "xtc_threshold": 0.2,
    "dynatemp_range": 0.3,
    "dynatemp_exponent": 2,
    "mirostat": 1,
    "mirostat_tau": 4,
    "mirostat_eta": 0.2,
    "dry_multiplier": 0.8,
    "dry_base": 1.5,
    "dry_allowed_length": 3,
    "dry_penalty_last_n": 100,
    "dry_sequence_breakers": ["\n", "."],
}


@pytest.mark.parametrize("path", [CHAT, PLAIN, GENERATE])
async def test_every_sampling_number_reaches_the_gateway(client: Client, gateway: ScriptedGateway, path: str) -> None:
    given = body(path, options=EVERYTHING) if path == GENERATE else body(path, **EVERYTHING)
    assert (await client.post(path, json=given)).status == 200
    expected = Sampling(**{**EVERYTHING, "dry_sequence_breakers": ("\n", ".")})  # type: ignore[arg-type]
    assert None not in [getattr(expected, name) for name in EVERYTHING]
    assert gateway.asks[0].request.sampling == expected


@pytest.mark.parametrize("path", [CHAT, PLAIN])
async def test_biases_are_an_object_or_pairs(client: Client, gateway: ScriptedGateway, path: str) -> None:
    for given in ({"12": -100, "3": 1.5}, [[12, -100], ["3", 1.5]]):
        assert (await client.post(path, json=body(path, logit_bias=given, ignore_eos=True))).status == 200
        assert gateway.asks[-1].request.logit_bias == ((12, -100.0), (3, 1.5))
        assert gateway.asks[-1].request.ignore_eos
    await client.post(path, json=body(path, logit_bias=[[5, False]]))
    assert gateway.asks[-1].request.logit_bias == ((5, float("-inf")),)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, {"type": "object"}),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, SCHEMA),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}, SCHEMA),
        ({"json_schema": SCHEMA}, SCHEMA),
    ],
)
async def test_formats_become_a_schema_in_its_own_order(
    client: Client, gateway: ScriptedGateway, given: dict[str, Any], expected: Any
) -> None:
    assert (await client.post(CHAT, json=body(CHAT, **given))).status == 200
    schema = gateway.asks[0].request.schema
    assert schema == (None if expected is None else json.dumps(expected, separators=(",", ":")))


@pytest.mark.parametrize(("given", "expected"), [("", None), ("json", '{"type":"object"}'), ({"a": 1}, '{"a":1}')])
async def test_ollamas_format(client: Client, gateway: ScriptedGateway, given: Any, expected: str | None) -> None:
    assert (await client.post(GENERATE, json=body(GENERATE, format=given))).status == 200
    assert gateway.asks[0].request.schema == expected


async def test_a_grammar_reaches_the_gateway(client: Client, gateway: ScriptedGateway) -> None:
    await client.post(PLAIN, json=body(PLAIN, grammar='root ::= "a"'))
    assert gateway.asks[0].request.grammar == 'root ::= "a"'


@pytest.mark.parametrize(
    ("path", "wrong", "param"),
    [
        (CHAT, {"typical_p": 1.5}, "typical_p"),
        (CHAT, {"mirostat": 3}, "mirostat"),
        (CHAT, {"xtc_probability": -0.1}, "xtc_probability"),
        (CHAT, {"dry_base": 0}, "dry_base"),
        (CHAT, {"dry_sequence_breakers": "x"}, "dry_sequence_breakers"),
        (CHAT, {"min_keep": -1}, "min_keep"),
        (CHAT, {"logit_bias": {"hello": 1}}, "logit_bias"),
        (CHAT, {"logit_bias": {"5": "1"}}, "logit_bias"),
        (CHAT, {"logit_bias": {"5": True}}, "logit_bias"),
        (CHAT, {"logit_bias": [1]}, "logit_bias"),
        (CHAT, {"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
        (CHAT, {"logprobs": 3}, "logprobs"),
        (CHAT, {"top_logprobs": 3}, "top_logprobs"),
        (CHAT, {"logprobs": True, "top_logprobs": 129}, "top_logprobs"),
        (PLAIN, {"logprobs": True}, "logprobs"),
        (PLAIN, {"n": 3, "best_of": 2}, "best_of"),
        (PLAIN, {"n": 3, "best_of": 5, "stream": True}, "best_of"),
        (PLAIN, {"best_of": 65, "prompt": ["a", "b"]}, "best_of"),
        (PLAIN, {"best_of": 129}, "best_of"),
        (PLAIN, {"n": 65, "prompt": ["a", "b"]}, "n"),
        (CHAT, {"n": 0}, "n"),
        (CHAT, {"n": 129}, "n"),
        (CHAT, {"response_format": {"type": "xml"}}, "response_format"),
        (CHAT, {"response_format": {"type": "json_schema"}}, "response_format"),
        (CHAT, {"response_format": "json"}, "response_format"),
        (CHAT, {"json_schema": "x"}, "json_schema"),
        (CHAT, {"json_schema": {}, "grammar": "x"}, "grammar"),
        (CHAT, {"grammar": "x" * 300_000}, "grammar"),
        (GENERATE, {"options": {"mirostat": -1}}, "options.mirostat"),
        (GENERATE, {"format": "xml"}, "format"),
        (GENERATE, {"top_logprobs": 2}, "top_logprobs"),
        (GENERATE, {"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
    ],
)
async def test_what_is_out_of_range_is_refused_by_name(
    client: Client, gateway: ScriptedGateway, path: str, wrong: dict[str, Any], param: str
) -> None:
    response = await client.post(path, json=body(path, **wrong))
    assert response.status == 400
    assert param in await response.text()
    assert gateway.asks == []


@pytest.mark.parametrize(
    ("path", "given", "expected"),
    [
        (CHAT, {}, None),
        (CHAT, {"logprobs": True}, 0),
        (CHAT, {"logprobs": True, "top_logprobs": 4}, 4),
        (PLAIN, {"logprobs": 0}, 0),
        (PLAIN, {"logprobs": 5}, 5),
        (GENERATE, {"logprobs": True, "top_logprobs": 2}, 2),
    ],
)
async def test_how_many_alternatives(
    client: Client, gateway: ScriptedGateway, path: str, given: dict[str, Any], expected: int | None
) -> None:
    assert (await client.post(path, json=body(path, **given))).status == 200
    assert gateway.asks[0].request.logprobs == expected


TOLD: dict[str, Any] = {
    "token": "He",
    "logprob": -0.5,
    "bytes": [72, 101],
    "top_logprobs": [
        {"token": "He", "logprob": -0.5, "bytes": [72, 101]},
        {"token": "\ufffd", "logprob": -1.5, "bytes": [0xC3]},
    ],
}


async def test_a_chat_tells_logarithms_whole_and_streamed(client: Client, gateway: ScriptedGateway) -> None:
    gateway.script = [Chunk("He", 1, logprobs=(HE,)), Chunk("yo", 1, logprobs=(YO,)), ENDING]
    whole = await (await client.post(CHAT, json=body(CHAT, logprobs=True, top_logprobs=2))).json()
    told = whole["choices"][0]["logprobs"]
    numbered = {
        "id": HE.drawn.token,
        **TOLD,
        "top_logprobs": [{"id": other.token, **said} for other, said in zip(HE.top, TOLD["top_logprobs"], strict=True)],
    }
    assert told["content"][0] == numbered
    assert [one["token"] for one in told["content"]] == ["He", "yo"]
    response = await client.post(CHAT, json=body(CHAT, logprobs=True, top_logprobs=2, stream=True))
    chunks = [json.loads(line.removeprefix("data: ")) for line in (await lines_of(response))[:-1]]
    streamed = [(c["choices"][0]["delta"].get("content"), c["choices"][0]["logprobs"]) for c in chunks]
    assert streamed[1] == ("He", {"content": [numbered], "refusal": None})
    assert streamed[-1] == (None, None)


async def test_a_completion_tells_logarithms_in_lists(client: Client, gateway: ScriptedGateway) -> None:
    gateway.script = [Chunk("He", 1, logprobs=(HE,)), Chunk("yo", 1, logprobs=(YO,)), ENDING]
    whole = await (await client.post(PLAIN, json=body(PLAIN, logprobs=2))).json()
    assert whole["choices"][0]["logprobs"] == {
        "tokens": ["He", "yo"],
        "token_logprobs": [-0.5, -0.25],
        "top_logprobs": [{"He": -0.5, "\ufffd": -1.5}, {"yo": -0.25}],
        "text_offset": [0, 2],
    }
    response = await client.post(PLAIN, json=body(PLAIN, logprobs=2, stream=True))
    chunks = [json.loads(line.removeprefix("data: ")) for line in (await lines_of(response))[:-1]]
    assert [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in chunks[:2]] == [[0], [2]]


async def test_ollama_tells_logarithms(client: Client, gateway: ScriptedGateway) -> None:
    gateway.script = [Chunk("He", 1, logprobs=(HE,)), Chunk("yo", 1, logprobs=(YO,)), ENDING]
    asked = body(GENERATE, logprobs=True, top_logprobs=2)
    lines = [json.loads(line) for line in await lines_of(await client.post(GENERATE, json=asked))]
    assert lines[0]["logprobs"] == [TOLD]
    assert "logprobs" not in lines[-1]
    whole = await (await client.post(GENERATE, json={**asked, "stream": False})).json()
    assert [one["token"] for one in whole["logprobs"]] == ["He", "yo"]


async def test_several_answers_of_one_prompt_count_it_once(client: Client, gateway: ScriptedGateway) -> None:
    answer = await (await client.post(CHAT, json=body(CHAT, n=3, seed=5))).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert answer["usage"]["prompt_tokens"] == 12
    assert answer["usage"]["completion_tokens"] == 6
    assert sorted(ask.request.sampling.seed or 0 for ask in gateway.asks) == [5, 6, 7]


async def test_several_answers_of_several_prompts_come_in_their_order(client: Client, gateway: ScriptedGateway) -> None:
    response = await client.post(PLAIN, json=body(PLAIN, prompt=["a", "b"], n=2, best_of=2, stream=True))
    chunks = [json.loads(line.removeprefix("data: ")) for line in (await lines_of(response))[:-1]]
    assert {chunk["choices"][0]["index"] for chunk in chunks} == {0, 1, 2, 3}
    assert sorted(str(ask.request.prompt) for ask in gateway.asks) == ["a", "a", "b", "b"]


async def test_an_echo_tells_the_prompt_s_own_logarithms_and_nothing_of_what_nothing_comes_before(
    client: Client, gateway: ScriptedGateway
) -> None:
    def likely(raw: bytes, logprob: float, *top: tuple[bytes, float], first: bool = False) -> TokenLogprob:
        others = tuple(Likelihood(9, other, amount) for other, amount in top)
        return TokenLogprob(Likelihood(1, raw, logprob), others, is_first=first)

    snow = "\u2603".encode()
    prompt = (
        likely(b"", 0.0, first=True),
        likely(b"So", -1.5, (b"So", -1.5), (b"Oh", -2.5)),
        likely(snow[:1], -2.0, (snow[:1], -2.0), (b"\xf0", -3.0)),
        likely(snow[1:], -0.5, (snow[1:], -0.5)),
    )
    drawn = (likely(b"!", -0.25, (b"!", -0.25)),)
    gateway.script = (Chunk("So\u2603", 0, logprobs=prompt), Chunk("!", 1, logprobs=drawn), ENDING)
    answer = await (await client.post(PLAIN, json=body(PLAIN, echo=True, logprobs=2, max_tokens=1))).json()
    assert gateway.asks[0].request.echo
    assert answer["choices"][0]["text"] == "So\u2603!"
    told = answer["choices"][0]["logprobs"]
    assert told["token_logprobs"] == [None, -1.5, -2.0, -0.5, -0.25]
    assert told["text_offset"] == [0, 0, 2, 2, 3]
    assert told["tokens"][1] == "So"
    assert told["top_logprobs"][0] is None
    assert told["top_logprobs"][2] == {"\ufffd": -2.0}, "of those that read alike the likeliest"


async def test_of_more_answers_than_wanted_the_likeliest_are_given(client: Client, gateway: ScriptedGateway) -> None:
    scripts = [
        (
            Chunk(text, 1, logprobs=(TokenLogprob(Likelihood(1, text.encode(), amount)),)),
            replace(ENDING, usage=Usage(completion=1)),
        )
        for text, amount in (("dull", -3.0), ("good", -0.5), ("fair", -1.0))
    ]
    gateway.scripts = list(scripts)
    answer = await (await client.post(PLAIN, json=body(PLAIN, n=2, best_of=3))).json()
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [(0, "good"), (1, "fair")]
    assert all(choice["logprobs"] is None for choice in answer["choices"])
    assert answer["usage"]["completion_tokens"] == 3, "all were made"
