"""How many threads may compute, by what looks at the cores have seen; and that neighbours share them."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest

from swapd.core.model import Placement, ResidentId, Shape, Variant, VariantId
from swapd.demo import models
from swapd.generation import Chunk, GenerationRequest, News, Sampling
from swapd.host.cores import Cores
from swapd.pool.link import Stream
from swapd.pool.pool import Pool
from swapd.pool.threads import FAILED, PATIENCE, SUSTAINED, Allowance, Dealer
from swapd.units import MiB

Seen = tuple[float, float | None]

CALM: Seen = (1.95, 0.05)
HOG: Seen = (1.2, 1.0)
"""Another program wants a whole core, and both threads are on."""
BESIDE: Seen = (1.0, 0.02)
"""It has one, and ours the other."""


def after(allowance: Allowance, *looks: Seen, is_split: bool = True) -> Allowance:
    for free, waited in looks:
        allowance = allowance.after(free, waited, is_split and allowance.threads > 1)
    return allowance


def numbers(allowance: Allowance, *looks: Seen) -> list[int]:
    """Of threads, after each look."""
    return [one.threads for one in itertools.accumulate(looks, after, initial=allowance)][1:]


TWO = Allowance.whole(2)


def test_an_answer_keeps_all_threads_while_they_do_not_wait() -> None:
    assert numbers(TWO, *[CALM] * 50) == [2] * 50


def test_what_others_use_takes_no_thread_while_ours_do_not_wait() -> None:
    """A neighbour that has just finished, or the client, was busy; our threads had their cores all the same."""
    assert numbers(TWO, *[(1.1, 0.1)] * 10) == [2] * 10


def test_a_moment_of_waiting_takes_no_thread() -> None:
    assert numbers(TWO, HOG, CALM, HOG, CALM) == [2] * 4


def test_waiting_that_lasts_takes_one() -> None:
    assert numbers(TWO, *[HOG] * SUSTAINED) == [2] * (SUSTAINED - 1) + [1]


def test_of_many_threads_so_many_go_as_others_want_cores() -> None:
    """Hogs get half of what they want while we fight them, so it takes more than one turn."""
    allowance = after(Allowance.whole(16), *[(13.9, 2.0)] * SUSTAINED)
    assert allowance.threads == 14
    assert after(allowance, *[(12.9, 1.0)] * SUSTAINED).threads == 13


def test_a_core_that_is_free_again_is_taken_soon() -> None:
    alone = after(TWO, *[CALM] * FAILED, *[HOG] * SUSTAINED, *[BESIDE] * 20)
    assert alone.threads == 1
    assert after(alone, CALM).threads == 2


def test_a_rise_that_proves_wrong_takes_longer_the_next_time() -> None:
    """Somebody who comes and goes between the looks must not have us fight for a core each time."""
    allowance, gaps = after(TWO, *[CALM] * FAILED, *[HOG] * SUSTAINED), []
    for _ in range(8):
        looks = 0
        while allowance.threads == 1:
            allowance, looks = after(allowance, CALM), looks + 1
        gaps.append(looks)
        allowance = after(allowance, *[HOG] * SUSTAINED)
        assert allowance.threads == 1
    assert gaps == [1, 2, 4, 8, 16, 32, 32, 32]


def test_patience_is_forgotten_after_a_long_calm() -> None:
    burnt = after(TWO, *[*[HOG] * SUSTAINED, *[CALM] * 8] * 3)
    assert burnt.patience > 1
    assert after(burnt, *[CALM] * (2 * PATIENCE)).patience == 1


def test_workers_of_one_thread_each_give_up_nothing_by_waiting() -> None:
    """They spin at no barrier, and nobody can have less."""
    assert after(TWO, *[HOG] * 10, is_split=False).threads == 2


def test_there_is_always_one_thread_and_never_more_than_the_most() -> None:
    assert after(TWO, *[(0.0, 2.0)] * 20).threads == 1
    assert after(Allowance(2, 1), *[(64.0, 0.0)] * 20).threads == 2


def test_where_waits_are_not_counted_what_others_use_decides() -> None:
    assert after(TWO, *[(1.2, None)] * SUSTAINED).threads == 1
    assert after(TWO, *[(1.9, None)] * SUSTAINED).threads == 2


# --- real workers


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    async with Pool(2, Cores()) as pool:
        yield pool


@pytest.fixture
def smollm() -> Path:
    path = Path(os.environ.get("SWAPD_TEST_MODELS") or models.folder()) / "smollm2-135m.gguf"
    if not path.exists():
        pytest.skip(f"no {path}: set SWAPD_TEST_MODELS to a folder that holds it, or run make setup")
    return path


class Writer:
    """An answer that goes on for as long as it is read."""

    def __init__(self, pool: Pool, resident: ResidentId) -> None:
        sampling = Sampling(temperature=0, seed=1)
        request = GenerationRequest(f"{resident}", prompt="Once", sampling=sampling, ignore_eos=True)
        self._pool, self._resident = pool, resident
        self._request = request
        self._stream: Stream | None = None

    async def write(self, tokens: int) -> None:
        def take(news: News) -> bool:
            nonlocal tokens
            tokens -= sum(item.tokens for item in news if isinstance(item, Chunk))
            return tokens > 0

        if self._stream is None:
            self._stream = await self._pool.generate(self._resident, self._request)
        assert await self._stream.hear(take)

    async def close(self) -> None:
        if self._stream is not None:
            self._stream.close()

    def turns(self) -> dict[str, int]:
        """How often each thread of its worker has got a core so far."""
        folder = Path(f"/proc/{self._pool.pids()[self._resident]}/task")
        return {task.name: int((task / "schedstat").read_text().split()[2]) for task in folder.iterdir()}

    async def threads_of(self, tokens: int, others: Iterable[Writer] = ()) -> int:
        """How many threads wrote so many more."""
        before = self.turns()
        await asyncio.gather(self.write(tokens), *(other.write(tokens) for other in others))
        after = self.turns()
        return sum(turns > before.get(name, 0) for name, turns in after.items())


async def test_workers_beside_each_other_share_the_threads(pool: Pool, smollm: Path) -> None:
    shape = Shape("llama", 30, 576, 9, (3,) * 30, 64, 64, 49152, 8192, 98 * MiB)
    writers = []
    for number in (1, 2):
        variant = Variant(VariantId(f"v{number}"), f"v{number}", str(smollm), shape, 1024, 1)
        await pool.start(ResidentId(number), variant, Placement((), 0, 31, 512), (), lambda fraction: None)
        writers.append(Writer(pool, ResidentId(number)))
    first, second = writers
    await asyncio.gather(first.write(8), second.write(8))
    assert await first.threads_of(24, [second]) == 1
    assert await second.threads_of(24, [first]) == 1
    await first.close()
    await second.close()


async def test_a_start_of_our_own_costs_an_answer_no_threads_and_another_program_does() -> None:
    looks: asyncio.Queue[None] = asyncio.Queue()
    told: asyncio.Queue[int] = asyncio.Queue()
    is_starting = True

    def busy(workers: Iterable[int]) -> tuple[float, float | None]:
        looks.put_nowait(None)
        return 1.0, 1.0

    class Told:
        def use_threads(self, threads: int) -> None:
            told.put_nowait(threads)

    dealer = Dealer(2, busy, lambda: (), lambda: is_starting)
    with dealer.computing(Told()):
        assert await told.get() == 2
        for _ in range(2 + SUSTAINED):
            await looks.get()
        assert dealer.threads == 2
        is_starting = False
        assert await told.get() == 1
    dealer.close()
