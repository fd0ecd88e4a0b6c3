"""`swapd demo`: a real daemon on two small models with room for one, asked over HTTP as any client would.

Called by `__main__`. It tells what was loaded, what was evicted and why; then the daemon goes on serving.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import aiohttp

from swapd.config import Settings, load
from swapd.core.arithmetic import arithmetic
from swapd.core.messages import StartWorker, StopWorker
from swapd.core.model import ResidentId
from swapd.core.placement import wholes
from swapd.core.state import State
from swapd.daemon import Daemon, make_catalog, open_sockets, running
from swapd.demo import models
from swapd.errors import CannotStart
from swapd.host.listen import TcpAddress, UnixAddress, open_tcp, open_unix
from swapd.host.memory import MachineMemory
from swapd.units import Bytes, format_bytes

CONFIG: Final = """
[catalog]
dirs = [{folder}]
sources = []
[models."smollm2-135m"]
context = 2048
slots = 2
[models."gemma3-270m"]
context = 2048
slots = 2
"""
ROUNDS: Final = (
    ("smollm2-135m", "Tell me in two sentences why cats purr."),
    ("gemma3-270m", "The three largest cities of Japan are"),
    ("smollm2-135m", "And why do dogs bark? Two sentences."),
)
ANSWER_TOKENS: Final = 60


def main(once: bool) -> int:
    """Exit status. Raises CannotStart when the models cannot be had or no port is free."""
    paths = models.fetch(_say)
    with tempfile.TemporaryDirectory(prefix="swapd-demo-") as scratch:
        settings = _settings(Path(scratch), paths[0].parent)
        with open_sockets(_free_addresses(settings, Path(scratch)), {}) as sockets:
            return asyncio.run(_demo(settings, sockets, once))


def _settings(scratch: Path, folder: Path) -> Settings:
    """The demo's configuration, with room for the larger of the two models and not for both."""
    file = scratch / "config.toml"
    file.write_text(CONFIG.format(folder=json.dumps(str(folder))))
    environ = {key: value for key, value in os.environ.items() if not key.startswith("SWAPD_")}
    settings = load(file, environ)
    catalog = make_catalog(settings)
    catalog.scan()
    memory = MachineMemory()
    state = State(policy=settings.policy, devices=memory.measure({}))
    memory.close()
    needs: list[Bytes] = []
    for model in models.DEMO_MODELS:
        variant = catalog.resolve(model.name).variant
        assert variant is not None
        place = wholes(state, variant, None)[0]
        needs.append(arithmetic(variant, place)[place.devices[0] if place.devices else state.devices[-1].id])
    reserve = settings.policy.vram_reserve if state.has_gpu() else settings.policy.host_reserve
    room = max(needs) + min(needs) // 2
    return replace(settings, policy=replace(settings.policy, vram_limit=str(reserve + room)))


def _free_addresses(settings: Settings, scratch: Path) -> Settings:
    """The usual addresses where they are free, so that swapctl finds the demo; else others."""
    listen: list[UnixAddress | TcpAddress] = []
    for address in settings.listen:
        try:
            match address:
                case TcpAddress(host, port):
                    open_tcp(host, port).close()
                case UnixAddress(path):
                    open_unix(path).close()
            listen.append(address)
        except CannotStart:
            is_tcp = isinstance(address, TcpAddress)
            listen.append(TcpAddress("127.0.0.1", 0) if is_tcp else UnixAddress(scratch / "swapd.sock"))
    return replace(settings, listen=tuple(listen))


async def _demo(settings: Settings, sockets: list[socket.socket], once: bool) -> int:
    async with running(settings, sockets) as daemon:
        url = next(address for address in daemon.addresses if address.startswith("http"))
        limit = daemon.engine.state.policy.vram_limit
        _say(f"\nswapd serves {len(daemon.gateway.models())} models on {url}, with room for one at a time.")
        _say(f"(vram_limit is {format_bytes(int(limit))}, of which a reserve stays free.)")
        async with aiohttp.ClientSession(base_url=url) as client:
            for model, prompt in ROUNDS:
                await _ask(client, daemon, model, prompt)
        if once:
            _say("\nThat was the story.")
            return 0
        _say("\nIt goes on serving. In another terminal:\n")
        body = json.dumps({"model": "smollm2-135m", "messages": [{"role": "user", "content": "Hello!"}]})
        _say(f"  curl {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'")
        _say(f"  {Path(sys.executable).parent / 'swapctl'} --url {url} ps\n\nCtrl-C ends it.")
        await _wait_signal()
    return 0


async def _ask(client: aiohttp.ClientSession, daemon: Daemon, model: str, prompt: str) -> None:
    """One question, streamed; then what the daemon did for it."""
    _say(f"\n> {model}: {prompt}")
    seen = max((entry.id for entry in daemon.engine.journal.entries), default=0)
    names = {resident.id: resident.variant.name for resident in daemon.engine.state.residents.values()}
    began, first = time.monotonic(), 0.0
    usage: dict[str, float] = {}
    # Gemma's demo file is a base model: it continues a text and knows no turns.
    is_chat = model.startswith("smollm2")
    body: dict[str, object] = {"model": model, "stream": True, "stream_options": {"include_usage": True}}
    body |= {"max_tokens": ANSWER_TOKENS, "temperature": 0}
    body |= {"messages": [{"role": "user", "content": prompt}]} if is_chat else {"prompt": prompt}
    print("  ", end="", flush=True)
    async with client.post("/v1/chat/completions" if is_chat else "/v1/completions", json=body) as response:
        if response.status != 200:
            raise CannotStart(f"the demo's question was refused: {await response.text()}")
        async for data in response.content:
            if not data.startswith(b"data: {"):
                continue
            chunk = json.loads(data[len(b"data: ") :])
            usage = chunk.get("timings") or usage
            for choice in chunk["choices"]:
                text = choice["delta"].get("content") if is_chat else choice["text"]
                first = first or time.monotonic() - began
                print((text or "").replace("\n", "\n  "), end="", flush=True)
    _say("")
    for line in _what_happened(daemon, seen, names):
        _say(f"  * {line}")
    speed = usage.get("predicted_per_second", 0.0)
    _say(f"  * {usage.get('predicted_n', 0)} tokens at {speed:.0f} tokens/s; the first after {first:.2f} s")


def _what_happened(daemon: Daemon, seen: int, names: Mapping[ResidentId, str]) -> list[str]:
    """Loads and unloads since that entry of the journal, with their reasons; `names` of who was there before."""
    lines: list[str] = []
    for entry in daemon.engine.journal.entries:
        for command in entry.commands if entry.id > seen else ():
            if isinstance(command, StartWorker):
                resident = daemon.engine.state.residents[command.resident]
                size = ", ".join(f"{format_bytes(amount)} on {device}" for device, amount in resident.footprint.parts)
                seconds = daemon.engine.records[command.resident].load_s
                lines.append(f"loaded {command.variant.name} in {seconds:.2f} s: {command.placement}, {size}")
            elif isinstance(command, StopWorker):
                lines.append(f"unloaded {names[command.resident]}: {command.reason}")
    return lines


async def _wait_signal() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()


def _say(text: str) -> None:
    print(text, flush=True)
