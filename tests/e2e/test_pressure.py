"""Other programs take and give back GPU memory while real models are on the card."""

from __future__ import annotations

from typing import Any

import pytest

from swapd.demo import models
from swapd.units import MiB
from tests.e2e.conftest import SMOL, Daemon, Start
from tests.softgpu.fixtures import MakeSoftGPU
from tests.softgpu.gpu import SoftGPU

pytestmark = pytest.mark.e2e

RESERVE = 64 * MiB
SETTINGS = f'[memory]\nvram_reserve = "{RESERVE}"\nhost_reserve = "256MiB"\n[scheduler]\noverflow = "{{}}"\n'
MODELS = "".join(
    f'[models."{name}"]\npath = "{models.folder() / SMOL}.gguf"\ncontext = {512 + 16 * number}\nslots = 1\n'
    for number, name in enumerate("ab")
)


def layers(daemon: Daemon, name: str) -> Any:
    """On the GPU by its ready resident; None: there is none."""
    ready = [m for m in daemon.status()["models"] if m["name"] == name and m["state"] in ("ready", "busy")]
    return ready[0]["gpu_layers"] if ready else None


def whole_size(daemon: Daemon, gpu: SoftGPU, name: str) -> int:
    """What it takes on the card when all of it is there; afterwards it is not."""
    assert daemon.chat(name, max_tokens=1)[0] == 200
    pid = next(m["pid"] for m in daemon.status()["models"] if m["name"] == name)
    held = gpu.holders()[pid]
    daemon.call(f"/swapd/models/{name}/unload", method="POST")
    return held


def test_an_idle_model_is_placed_smaller_and_placed_better_when_memory_is_back(
    soft_gpu: MakeSoftGPU, start: Start
) -> None:
    gpu = soft_gpu("384MiB", context="16MiB")
    daemon = start(SETTINGS.format("auto"), environ=gpu.env, common=MODELS)
    assert daemon.chat("a", max_tokens=1)[0] == 200
    assert layers(daemon, "a") == 31

    with gpu.foreign(gpu.free() - 10 * MiB, name="game"):
        daemon.wait_status(lambda status: 0 < (layers(daemon, "a") or 0) < 31)
        assert daemon.chat("a", max_tokens=1)[0] == 200
        assert gpu.free() >= RESERVE // 2

    daemon.wait_status(lambda status: layers(daemon, "a") == 31)
    assert "placed smaller" in daemon.wait_log("event=unload.*placed smaller")
    assert "placed better" in daemon.wait_log("event=unload.*placed better")
    assert gpu.refusals() == []


@pytest.mark.parametrize(("overflow", "left"), [("evict", {"b"}), ("offload", {"a", "b"})])
def test_with_the_card_10_mib_too_small_one_goes_or_loads_in_part(
    soft_gpu: MakeSoftGPU, start: Start, overflow: str, left: set[str]
) -> None:
    probe = soft_gpu("512MiB", context="16MiB")
    learner = start(SETTINGS.format(overflow), environ=probe.env, common=MODELS)
    both = sum(whole_size(learner, probe, name) for name in "ab")
    learner.stop()
    gpu = soft_gpu(both + RESERVE - 10 * MiB, context="16MiB")
    daemon = start(SETTINGS.format(overflow), environ=gpu.env, common=MODELS)

    assert [daemon.chat(name, max_tokens=1)[0] for name in "ab"] == [200, 200]

    assert daemon.resident_names() == left
    if overflow == "offload":
        assert layers(daemon, "a") == 31
        assert layers(daemon, "b") > 0
        assert gpu.free() >= RESERVE
    assert gpu.refusals() == []


def test_memory_is_yielded_on_the_owner_s_word_and_taken_back(soft_gpu: MakeSoftGPU, start: Start) -> None:
    gpu = soft_gpu("384MiB", context="16MiB")
    daemon = start(SETTINGS.format("auto"), environ=gpu.env, common=MODELS)
    assert [daemon.chat(name, max_tokens=1)[0] for name in "ab"] == [200, 200]

    lent = daemon.swapctl("yield", "300MiB", "--for", "30m")

    assert lent.returncode == 0, lent.stderr
    assert gpu.free() >= 300 * MiB
    assert daemon.swapctl("yield", "0").returncode == 0
    assert daemon.chat("a", max_tokens=1)[0] == 200
    daemon.wait_status(lambda status: layers(daemon, "a") == 31)
