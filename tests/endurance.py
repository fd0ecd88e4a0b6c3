"""A daemon's long life in short: swaps, answers in every dialect, mistakes, clients that leave; and what it holds then.

Used by the end-to-end test of the same name and, at full length, by `python -m benchmarks endurance`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import psutil

from swapd.units import Bytes

NAMES: Final = ("one", "two")
"""Of two models of which one has room."""
AT_ONCE: Final = 3
VECTORS: Final = 0.005
"""Of the calls, those for which a model is loaded in another way."""
_WORDS: Final = ("sea", "village", "boat", "storm", "letter", "winter", "garden", "king", "bread", "silver", "window")


@dataclass(frozen=True, slots=True)
class Held:
    """By the daemon's own process, after so many loads."""

    loads: int
    memory: Bytes
    descriptors: int
    threads: int


def held(pid: int, loads: int) -> Held:
    process = psutil.Process(pid)
    return Held(loads, process.memory_info().rss, process.num_fds(), process.num_threads())


def entries(path: str) -> str:
    """The configuration for it: one file under two names, room for one, and for few conversations on the disk."""
    models = "".join(
        f'[models."{name}"]\npath = "{path}"\ncontext = {3072 + 64 * number}\nslots = {AT_ONCE}\n'
        for number, name in enumerate(NAMES)
    )
    return f'[engine]\nthreads = 1\n[scheduler]\nmax_loaded = 1\n[memory]\nprompt_cache = "16MiB"\n{models}'


async def live(url: str, cycles: int, requests: int, passed: Callable[[int], None]) -> list[str]:
    """So many loads, with as many requests each as make up the number; `passed` hears of every load that is over.

    What was not answered as it should be.
    """
    wrong: list[str] = []
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=AT_ONCE), timeout=aiohttp.ClientTimeout(total=None)
    ) as client:
        for cycle in range(cycles):
            chance = random.Random(cycle)
            each = requests // cycles + (cycle < requests % cycles)
            model = NAMES[cycle % len(NAMES)]
            calls = [_call(chance, model, cycle * 100 + number) for number in range(each)]
            for start in range(0, each, AT_ONCE):
                results = await asyncio.gather(*(_ask(client, url, call) for call in calls[start : start + AT_ONCE]))
                wrong += filter(None, results)
            passed(cycle + 1)
    return wrong


@dataclass(frozen=True, slots=True)
class _Call:
    path: str
    body: Mapping[str, Any] | None
    expected: int = 200
    leaves: bool = False
    """Goes away after the first line."""


def _call(chance: random.Random, model: str, number: int) -> _Call:
    text = f"{number}: " + " ".join(chance.choices(_WORDS, k=chance.choice((3, 12, 200))))
    turns = [{"role": "user", "content": text}]
    few: dict[str, Any] = {"model": model, "max_tokens": 3}
    kinds: Sequence[_Call] = (
        _Call("/v1/chat/completions", {**few, "messages": turns, "stream": True, "user": f"user {number}"}),
        _Call("/v1/chat/completions", {**few, "messages": turns, "logprobs": True}),
        _Call("/v1/completions", {**few, "prompt": text, "max_tokens": 100, "stream": True}, leaves=True),
        _Call("/v1/messages", {**few, "messages": turns}),
        _Call("/v1/responses", {"model": model, "input": text, "max_output_tokens": 16}),
        _Call("/api/chat", {"model": model, "messages": turns, "options": {"num_predict": 3}, "keep_alive": 60}),
        _Call("/api/generate", {"model": model, "prompt": text, "options": {"num_predict": 3}, "stream": False}),
        _Call("/tokenize", {"model": model, "content": text}),
        _Call("/v1/chat/completions", {**few, "model": f"nobody-{number}", "messages": turns}, expected=404),
        _Call("/v1/chat/completions", {**few, "messages": turns, "temperature": "warm"}, expected=400),
        _Call(chance.choice(("/metrics", "/swapd/status", "/swapd/decisions", "/v1/models", "/api/ps")), None),
    )
    if chance.random() < VECTORS:  # which is another load
        return _Call("/v1/embeddings", {"model": model, "input": text[:200]})
    return kinds[0] if number % 100 == 0 else kinds[number % len(kinds)]


async def _ask(client: aiohttp.ClientSession, url: str, call: _Call) -> str:
    """What is wrong with the answer; "": it is as it should be."""
    headers = {"X-Swapd-Session": f"{call.body!r:.40}", "X-Swapd-Progress": "1"}
    method = "GET" if call.body is None else "POST"
    async with client.request(method, url + call.path, json=call.body, headers=headers) as response:
        said = b""
        if call.leaves:
            await response.content.readline()
            response.close()
        else:
            said = await response.read()
        return "" if response.status == call.expected else f"{call.path}: {response.status} {said[:300]!r}"
