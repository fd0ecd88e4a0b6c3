"""What the kernel knows about our workers and the cores: what others leave free, and how long our threads wait.

llama.cpp's threads meet at barriers and spin there: one thread more than there are cores for, and the others burn
their time waiting for it (measured: 130 tokens/s became 1 with a busy neighbour on 2 cores). Asked by `pool`, which
deals the threads out.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from typing import Final

import psutil

from swapd.units import Seconds

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_CPU_CLOCK: Final = 2
"""Of a process, in the numbers that clock_getcpuclockid(3) makes on Linux."""
_NANO: Final = 1e-9
_SHORT: Final = 4096


class Cores:
    """Call it now and then; each answer is about the time since the one before. Takes some 0.1 ms."""

    def __init__(self) -> None:
        self._total: int = psutil.cpu_count() or 1
        self._look(())

    def __call__(self, workers: Iterable[int]) -> tuple[float, float | None]:
        """(free, waited) of cores, fractions too.

        `free`: what processes other than this one and `workers` (by pid) left alone. `waited`: what threads of
        `workers` that could have run waited for a core, all together: about 1 where two want one core. None: this
        kernel does not tell.
        """
        at, busy, used, queued = self._at, self._busy, self._used, self._queued
        self._look(workers)
        seconds = max(self._at - at, 1e-3)
        ours = sum(now - used.get(pid, 0.0) for pid, now in self._used.items())
        foreign = max(0.0, self._busy - busy - ours) / seconds
        waits = [wait - queued.get(thread, 0.0) for thread, wait in self._queued.items()]
        return max(0.0, self._total - foreign), sum(waits) / seconds if waits else None

    def _look(self, workers: Iterable[int]) -> None:
        pids = tuple(workers)
        self._at, self._busy = time.monotonic(), _busy()
        self._used = {pid: _used(pid) for pid in (os.getpid(), *pids)}
        self._queued = {thread: wait for pid in pids for thread, wait in _queued(pid)}


def _busy() -> Seconds:
    """All cores together, since boot; what a hypervisor took counts as busy."""
    # proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal; guests are in user and nice already.
    user, nice, system, _, _, *more = map(int, _read("/proc/stat").partition(b"\n")[0].split()[1:9])
    return (user + nice + system + sum(more)) / _TICKS


def _used(pid: int) -> Seconds:
    """The process's own; 0 when it is gone. By its clock, to the nanosecond: `/proc` counts hundredths of a second."""
    try:
        return time.clock_gettime((~pid << 3) | _CPU_CLOCK)
    except OSError:
        return 0.0


def _queued(pid: int) -> list[tuple[int, Seconds]]:
    """How long each of its threads has been runnable without a core, by thread; empty where nobody counts it."""
    waits: list[tuple[int, Seconds]] = []
    with contextlib.suppress(OSError):  # a thread, or all of them, ended just now; or there is no such file
        for thread in os.listdir(f"/proc/{pid}/task"):
            schedstat = _read(f"/proc/{pid}/task/{thread}/schedstat")
            waits.append((int(thread), int(schedstat.split()[1]) * _NANO))
    return waits


def _read(path: str) -> bytes:
    """A short file of the kernel's. Not by `open`, which takes as long again to make its buffer."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, _SHORT)
    finally:
        os.close(file)
