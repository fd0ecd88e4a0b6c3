"""One timer for a deadline that moves."""

from __future__ import annotations

import asyncio

from swapd.runtime.alarm import Alarm
from swapd.units import Seconds


class Desk:
    def __init__(self) -> None:
        self.clock = asyncio.get_running_loop().time
        self.deadline: Seconds | None = None
        self.told: asyncio.Queue[Seconds] = asyncio.Queue()
        self.alarm = Alarm(self.clock, lambda: self.deadline, lambda: self.told.put_nowait(self.clock()))

    def until(self, deadline: Seconds | None) -> None:
        self.deadline = deadline
        self.alarm.arm()

    async def rings(self) -> Seconds:
        async with asyncio.timeout(10):
            return await self.told.get()


async def test_a_deadline_that_moves_to_later_is_told_then_and_once() -> None:
    desk = Desk()
    begun = desk.clock()
    desk.until(begun + 0.01)
    desk.until(begun + 0.05)
    assert await desk.rings() >= begun + 0.05
    assert desk.told.empty()


async def test_one_that_moves_to_sooner_is_not_slept_through() -> None:
    desk = Desk()
    begun = desk.clock()
    desk.until(begun + 3600)
    desk.until(begun + 0.01)
    assert await desk.rings() >= begun + 0.01


async def test_without_a_deadline_and_after_the_close_nothing_is_told() -> None:
    desk = Desk()
    begun = desk.clock()
    desk.until(begun + 0.01)
    desk.alarm.close()
    desk.until(None)
    desk.until(begun + 0.05)
    assert await desk.rings() >= begun + 0.05
    assert desk.told.empty()
