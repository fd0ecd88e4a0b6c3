"""How many cores others leave to us, by the kernel's own accounts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from swapd.host.cores import FreeCores

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
        cores = FreeCores()
        cores([pid])
        wait_used(pid, 0.3)
        as_a_worker = cores([pid])
        wait_used(pid, 0.3)
        as_a_stranger = cores([])
    assert as_a_stranger <= CORES - 0.2
    assert as_a_worker >= as_a_stranger


def test_at_once_a_task_that_wants_a_core_counts_whole() -> None:
    with spinning():
        assert FreeCores().at_once([]) <= CORES - 1
