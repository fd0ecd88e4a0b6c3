"""swapd beside llama-server on one model, taking turns in one run: tokens per second of 1, 4 and 8 streams, time to
the first token, and how long a stream stalls for somebody else's long prompt.

`python -m benchmarks streams` prints the figures and writes `benchmarks/streams.md`. Moments in which other programs
used the cores are measured again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp

from benchmarks import servers
from benchmarks.others import TOLERATED, undisturbed

RESULT: Final = Path(__file__).parent / "streams.md"
ROUNDS: Final = 5
TOKENS: Final = 128
WIDTHS: Final = (1, 4, 8)
FIRSTS: Final = 41
"""Requests whose first token is timed."""
STALLS: Final = 2
LONG: Final = 1900
"""Tokens of the prompt that arrives beside a running stream."""
FIRST_TOKEN: Final = "first token, ms"
STALL: Final = "inter-token p99 beside a long prompt, ms"


@dataclass
class Figures:
    """By what was measured and by server, in the order of the rounds."""

    seen: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    disturbed: int = 0

    async def add(self, what: str, urls: dict[str, str], measure: Callable[[str], Awaitable[float]]) -> None:
        for name, url in urls.items():
            figure, is_good = await undisturbed(partial(measure, url))
            self.disturbed += not is_good
            self.seen.setdefault(what, {}).setdefault(name, []).append(figure)
            print(f"{what}: {name} {figure:.1f}{'' if is_good else ' (disturbed)'}", file=sys.stderr, flush=True)


def main() -> None:
    program = servers.llama_server()
    with contextlib.ExitStack() as stack:
        urls = {"swapd": stack.enter_context(servers.swapd())}
        if program is not None:
            urls["llama-server"] = stack.enter_context(servers.llama(program))
        figures = asyncio.run(_measure(urls))
    text = _page(figures, tuple(urls))
    print(text)
    RESULT.write_text(text)


async def _measure(urls: dict[str, str]) -> Figures:
    figures = Figures()
    # llama-server closes a connection after some requests: each has its own.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as client:
        for url in urls.values():  # they warm up
            await _rate(client, max(WIDTHS), 32, "warm", url)
        for number in range(ROUNDS):
            for width in WIDTHS:
                what = f"tokens per second, {width} stream{'s' * (width > 1)}"
                await figures.add(what, urls, partial(_rate, client, width, TOKENS, f"{number}"))
        for number in range(FIRSTS):
            await figures.add(FIRST_TOKEN, urls, partial(_first, client, f"{number}"))
        for number in range(STALLS):
            await figures.add(STALL, urls, partial(_stall, client, number))
    return figures


async def _rate(client: aiohttp.ClientSession, width: int, tokens: int, label: str, url: str) -> float:
    """Tokens of all streams over the time from the first request to the last token."""
    began = time.perf_counter()
    streams = [_arrivals(client, url, _prompt(f"{label}.{index}"), tokens) for index in range(width)]
    counts = await asyncio.gather(*(_count(stream) for stream in streams))
    return sum(counts) / (time.perf_counter() - began)


async def _first(client: aiohttp.ClientSession, label: str, url: str) -> float:
    """Milliseconds from the request to the first token of its answer."""
    began = time.perf_counter()
    arrivals = [at async for at, _ in _arrivals(client, url, _prompt(f"first {label}"), 4)]
    return (arrivals[0] - began) * 1e3


async def _stall(client: aiohttp.ClientSession, number: int, url: str) -> float:
    """Milliseconds: the 99th percentile of the waits for one token while somebody's long prompt is read."""
    prompt = random.Random(number).choices(range(1000, 20000), k=LONG)
    waits: list[float] = []
    last, other = 0.0, None
    async for at, tokens in _arrivals(client, url, _prompt(f"stall {number}"), TOKENS):
        if other is None and len(waits) >= 16:
            other = asyncio.create_task(_count(_arrivals(client, url, prompt, 1)))
        if last:
            waits += [at - last, *[0.0] * (tokens - 1)]
        last = at
    assert other is not None
    await other
    return statistics.quantiles(waits, n=100)[98] * 1e3


def _prompt(label: str) -> str:
    return f"Story {label}. Once upon a time, in a village by the sea,"


async def _count(stream: AsyncIterator[tuple[float, int]]) -> int:
    return sum([tokens async for _, tokens in stream])


async def _arrivals(
    client: aiohttp.ClientSession, url: str, prompt: str | Sequence[int], tokens: int
) -> AsyncIterator[tuple[float, int]]:
    """When pieces of an answer come, and of how many tokens each is: by the server's count, else one."""
    body = {
        "model": servers.MODEL,
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
        "cache_prompt": True,
    }
    told = 0
    async with client.post(f"{url}/v1/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            chunk: dict[str, Any] = json.loads(line[6:])
            if usage := chunk.get("usage"):
                yield time.perf_counter(), usage["completion_tokens"] - told
            elif any(choice.get("text") for choice in chunk["choices"]):
                told += 1
                yield time.perf_counter(), 1


def _page(figures: Figures, names: Sequence[str]) -> str:
    is_pair = len(names) == 2
    about = (
        f"Made by `python -m benchmarks streams`: {servers.MODEL} on {servers.THREADS} threads, {servers.SLOTS} slots"
        f" of {servers.CONTEXT} tokens, {TOKENS} tokens an answer; medians (lowest to highest). The servers take turns,"
        f" and the ratio is the median of the turns' ratios. The long prompt has {LONG} tokens. Figures from moments in"
        f" which other programs used more than {TOLERATED:.0%} of a core: {figures.disturbed}."
    )
    lines = [
        *("# Streams", "", about, ""),
        f"| | {' | '.join(names)} |{' ratio |' * is_pair}",
        f"|---|{'---|' * (len(names) + is_pair)}",
    ]
    for what, seen in figures.seen.items():
        cells = [f"{statistics.median(seen[n]):.1f} ({min(seen[n]):.0f} to {max(seen[n]):.0f})" for n in names]
        if is_pair:
            ours, theirs = (seen[name] for name in names)
            cells.append(f"{statistics.median(a / b for a, b in zip(ours, theirs, strict=True)):.2f}")
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
