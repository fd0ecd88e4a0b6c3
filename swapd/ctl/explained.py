"""The pages of `swapctl explain`, `queue` and `events`: pure functions of the daemon's documents and the time.

Called by commands. It asks nothing and prints nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from swapd.ctl.client import Json
from swapd.ctl.terminal import cell, count, table, when
from swapd.units import format_bytes

_PLANS: Final = {
    "load": "load it beside the others",
    "evict": "make room for all of it",
    "offload": "load it in part",
    "wait": "wait for those at work, then make room",
}
_DID: Final = {
    "load": "loaded",
    "evict": "loaded, with others leaving",
    "offload": "loaded in part",
    "prefetch": "loaded ahead, because it is likely to be asked for next",
    "wait": "has to wait",
    "refuse": "refused",
    "unload": "unloaded",
}


def explain(decisions: Sequence[Json], now: datetime) -> str:
    """Each in words: what, why, what else was considered at which price, what would have avoided it."""
    return "\n\n".join(_decision(each, now) for each in decisions)


def queue(rows: Sequence[Json], now: datetime) -> str:
    if not rows:
        return "No request is waiting."
    return table(
        ("PLACE", "MODEL", "REQUEST", "SINCE", "WAITS BECAUSE"),
        [(row["position"], row["model"], row["request"], when(row["since"], now), row["reason"]) for row in rows],
    )


def event(each: Json) -> str:
    """One line."""
    at = datetime.fromisoformat(each["at"]).astimezone().strftime("%H:%M:%S")
    facts = " ".join(
        f"{key}={cell(str(value))}" for key, value in each.items() if key not in ("id", "at", "event", "model")
    )
    return " ".join(filter(None, (at, cell(each["event"]), cell(str(each.get("model", ""))), facts)))


def _decision(decision: Json, now: datetime) -> str:
    did = _DID.get(decision["choice"], decision["choice"])
    lines = [f"{cell(decision['model'])}: {cell(did)}, {when(decision['at'], now)}", f"  {cell(decision['reason'])}"]
    if decision["requests"]:
        named = ", ".join(cell(each) for each in decision["requests"])
        lines.append(f"  for {count(decision['waiting'], 'request')}: {named}")
    for candidate in decision["candidates"]:
        lines += _candidate(candidate)
    if decision["avoid"]:
        lines.append("  would have avoided it:")
        lines += [f"    {cell(each)}" for each in decision["avoid"]]
    return "\n".join(lines)


def _candidate(candidate: Json) -> list[str]:
    mark = ">" if candidate["chosen"] else "-"
    price = "" if candidate["price_s"] is None else f": {candidate['price_s']:.1f} s"
    note = f" ({cell(candidate['note'])})" if candidate["note"] else ""
    need = ", ".join(f"{format_bytes(size)} on {cell(device)}" for device, size in candidate["need"].items())
    leaving = f"; {', '.join(cell(each) for each in candidate['leaving'])} to leave" if candidate["leaving"] else ""
    what = _PLANS.get(candidate["plan"], candidate["plan"])
    lines = [f"  {mark} {cell(what)}, {cell(candidate['placement'] or '')}{price}{note}"]
    lines.append(f"      {need}{leaving}")
    if candidate["costs"]:
        lines.append(
            "      " + ", ".join(f"{cell(what)} {seconds:.1f} s" for what, seconds in candidate["costs"].items())
        )
    return lines
