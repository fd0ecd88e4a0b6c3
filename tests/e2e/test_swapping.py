"""Two real models under one daemon: who is in, who leaves, when and why."""

from __future__ import annotations

import ollama
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from swapd.demo import models
from tests.e2e.conftest import COMMON, GEMMA, SMOL, Daemon, RoomForOne, Start

pytestmark = pytest.mark.e2e

TURN: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say hello to me."}]


def smol_path() -> str:
    return str(models.folder() / f"{SMOL}.gguf")


COMMON_WITH_COPIES = COMMON + "".join(
    f'[models."{name}"]\npath = "{smol_path()}"\ncontext = {512 + 16 * i}\nslots = 1\n' for i, name in enumerate("abc")
)
"""Three more names for the small model: different variants, because their contexts differ."""


def test_a_newcomer_that_would_overflow_evicts_the_idle_one_and_says_why(
    start: Start, room_for_one: RoomForOne
) -> None:
    daemon = start(room_for_one())

    assert daemon.chat(SMOL)[0] == 200
    assert daemon.resident_names() == {SMOL}
    assert daemon.call("/v1/completions", {"model": GEMMA, "prompt": "One, two,", "max_tokens": 4})[0] == 200

    assert daemon.resident_names() == {GEMMA}
    assert f"evicted for {GEMMA}" in daemon.wait_log(f"event=unload.*model={SMOL}")
    assert daemon.status()["counters"]["evictions"] == 1


def test_models_that_fit_together_stay_together(daemon: Daemon) -> None:
    daemon.chat(SMOL)
    daemon.call("/v1/completions", {"model": GEMMA, "prompt": "One, two,", "max_tokens": 4})

    assert daemon.resident_names() == {SMOL, GEMMA}
    assert daemon.status()["counters"]["evictions"] == 0


def test_official_clients_chat_with_both_models_while_they_swap(start: Start, room_for_one: RoomForOne) -> None:
    """The openai and ollama packages, streaming and not, with room for one model."""
    daemon = start(room_for_one())
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0) as client:
        for model in (SMOL, GEMMA):
            whole = client.chat.completions.create(model=model, messages=TURN, max_tokens=12, temperature=0)
            # The first greedy token may be the end of the turn: which it is hangs on how the CPU rounds.
            assert whole.choices[0].message.content or whole.choices[0].finish_reason == "stop"
            assert whole.usage is not None
            assert whole.usage.completion_tokens <= 12
            stream = client.chat.completions.create(
                model=model, messages=TURN, max_tokens=12, temperature=0, stream=True
            )
            told = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
            assert "".join(told) == whole.choices[0].message.content
            assert daemon.resident_names() == {model}
        assert {model.id for model in client.models.list()} == {SMOL, GEMMA}
    with ollama.Client(host=daemon.url) as other:
        for model in (SMOL, GEMMA):
            answer = other.chat(
                model, [{"role": "user", "content": "Say hello."}], options={"num_predict": 8, "temperature": 0}
            )
            assert answer.message.content or answer.done_reason == "stop"
            parts = list(other.generate(model, "Say hello.", stream=True, options={"num_predict": 8, "temperature": 0}))
            assert "".join(part.response for part in parts) or parts[-1].done_reason == "stop"
            assert [resident.model for resident in other.ps().models] == [model]
        assert {model.model for model in other.list().models} == {SMOL, GEMMA}


def test_the_least_recently_used_goes_first(start: Start) -> None:
    daemon = start("[scheduler]\nmax_loaded = 2\n", common=COMMON_WITH_COPIES)
    for model in ("a", "b", "a", "c"):
        assert daemon.chat(model)[0] == 200

    assert daemon.resident_names() == {"a", "c"}


def test_a_pinned_model_is_never_a_victim_and_the_refusal_names_it(start: Start, room_for_one: RoomForOne) -> None:
    daemon = start(room_for_one())
    assert daemon.swapctl("load", SMOL).returncode == 0
    assert daemon.swapctl("pin", SMOL).returncode == 0

    status, body = daemon.call("/v1/completions", {"model": GEMMA, "prompt": "x", "max_tokens": 1})

    assert status == 507
    assert body["error"]["code"] == "does_not_fit"
    assert SMOL in body["error"]["message"]
    assert daemon.swapctl("load", GEMMA).returncode == 5
    assert daemon.resident_names() == {SMOL}
    assert daemon.swapctl("unpin", SMOL).returncode == 0
    assert daemon.swapctl("load", GEMMA).returncode == 0
    assert daemon.resident_names() == {GEMMA}


def test_a_model_larger_than_everything_is_refused_at_once_and_nobody_is_evicted(start: Start) -> None:
    huge = '[models."huge"]\npath = "{}"\ncontext = 8192\nslots = 250\n'
    daemon = start("", common=COMMON_WITH_COPIES + huge.format(smol_path()))
    assert daemon.chat(SMOL)[0] == 200

    status, body = daemon.chat("huge")

    assert status == 507
    assert body["error"]["code"] == "does_not_fit"
    assert SMOL in daemon.resident_names()


def test_keep_alive_counts_from_the_end_of_the_last_answer(start: Start) -> None:
    daemon = start()
    assert daemon.chat(SMOL, keep_alive=0)[0] == 200
    daemon.wait_status(lambda status: not status["models"])

    assert daemon.chat(SMOL, keep_alive="1s")[0] == 200
    assert daemon.resident_names() == {SMOL}
    assert "its keep-alive ended" in daemon.wait_log("event=unload.*keep-alive", since=len(daemon.log))

    assert daemon.chat(SMOL, keep_alive=-1)[0] == 200
    assert daemon.status()["models"][0]["expires_at"] is None
    assert "Forever" in daemon.swapctl("ps").stdout


def test_an_empty_ollama_prompt_loads_and_unloads(daemon: Daemon) -> None:
    body = {"model": SMOL, "stream": False}

    assert daemon.call("/api/generate", body)[1]["done_reason"] == "load"
    assert SMOL in daemon.resident_names()
    assert daemon.call("/api/generate", body | {"keep_alive": 0})[1]["done_reason"] == "unload"
    daemon.wait_status(lambda status: SMOL not in {m["name"] for m in status["models"]})


def test_preload_and_pin_from_the_configuration(start: Start) -> None:
    daemon = start(common=COMMON.replace("slots = 4", "slots = 4\npreload = true\npin = true"))

    daemon.wait_status(lambda status: [m["state"] for m in status["models"]] == ["ready"])

    assert daemon.status()["models"][0]["pinned"] is True
