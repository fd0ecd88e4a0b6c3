"""Host memory as psutil sees it. Called by `memory.py`; a machine without a GPU is scheduled by this alone.

What a worker holds is its resident set: anonymous pages and the pages of its mapped weights. The kernel
counts clean file pages as available too, mapped or not, since it could drop them. Left so, a model's weights
would be counted twice, as held and as free, and a swap would look cheaper than it is: so the file pages that
our workers have mapped are taken off what is available. Then free + ours stays the same when a model goes,
which is what a budget is made of. A file that two workers map is taken off twice: the safe way round.
"""

from __future__ import annotations

from collections.abc import Mapping

import psutil

from swapd.core.model import HOST, Device, DeviceKind, ResidentId
from swapd.units import Bytes


def measure(workers: Mapping[ResidentId, int]) -> Device:
    """Total, free, and what each worker (by pid) holds; a process that is gone holds nothing."""
    held: list[tuple[ResidentId, Bytes]] = []
    mapped: Bytes = 0
    for resident, pid in sorted(workers.items()):
        try:
            memory = psutil.Process(pid).memory_info()
        except psutil.Error:
            continue
        held.append((resident, memory.rss))
        mapped += getattr(memory, "shared", 0)  # macOS does not tell
    machine = psutil.virtual_memory()
    return Device(
        id=HOST,
        name="host memory",
        kind=DeviceKind.HOST,
        source="psutil",
        total=machine.total,
        free=max(0, machine.available - mapped),
        held=tuple(held),
    )
