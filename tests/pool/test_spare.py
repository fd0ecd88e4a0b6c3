"""The process that waits for the next load: there when it is wanted, and not in the way of who has just come."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from structlog.testing import capture_logs

from swapd.core.model import Placement, ResidentId, Shape, Variant, VariantId
from swapd.generation import Chunk, GenerationRequest
from swapd.host.cores import Cores
from swapd.pool.pool import Pool
from tests.gguf_models import tiny_llama

HOST = Placement((), 0, 3, 512)
SHAPE = Shape("llama", 2, 64, 4, (4, 4), 16, 16, 259, 1024, 10**6)


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    async with Pool(1, Cores()) as pool:
        yield pool


def tiny(folder: Path) -> Variant:
    return Variant(VariantId("v"), "v", str(tiny_llama(folder / "tiny.gguf")), SHAPE, 512, 1)


async def start(pool: Pool, number: int, variant: Variant) -> ResidentId:
    resident = ResidentId(number)
    await pool.start(resident, variant, HOST, (), lambda fraction: None)
    return resident


async def test_the_next_spare_leaves_the_cores_to_the_newcomers_first_prompt(pool: Pool, tmp_path: Path) -> None:
    await pool.wait_build()
    resident = await start(pool, 1, tiny(tmp_path))
    assert pool._spare is None

    with contextlib.closing(await pool.generate(resident, GenerationRequest("r", prompt="One, two,"))) as answer:
        assert isinstance(await answer.wait_first(), Chunk)
        assert pool._spare is None, "it has only now been told to come"
    assert pool._sparing is not None
    await pool._sparing
    spare = pool._spare
    assert spare is not None
    assert not spare.ended.done()


async def test_a_newcomer_that_is_asked_nothing_gets_its_spare_all_the_same(pool: Pool, tmp_path: Path) -> None:
    await pool.wait_build()
    await start(pool, 1, tiny(tmp_path))
    assert pool._sparing is not None
    await pool._sparing
    assert pool._spare is not None


async def test_loads_that_follow_each_other_leave_one_spare(pool: Pool, tmp_path: Path) -> None:
    variant = tiny(tmp_path)
    for number in (1, 2, 3):
        await start(pool, number, variant)
    await asyncio.gather(*(pool.stop(ResidentId(number)) for number in (1, 2, 3)))
    assert pool._sparing is not None
    await pool._sparing
    spare = pool._spare
    assert spare is not None
    children = psutil.Process().children()
    assert [child.pid for child in children if "swapd.worker" in child.cmdline()] == [spare.pid]


async def test_a_spare_that_cannot_start_is_not_tried_again_at_every_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "no number")  # of which Python dies
    with capture_logs() as logs:
        async with Pool(1, Cores()) as pool:
            assert await pool.wait_build() is None
            for _ in range(20):
                assert await asyncio.to_thread(pool.devices) is None
    assert [line["event"] for line in logs].count("no spare worker") < 10
