"""What the daemon itself costs between client and worker: its CPU time per request and per token.

`python -m benchmarks cost` prints the figures and writes `benchmarks/cost.md`. CPU time of the daemon's process
alone (user and system, as the kernel accounts it), less what it uses while nobody asks. A request's share comes from
many answers of one token; a token's from answers of many, less their requests' share.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path
from typing import Any, Final

import aiohttp
import psutil

from benchmarks import others, servers

RESULT: Final = Path(__file__).parent / "cost.md"
ROUNDS: Final = 3
REQUESTS: Final = 150
TOKENS: Final = 192
WIDTHS: Final = (1, 4, 8)
IDLE: Final = 3.0
"""Seconds without requests."""


def main() -> None:
    with servers.swapd() as url:
        text = asyncio.run(_measure(url, _daemon()))
    print(text)
    RESULT.write_text(text)


def _daemon() -> psutil.Process:
    """The server that was started: our only child of that kind."""
    return next(child for child in psutil.Process().children() if "serve" in child.cmdline())


async def _measure(url: str, daemon: psutil.Process) -> str:
    requests: list[float] = []
    tokens: dict[int, list[float]] = {width: [] for width in WIDTHS}
    async with aiohttp.ClientSession() as client:
        await _answers(client, url, "warm", width=8, requests=16, tokens=8)
        idle = await _idle(daemon)
        for number in range(ROUNDS):
            spent = await _spent(client, url, daemon, idle, f"request {number}", 1, REQUESTS, 1)
            requests.append(spent / REQUESTS)
            for width in WIDTHS:
                spent = await _spent(client, url, daemon, idle, f"token {number}", width, width, TOKENS)
                tokens[width].append((spent - width * requests[-1]) / (width * (TOKENS - 1)))
    about = (
        f"Made by `python -m benchmarks cost`: CPU time of the daemon's process, {servers.MODEL} on {servers.THREADS}"
        f" threads, streamed; medians of {ROUNDS} rounds (lowest to highest). While nobody asks it uses"
        f" {idle * 1e3:.1f} ms of a second, which is not in these figures."
    )
    lines = [
        *("# What the daemon costs", "", about, ""),
        "| | µs |",
        "|---|---|",
        f"| a request | {_figures(requests)} |",
        *(f"| a token, {width} stream{'s' * (width > 1)} | {_figures(tokens[width])} |" for width in WIDTHS),
    ]
    return "\n".join(lines) + "\n"


def _figures(seen: list[float]) -> str:
    return f"{statistics.median(seen) * 1e6:.0f} ({min(seen) * 1e6:.0f} to {max(seen) * 1e6:.0f})"


async def _idle(daemon: psutil.Process) -> float:
    """Seconds of CPU in a second without requests."""
    began = others.used_exactly(daemon.pid)
    await asyncio.sleep(IDLE)
    return (others.used_exactly(daemon.pid) - began) / IDLE


async def _spent(
    client: aiohttp.ClientSession,
    url: str,
    daemon: psutil.Process,
    idle: float,
    label: str,
    width: int,
    requests: int,
    tokens: int,
) -> float:
    """Seconds of CPU for all these answers, less what would have been used without them."""
    before, began = others.used_exactly(daemon.pid), time.perf_counter()
    await _answers(client, url, label, width=width, requests=requests, tokens=tokens)
    return others.used_exactly(daemon.pid) - before - idle * (time.perf_counter() - began)


async def _answers(
    client: aiohttp.ClientSession, url: str, label: str, *, width: int, requests: int, tokens: int
) -> None:
    """So many requests, `width` of them at a time."""
    numbers = iter(range(requests))

    async def ask_on() -> None:
        for number in numbers:
            body: dict[str, Any] = {
                "model": servers.MODEL,
                "prompt": f"Story {label}.{number}. Once upon a time, in a village by the sea,",
                "max_tokens": tokens,
                "temperature": 0,
                "stream": True,
                "ignore_eos": True,
            }
            async with client.post(f"{url}/v1/completions", json=body) as response:
                response.raise_for_status()
                await response.read()

    await asyncio.gather(*(ask_on() for _ in range(width)))
