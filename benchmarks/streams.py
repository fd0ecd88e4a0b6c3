"""Tokens per second of 1, 4 and 8 streams on one model, swapd beside llama-server, taking turns in one run."""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import time

import aiohttp

from benchmarks import servers

ROUNDS = 5
TOKENS = 128
WIDTHS = (1, 4, 8)


def main() -> None:
    program = servers.llama_server()
    with contextlib.ExitStack() as stack:
        urls = {"swapd": stack.enter_context(servers.swapd())}
        if program is not None:
            urls["llama-server"] = stack.enter_context(servers.llama(program))
        rates = asyncio.run(_measure(urls))
    _print(rates)


async def _measure(urls: dict[str, str]) -> dict[tuple[str, int], list[float]]:
    rates: dict[tuple[str, int], list[float]] = {}
    async with aiohttp.ClientSession() as client:
        for round_number in range(ROUNDS + 1):
            for width in WIDTHS:
                for name, url in urls.items():
                    rate = await _rate(client, url, width, round_number)
                    if round_number:  # the first round warms up
                        rates.setdefault((name, width), []).append(rate)
    return rates


async def _rate(client: aiohttp.ClientSession, url: str, width: int, round_number: int) -> float:
    """Tokens of all streams over the time from the first request to the last token."""
    began = time.perf_counter()
    counts = await asyncio.gather(*(_stream(client, url, f"{round_number}.{index}") for index in range(width)))
    return sum(counts) / (time.perf_counter() - began)


async def _stream(client: aiohttp.ClientSession, url: str, label: str) -> int:
    body = {
        "model": servers.MODEL,
        "prompt": f"Story {label}. Once upon a time, in a village by the sea,",
        "max_tokens": TOKENS,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    }
    tokens = 0
    async with client.post(f"{url}/v1/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.content:
            if line.startswith(b"data: {"):
                usage = json.loads(line[6:]).get("usage")
                tokens = usage["completion_tokens"] if usage else tokens
    return tokens


def _print(rates: dict[tuple[str, int], list[float]]) -> None:
    names = sorted({name for name, _ in rates}, reverse=True)
    print(f"\ntokens per second, median of {ROUNDS} (lowest to highest), {servers.THREADS} threads, {servers.MODEL}")
    for width in WIDTHS:
        cells = []
        for name in names:
            seen = rates[name, width]
            cells.append(f"{name} {statistics.median(seen):6.1f} ({min(seen):.0f} to {max(seen):.0f})")
        if len(names) == 2:
            pairs = zip(rates["swapd", width], rates["llama-server", width], strict=True)
            cells.append(f"ratio {statistics.median(ours / theirs for ours, theirs in pairs):.2f}")
        one = statistics.median(rates["swapd", 1])
        cells.append(f"{statistics.median(rates['swapd', width]) / one:.2f} x one stream")
        print(f"  {width} streams: " + ", ".join(cells))
