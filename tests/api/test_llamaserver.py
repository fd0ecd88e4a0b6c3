"""llama-server's own routes, in its words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from swapd.errors import ContextLengthExceeded
from swapd.generation import Chunk, Ending, Likelihood, StopReason, TokenLogprob, Usage
from swapd.questions import Tokenize
from tests.api.conftest import ENDING, Client, ScriptedGateway, make_model

SAID = Chunk("Hel", 1, logprobs=(TokenLogprob(Likelihood(7, b"Hel", -0.5), (Likelihood(9, b"\xff", -1.5),)),))


@pytest.fixture
def only_tiny(gateway: ScriptedGateway) -> ScriptedGateway:
    """Loaded; and no name stands for what no name is given for."""
    gateway.known["org/big:7b"] = make_model("org/big:7b")
    gateway.loaded = ("tiny",)
    return gateway


async def post(client: Client, path: str, body: object, status: int = 200) -> Any:
    response = await client.post(path, json=body)
    document = await response.json()
    assert response.status == status, document
    return document


async def events(client: Client, path: str, body: dict[str, Any]) -> list[Any]:
    response = await client.post(path, json=body | {"stream": True})
    assert response.status == 200
    lines = (await response.text()).splitlines()
    return [json.loads(line.removeprefix("data: ")) for line in lines if line]


async def test_a_completion_has_llama_server_s_fields(client: Client, gateway: ScriptedGateway) -> None:
    document = await post(client, "/completion", {"model": "tiny", "prompt": "Hi", "n_predict": 7, "stop": ["X"]})
    assert document["content"] == "Hello"
    assert (document["stop"], document["stop_type"], document["stopping_word"]) == (True, "eos", "")
    assert (document["tokens_evaluated"], document["tokens_cached"], document["tokens_predicted"]) == (12, 5, 2)
    assert document["timings"]["prompt_n"] == 7
    assert document["timings"]["cache_n"] == 5
    assert document["truncated"] is False
    assert document["prompt"] == "Hi"
    assert document["model"] == "tiny"
    settings = document["generation_settings"]
    assert (settings["n_predict"], settings["stop"], settings["temperature"], settings["seed"]) == (7, ["X"], 0.8, -1)
    (ask,) = gateway.asks
    assert (ask.request.prompt, ask.request.max_tokens, ask.request.stop) == ("Hi", 7, ("X",))


async def test_every_field_reaches_the_request(client: Client, gateway: ScriptedGateway) -> None:
    body = {
        "model": "tiny",
        "prompt": "Hi",
        "temperature": 0,
        "n_probs": 3,
        "cache_prompt": False,
        "ignore_eos": True,
        "grammar": 'root ::= "a"',
        "logit_bias": [[15, -2.5], [16, False], ["ab", 1]],
        "id_slot": 4,
        "samplers": ["top_k", "temperature"],
        "t_max_predict_ms": 500,
    }
    await post(client, "/completion", body)
    request = gateway.asks[0].request
    assert request.logprobs == 3
    assert request.caches is False
    assert request.ignore_eos is True
    assert request.grammar == 'root ::= "a"'
    assert request.logit_bias == ((15, -2.5), (16, float("-inf")), (ord("a"), 1.0), (ord("b"), 1.0))


async def test_a_schema_is_passed_on_as_text(client: Client, gateway: ScriptedGateway) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    await post(client, "/completion", {"model": "tiny", "prompt": "Hi", "json_schema": schema})
    assert json.loads(gateway.asks[0].request.schema or "") == schema


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("text", "text"),
        ([1, 2, 3], (1, 2, 3)),
        ([[1, 2, 3]], (1, 2, 3)),
        (["one"], "one"),
        ([65, "BC", 68], tuple(b"ABCD")),
    ],
)
async def test_a_prompt_is_text_or_tokens_or_both(
    client: Client, gateway: ScriptedGateway, prompt: object, read: object
) -> None:
    await post(client, "/completion", {"model": "tiny", "prompt": prompt})
    assert [ask.request.prompt for ask in gateway.asks] == [read]


async def test_several_prompts_give_several_documents(client: Client, gateway: ScriptedGateway) -> None:
    documents = await post(client, "/completion", {"model": "tiny", "prompt": ["one", [1, 2], ["x", 67]]})
    assert [document["index"] for document in documents] == [0, 1, 2]
    assert sorted(str(ask.request.prompt) for ask in gateway.asks) == ["(1, 2)", "(120, 67)", "one"]


async def test_a_stream_ends_with_the_document(client: Client, gateway: ScriptedGateway) -> None:
    told = await events(client, "/completion", {"model": "tiny", "prompt": "Hi"})
    assert [event["content"] for event in told] == ["Hel", "lo", ""]
    assert [event["stop"] for event in told] == [False, False, True]
    assert told[-1]["tokens_predicted"] == 2
    assert told[-1]["generation_settings"]["stream"] is True


async def test_probabilities_and_token_numbers_are_told_when_asked_for(
    client: Client, gateway: ScriptedGateway
) -> None:
    gateway.script = (SAID, ENDING)
    document = await post(client, "/completion", {"model": "tiny", "prompt": "Hi", "n_probs": 1, "return_tokens": True})
    assert document["tokens"] == [7]
    (likely,) = document["completion_probabilities"]
    assert (likely["id"], likely["token"], likely["logprob"], likely["bytes"]) == (7, "Hel", -0.5, [72, 101, 108])
    assert likely["top_logprobs"] == [{"id": 9, "token": "\ufffd", "bytes": [255], "logprob": -1.5}]
    (first, _) = await events(client, "/completion", {"model": "tiny", "prompt": "Hi", "n_probs": 1})
    assert first["completion_probabilities"][0]["id"] == 7


@pytest.mark.parametrize(
    ("ending", "told"),
    [
        (Ending(StopReason.LENGTH, Usage()), ("limit", "")),
        (Ending(StopReason.STOP, Usage(), "END"), ("word", "END")),
        (Ending(StopReason.STOP, Usage()), ("eos", "")),
    ],
)
async def test_how_it_ended(client: Client, gateway: ScriptedGateway, ending: Ending, told: tuple[str, str]) -> None:
    gateway.script = (Chunk("a", 1), ending)
    document = await post(client, "/completion", {"model": "tiny", "prompt": "Hi"})
    assert (document["stop_type"], document["stopping_word"]) == told


async def test_only_the_fields_asked_for(client: Client) -> None:
    fields = ["content", "timings/prompt_n", "generation_settings/top_k", "nothing", "content/x"]
    document = await post(client, "/completion", {"model": "tiny", "prompt": "Hi", "response_fields": fields})
    assert document == {"content": "Hello", "timings/prompt_n": 7, "generation_settings/top_k": 40}


async def test_infill_goes_to_the_route_for_it(client: Client, gateway: ScriptedGateway) -> None:
    gateway.known["autocomplete"] = make_model("autocomplete")
    body = {
        "input_prefix": "def add(",
        "input_suffix": "return a",
        "prompt": "a,",
        "input_extra": [{"filename": "b.py", "text": "x = 1"}],
    }
    document = await post(client, "/infill", body)
    assert document["content"] == "Hello"
    (ask,) = gateway.asks
    assert ask.model == "autocomplete"
    assert (ask.request.prompt, ask.request.suffix) == ("def add(a,", "return a")
    assert ask.request.files == (("b.py", "x = 1"),)


async def test_a_model_that_cannot_fill_in_is_not_even_loaded(client: Client, gateway: ScriptedGateway) -> None:
    gateway.questions.can_infill = False
    document = await post(client, "/infill", {"model": "tiny", "input_prefix": "a", "input_suffix": "b"}, 501)
    assert document["error"]["type"] == "not_supported_error"
    assert "cannot fill in the middle with 'tiny'" in document["error"]["message"]
    assert gateway.asks == []


async def test_tokens_there_and_back(client: Client) -> None:
    assert await post(client, "/tokenize", {"model": "tiny", "content": "AB"}) == {"tokens": [65, 66]}
    told = await post(client, "/tokenize", {"model": "tiny", "content": "Aé", "with_pieces": True})
    assert told["tokens"] == [{"id": 65, "piece": "A"}, {"id": 195, "piece": [195]}, {"id": 169, "piece": [169]}]
    assert await post(client, "/detokenize", {"model": "tiny", "tokens": [72, 105]}) == {"content": "Hi"}


async def test_tokenize_says_what_to_do_with_markers(client: Client, gateway: ScriptedGateway) -> None:
    await post(client, "/tokenize", {"model": "tiny", "content": "A", "add_special": True, "parse_special": False})
    assert gateway.questions.calls == [("tiny", Tokenize(("A",), True, False))]


async def test_the_template_is_applied(client: Client) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    ]
    document = await post(client, "/apply-template", {"model": "tiny", "messages": messages})
    assert document == {"prompt": "Be brief. Hi"}
    refused = await post(client, "/apply-template", {"model": "tiny", "messages": [{"role": "wizard"}]}, 400)
    assert "'system', 'developer', 'user', 'assistant'" in refused["error"]["message"]


async def test_without_a_model_the_one_used_last_answers(client: Client, only_tiny: ScriptedGateway) -> None:
    await post(client, "/completion", {"prompt": "Hi"})
    assert only_tiny.asks[0].model == "tiny"


async def test_without_a_model_the_only_one_answers(client: Client, gateway: ScriptedGateway) -> None:
    gateway.loaded = ()
    del gateway.known["org/big:7b"]
    await post(client, "/completion", {"prompt": "Hi"})
    assert gateway.asks[0].model == "tiny"


async def test_without_a_model_and_with_several_the_names_are_told(client: Client, gateway: ScriptedGateway) -> None:
    gateway.known["org/big:7b"] = make_model("org/big:7b")
    gateway.loaded = ()
    error = (await post(client, "/completion", {"prompt": "Hi"}, 400))["error"]
    assert error["code"] == 400
    assert error["type"] == "invalid_request_error"
    assert "tiny, org/big:7b" in error["message"]
    assert "broken" not in error["message"]


async def test_errors_have_llama_server_s_shape(client: Client, gateway: ScriptedGateway) -> None:
    unknown = await post(client, "/completion", {"model": "nosuch", "prompt": "Hi"}, 404)
    assert unknown["error"]["type"] == "not_found_error"
    gateway.refusal = ContextLengthExceeded(9000, 4096)
    error = (await post(client, "/completion", {"model": "tiny", "prompt": "Hi"}, 400))["error"]
    assert error["type"] == "exceed_context_size_error"
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (9000, 4096)
    wrong = await client.get("/completion")
    assert wrong.status == 405
    assert (await wrong.json())["error"]["code"] == 405


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": [["a"], 3.5]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"n_predict": -3}, "n_predict"),
        ({"n_probs": 1000}, "n_probs"),
        ({"grammar": "x", "json_schema": {}}, "both"),
        ({"json_schema": "text"}, "JSON Schema"),
        ({"samplers": ["temperature", "nucleus"]}, "top_n_sigma"),
        ({"samplers": ["top_k", "penalties"]}, "penalties come first"),
        ({"logit_bias": [[1]]}, "pair"),
        ({"logit_bias": [[1, True]]}, "pair"),
        ({"image_data": [1]}, "image_data"),
        ({"lora": [{"id": 0, "scale": 500}]}, "scale"),
        ({"lora": [{"id": 0, "scale": 1}]}, "has no adapter 0"),
        ({"prompt": {"prompt_string": "Hi", "multimodal_data": ["AAAA"]}}, "multimodal_data"),
        ({"n_cmpl": 100, "prompt": ["a", "b"]}, "n_cmpl"),
        ({"t_max_predict_ms": -2}, "t_max_predict_ms"),
    ],
)
async def test_what_cannot_be_served_is_refused_by_name(
    client: Client, gateway: ScriptedGateway, change: dict[str, object], words: str
) -> None:
    error = (await post(client, "/completion", {"model": "tiny", "prompt": "Hi", **change}, 400))["error"]
    assert words in error["message"]
    assert gateway.asks == []


async def test_props_tell_the_model(client: Client) -> None:
    response = await client.get("/props?model=tiny")
    document = await response.json()
    assert document["total_slots"] == 4
    assert document["default_generation_settings"]["n_ctx"] == 4096
    assert document["chat_template"] == "{{ messages }}"
    assert (document["bos_token"], document["eos_token"]) == ("<s>", "</s>")
    assert document["is_sleeping"] is False


async def test_slots_tell_who_is_busy(client: Client, only_tiny: ScriptedGateway) -> None:
    only_tiny.busy = 1
    response = await client.get("/slots")
    told = await response.json()
    assert [slot["is_processing"] for slot in told] == [True, False, False, False]
    only_tiny.busy = 4
    full = await client.get("/slots?fail_on_no_slot=1")
    assert full.status == 503
    assert (await full.json())["error"]["type"] == "unavailable_error"


async def test_openai_s_suffix_fills_in_the_middle_too(client: Client, gateway: ScriptedGateway) -> None:
    body = {"model": "tiny", "prompt": "def add(", "suffix": "return a"}
    document = await post(client, "/v1/completions", body)
    assert document["choices"][0]["text"] == "Hello"
    assert (gateway.asks[0].request.prompt, gateway.asks[0].request.suffix) == ("def add(", "return a")
    gateway.questions.can_infill = False
    error = (await post(client, "/v1/completions", body, 400))["error"]
    assert "cannot fill in the middle" in error["message"]
    assert "echo" in (await post(client, "/v1/completions", body | {"echo": True}, 400))["error"]["message"]


LLAMA_VIM = {
    "id_slot": 0,
    "input_prefix": "def add(\n",
    "input_suffix": "\n    return a\n",
    "input_extra": [{"text": "x = 1\n", "time": [1, 2], "filename": "b.py"}],
    "prompt": "    a, ",
    "n_predict": 128,
    "stop": [],
    "n_indent": 4,
    "top_k": 40,
    "top_p": 0.99,
    "stream": False,
    "samplers": ["top_k", "top_p", "infill"],
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 1000,
    "response_fields": [
        "content",
        "timings/prompt_n",
        "timings/prompt_ms",
        "timings/prompt_per_token_ms",
        "timings/prompt_per_second",
        "timings/predicted_n",
        "timings/predicted_ms",
        "timings/predicted_per_token_ms",
        "timings/predicted_per_second",
        "truncated",
        "tokens_cached",
    ],
}


async def test_what_llama_vim_sends_is_answered_with_what_it_reads(client: Client, gateway: ScriptedGateway) -> None:
    gateway.known["autocomplete"] = make_model("autocomplete")
    document = await post(client, "/infill", LLAMA_VIM)
    assert set(document) == set(LLAMA_VIM["response_fields"])  # type: ignore[call-overload]
    wanted = gateway.asks[0].request
    assert (wanted.prompt, wanted.suffix) == ("def add(\n    a, ", "\n    return a\n")
    assert (wanted.samplers, wanted.indent, wanted.line_limit) == (("top_k", "top_p", "infill"), 4, 1.0)
    assert (wanted.sampling.top_k, wanted.sampling.top_p) == (40, 0.99)
    warm = LLAMA_VIM | {"n_predict": 0, "prompt": "", "response_fields": [""], "t_max_predict_ms": 1}
    assert await post(client, "/infill", warm) == {}
    assert gateway.asks[1].request.max_tokens == 0


LLAMA_VSCODE = {
    "input_prefix": "def add(\n",
    "input_suffix": "\n    return a\n",
    "input_extra": [{"text": "x = 1\n", "time": 1_700_000_000_000, "filename": "b.py"}],
    "prompt": "    a, ",
    "n_predict": 128,
    "top_k": 40,
    "top_p": 0.99,
    "stream": False,
    "samplers": ["top_k", "top_p", "infill"],
    "cache_prompt": True,
    "n_indent": 4,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 2500,
}
LLAMA_VSCODE_AHEAD = {
    "input_prefix": "",
    "input_suffix": "",
    "input_extra": LLAMA_VSCODE["input_extra"],
    "prompt": "",
    "n_predict": 0,
    "samplers": [],
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 1,
}
LLAMA_VSCODE_EDIT = {
    "messages": [{"role": "user", "content": "Hi"}],
    "stream": False,
    "cache_prompt": True,
    "samplers": "edkypmxt",
    "temperature": 0.8,
    "dynatemp_range": 0,
    "dynatemp_exponent": 1,
    "top_k": 40,
    "top_p": 0.95,
    "min_p": 0.05,
    "typical_p": 1,
    "xtc_probability": 0,
    "xtc_threshold": 0.1,
    "repeat_last_n": 64,
    "repeat_penalty": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "dry_multiplier": 0,
    "dry_base": 1.75,
    "dry_allowed_length": 2,
    "dry_penalty_last_n": -1,
    "max_tokens": -1,
    "timings_per_token": False,
}


async def test_what_llama_vscode_sends_is_answered_with_what_it_reads(client: Client, gateway: ScriptedGateway) -> None:
    gateway.known["autocomplete"] = make_model("autocomplete")
    document = await post(client, "/infill", LLAMA_VSCODE)
    assert {"content", "generation_settings", "tokens_cached", "truncated", "timings"} <= set(document)
    assert gateway.asks[0].request.files == (("b.py", "x = 1\n"),)
    assert (gateway.asks[0].request.indent, gateway.asks[0].request.line_limit) == (4, 2.5)
    await post(client, "/infill", LLAMA_VSCODE_AHEAD)
    assert (gateway.asks[1].request.max_tokens, gateway.asks[1].request.samplers) == (0, ())
    edited = await post(client, "/v1/chat/completions", LLAMA_VSCODE_EDIT)
    assert edited["choices"][0]["message"]["content"] == "Hello"
    assert gateway.asks[2].request.max_tokens is None
    names = ("penalties", "dry", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature")
    assert gateway.asks[2].request.samplers == names
