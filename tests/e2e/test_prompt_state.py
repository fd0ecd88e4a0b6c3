"""Conversations survive their model's eviction and the daemon's restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import GEMMA, SMOL, Daemon, RoomForOne, Start
from tests.softgpu.fixtures import MakeSoftGPU

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

MODELS = """
[models."smollm2-135m"]
context = 4096
slots = 1
[models."gemma3-270m"]
context = 4096
slots = 1
"""
CACHE = '[paths]\ncache = "{}"\n'
STORY = " ".join(
    f"Visitor {i} of the museum bought {i * 7 % 13} postcards and asked for painting number {i * 31 % 97}."
    for i in range(100)
)
"""About 2,000 tokens for SmolLM2 and 2,700 for Gemma."""


def complete(daemon: Daemon, model: str, prompt: str, **more: Any) -> Any:
    body = {"model": model, "prompt": prompt, "max_tokens": 12, "temperature": 0} | more
    status, answer = daemon.call("/v1/completions", body)
    assert status == 200, answer
    return answer


def cached(answer: Any) -> tuple[int, int]:
    """Cached tokens of the prompt, and all of them."""
    usage = answer["usage"]
    assert answer["timings"]["cache_n"] == usage["prompt_tokens_details"]["cached_tokens"]
    assert answer["timings"]["prompt_n"] == usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
    return usage["prompt_tokens_details"]["cached_tokens"], usage["prompt_tokens"]


@pytest.mark.parametrize(("model", "other"), [(SMOL, GEMMA), (GEMMA, SMOL)])
def test_a_conversation_goes_on_after_an_eviction_and_after_a_restart(
    start: Start, room_for_one: RoomForOne, tmp_path: Path, model: str, other: str
) -> None:
    """At least 98 % of it is not read again, and the text is what it would have been without the swap."""
    # ggml cuts long contexts into as many sums as there are threads: as many each time, or the rounding differs.
    threads = "[engine]\nthreads = 1\n"
    settings = room_for_one(MODELS) + CACHE.format(tmp_path / "prompts") + threads
    daemon = start(settings, common=MODELS)
    first = complete(daemon, model, STORY)
    assert cached(first)[0] == 0
    goes_on = STORY + first["choices"][0]["text"] + " Then"
    stayed = complete(daemon, model, goes_on)

    complete(daemon, other, "One, two,")
    assert daemon.resident_names() == {other}
    back = complete(daemon, model, goes_on)
    reused, prompt = cached(back)
    assert prompt >= 2000
    assert reused >= 0.98 * prompt
    assert back["choices"][0]["text"] == stayed["choices"][0]["text"]
    (row,) = daemon.status()["models"]
    assert row["restored"] == reused

    assert daemon.stop() == 0
    again = start(settings, common=MODELS)
    after = complete(again, model, goes_on)
    assert cached(after)[0] >= 0.98 * prompt
    assert after["choices"][0]["text"] == stayed["choices"][0]["text"]


@pytest.mark.parametrize("context", ["3072", "6144"])
def test_a_reload_that_changes_the_context_keeps_the_weights_and_the_conversation(start: Start, context: str) -> None:
    """The model as it was can be reached by nobody: its worker makes another context, and goes on in that."""
    daemon = start(common=MODELS)
    complete(daemon, SMOL, STORY)
    (before,) = daemon.status()["models"]
    daemon.write_config("", common=MODELS.replace("4096", context))
    assert daemon.swapctl("reload").returncode == 0

    reused, prompt = cached(complete(daemon, SMOL, STORY + " Then"))
    assert reused >= 0.98 * prompt
    (after,) = daemon.status()["models"]
    assert (after["context"], after["pid"]) == (int(context), before["pid"])
    assert daemon.status()["counters"]["loads"] == 1


def test_a_reload_that_changes_what_is_loaded_has_the_model_leave(start: Start) -> None:
    daemon = start(common=MODELS)
    complete(daemon, SMOL, STORY[:3000])
    daemon.write_config("", common=MODELS.replace("context = 4096", 'context = 4096\ndraft = "prompt"'))
    assert daemon.swapctl("reload").returncode == 0
    daemon.wait_status(lambda status: not status["models"])


def test_without_a_prompt_cache_nothing_is_saved(start: Start, tmp_path: Path) -> None:
    daemon = start('[memory]\nprompt_cache = "0"\n' + CACHE.format(tmp_path / "prompts"), common=MODELS)
    complete(daemon, SMOL, STORY[:3000])
    assert daemon.swapctl("unload", SMOL).returncode == 0
    assert not (tmp_path / "prompts").exists()
    assert cached(complete(daemon, SMOL, STORY[:3000]))[0] == 0


def test_a_chat_goes_on_with_its_next_question_after_an_eviction(
    start: Start, room_for_one: RoomForOne, tmp_path: Path
) -> None:
    """The template renders the answer again; what it renders as it was written is not read twice."""
    daemon = start(room_for_one(MODELS) + CACHE.format(tmp_path / "prompts"), common=MODELS)
    turns = [{"role": "user", "content": f"Remember this: {STORY[:4000]} How many visitors were there?"}]

    def chat(messages: list[dict[str, str]]) -> Any:
        body = {"model": SMOL, "messages": messages, "temperature": 0, "max_tokens": 24}
        status, answer = daemon.call("/v1/chat/completions", body)
        assert status == 200, answer
        return answer

    first = chat(turns)
    complete(daemon, GEMMA, "One, two,")
    assert daemon.resident_names() == {GEMMA}
    said = first["choices"][0]["message"]["content"]
    second = chat([*turns, {"role": "assistant", "content": said}, {"role": "user", "content": "And then?"}])

    assert cached(second)[0] >= 0.98 * cached(first)[1]
    rows = daemon.call("/metrics")[1]
    assert f'swapd_prompt_tokens_restored_total{{model="{SMOL}"}} {cached(second)[0]}' in rows.replace(".0\n", "\n")


@pytest.mark.parametrize("model", [SMOL, GEMMA])
def test_a_conversation_comes_back_with_other_layers_on_the_card(
    soft_gpu: MakeSoftGPU, start: Start, model: str
) -> None:
    gpu = soft_gpu("2GiB", context="40MiB")
    daemon = start('[memory]\nvram_reserve = "0"\nhost_reserve = "256MiB"\n', environ=gpu.env, common=MODELS)
    prompt, restored = STORY[:3000], []
    for layers in (0, 9, 19, 4):
        assert daemon.call(f"/swapd/models/{model}/load", {"gpu_layers": layers})[0] == 200
        restored.append(cached(complete(daemon, model, prompt, max_tokens=2)))
        assert daemon.swapctl("unload", model).returncode == 0
    assert restored[0][0] == 0
    assert all(reused >= prompt - 8 for reused, prompt in restored[1:])
    assert gpu.refusals() == []
