"""Time from a request to its first token where another model has to leave first, over the bare floor's.

The files are in the page cache; there is room for one of two models, which are asked for in turn. The floor
(`benchmarks/floor.py`) and swapd take turns too.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks import bigmodel, daemon, floor, router, servers
from swapd.demo import models
from swapd.units import MiB

CONTEXT: Final = 2048
SLOTS: Final = 2
ROUNDS: Final = 6
PROMPT: Final = "Once upon a time, in a village by the sea, there lived a fisherman who"
REST: Final = 1.5
"""Seconds after each answer: a spare process starts, and nobody swaps in less."""
ROOM: Final = {False: 600, True: 2000}
"""MiB, with the big model and without: enough for either of two, and not for both."""
BIG: Final = "random-1.5g"
ALLOWED: Final = {BIG: 1.1}
ALLOWED_SMALL: Final = 1.25


@dataclass(slots=True)
class Seen:
    """Seconds to the first token of one model, by who loaded it."""

    swapd: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)
    router: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        return statistics.median(ours / bare for ours, bare in zip(self.swapd, self.floor, strict=True))


def main() -> None:
    small, middle = models.fetch(print)
    with tempfile.TemporaryDirectory(prefix="swapd-bench-") as folder:
        big = bigmodel.write(small, Path(folder) / f"{BIG}.gguf")
        found = _measure((small, middle)) | {BIG: _measure((small, big))[BIG]}
    daemon.write("swap", "\n".join(_table(found)) + "\n")


def _measure(files: tuple[Path, Path]) -> dict[str, Seen]:
    is_big = files[1].stat().st_size > 1024 * MiB
    seen = {path.stem: Seen() for path in files}
    config = f"[engine]\nthreads = {servers.THREADS}\n" + daemon.catalog(*files, context=CONTEXT, slots=SLOTS)
    config += f'[memory]\nhost_reserve = "64MiB"\nvram_limit = "{ROOM[is_big] + 64}MiB"\n'
    with daemon.swapd(config) as ours, router.llama(files, CONTEXT, SLOTS) as theirs:
        client = ours.client()
        for number in range(ROUNDS + 2):
            for path in files:
                before = client.call("/swapd/status")["counters"]
                times = seen[path.stem] if number > 1 else Seen()  # the first rounds warm up, and learn what fits
                times.swapd.append(client.complete(path.stem, PROMPT, 1).first_s)
                after = client.call("/swapd/status")["counters"]
                assert after["loads"] == before["loads"] + 1, "nothing was loaded for the request"
                assert number == 0 or after["evictions"] == before["evictions"] + 1, "nobody had to leave"
                time.sleep(REST)
                with floor.waiting() as bare:
                    times.floor.append(bare.first_token_s(str(path), PROMPT, CONTEXT, SLOTS))
                if theirs is not None:
                    times.router.append(theirs.complete(path.stem, PROMPT, 1).first_s)
                    time.sleep(REST)
    return seen


def _table(found: dict[str, Seen]) -> Iterator[str]:
    yield "# A switch of models, over the bare floor"
    yield ""
    yield f"Made by `python -m benchmarks swap` on {daemon.processor()}: medians of {ROUNDS}, seconds from a request to"
    yield "its first token while another model has to leave first, file in page cache; the floor is load, context,"
    yield "prefill and first token in a bare process that waits for the order. Ratios are of neighbours in time."
    if any(seen.router for seen in found.values()):
        yield "llama-server is its router, built from llama-cpp-python's source package."
    yield ""
    yield "| model | floor | swapd | swapd / floor | allowed | llama-server / floor |"
    yield "|---|---|---|---|---|---|"
    for name, seen in found.items():
        ours = f"{statistics.median(seen.swapd):.3f} | {seen.ratio:.2f} | {ALLOWED.get(name, ALLOWED_SMALL):.2f}"
        other = f"{statistics.median(seen.router) / statistics.median(seen.floor):.2f}" if seen.router else ""
        yield f"| {name} | {statistics.median(seen.floor):.3f} | {ours} | {other} |"
