"""How many cores are free for our workers: the kernel's accounting since the last look, less what we used ourselves.

llama.cpp's threads meet at barriers and spin there: one thread more than there are free cores, and the others
burn their time waiting for it (measured: 130 tokens/s became 1 with a busy neighbour on 2 cores). Asked by
`pool`, which deals the threads out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Final

import psutil

from swapd.units import Seconds

_TICKS: Final = os.sysconf("SC_CLK_TCK")


class FreeCores:
    """Call it now and then; each answer is about the time since the one before."""

    def __init__(self) -> None:
        self._total: int = psutil.cpu_count() or 1
        self._at = time.monotonic()
        self._busy = _busy()
        self._used: dict[int, Seconds] = {os.getpid(): _used(os.getpid())}

    def __call__(self, workers: Iterable[int]) -> float:
        """Cores, a fraction too, that processes other than this one and `workers` (by pid) left alone."""
        at, busy, used = self._at, self._busy, self._used
        self._look(workers)
        ours = sum(seconds - used.get(pid, 0.0) for pid, seconds in self._used.items())
        foreign = max(0.0, self._busy - busy - ours) / max(self._at - at, 1e-3)
        return max(0.0, self._total - foreign)

    def at_once(self, workers: Iterable[int]) -> float:
        """The same, by how many tasks want a core just now, while none of ours does; then the time starts anew."""
        self._look(workers)
        return max(0.0, float(self._total - _wanting()))

    def _look(self, workers: Iterable[int]) -> None:
        self._at, self._busy = time.monotonic(), _busy()
        self._used = {pid: _used(pid) for pid in (os.getpid(), *workers)}


def _wanting() -> int:
    """Tasks of others that run or wait for a core at this moment."""
    with open("/proc/loadavg", "rb") as file:
        running = file.read().split()[3].partition(b"/")[0]
    return max(0, int(running) - 1)  # one is this


def _busy() -> Seconds:
    """All cores together, since boot; what a hypervisor took counts as busy."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def _used(pid: int) -> Seconds:
    """The process's own; 0 when it is gone. Not by psutil, which asks the system five things more about it."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS  # proc(5): fields 14 and 15; the first here is 3
