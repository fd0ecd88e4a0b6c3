"""The Ollama dialect: what is asked of the gateway, and what comes back."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from swapd import __version__
from swapd.api import ollama
from swapd.api.app import RUNNER_OPTIONS, GuardSettings, make_app
from swapd.api.ollama_models import parameter_size
from swapd.errors import DoesNotFit
from swapd.generation import Ending, Message, Role, Sampling, StopReason, Usage
from swapd.served import ModelEntry, Preset
from swapd.units import FOREVER, GiB
from tests.api.conftest import Client, ScriptedGateway, lines_of, make_model

GENERATE = "/api/generate"
CHAT = "/api/chat"


def a_prompt(**more: Any) -> dict[str, Any]:
    return {"model": "tiny", "prompt": "hi", **more}


def a_chat(**more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], **more}


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        (GENERATE, a_prompt(), lambda text: {"response": text}),
        (CHAT, a_chat(), lambda text: {"message": {"role": "assistant", "content": text}}),
    ],
)
async def test_answers_stream_as_lines_unless_told_otherwise(
    client: Client, path: str, body: dict[str, Any], said: Any
) -> None:
    response = await client.post(path, json=body)
    assert response.content_type == "application/x-ndjson"
    assert response.headers["X-Swapd-Model"] == "tiny"
    lines = [json.loads(line) for line in await lines_of(response)]
    assert lines[2].pop("context", None) == ([0, *b"Hello"] if path == GENERATE else None)
    for line in lines:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", line.pop("created_at"))
    assert lines[0] == {"model": "tiny", "done": False, **said("Hel")}
    assert lines[1] == {"model": "tiny", "done": False, **said("lo")}
    figures = {
        "done": True,
        "done_reason": "stop",
        "load_duration": 250_000_000,
        "prompt_eval_count": 7,
        "prompt_eval_duration": 70_000_000,
        "eval_count": 2,
        "eval_duration": 500_000_000,
    }
    assert isinstance(lines[2].pop("total_duration"), int)
    assert lines[2] == {"model": "tiny", **said(""), **figures}
    whole = await (await client.post(path, json={**body, "stream": False})).json()
    whole.pop("created_at")
    whole.pop("context", None)
    assert isinstance(whole.pop("total_duration"), int)
    assert whole == {"model": "tiny", **said("Hello"), **figures}


async def test_running_into_the_limit_is_told(client: Client, gateway: ScriptedGateway) -> None:
    gateway.script = [Ending(StopReason.LENGTH, Usage())]
    answer = await (await client.post(GENERATE, json=a_prompt(stream=False))).json()
    assert answer["done_reason"] == "length"


async def test_generate_goes_through_the_chat_template(client: Client, gateway: ScriptedGateway) -> None:
    await client.post(GENERATE, json=a_prompt(system="be kind"))
    request = gateway.asks[0].request
    assert request.messages == (Message(Role.SYSTEM, "be kind"), Message(Role.USER, "hi"))
    assert request.prompt == ""


async def test_a_raw_prompt_is_read_as_it_is(client: Client, gateway: ScriptedGateway) -> None:
    await client.post(GENERATE, json=a_prompt(raw=True))
    request = gateway.asks[0].request
    assert (request.prompt, request.messages) == ("hi", ())


async def test_a_suffix_asks_for_what_belongs_between(client: Client, gateway: ScriptedGateway) -> None:
    await client.post(GENERATE, json=a_prompt(suffix="}"))
    request = gateway.asks[0].request
    assert (request.prompt, request.suffix, request.messages) == ("hi", "}", ())


async def test_a_template_is_jinja2(client: Client, gateway: ScriptedGateway) -> None:
    await client.post(GENERATE, json=a_prompt(template="{{ messages[0].content }}"))
    assert gateway.asks[0].request.template == "{{ messages[0].content }}"
    response = await client.post(GENERATE, json=a_prompt(template="{{ if .System }}{{ .System }}{{ end }}"))
    assert response.status == 400
    assert "one of Go's" in (await response.json())["error"]


@pytest.mark.parametrize("streamed", [True, False])
async def test_an_answer_brings_the_tokens_to_go_on_with(
    client: Client, gateway: ScriptedGateway, streamed: bool
) -> None:
    """In the tests' vocabulary a rendered word is a number, a letter of text its byte."""
    response = await client.post(GENERATE, json=a_prompt(system="be kind", stream=streamed))
    kept = json.loads((await lines_of(response))[-1])["context"]
    assert kept == [0, 1, 2, *b"Hello"]
    response = await client.post(GENERATE, json=a_prompt(context=kept, stream=streamed))
    request = gateway.asks[1].request
    assert request.messages == ()
    assert request.prompt == (*kept, *b"hi")
    assert json.loads((await lines_of(response))[-1])["context"] == [*kept, *b"hi", *b"Hello"]


async def test_a_raw_answer_has_no_context(client: Client) -> None:
    response = await client.post(GENERATE, json=a_prompt(raw=True, stream=False))
    assert "context" not in await response.json()


async def test_options_reach_the_gateway(client: Client, gateway: ScriptedGateway) -> None:
    options = {
        "num_predict": 5,
        "temperature": 0,
        "top_k": 3,
        "top_p": 0.5,
        "min_p": 0.1,
        "seed": 42,
        "stop": ["a", "b"],
        "repeat_penalty": 1.1,
        "repeat_last_n": -1,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "num_ctx": 4096,
        "num_batch": 512,
        "num_gpu": 99,
        "main_gpu": 0,
        "use_mmap": True,
        "num_thread": 4,
        "num_keep": 4,
        "typical_p": 0.9,
        "mirostat": 2,
        "mirostat_tau": 4,
        "mirostat_eta": 0.2,
        "no_such_option": {},
    }
    assert (await client.post(CHAT, json=a_chat(options=options, keep_alive="30m"))).status == 200
    ask = gateway.asks[0]
    assert ask.request.sampling == Sampling(
        temperature=0,
        top_k=3,
        top_p=0.5,
        min_p=0.1,
        repeat_penalty=1.1,
        repeat_last_n=-1,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        seed=42,
        typical_p=0.9,
        mirostat=2,
        mirostat_tau=4,
        mirostat_eta=0.2,
    )
    assert ask.request.stop == ("a", "b")
    assert ask.request.max_tokens == 5
    assert ask.keep_alive == 1800
    assert ask.defaults == ollama.DEFAULTS
    assert (ask.defaults.top_p, ask.defaults.min_p) == (0.9, 0.0)


@pytest.mark.parametrize(("given", "expected"), [(-1, None), (-2, None), (None, None), (0, 0), (7, 7)])
async def test_num_predict(client: Client, gateway: ScriptedGateway, given: int | None, expected: int | None) -> None:
    await client.post(GENERATE, json=a_prompt(options={"num_predict": given}))
    assert gateway.asks[0].request.max_tokens == expected


@pytest.mark.parametrize(
    "harmless",
    [
        {"think": False, "format": "", "suffix": "", "template": "", "context": [], "images": []},
        {"options": None, "keep_alive": None, "stream": None, "raw": False, "system": ""},
        {"truncate": True, "shift": True, "logprobs": False, "top_logprobs": 0, "tools": []},
    ],
)
async def test_what_changes_nothing_is_ignored(client: Client, harmless: dict[str, Any]) -> None:
    response = await client.post(GENERATE, json=a_prompt(**harmless))
    assert response.status == 200, await response.text()


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        (GENERATE, a_prompt(think="hard"), "think"),
        (GENERATE, a_prompt(format="xml"), "format"),
        (CHAT, a_chat(format=["object"]), "format"),
        (GENERATE, a_prompt(images=["aGk="]), "images"),
        (GENERATE, a_prompt(suffix="x", system="y"), "system"),
        (GENERATE, a_prompt(raw=True, context=[1]), "context"),
        (GENERATE, a_prompt(raw=True, template="x"), "template"),
        (GENERATE, a_prompt(template="{{ .Prompt }}"), "template"),
        (GENERATE, a_prompt(context=[-1]), "context[0]"),
        (GENERATE, a_prompt(truncate="no"), "truncate"),
        (GENERATE, a_prompt(raw=True, system="x"), "system"),
        (GENERATE, a_prompt(top_logprobs=3), "top_logprobs"),
        (CHAT, a_chat(tools=[{}]), "tools"),
        (CHAT, a_chat(messages=[{"role": "user", "content": "x", "images": ["aGk="]}]), "messages[0].images"),
        (CHAT, a_chat(messages=[{"role": "assistant", "tool_calls": [{}]}]), "messages[0].tool_calls[0].function"),
        (CHAT, a_chat(messages=[{"role": "robot", "content": "x"}]), "messages[0].role"),
        (CHAT, a_chat(messages=[{"role": "user", "content": [{"type": "text", "text": "x"}]}]), "messages[0].content"),
        (CHAT, a_chat(messages={}), "messages"),
        (GENERATE, {"prompt": "hi"}, "model"),
        (GENERATE, a_prompt(prompt=3), "prompt"),
        (GENERATE, a_prompt(stream="no"), "stream"),
        (GENERATE, a_prompt(options=[]), "options"),
        (GENERATE, a_prompt(options={"temperature": "0"}), "options.temperature"),
        (GENERATE, a_prompt(options={"num_predict": -3}), "options.num_predict"),
        (GENERATE, a_prompt(options={"num_ctx": "4096"}), "options.num_ctx"),
        (GENERATE, a_prompt(options={"num_thread": True}), "options.num_thread"),
        (GENERATE, a_prompt(options={"use_mmap": 1}), "options.use_mmap"),
        (GENERATE, a_prompt(keep_alive="soon"), "keep_alive"),
        ("/api/show", {}, "model"),
    ],
)
async def test_what_is_wrong_or_not_served_is_refused_by_name(
    client: Client, gateway: ScriptedGateway, path: str, body: dict[str, Any], named: str
) -> None:
    response = await client.post(path, json=body)
    assert response.status == 400, await response.text()
    error = await response.json()
    assert list(error) == ["error"]
    assert f"'{named}'" in error["error"]
    assert gateway.asks == []


async def test_a_larger_num_ctx_is_refused_with_both_numbers_and_the_way_out(client: Client) -> None:
    response = await client.post(GENERATE, json=a_prompt(options={"num_ctx": 8192}))
    assert response.status == 400
    error = (await response.json())["error"]
    assert "8192" in error
    assert "4096" in error
    assert 'context = 8192` under [models."tiny"]' in error


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (GENERATE, {"model": "tiny"}, {"response": ""}),
        (GENERATE, {"model": "tiny", "prompt": ""}, {"response": ""}),
        (CHAT, {"model": "tiny"}, {"message": {"role": "assistant", "content": ""}}),
        (CHAT, {"model": "tiny", "messages": []}, {"message": {"role": "assistant", "content": ""}}),
    ],
)
async def test_an_empty_prompt_loads_or_with_no_keep_alive_unloads(
    client: Client, gateway: ScriptedGateway, path: str, body: dict[str, Any], field: dict[str, Any]
) -> None:
    loaded = await (await client.post(path, json={**body, "keep_alive": -1})).json()
    loaded.pop("created_at")
    assert loaded == {"model": "tiny", **field, "done": True, "done_reason": "load"}
    unloaded = await (await client.post(path, json={**body, "keep_alive": 0})).json()
    assert unloaded["done_reason"] == "unload"
    assert gateway.calls == [("load", "tiny", FOREVER, None), ("unload", "tiny", False, False)]
    assert gateway.asks == []


async def test_a_load_that_does_not_fit_is_told_in_ollamas_words(client: Client, gateway: ScriptedGateway) -> None:
    gateway.refusal = DoesNotFit("tiny", "cuda:0", 8 * GiB, 4 * GiB, ("big",))
    response = await client.post(GENERATE, json={"model": "tiny"})
    assert response.status == 507
    assert "8 GiB" in (await response.json())["error"]


async def test_an_unknown_model_is_told_as_ollama_tells_it(client: Client) -> None:
    for path, body in ((GENERATE, a_prompt(model="nope")), (CHAT, {"model": "nope"}), ("/api/show", {"name": "nope"})):
        response = await client.post(path, json=body)
        assert response.status == 404
        assert (await response.json())["error"].startswith("model 'nope' not found")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/create"),
        ("POST", "/api/push"),
        ("POST", "/api/copy"),
        ("DELETE", "/api/delete"),
        ("POST", "/api/pull"),
    ],
)
async def test_models_are_never_changed(client: Client, method: str, path: str) -> None:
    response = await client.request(method, path, json={"model": "tiny"})
    assert response.status == 403
    assert path.removeprefix("/api/") in (await response.json())["error"]


@pytest.mark.parametrize("path", ["/", "/api/version", "/api/tags"])
async def test_clients_probe_with_head(client: Client, path: str) -> None:
    response = await client.head(path)
    assert response.status == 200
    assert await response.read() == b""


async def test_the_version_satisfies_those_who_want_a_recent_ollama_and_ours_stands_beside(client: Client) -> None:
    told = await (await client.get("/api/version")).json()
    needed = [(0, 6, 4), (0, 13, 4)]  # VS Code's Copilot, Codex
    assert tuple(map(int, told["version"].split("."))) >= max(needed)
    assert told["swapd"] == __version__
    assert await (await client.get("/")).text() == f"Ollama is running (swapd {__version__})"


async def test_there_is_no_cloud(client: Client) -> None:
    assert (await (await client.get("/api/status")).json())["cloud"]["disabled"] is True


PRESETS = (("precise", Preset(Sampling(temperature=0.1))),)
DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "llama",
    "families": ["llama"],
    "parameter_size": "134.5M",
    "quantization_level": "Q4_1",
    "context_length": 4096,
    "embedding_length": 576,
}


async def test_tags_tell_what_can_be_used(client: Client) -> None:
    models = (await (await client.get("/api/tags")).json())["models"]
    assert [model["name"] for model in models] == ["tiny", "org/big:7b"]
    assert models[0] == {
        "name": "tiny",
        "model": "tiny",
        "modified_at": "2023-11-14T22:13:20.250000Z",
        "size": 98 * 2**20,
        "digest": "ab" * 32,
        "details": DETAILS,
    }


async def test_ps_tells_who_is_loaded_and_until_when(client: Client) -> None:
    """Who stays longest comes first."""
    forever, leaving, ready = (await (await client.get("/api/ps")).json())["models"]
    assert ready == {
        "name": "tiny",
        "model": "tiny",
        "size": 1000 * 2**20,
        "digest": "ab" * 32,
        "details": DETAILS,
        "expires_at": "2026-01-01T12:06:00Z",
        "size_vram": 900 * 2**20,
        "context_length": 4096,
    }
    assert datetime.fromisoformat(leaving["expires_at"]) <= datetime.now(UTC)
    assert forever["expires_at"] > "2300"


async def test_show_tells_shape_context_and_the_owners_parameters(client: Client, gateway: ScriptedGateway) -> None:
    entry = ModelEntry(
        sampling=Sampling(temperature=0.7, seed=0), stop=("END",), max_tokens=100, system="Be kind.", presets=PRESETS
    )
    gateway.known["own"] = make_model("own", context=2048, entry=entry)
    shown = await (await client.post("/api/show", json={"model": "own"})).json()
    assert shown["details"] == {**DETAILS, "context_length": 2048}
    assert shown["capabilities"] == ["completion", "tools", "insert"]
    assert (shown["template"], shown["system"]) == ("{{ messages }}", "Be kind.")
    assert shown["modelfile"].splitlines() == [
        "FROM /models/own.gguf",
        'TEMPLATE """{{ messages }}"""',
        'SYSTEM """Be kind."""',
        *(f"PARAMETER {line}" for line in shown["parameters"].splitlines()),
    ]
    assert shown["model_info"]["llama.attention.head_count_kv"] == 3
    assert shown["model_info"]["general.architecture"] == "llama"
    assert shown["model_info"]["llama.context_length"] == 8192
    assert shown["parameters"].splitlines() == [
        "num_ctx 2048",
        "num_predict 100",
        "temperature 0.7",
        "seed 0",
        'stop "END"',
    ]


async def test_presets_are_listed_beside_their_model(client: Client, gateway: ScriptedGateway) -> None:
    gateway.known = {"own": make_model("own", entry=ModelEntry(presets=PRESETS))}
    listed = (await (await client.get("/api/tags")).json())["models"]
    assert [model["name"] for model in listed] == ["own", "own:precise"]
    openai = (await (await client.get("/v1/models")).json())["data"]
    assert [model["id"] for model in openai] == ["own", "own:precise"]


@pytest.mark.parametrize(
    ("parameters", "expected"), [(134_515_008, "134.5M"), (8_030_000_000, "8.0B"), (5_000, "5.0K"), (12, "12")]
)
def test_parameter_sizes_are_written_as_ollama_does(parameters: int, expected: str) -> None:
    assert parameter_size(parameters) == expected


async def test_a_pull_on_the_socket_is_done_if_the_model_is_there(gateway: ScriptedGateway, tmp_path: Path) -> None:
    runner = web.AppRunner(make_app(gateway, GuardSettings()), **RUNNER_OPTIONS)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "s")).start()
    try:
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(tmp_path / "s"))) as session:
            pull = partial(session.post, "http://localhost/api/pull")
            async with pull(json={"name": "tiny"}) as response:
                assert json.loads((await lines_of(response))[-1]) == {"status": "success"}
            async with pull(json={"model": "tiny", "stream": False}) as response:
                assert await response.json() == {"status": "success"}
            async with pull(json={"model": "nope"}) as response:
                assert response.status == 400
                assert "no folder to put models into" in (await response.json())["error"]
    finally:
        await runner.cleanup()
