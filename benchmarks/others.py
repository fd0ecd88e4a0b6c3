"""Who else uses the cores while something is measured: a figure from a disturbed moment says nothing."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import psutil

T = TypeVar("T")

TOLERATED: Final = 0.15
"""Cores that other programs may use during a measurement that counts."""
TRIES: Final = 3


class Watch:
    """Cores that programs other than this one and its children use from here on."""

    def __init__(self) -> None:
        self._at, self._busy, self._ours = time.monotonic(), _busy(), _ours()

    def cores(self) -> float:
        foreign = _busy() - self._busy - (_ours() - self._ours)
        return max(0.0, foreign) / max(time.monotonic() - self._at, 1e-3)


async def undisturbed(measure: Callable[[], Awaitable[T]]) -> tuple[T, bool]:
    """What it gives, and whether nobody disturbed it; tried again a few times while somebody does."""
    tries = 1
    while True:
        watch = Watch()
        found = await measure()
        is_good = watch.cores() <= TOLERATED
        if is_good or tries == TRIES:
            return found, is_good
        tries += 1


def _busy() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def _ours() -> float:
    this = psutil.Process()
    return sum(map(used, (this, *this.children(recursive=True))))


def used_exactly(pid: int) -> float:
    """The same of a living process, to the nanosecond: `used` counts in hundredths of a second."""
    return time.clock_gettime((~pid << 3) | 2)  # its CPU clock, numbered as clock_getcpuclockid(3) does on Linux


def used(process: psutil.Process) -> float:
    """Seconds of CPU so far; 0 when it is gone."""
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)
