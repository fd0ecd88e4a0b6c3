"""One model after the other, again and again: the second is there before it is asked for, and costs nobody anything."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from swapd.demo import models
from swapd.host.pagecache import PageCache
from swapd.units import MiB
from tests.e2e.conftest import COMMON, GEMMA, SMOL, Daemon, Start
from tests.softgpu.fixtures import MakeSoftGPU

pytestmark = pytest.mark.e2e

SETTINGS = '[memory]\nvram_reserve = "0"\nhost_reserve = "256MiB"\n[scheduler]\nprefetch = {}\n'
THIRD = f'[models."third"]\npath = "{models.folder() / SMOL}.gguf"\ncontext = 512\nslots = 1\n'


def draft_and_review(daemon: Daemon) -> None:
    """Twice; then the reviewer's worker is lost, and the draft is asked for once more."""
    for model in (SMOL, GEMMA, SMOL, GEMMA):
        assert daemon.call("/v1/completions", {"model": model, "prompt": "One", "max_tokens": 2})[0] == 200
    (pid,) = [m["pid"] for m in daemon.status()["models"] if m["name"] == GEMMA]
    os.kill(pid, signal.SIGKILL)
    daemon.wait_status(lambda status: [m["name"] for m in status["models"]] == [SMOL])
    assert daemon.chat(SMOL, max_tokens=2)[0] == 200


def test_the_second_of_a_pipeline_is_ready_before_it_is_asked_for(soft_gpu: MakeSoftGPU, start: Start) -> None:
    gpu = soft_gpu("2GiB", context="16MiB")
    daemon = start(SETTINGS.format("true"), environ=gpu.env)

    draft_and_review(daemon)

    def is_there(status: dict[str, list[dict[str, object]]]) -> bool:
        return any(m["name"] == GEMMA and m["state"] == "ready" for m in status["models"])

    status = daemon.wait_status(is_there)
    (guess,) = [m for m in status["models"] if m["name"] == GEMMA]
    assert (guess["prefetched"], guess["requests"], guess["placement"]) == (True, 0, "100% GPU")
    assert status["counters"]["evictions"] == 0
    loads = status["counters"]["loads"]
    assert daemon.chat(GEMMA, max_tokens=2)[0] in (200, 400)  # it has no chat template of its own
    after = daemon.status()["counters"]
    assert (after["loads"], after["prefetches"], after["prefetch_hits"]) == (loads, 1, 1)
    assert "loaded ahead" in daemon.swapctl("explain", GEMMA).stdout
    assert gpu.refusals() == []


def test_without_prefetch_nothing_is_loaded_before_it_is_asked_for(soft_gpu: MakeSoftGPU, start: Start) -> None:
    gpu = soft_gpu("2GiB", context="16MiB")
    daemon = start(SETTINGS.format("false"), environ=gpu.env, common=COMMON + THIRD)

    draft_and_review(daemon)
    assert daemon.chat("third", max_tokens=2)[0] == 200

    assert daemon.resident_names() == {SMOL, "third"}
    assert daemon.status()["counters"]["prefetches"] == 0


def test_what_is_loaded_ahead_makes_room_for_whoever_is_asked_for(soft_gpu: MakeSoftGPU, start: Start) -> None:
    """Nobody else leaves."""
    gpu = soft_gpu("2GiB", context="16MiB")
    daemon = start(SETTINGS.format("true"), environ=gpu.env, common=COMMON + THIRD)
    draft_and_review(daemon)
    daemon.wait_status(lambda status: any(m["prefetched"] and m["state"] == "ready" for m in status["models"]))
    (smol,) = [m for m in daemon.status()["models"] if m["name"] == SMOL]

    with gpu.foreign(gpu.free() - 64 * MiB, name="render-farm"):
        assert daemon.chat("third", max_tokens=2)[0] == 200

    assert daemon.resident_names() == {SMOL, "third"}
    (again,) = [m for m in daemon.status()["models"] if m["name"] == SMOL]
    assert again["pid"] == smol["pid"]
    assert daemon.status()["counters"]["prefetches_wasted"] == 1


def cold_copy(folder: Path) -> tuple[Path, str]:
    """Of SmolLM2, not in the page cache, and the entry that names it."""
    own = folder / "own.gguf"
    shutil.copyfile(models.folder() / f"{SMOL}.gguf", own)
    with own.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return own, f'[models."own"]\npath = "{own}"\ncontext = 512\nslots = 1\n'


def cached(daemon: Daemon) -> dict[str, object]:
    """What is told of the copy. Skips where the kernel tells nothing."""
    document: dict[str, object] = next(m for m in daemon.call("/swapd/models")[1]["models"] if m["name"] == "own")
    if document["cached"] is None:
        pytest.skip("the kernel does not tell")
    return document


def test_a_model_with_an_entry_is_read_into_the_page_cache_before_anybody_asks(start: Start, tmp_path: Path) -> None:
    own, entry = cold_copy(tmp_path)
    if PageCache().share(str(own)) != 0:
        pytest.skip("the kernel does not tell, or does not forget")
    daemon = start('[memory]\nhost_reserve = "256MiB"\n', common=COMMON + entry)

    daemon.wait(lambda: cached(daemon), lambda own: bool(own["tier"] == "warm"), timeout=60)
    assert daemon.status()["models"] == []
    assert daemon.chat("own", max_tokens=2)[0] == 200
    assert daemon.status()["models"][0]["loaded_from"] == "warm"


def test_what_is_in_the_page_cache_is_shown_and_loads_are_told_by_it(start: Start, tmp_path: Path) -> None:
    _, entry = cold_copy(tmp_path)
    daemon = start("[scheduler]\nprefetch = false\n", common=COMMON + entry)
    before = cached(daemon)
    if before["cached"] == 1:
        pytest.skip("the kernel does not forget")
    assert before["tier"] == "cold"
    assert "warm" in daemon.swapctl("ls").stdout

    assert daemon.chat("own", max_tokens=2)[0] == 200

    (loaded,) = daemon.status()["models"]
    assert (loaded["tier"], loaded["loaded_from"]) == ("host", "cold")
    assert daemon.swapctl("unload", "own").returncode == 0
    daemon.wait_status(lambda status: not status["models"])
    assert daemon.chat("own", max_tokens=2)[0] == 200
    assert daemon.status()["models"][0]["loaded_from"] in ("warm", "host")
