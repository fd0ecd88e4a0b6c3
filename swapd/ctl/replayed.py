"""The pages of `swapctl replay`: pure functions of what was simulated.

Called by replaying. It asks nothing and prints nothing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Final

from swapd.ctl.terminal import cell, count, span
from swapd.sim.lab import recorded, report, tune
from swapd.sim.lab.report import Report
from swapd.trace import VECTORS, Trace
from swapd.units import Seconds, format_bytes

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")


def compared(trace: Trace, rows: Sequence[tuple[str, Report]], refused: Mapping[str, str]) -> str:
    blocks = [_day(trace), report.table(rows)]
    if rows[0][1].bound:
        regrets = ", ".join(f"{name} {max(0.0, row.regret_mean):.2f} s" for name, row in rows)
        blocks.append(f"Above that, for an answer: {regrets}")
    blocks += [f"{name}: not replayed: {cell(why)}" for name, why in refused.items()]
    return "\n\n".join(blocks)


def tuned(trace: Trace, found: tune.Tuning) -> str:
    blocks = [_day(trace)]
    used = min(len(trace.calls), tune.MOST)
    which = "they were" if used == len(trace.calls) else f"the last {used} were"
    blocks[0] += f"\nFor each of {found.count} tries {which} replayed."
    rows = [("as it is", found.now.report)]
    if found.best is None:
        if found.nearest is not found.now:
            rows.append(("the best other", found.nearest.report))
        verdict = f"No max_wait, keep_alive or pin would clearly have helped: {found.why_not}."
        return "\n\n".join([*blocks, report.table(rows), f"{verdict} Keep what you have."])
    gain = found.now.pain - found.best.pain
    share = gain / found.now.pain
    saved = f"It saves {gain:.2f} s of waiting and slowness a request, {share:.0%} of it, in each half of the time."
    rows.append(("proposed", found.best.report))
    return "\n\n".join([*blocks, report.table(rows), saved, _toml(found.now.settings, found.best.settings)])


def _day(trace: Trace) -> str:
    card = format_bytes(trace.card)
    where = f"a card with room for {card}"
    if not trace.cards:
        where = f"{card} of host memory, without a GPU"
    elif trace.cards > 1:
        where = f"{trace.cards} cards, taken for one with room for {card}"
    told = f"{count(len(trace.calls), 'request')} of {count(len(trace.models), 'model')}"
    text = f"{told} in {span(max(1.0, trace.duration))}, on {where}."
    waits = recorded.waits(trace)
    if waits is not None:
        left = f"; {count(waits.left, 'client')} left" if waits.left else ""
        text += (
            f"\nAs it was: wait mean {waits.mean:.2f} s, p50 {waits.p50:.2f} s, p99 {waits.p99:.1f} s,"
            f" max {waits.longest:.1f} s{left}."
        )
    return text


def _toml(now: tune.Settings, best: tune.Settings) -> str:
    """What to put into config.toml; only what changes."""
    lines: list[str] = []
    if (now.max_wait, now.keep_alive) != (best.max_wait, best.keep_alive):
        lines.append("[scheduler]")
    for key in ("max_wait", "keep_alive"):
        old, new = getattr(now, key), getattr(best, key)
        if old != new:
            lines.append(f"{key} = {_duration(new)}    # was {_duration(old)}")
    for pinned in sorted(now.pins ^ best.pins):
        name = pinned.removesuffix(VECTORS)
        quoted = name if _BARE.fullmatch(name) else json.dumps(name)
        lines += ["", f"[models.{quoted}]", f"pin = {'true' if pinned in best.pins else 'false'}"]
    return "In config.toml:\n\n" + "\n".join(lines).strip("\n")


def _duration(seconds: Seconds) -> str:
    """As the configuration writes it."""
    if math.isinf(seconds):
        return "-1"
    for unit, name in ((3600.0, "h"), (60.0, "m")):
        if seconds >= unit and seconds % unit == 0:
            return f'"{seconds / unit:.0f}{name}"'
    return f'"{seconds:g}s"'


def plain(seconds: Seconds) -> Seconds:
    """JSON has no infinity: for ever is -1."""
    return -1 if math.isinf(seconds) else seconds
