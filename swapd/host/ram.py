"""Host memory as psutil sees it. Called by `memory.py`; a machine without a GPU is scheduled by this alone.

What a worker holds is its resident set: anonymous pages and the pages of its mapped weights. The kernel
counts clean file pages as available too, mapped or not, since it could drop them. Left so, a model's weights
would be counted twice, as held and as free, and a swap would look cheaper than it is: so the file pages that
our workers have mapped are taken off what is available. Then free + ours stays the same when a model goes,
which is what a budget is made of. A file that two workers map is taken off twice: the safe way round.

Where a control group leaves us less than the machine has, its limit is the total, and what is available is the
less of the two. File pages count as available there as well (the kernel drops them before it lets the group run
out), so what the workers have mapped is taken off that in the same way, whoever they are charged to.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import psutil

from swapd.core.model import HOST, Device, DeviceKind, ResidentId
from swapd.host import cgroup
from swapd.units import Bytes


def measure(workers: Mapping[ResidentId, int], root: Path = Path("/")) -> Device:
    """Total, free, and what each worker (by pid) holds; a process that is gone holds nothing.

    `root` is where proc and sys are, for the limits of control groups.
    """
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
    total, available = machine.total, machine.available
    allowed = cgroup.allowance(total, root)
    if allowed is not None:
        total, available = min(total, allowed.limit), min(available, allowed.free)
    return Device(
        id=HOST,
        name="host memory",
        kind=DeviceKind.HOST,
        source="psutil",
        total=total,
        free=max(0, available - mapped),
        held=tuple(held),
    )
