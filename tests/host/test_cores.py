"""How many cores others leave to us and how long our threads wait for one, by the kernel's own accounts."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from swapd.host.cores import Cores

CORES = psutil.cpu_count() or 1
SPIN = "import sys\nprint('at it', flush=True)\nwhile True: pass"


@contextmanager
def spinning() -> Iterator[int]:
    """A process that uses a core; its pid."""
    process = subprocess.Popen([sys.executable, "-c", SPIN], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def wait_used(pid: int, seconds: float) -> None:
    """Until the process has used so much of a core."""
    process = psutil.Process(pid)
    began = process.cpu_times().user
    while process.cpu_times().user - began < seconds:
        os.sched_yield()


def test_what_a_stranger_uses_is_not_free_and_what_a_worker_uses_is() -> None:
    with spinning() as pid:
        cores = Cores()
        cores([pid])
        wait_used(pid, 0.3)
        as_a_worker, _ = cores([pid])
        wait_used(pid, 0.3)
        as_a_stranger, _ = cores([])
    assert as_a_stranger <= CORES - 0.2
    assert as_a_worker >= as_a_stranger


def test_threads_without_a_core_of_their_own_are_seen_to_wait() -> None:
    """Two on one core: whatever else runs, one of them always waits."""
    with contextlib.ExitStack() as stack:
        pids = [stack.enter_context(spinning()) for _ in range(2)]
        core = min(os.sched_getaffinity(0))
        for pid in pids:
            os.sched_setaffinity(pid, {core})
        cores = Cores()
        if cores(pids)[1] is None:
            pytest.skip("this kernel does not count waits")
        wait_used(pids[0], 0.3)
        wait_used(pids[1], 0.3)
        _, waited = cores(pids)
    assert waited is not None
    assert waited >= 0.5


def test_who_is_gone_neither_uses_cores_nor_waits_for_one() -> None:
    with spinning() as pid:
        cores = Cores()
        cores([pid])
    free, waited = cores([pid])
    assert 0 <= free <= CORES
    assert waited is None
