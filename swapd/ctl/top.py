"""`swapctl top`: the daemon at a glance, drawn anew every second.

Called by `commands`. The page is a pure function of two looks at the daemon; the screen is a terminal's other page,
given back however it ends.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import time
import tty
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from swapd.ctl import explained
from swapd.ctl.client import Client, Json
from swapd.ctl.pages import size, until, vram
from swapd.ctl.terminal import cell, count, span, table, when
from swapd.units import Seconds, format_bytes

_BAR: Final = 24
_EVENTS: Final = 5
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _REST, _BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the daemon: its status and the last that happened, at a moment of our clock."""

    status: Json
    events: tuple[Json, ...]
    at: Seconds

    @property
    def tokens(self) -> Mapping[tuple[str, str], int]:
        """How many each resident has written, by name and the time of its load."""
        return {(model["name"], str(model["loaded_at"])): model["tokens"] for model in self.status["models"]}


def look(client: Client) -> Look:
    events = tuple(client.events("/swapd/events?follow=false"))[-_EVENTS:]
    return Look(client.get("/swapd/status"), events, time.monotonic())


def document(seen: Look) -> Json:
    return {"status": seen.status, "events": list(seen.events)}


def page(seen: Look, before: Look | None, now: datetime) -> str:
    """`before`: the look that speeds are told since; without one there are none."""
    status, counters = seen.status, seen.status["counters"]
    told = f"{count(counters['loads'], 'load')}, {count(counters['evictions'], 'eviction')}"
    head = f"swapd {cell(status['version'])}, up for {span(status['uptime_s'])}; {told}"
    if counters["crashes"]:
        head += f", {count(counters['crashes'], 'worker')} crashed"
    blocks = [head, "\n".join(map(_device, status["devices"])) or "No device is measured yet."]
    if status["models"]:
        headers = ("MODEL", "STATE", "PROCESSOR", "SIZE", "VRAM", "SLOTS", "TOKENS/S", "UNTIL")
        blocks.append(table(headers, [_row(model, seen, before, now) for model in status["models"]]))
    else:
        blocks.append("No model is loaded.")
    if status["queue"]:
        rows = [(each["position"], each["model"], when(each["since"], now), each["reason"]) for each in status["queue"]]
        blocks.append(table(("PLACE", "MODEL", "SINCE", "WAITS BECAUSE"), rows))
    else:
        blocks.append("No request is waiting.")
    if seen.events:
        blocks.append("\n".join(map(explained.event, seen.events)))
    return "\n\n".join(blocks)


def watch(client: Client, arguments: Namespace) -> None:
    """On a terminal until `q` or Ctrl-C; else one page. Raises Failure: the daemon went away."""
    seen, before = look(client), None
    if not (sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()):
        print(page(seen, before, datetime.now(UTC)))
        return
    with _screen():
        while True:
            _draw(page(seen, before, datetime.now(UTC)))
            if _wait_key(arguments.every) in ("q", "Q", "\x03", "\x04"):
                return
            before, seen = seen, look(client)


def _device(device: Json) -> str:
    """`cuda:0  [####++....]  ...`: `#` ours, `+` other programs', `-` kept free."""
    total = max(1, device["total"])
    parts = (("#", device["ours"]), ("+", device["foreign"]), ("-", min(device["reserve"], device["free"])))
    bar = "".join(mark * round(held / total * _BAR) for mark, held in parts)[:_BAR].ljust(_BAR, ".")
    ours, foreign, free, whole = (format_bytes(device[key]) for key in ("ours", "foreign", "free", "total"))
    return f"{cell(device['id']):<8} [{bar}]  {ours} ours, {foreign} others', {free} free of {whole}"


def _row(model: Json, seen: Look, before: Look | None, now: datetime) -> Sequence[object]:
    state = f"loading {model['progress']:.0%}" if model["state"] == "loading" else model["state"]
    return (
        model["name"],
        state,
        model["placement"],
        format_bytes(size(model)),
        format_bytes(vram(model)),
        f"{model['slots_busy']}/{model['slots']}",
        _speed(model, seen, before),
        until(model, now),
    )


def _speed(model: Json, seen: Look, before: Look | None) -> str:
    key = (model["name"], str(model["loaded_at"]))
    if before is None or key not in before.tokens or seen.at <= before.at:
        return "-"
    return f"{(model['tokens'] - before.tokens[key]) / (seen.at - before.at):.0f}"


def _draw(text: str) -> None:
    """As much of it as the screen holds, without a flicker: each line ends by clearing what was there."""
    columns, lines = os.get_terminal_size(sys.stdout.fileno())
    shown = [line[:columns] for line in text.split("\n")][: max(1, lines - 1)]
    sys.stdout.write(_HOME + "".join(f"{line}{_REST}\r\n" for line in shown) + f"q: quit{_REST}{_BELOW}")
    sys.stdout.flush()


def _wait_key(seconds: Seconds) -> str:
    """A key, or nothing when the time is over."""
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return os.read(sys.stdin.fileno(), 1).decode(errors="replace") if ready else ""


@contextlib.contextmanager
def _screen() -> Iterator[None]:
    """The terminal's other page, keys told at once; Ctrl-C still interrupts."""
    keyboard = sys.stdin.fileno()
    saved = termios.tcgetattr(keyboard)
    try:
        tty.setcbreak(keyboard)
        sys.stdout.write(_ENTER)
        yield
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()
        termios.tcsetattr(keyboard, termios.TCSADRAIN, saved)
