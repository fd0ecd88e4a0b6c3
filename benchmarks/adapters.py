"""Requests that take turns between adapters of one model, beside requests for one and the same; and what eight take.

Time to the first token of a short new prompt each time. Memory is what the model's worker takes more with eight
adapters than with none, both having answered with all that they have.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import psutil

from benchmarks import daemon, servers
from swapd.demo import models
from swapd.units import Bytes, MiB
from tests.adapters import write_adapter

ADAPTERS: Final = 8
ROUNDS: Final = 5
MOST_LATER_S: Final = 0.1
MOST_BESIDE: Final = 64 * MiB


def main() -> None:
    path = models.fetch(print)[0]
    with tempfile.TemporaryDirectory(prefix="swapd-bench-") as folder:
        files = {f"a{number}": write_adapter(Path(folder) / f"{number}.gguf", number) for number in range(ADAPTERS)}
        size = sum(file.stat().st_size for file in files.values())
        with _served(path, {}) as (client, pid):
            _answers(client, [path.stem] * ADAPTERS, "Warm")
            bare = psutil.Process(pid).memory_info().rss
        with _served(path, files) as (client, pid):
            names = [f"{path.stem}+{name}" for name in files]
            _answers(client, names, "Warm")
            full = psutil.Process(pid).memory_info().rss
            same: list[float] = []
            turns: list[float] = []
            for number in range(ROUNDS):
                same += _answers(client, names[:1] * ADAPTERS, f"Same {number}")
                turns += _answers(client, names, f"Turn {number}")
    daemon.write("adapters", "\n".join(_table(same, turns, full - bare, size)) + "\n")


@contextlib.contextmanager
def _served(path: Path, files: Mapping[str, Path]) -> Iterator[tuple[daemon.Client, int]]:
    """A client of a daemon with the model loaded, and its worker's process."""
    lora = {name: str(file) for name, file in files.items()}
    entry = daemon.catalog(path, context=2048, slots=4)
    entry += "lora = {" + ", ".join(f'{name} = "{file}"' for name, file in lora.items()) + "}\n" if lora else ""
    with daemon.swapd(f"[engine]\nthreads = {servers.THREADS}\n{entry}") as ours:
        client = ours.client()
        yield client, int(client.call(f"/swapd/models/{path.stem}/load", {})["pid"])


def _answers(client: daemon.Client, names: Sequence[str], label: str) -> list[float]:
    """Seconds to the first token of one request after the other, none of which has a prompt like another."""
    prompts = (f"{label}.{number}. Once upon a time, in a village by the sea," for number in range(len(names)))
    return [client.complete(name, prompt, 4).first_s for name, prompt in zip(names, prompts, strict=True)]


def _table(same: Sequence[float], turns: Sequence[float], more: Bytes, files: Bytes) -> Iterator[str]:
    one, other = statistics.median(same), statistics.median(turns)
    yield "# Adapters"
    yield ""
    yield f"Made by `python -m benchmarks adapters` on {daemon.processor()}: {ADAPTERS} random LoRA adapters of"
    yield f"SmolLM2, medians of {len(turns)} requests. Memory is the worker's resident set with them less that without."
    yield ""
    yield "| what | seen | allowed |"
    yield "|---|---|---|"
    yield f"| first token, always the same adapter | {one * 1000:.1f} ms | |"
    yield f"| first token, adapters in turn | {other * 1000:.1f} ms | |"
    yield f"| later | {(other - one) * 1000:+.1f} ms | {MOST_LATER_S * 1000:.0f} ms |"
    yield f"| latest of all, over the usual | {(max(turns) - one) * 1000:+.1f} ms | |"
    allowed = f"{(files + MOST_BESIDE) / MiB:.1f} MiB (files {files / MiB:.1f})"
    yield f"| memory of {ADAPTERS} | {more / MiB:.1f} MiB | {allowed} |"
