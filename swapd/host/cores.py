"""What the kernel knows about our workers and the cores: what others leave free, and how long our threads wait.

llama.cpp's threads meet at barriers and spin there: one thread more than there are cores for, and the others burn
their time waiting for it (measured: 130 tokens/s became 1 with a busy neighbour on 2 cores). Asked by `pool`, which
deals the threads out.
"""

from __future__ import annotations

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
    """Call it now and then; each answer is about the time since the one before. Takes some 0.05 ms."""

    def __init__(self) -> None:
        self._total: int = psutil.cpu_count() or 1
        self._threads: dict[int, _Threads] = {}
        """Of the workers, by pid."""
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
        pids = set(workers)
        self._at, self._busy = time.monotonic(), _busy()
        self._used = {pid: _used(pid) for pid in (os.getpid(), *pids)}
        for pid in self._threads.keys() - pids:
            self._threads.pop(pid).close()
        for pid in pids - self._threads.keys():
            self._threads[pid] = _Threads(pid)
        self._queued = {thread: wait for each in self._threads.values() for thread, wait in each.queued()}


class _Threads:
    """A process's, and their files, which stay open: to open one takes three times as long as to read it."""

    def __init__(self, pid: int) -> None:
        self._folder: Final = f"/proc/{pid}/task"
        self._files: dict[str, int] = {}

    def queued(self) -> list[tuple[int, Seconds]]:
        """How long each has been runnable without a core, by thread; empty where nobody counts it, or it is gone."""
        try:
            threads = os.listdir(self._folder)
        except OSError:
            threads = []
        self._close(self._files.keys() - threads)
        waits: list[tuple[int, Seconds]] = []
        for thread in threads:
            try:
                if thread not in self._files:
                    self._files[thread] = os.open(f"{self._folder}/{thread}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
                waits.append((int(thread), int(os.pread(self._files[thread], _SHORT, 0).split()[1]) * _NANO))
            except OSError:  # it ended just now; or there is no such file
                self._close({thread} & self._files.keys())
        return waits

    def close(self) -> None:
        self._close(set(self._files))

    def _close(self, threads: set[str]) -> None:
        for thread in threads:
            os.close(self._files.pop(thread))


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


def _read(path: str) -> bytes:
    """A short file of the kernel's. Not by `open`, which takes as long again to make its buffer."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, _SHORT)
    finally:
        os.close(file)
