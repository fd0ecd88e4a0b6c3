"""The parent asks a process of its own what a placement takes; that process never lingers and may die."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from swapd.core.arithmetic import Arithmetic
from swapd.core.model import HOST, DeviceId, Placement, Variant, VariantId
from swapd.errors import Death, WorkerFailed
from swapd.host.gguf import read
from swapd.host.shapes import shape
from swapd.pool.sizer import Sizer
from swapd.units import MiB
from tests.softgpu.gpu import SoftGPU

SMOLLM = "smollm2-135m.gguf"
FIRST, SECOND = DeviceId("gpu:a"), DeviceId("gpu:b")
ON_HOST = Placement((), 0, 31, 512)


@pytest.fixture(scope="module")
def smollm() -> Variant:
    given = os.environ.get("SWAPD_TEST_MODELS")
    if given is None:
        from swapd.demo import models

        given = str(models.folder())
    path = Path(given) / SMOLLM
    if not path.exists():
        pytest.skip(f"no {path}: set SWAPD_TEST_MODELS to a folder that holds it, or run make setup")
    return Variant(VariantId("smollm"), "smollm", str(path), shape([read(path)]), 2048, 2)


@pytest.fixture
async def sizer() -> AsyncIterator[Sizer]:
    async with Sizer() as sizer:
        yield sizer


async def gone(sizer: Sizer) -> None:
    worker = sizer._worker
    assert worker is not None
    await worker.ended


async def test_the_size_is_near_the_arithmetic_and_without_the_process(smollm: Variant, sizer: Sizer) -> None:
    sized = await sizer.size(smollm, ON_HOST, ())
    kept = Arithmetic(smollm, 512).weights_and_cache(ON_HOST)[HOST]
    assert 0 < sized[HOST] - kept < 32 * MiB, "the rest is compute buffers"
    assert list(sized) == [HOST]


async def test_cards_are_told_by_the_names_of_the_placement(
    smollm: Variant, sizer: Sizer, soft_gpu: Callable[..., SoftGPU], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in soft_gpu("1GiB", "1GiB").env.items():
        monkeypatch.setenv(name, value)
    both = Placement((FIRST, SECOND), 31, 31, 512, 0, (0.75, 0.25))
    there = await sizer.size(smollm, both, ("SoftGPU1", "SoftGPU0"))
    kept = Arithmetic(smollm, 512).weights_and_cache(both)
    assert [0 < there[card] - kept[card] < 32 * MiB for card in (FIRST, SECOND)] == [True, True]


async def test_what_is_known_is_not_asked_again(smollm: Variant, sizer: Sizer) -> None:
    """Also of orders that come at one time only the first is asked."""
    sized = await asyncio.gather(*(sizer.size(smollm, ON_HOST, ()) for _ in range(3)))
    assert sized[0] == sized[1] == sized[2]
    assert sizer.pid is not None
    os.kill(sizer.pid, signal.SIGKILL)
    await gone(sizer)
    assert await sizer.size(smollm, ON_HOST, ()) == sized[0]
    assert sizer.pid is None


async def test_the_process_ends_when_nobody_asks(smollm: Variant) -> None:
    async with Sizer(idle=0.05) as sizer:
        asked = asyncio.create_task(sizer.size(smollm, ON_HOST, ()))
        while sizer.pid is None:
            await asyncio.sleep(0)
        worker = sizer._worker
        assert worker is not None
        await asked
        await worker.ended
        assert sizer.pid is None


async def test_leaving_ends_the_process(smollm: Variant) -> None:
    async with Sizer() as sizer:
        await sizer.size(smollm, ON_HOST, ())
        pid = sizer.pid
        assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(WorkerFailed, match="closed"):
        await sizer.size(smollm, Placement((), 0, 31, 64), ())


async def test_a_crash_is_an_error_and_the_next_order_gets_a_new_process(smollm: Variant, sizer: Sizer) -> None:
    asked = asyncio.create_task(sizer.size(smollm, ON_HOST, ()))
    while sizer.pid is None:
        await asyncio.sleep(0)
    os.kill(sizer.pid, signal.SIGKILL)
    with pytest.raises(WorkerFailed) as failed:
        await asked
    assert failed.value.death is Death.CRASHED
    assert (await sizer.size(smollm, ON_HOST, ()))[HOST] > 0


async def test_an_order_that_takes_too_long_is_given_up(smollm: Variant) -> None:
    async with Sizer(limit=0.001) as sizer:
        with pytest.raises(WorkerFailed, match="longer than"):
            await sizer.size(smollm, ON_HOST, ())
        assert sizer.pid is None


async def test_who_goes_away_disturbs_nobody(smollm: Variant, sizer: Sizer) -> None:
    """The answer to a cancelled order is not taken for the next one's."""
    asked = asyncio.create_task(sizer.size(smollm, ON_HOST, ()))
    while sizer.pid is None:
        await asyncio.sleep(0)
    asked.cancel()
    small = await sizer.size(smollm, Placement((), 0, 31, 64), ())
    assert small[HOST] < (await sizer.size(smollm, ON_HOST, ()))[HOST]


async def test_a_file_that_cannot_be_loaded_says_so_and_the_process_goes_on(
    smollm: Variant, sizer: Sizer, tmp_path: Path
) -> None:
    (tmp_path / "junk.gguf").write_bytes(b"GGUF junk")
    junk = Variant(VariantId("junk"), "junk", str(tmp_path / "junk.gguf"), smollm.shape, 2048, 1)
    with pytest.raises(WorkerFailed) as failed:
        await sizer.size(junk, ON_HOST, ())
    assert failed.value.death is Death.UNUSABLE
    pid = sizer.pid
    assert pid is not None
    await sizer.size(smollm, ON_HOST, ())
    assert sizer.pid == pid
