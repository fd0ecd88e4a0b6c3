"""One answer on its way from a worker: told in the order and in the moment in which it comes."""

from __future__ import annotations

import asyncio

import pytest

from swapd.errors import Death, WorkerFailed
from swapd.generation import Chunk, Ending, News, StopReason, Usage
from swapd.pool.link import Stream

A, B, C = (Chunk(text, 1) for text in "abc")
END = Ending(StopReason.STOP, Usage())
DIED = WorkerFailed(Death.CRASHED, "killed")


class Ear:
    """Hears until it has heard `most` times."""

    def __init__(self, most: int = 100) -> None:
        self.heard: list[News] = []
        self._most = most

    def __call__(self, news: News) -> bool:
        self.heard.append(news)
        return len(self.heard) < self._most


async def listening(stream: Stream, ear: Ear) -> asyncio.Task[bool]:
    task = asyncio.create_task(stream.hear(ear))
    await asyncio.sleep(0)
    return task


def bring(stream: Stream, *items: Chunk | Ending) -> None:
    for item in items:
        stream.put(item)
    stream.tell()


async def test_what_comes_together_is_told_together_and_at_once() -> None:
    stream, ear = Stream(), Ear()
    bring(stream, A)
    assert await stream.wait_first() is A
    task = await listening(stream, ear)
    assert ear.heard == [(A,)]
    bring(stream, B, C)
    assert ear.heard == [(A,), (B, C)], "no turn of the loop is in between"
    bring(stream, END)
    assert not await task
    assert ear.heard[2:] == [(END,)]
    assert not await stream.hear(ear)


async def test_who_can_take_no_more_gets_what_came_meanwhile_when_it_hears_again() -> None:
    stream, ear = Stream(), Ear(most=1)
    bring(stream, A)
    assert await stream.hear(ear)
    bring(stream, B)
    bring(stream, C, END)
    assert ear.heard == [(A,)]
    assert not await stream.hear(ear)
    assert ear.heard == [(A,), (B, C, END)]


async def test_a_death_is_told_after_what_came_before_it() -> None:
    stream, ear = Stream(), Ear()
    bring(stream, A)
    stream.fail(DIED)
    stream.tell()
    with pytest.raises(WorkerFailed):
        await stream.hear(ear)
    assert ear.heard == [(A,)]


@pytest.mark.parametrize("has_begun", [True, False])
async def test_a_death_ends_the_waiting(has_begun: bool) -> None:
    stream = Stream()
    task = asyncio.create_task(stream.hear(Ear()) if has_begun else stream.wait_first())
    await asyncio.sleep(0)
    stream.fail(DIED)
    stream.tell()
    with pytest.raises(WorkerFailed):
        await task


async def test_what_the_ear_raises_is_the_hearers_trouble() -> None:
    def full(news: News) -> bool:
        raise ConnectionResetError

    stream = Stream()
    task = asyncio.create_task(stream.hear(full))
    await asyncio.sleep(0)
    bring(stream, A)
    with pytest.raises(ConnectionResetError):
        await task


async def test_who_has_left_hears_nothing() -> None:
    stream, ear = Stream(), Ear()
    task = await listening(stream, ear)
    task.cancel()
    bring(stream, A)
    with pytest.raises(asyncio.CancelledError):
        await task
    bring(stream, B)
    assert ear.heard == []
