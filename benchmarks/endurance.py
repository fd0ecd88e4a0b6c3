"""Does the daemon grow? A thousand loads and unloads, ten thousand requests, and what it holds meanwhile.

ENDURANCE_CYCLES (1000), ENDURANCE_REQUESTS (10000): how many. Speed does not matter: let it run beside other work.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from benchmarks import daemon
from swapd.units import MiB
from tests import endurance
from tests.endurance import Held
from tests.gguf_models import tiny_llama

CYCLES: Final = int(os.environ.get("ENDURANCE_CYCLES", "1000"))
REQUESTS: Final = int(os.environ.get("ENDURANCE_REQUESTS", "10000"))
LOOKS: Final = 50
PARTS: Final = 5


def main() -> None:
    seen: list[Held] = []
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="swapd-bench-") as folder,
        daemon.swapd(endurance.entries(str(tiny_llama(Path(folder) / "tiny.gguf", context=4096)))) as ours,
    ):

        def passed(loads: int) -> None:
            if loads % max(1, CYCLES // LOOKS) == 0:
                seen.append(endurance.held(ours.pid, loads))
                print(f"{time.monotonic() - began:6.0f} s {seen[-1]}", flush=True)

        wrong = asyncio.run(endurance.live(ours.url, CYCLES, REQUESTS, passed))
        counters = ours.client().call("/swapd/status")["counters"]
    print(*wrong, sep="\n")
    daemon.write("endurance", "\n".join(_table(seen, len(wrong), counters["loads"])) + "\n")


def _table(seen: Sequence[Held], wrong: int, loads: int) -> Iterator[str]:
    parts = [seen[len(seen) * number // PARTS : len(seen) * (number + 1) // PARTS] for number in range(PARTS)]
    yield "# Endurance"
    yield ""
    yield f"Made by `python -m benchmarks endurance`: {loads} loads, {REQUESTS} requests in every dialect, mistakes and"
    yield f"clients that leave among them; {wrong} were not answered as they should be. What the daemon's own process"
    yield f"holds, medians of {PARTS} parts of the run. What it keeps of the past (1,000 decisions and the like)"
    yield "is full after 500 loads."
    yield ""
    yield f"| | {' | '.join(f'to {part[-1].loads}' for part in parts)} |"
    yield f"|---|{'---|' * PARTS}"
    for what, each in (("memory, MiB", _memory), ("descriptors", _descriptors), ("threads", _threads)):
        yield f"| {what} | {' | '.join(f'{statistics.median(map(each, part)):.4g}' for part in parts)} |"


def _memory(one: Held) -> float:
    return one.memory / MiB


def _descriptors(one: Held) -> float:
    return one.descriptors


def _threads(one: Held) -> float:
    return one.threads
