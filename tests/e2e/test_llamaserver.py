"""llama-server's clients against the real thing: completion, infill, tokens, template."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from swapd.demo import models
from tests.e2e.conftest import SMOL, Daemon
from tests.gguf_models import infilling

pytestmark = pytest.mark.e2e

CONFIG = """
[catalog]
dirs = ["{folder}"]
[models.coder]
context = 512
slots = 2
[models.plain]
context = 512
slots = 2
[models.huge]
path = "{folder}/coder.gguf"
context = 8192
slots = 64
[routes]
autocomplete = "coder"
code = ["absent", "huge", "plain"]
[memory]
vram_limit = "2GiB"
host_reserve = "0"
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("models")
    smol = Path(models.folder()) / f"{SMOL}.gguf"
    infilling(smol, folder / "coder.gguf")
    (folder / "plain.gguf").symlink_to(smol)
    daemon = Daemon(tmp_path_factory.mktemp("daemon"), CONFIG.format(folder=folder), {}, common="")
    try:
        yield daemon.wait_ready()
    finally:
        daemon.close()


def test_counting_and_rendering_load_nothing(daemon: Daemon) -> None:
    status, document = daemon.call("/tokenize", {"model": "plain", "content": "Hello world", "with_pieces": True})
    assert status == 200
    assert "".join(token["piece"] for token in document["tokens"]) == "Hello world"
    tokens = [token["id"] for token in document["tokens"]]
    assert daemon.call("/detokenize", {"model": "plain", "tokens": tokens}) == (200, {"content": "Hello world"})
    status, document = daemon.call(
        "/apply-template", {"model": "plain", "messages": [{"role": "user", "content": "Hello"}]}
    )
    assert status == 200
    assert document["prompt"].endswith("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n")
    status, props = daemon.call("/props?model=plain")
    assert status == 200
    assert "im_start" in props["chat_template"]
    assert props["is_sleeping"] is True
    assert daemon.resident_names() == set()


def test_infill_without_a_model_goes_to_its_route(daemon: Daemon) -> None:
    body = {"input_prefix": "def add(a, b):\n", "input_suffix": "\n    return c\n", "n_predict": 8, "temperature": 0}
    status, document = daemon.call("/infill", body)
    assert status == 200, document
    assert document["tokens_predicted"] <= 8
    assert document["model"] == "autocomplete"
    assert daemon.resident_names() == {"coder"}
    assert daemon.call("/infill", body)[1]["tokens_cached"] > 0


def test_a_model_without_the_tokens_for_it_is_told_so_and_not_loaded(daemon: Daemon) -> None:
    status, document = daemon.call("/infill", {"model": "plain", "input_prefix": "a", "input_suffix": "b"})
    assert status == 501
    assert document["error"]["type"] == "not_supported_error"
    assert "plain" not in daemon.resident_names()


def test_a_mixed_prompt_reads_as_its_text_does(daemon: Daemon) -> None:
    _, hello = daemon.call("/tokenize", {"model": "plain", "content": "Once upon"})
    texts = [
        daemon.call("/completion", {"model": "plain", "prompt": prompt, "n_predict": 8, "temperature": 0})[1]["content"]
        for prompt in ("Once upon a time", [*hello["tokens"], " a time"])
    ]
    assert texts[0] == texts[1] != ""


def test_a_prompt_over_the_context_says_both_numbers(daemon: Daemon) -> None:
    status, document = daemon.call("/completion", {"model": "plain", "prompt": "word " * 1000, "n_predict": 4})
    assert status == 400
    assert document["error"]["type"] == "exceed_context_size_error"
    assert document["error"]["n_ctx"] == 512
    assert document["error"]["n_prompt_tokens"] > 1000


def test_slots_tell_of_the_loaded_model(daemon: Daemon) -> None:
    daemon.call("/completion", {"model": "plain", "prompt": "a", "n_predict": 1})
    status, slots = daemon.call("/slots")
    assert status == 200
    assert [slot["n_ctx"] for slot in slots] == [512, 512]


def test_metrics_tell_what_was_done(daemon: Daemon) -> None:
    daemon.call("/completion", {"model": "plain", "prompt": "Once", "n_predict": 4, "ignore_eos": True})
    status, page = daemon.call("/metrics")
    assert status == 200
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    assert samples["swapd_requests_total", "llama-server", "ok", "plain"] >= 1
    assert samples["swapd_tokens_total", "completion", "plain"] >= 4
    assert samples["swapd_loads_total",] >= 1
    assert samples["swapd_time_to_first_token_seconds_count",] >= 1
    assert samples["swapd_resident_bytes", "host", "plain"] > 0
    assert samples["swapd_device_total_bytes", "host"] > samples["swapd_device_free_bytes", "host"] > 0
    assert any(key[0] == "swapd_load_seconds_count" and "plain" in key for key in samples)


def test_a_route_falls_back_to_what_can_be_served_and_says_why(daemon: Daemon) -> None:
    body = json.dumps({"model": "code", "prompt": "Once", "n_predict": 2}).encode()
    request = urllib.request.Request(f"{daemon.url}/completion", data=body)
    with urllib.request.urlopen(request, timeout=90) as response:
        assert response.headers["X-Swapd-Model"] == "plain"
        told = response.headers["X-Swapd-Fallback"]
    assert told.startswith("absent: ")
    assert "huge: cannot load 'huge': it needs" in told
    status, document = daemon.call("/completion", {"model": "huge", "prompt": "Once"})
    assert (status, document["error"]["type"]) == (507, "server_error")
