"""Images through the official clients, against a live daemon: SmolLM2 with a projector of random weights beside it.

What it says of a picture is nonsense, the same one each time; what is asked here is what reaches it.
"""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import ollama
import openai
import pytest

from swapd.demo import models
from swapd.units import MiB
from tests.e2e.conftest import SMOL, Daemon, Start
from tests.gguf_models import picture, tiny_projector
from tests.softgpu.fixtures import MakeSoftGPU

pytestmark = pytest.mark.e2e

RED, BLUE = picture((220, 20, 20)), picture((20, 20, 220))
TOKENS = 16
BLIND = "gemma3-270m"
ENTRIES = '[models."seer"]\ncontext = 1024\nslots = 2\noptions = { temperature = 0.0, max_tokens = 8 }\n'


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def url(data: bytes) -> str:
    return f"data:image/png;base64,{b64(data)}"


def with_projector(folder: Path, **shape: Any) -> str:
    """A folder of a model that sees; the `[catalog]` that has it."""
    folder.mkdir()
    shutil.copy(models.folder() / f"{SMOL}.gguf", folder / "seer.gguf")
    tiny_projector(folder / "mmproj-seer-f16.gguf", **shape)
    return f'[catalog]\ndirs = ["{folder}", "{models.folder()}"]\n'


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    root = tmp_path_factory.mktemp("images")
    shared = Daemon(root, with_projector(root / "models"), {}, common=ENTRIES)
    try:
        yield shared.wait_ready()
    finally:
        shared.close()


@pytest.fixture
def for_openai(seeing: Daemon) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{seeing.url}/v1", api_key="x", max_retries=0) as client:
        yield client


@pytest.fixture
def for_anthropic(seeing: Daemon) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=seeing.url, api_key="x", max_retries=0) as client:
        yield client


@pytest.fixture
def for_ollama(seeing: Daemon) -> Iterator[ollama.Client]:
    with ollama.Client(host=seeing.url) as client:
        yield client


def test_openais_client(for_openai: openai.OpenAI) -> None:
    client = for_openai

    def ask(*images: bytes) -> Any:
        shown: list[Any] = [{"type": "image_url", "image_url": {"url": url(data)}} for data in images]
        content = [*shown, {"type": "text", "text": "What is this?"}]
        return client.chat.completions.create(
            model="seer", messages=[{"role": "user", "content": content}], logprobs=True, top_logprobs=5
        )

    blind, red, again, blue = ask(), ask(RED), ask(RED), ask(BLUE)
    assert red.usage.prompt_tokens == blue.usage.prompt_tokens == blind.usage.prompt_tokens + TOKENS
    assert red.choices[0].logprobs.content != blue.choices[0].logprobs.content
    assert again.choices[0].message.content == red.choices[0].message.content
    assert again.usage.prompt_tokens_details.cached_tokens == red.usage.prompt_tokens - 1
    assert blue.usage.prompt_tokens_details.cached_tokens < red.usage.prompt_tokens - TOKENS

    parts: list[Any] = [{"type": "input_image", "image_url": url(RED)}, {"type": "input_text", "text": "What?"}]
    answer = client.responses.create(model="seer", input=[{"role": "user", "content": parts}])
    assert answer.usage is not None
    assert answer.usage.input_tokens > TOKENS

    with pytest.raises(openai.BadRequestError, match="not fetched"):
        client.chat.completions.create(
            model="seer",
            messages=[
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}}]}
            ],
        )
    with pytest.raises(openai.BadRequestError, match="damaged"):
        client.chat.completions.create(
            model="seer",
            messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url(RED[:60])}}]}],
        )
    with pytest.raises(openai.BadRequestError, match="no projector"):
        client.chat.completions.create(
            model=BLIND,
            messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url(RED)}}]}],
        )


def test_anthropics_client_counts_what_it_is_then_charged(seeing: Daemon, for_anthropic: anthropic.Anthropic) -> None:
    client = for_anthropic
    source: Any = {"type": "base64", "media_type": "image/png", "data": b64(BLUE)}
    messages: Any = [
        {"role": "user", "content": [{"type": "image", "source": source}, {"type": "text", "text": "What is this?"}]}
    ]
    seeing.call("/swapd/models/seer/unload", method="POST")
    counted = client.messages.count_tokens(model="seer", messages=messages)
    answer = client.messages.create(model="seer", max_tokens=8, messages=messages)
    used = answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0)
    assert counted.input_tokens == used > TOKENS
    with client.messages.stream(model="seer", max_tokens=8, messages=messages) as stream:
        assert stream.get_final_text() == answer.content[0].text  # type: ignore[union-attr]
    with pytest.raises(anthropic.BadRequestError, match="no projector"):
        client.messages.create(model=BLIND, max_tokens=8, messages=messages)


def test_ollamas_client(for_ollama: ollama.Client) -> None:
    client = for_ollama
    assert "vision" in (client.show("seer").capabilities or [])
    assert "vision" not in (client.show(BLIND).capabilities or [])
    told = [
        client.chat("seer", [{"role": "user", "content": "What is this?", "images": [data]}]) for data in (RED, RED)
    ]
    assert told[0].message.content == told[1].message.content
    made = client.generate("seer", "What is this?", images=[RED])
    assert made.prompt_eval_count == 1  # the same prompt, of which only the last token has to be read again
    assert made.response == told[0].message.content
    assert made.context
    assert client.generate("seer", "And now?", context=made.context).response
    with pytest.raises(ollama.ResponseError, match="no projector"):
        client.generate(BLIND, "What is this?", images=[RED])


def test_llama_servers_routes(seeing: Daemon) -> None:
    props = seeing.call("/props?model=seer")[1]
    assert props["modalities"] == {"vision": True, "audio": False, "video": False}
    prompt = {"prompt_string": f"A {props['media_marker']} and a {props['media_marker']}.", "multimodal_data": []}
    prompt["multimodal_data"] = [b64(RED), b64(BLUE)]
    status, answer = seeing.call("/completion", {"model": "seer", "prompt": prompt, "n_predict": 4})
    assert status == 200, answer
    assert answer["tokens_evaluated"] > 2 * TOKENS
    content = [{"type": "image_url", "image_url": {"url": url(RED)}}, {"type": "text", "text": "Hm"}]
    told = seeing.call("/apply-template", {"model": "seer", "messages": [{"role": "user", "content": content}]})[1]
    assert "<__media__>Hm" in told["prompt"]
    listed = {model["id"]: model["architecture"]["input_modalities"] for model in seeing.call("/v1/models")[1]["data"]}
    assert (listed["seer"], listed[BLIND]) == (["text", "image"], ["text"])


def test_a_projector_on_a_card_is_predicted_and_measured(soft_gpu: MakeSoftGPU, start: Start, tmp_path: Path) -> None:
    """One of some 60 MiB, so that leaving it out would be seen."""
    gpu = soft_gpu("2GiB", context="40MiB")
    settings = '[memory]\nvram_reserve = "0"\nhost_reserve = "256MiB"\n'
    shape: dict[str, Any] = {"inner": 896, "side": 336}
    catalog = with_projector(tmp_path / "models", **shape)
    blind_one = (
        f'[models."blind"]\npath = "{tmp_path}/models/seer.gguf"\ncontext = 1024\nslots = 2\nprojector = "none"\n'
    )
    seer = ENTRIES.replace("\n", f'\npath = "{tmp_path}/models/seer.gguf"\n', 1)
    daemon = start(settings + catalog, environ=gpu.env, common=seer + blind_one)
    size = (tmp_path / "models" / "mmproj-seer-f16.gguf").stat().st_size
    assert size > 40 * MiB

    placed = daemon.call("/swapd/models/seer/load", {})[1]
    assert placed["gpu_layers"] == placed["layers"]
    held = gpu.holders()[placed["pid"]]
    assert abs(placed["predicted"]["cuda:0"] - held) <= max(16 * MiB, 0.03 * held)
    blind = daemon.call("/swapd/models/blind/load", {})[1]
    assert size <= held - gpu.holders()[blind["pid"]] < size + 64 * MiB
    body = {"model": "seer", "messages": [{"role": "user", "content": "x", "images": [b64(RED)]}], "stream": False}
    assert daemon.call("/api/chat", body)[0] == 200
    assert gpu.holders()[placed["pid"]] <= held + MiB
    assert gpu.refusals() == []
