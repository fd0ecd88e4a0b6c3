"""One timer for a deadline that moves all the time. Used by `engine`, which asks the core when it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from swapd.runtime.ports import Clock
from swapd.units import Seconds


class Alarm:
    def __init__(self, clock: Clock, deadline: Callable[[], Seconds | None], due: Callable[[], None]) -> None:
        """`due` is called when the clock has reached what `deadline` says then; None: there is none."""
        self._clock, self._deadline, self._due = clock, deadline, due
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._fires_at: Seconds = 0.0
        """When the timer does, if there is one: never later than the deadline."""

    def arm(self) -> None:
        """A timer that fires too early looks again: requests move the deadline all the time, and mostly to later."""
        deadline = self._deadline()
        if deadline is None or (self._timer is not None and self._fires_at <= deadline):
            return
        self.close()
        self._fires_at = deadline
        self._timer = self._loop.call_later(max(0.0, deadline - self._clock()), self._fire)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        deadline = self._deadline()
        if deadline is not None and deadline <= self._clock():
            self._due()
        else:
            self.arm()
