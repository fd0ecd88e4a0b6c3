"""LoRA adapters under a real daemon: names, one resident for all of them, and what a broken one costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from swapd.units import MiB
from tests.adapters import write_adapter
from tests.e2e.conftest import SMOL, Daemon, Start
from tests.softgpu.fixtures import MakeSoftGPU

pytestmark = pytest.mark.e2e

MODEL = '[models."smollm2-135m"]\ncontext = 1024\nslots = 4\naliases = ["small"]\nlora = {{ {} }}\n'


def entry(**adapters: Path) -> str:
    return MODEL.format(", ".join(f'{name} = "{path}"' for name, path in adapters.items()))


def told(daemon: Daemon, model: str, **more: Any) -> tuple[int, Any]:
    body = {"model": model, "prompt": "The capital of France is", "max_tokens": 8, "temperature": 0} | more
    return daemon.call("/v1/completions", body)


def text(daemon: Daemon, model: str) -> str:
    status, answer = told(daemon, model)
    assert status == 200, answer
    assert answer["model"] == model
    return str(answer["choices"][0]["text"])


def test_a_model_and_its_adapters_are_one_resident_with_several_voices(start: Start, tmp_path: Path) -> None:
    good, bad = write_adapter(tmp_path / "good.gguf", 0), write_adapter(tmp_path / "bad.gguf", 1, width=512)
    daemon = start(common=entry(good=good, bad=bad, text=tmp_path / "none.gguf"))

    plain, adapted = text(daemon, SMOL), text(daemon, f"{SMOL}+good")
    assert plain != adapted
    assert (text(daemon, "small"), text(daemon, "small+good")) == (plain, adapted)
    for name in ("bad", "text"):
        status, answer = told(daemon, f"{SMOL}+{name}")
        assert (status, answer["error"]["code"]) == (422, "model_unusable")
        assert f"{SMOL}+{name}" in answer["error"]["message"]
    assert daemon.status()["counters"]["loads"] == 1
    assert text(daemon, SMOL) == plain
    assert {model["id"] for model in daemon.call("/v1/models")[1]["data"]} >= {SMOL, f"{SMOL}+good"}


def test_adapters_come_and_go_at_a_reload(start: Start, tmp_path: Path) -> None:
    one, two = write_adapter(tmp_path / "one.gguf", 0), write_adapter(tmp_path / "two.gguf", 1)
    daemon = start(common=entry(one=one))
    first = text(daemon, f"{SMOL}+one")
    assert told(daemon, f"{SMOL}+two")[0] == 404

    daemon.write_config("", common=entry(two=two))
    assert daemon.swapctl("reload").returncode == 0

    assert told(daemon, f"{SMOL}+one")[0] == 404
    assert text(daemon, f"{SMOL}+two") != first


def test_adapters_on_a_card_are_counted_before_they_are_loaded(
    soft_gpu: MakeSoftGPU, start: Start, tmp_path: Path
) -> None:
    """Eight of them, 17 MiB; computing with one takes no more than was promised."""
    adapters = {f"a{number}": write_adapter(tmp_path / f"{number}.gguf", number) for number in range(8)}
    gpu = soft_gpu("2GiB", context="40MiB")
    settings = '[memory]\nvram_reserve = "0"\nhost_reserve = "256MiB"\n'
    daemon = start(settings, environ=gpu.env, common=entry(**adapters))

    placed = daemon.call(f"/swapd/models/{SMOL}/load", {})[1]
    assert placed["gpu_layers"] == placed["layers"]
    for name in ("", "+a0", "+a7", "+a0"):
        text(daemon, SMOL + name)

    held = gpu.holders()[placed["pid"]]
    assert abs(placed["predicted"]["cuda:0"] - held) <= 16 * MiB
    assert gpu.refusals() == []
