"""What workers tell of the machine: cards that only ggml knows, by real workers on soft cards without their NVML."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from swapd.core.model import DeviceId, Placement, ResidentId, Shape, Variant, VariantId
from swapd.demo import models
from swapd.errors import Death, WorkerFailed
from swapd.host.cores import Cores
from swapd.host.memory import MachineMemory
from swapd.pool.pool import Pool
from swapd.units import GiB, MiB
from tests.softgpu.gpu import SoftGPU


@pytest.fixture
def gpu(soft_gpu: Callable[..., SoftGPU], monkeypatch: pytest.MonkeyPatch) -> SoftGPU:
    gpu = soft_gpu("1GiB", "512MiB")
    for name in ("SOFTGPU", "GGML_BACKEND_PATH"):
        monkeypatch.setenv(name, gpu.env[name])
    return gpu


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    async with Pool(1, Cores()) as pool:
        yield pool


async def test_the_spare_says_what_is_free_now(gpu: SoftGPU, pool: Pool) -> None:
    """Also the first one to ask gets an answer: it waits for the spare."""

    async def told() -> list[tuple[str, str, int, int]]:
        cards = await asyncio.to_thread(pool.devices)
        assert cards is not None
        return [(card.name, card.pci, card.free, card.total) for card in cards]

    assert await told() == [
        ("SoftGPU0", "50f7:01:00.0", GiB, GiB),
        ("SoftGPU1", "50f7:02:00.0", 512 * MiB, 512 * MiB),
    ]
    with gpu.foreign("100MiB", 1):
        assert [free for *_, free, _ in await told()] == [GiB, 412 * MiB]
    assert gpu.is_empty(), "asking costs nothing on the card"


async def test_a_machine_without_a_driver_has_the_cards_of_ggml(gpu: SoftGPU, pool: Pool) -> None:
    memory = MachineMemory({"CUDA_VISIBLE_DEVICES": ""}, extra=pool.devices)
    first, second, _ = await asyncio.to_thread(memory.measure, {})
    assert (first.id, first.source, first.pci, first.total) == ("softgpu:0", "ggml", "SoftGPU0", GiB)
    assert (second.id, second.free) == ("softgpu:1", 512 * MiB)


async def test_a_card_that_others_have_filled_is_no_fault_of_the_file(gpu: SoftGPU, pool: Pool) -> None:
    """llama.cpp divides by what is free where it is not told the shares of the cards."""
    path = models.folder() / "smollm2-135m.gguf"
    if not path.is_file():
        pytest.skip(f"no {path}: run python -m swapd.demo.models")
    shape = Shape("llama", 30, 576, 9, (3,) * 30, 64, 64, 49152, 8192, 98 * MiB)
    variant = Variant(VariantId("v"), "v", str(path), shape, 512, 1)
    whole = Placement((DeviceId("cuda:0"),), 31, 31, 512)
    with gpu.foreign(gpu.free(), 0), pytest.raises(WorkerFailed) as failure:
        await pool.start(ResidentId(1), variant, whole, ("50f7:01:00.0",), lambda fraction: None)
    assert failure.value.death is Death.OUT_OF_MEMORY
    await pool.stop(ResidentId(1))


async def test_the_build_is_known_when_the_first_spare_has_started(pool: Pool) -> None:
    assert pool.build() is None
    assert await asyncio.to_thread(pool.devices) == ()
    assert re.search(r"\d", pool.build() or "")


async def test_a_spare_that_died_is_replaced_by_one_that_answers(gpu: SoftGPU, pool: Pool) -> None:
    first = await asyncio.to_thread(pool.devices)
    spare: Any = pool._spare
    spare.kill()
    await spare.ended
    assert first
    assert await asyncio.to_thread(pool.devices) == first
