"""The pages of `swapctl plan` and `swapctl yield`: pure functions of the daemon's documents and the time.

Called by commands. It asks nothing and prints nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from swapd.ctl.client import Json
from swapd.ctl.terminal import cell, count, span, table
from swapd.units import Bytes, Seconds, format_bytes

_HOST: Final = "host"
_FULL_BATCH: Final = 512
_ALL: Final = ("All fit together", "they", "need")
_ASKED: Final[Seconds] = 2.0
"""Since it was asked for some time has passed, and nobody asked for 29 minutes."""


def page(plan: Json) -> str:
    """What is placed where, whether all fit together, who would leave, and every set that fits."""
    blocks = [_models(plan), _verdict(plan)]
    if plan["leave"]:
        leaving = "\n".join(f"  {cell(each['name'])}: {cell(each['reason'])}" for each in plan["leave"])
        blocks.append(f"Would have to leave:\n{leaving}")
    fitting = [each for each in plan["combinations"] if each["fits"]]
    if fitting:
        blocks.append(f"Fit together wholly (* no other of them could be added):\n{_combinations(plan, fitting)}")
    elif len(plan["models"]) > 1 and plan["combinations"]:
        blocks.append("None of them fits wholly.")
    return "\n\n".join(blocks)


def yielded(document: Json, now: datetime) -> str:
    """What was given, until when, and how much of it is free."""
    device, free = cell(document["device"]), format_bytes(document["free"])
    if not document["bytes"]:
        return f"what was yielded is taken back; {free} are free on {device}"
    lasting = "for good"
    if document["until"] is not None:
        left = datetime.fromisoformat(document["until"]) - now
        lasting = f"for {span(left.total_seconds() + _ASKED)}"
    told = f"{format_bytes(document['bytes'])} of {device} are yielded {lasting}"
    if document["freed"]:
        return f"{told}: {free} are free"
    return f"{told}, but only {free} are free: what holds the rest is pinned, at work, or no model of swapd"


def _models(plan: Json) -> str:
    rows = []
    for model in plan["models"]:
        estimate = "" if model["exact"] else "~"
        rows.append(
            (
                model["name"],
                _placement(model),
                ",".join(model["devices"]) or ("-" if model["fits"] == "no" else _HOST),
                _size(_on_cards(model["bytes"]), estimate),
                _size(model["bytes"].get(_HOST, 0), estimate),
                model["context"],
                model["slots"],
            )
        )
    return table(("NAME", "PLACEMENT", "DEVICE", "VRAM", "HOST", "CONTEXT", "SLOTS"), rows)


def _placement(model: Json) -> str:
    """`100% GPU`, `23/31 layers on GPU`, and what of them is not as usual."""
    if model["fits"] == "no":
        return "does not fit"
    if not model["gpu_layers"]:
        return "100% CPU"
    on_gpu, layers, experts = model["gpu_layers"], model["layers"], model["experts_on_cpu"]
    notes = ["100% GPU" if on_gpu >= layers and not experts else f"{on_gpu}/{layers} layers on GPU"]
    if experts:
        notes.append(f"experts of {count(experts, 'layer')} on CPU")
    if model["micro_batch"] < _FULL_BATCH:
        notes.append(f"micro-batch {model['micro_batch']}")
    return ", ".join(notes)


def _verdict(plan: Json) -> str:
    """With the numbers of the GPUs; of the host where there is none. And what would change it, or could be had more."""
    where = [each for each in plan["devices"] if each["kind"] == "gpu"] or plan["devices"]
    wanted = format_bytes(sum(plan["bytes"].get(each["id"], 0) for each in where))
    room = " + ".join(format_bytes(each["room"]) for each in where)
    there = f"{room} on {', '.join(cell(each['id']) for each in where)}"
    subject, pronoun, verb = ("It fits wholly", "it", "needs") if len(plan["models"]) == 1 else _ALL
    most = plan["context"]
    if plan["together"]:
        more = (
            f"\n{pronoun.capitalize()} would with up to {most} tokens a slot." if most and most > _context(plan) else ""
        )
        return f"{subject}: yes ({wanted} of {there}){more}"
    if 0 < plan["max_loaded"] < len(plan["models"]):
        return f"{subject}: no ([scheduler] max_loaded is {plan['max_loaded']})"
    lines = [f"{subject}: no (wholly {pronoun} {verb} {wanted}; {pronoun} can have {there})"]
    if most:
        lines.append(f"{pronoun.capitalize()} would with up to {most} tokens a slot.")
    if any(model["fits"] == "no" for model in plan["models"]):
        host = next((each for each in plan["devices"] if each["id"] == _HOST), None)
        if host is not None and host not in where:
            lines.append(f"What is not on a GPU has to fit into {format_bytes(host['room'])} of host memory.")
    return "\n".join(lines)


def _context(plan: Json) -> int:
    return max(int(model["context"]) for model in plan["models"])


def _combinations(plan: Json, fitting: list[Json]) -> str:
    """With the largest context per slot that all of a set could have, where it is known."""
    names = [model["name"] for model in plan["models"]]
    rows = [
        (
            "*" if each["maximal"] else "",
            *("x" if name in each["models"] else "" for name in names),
            _size(_on_cards(each["bytes"])),
            _size(each["bytes"].get(_HOST, 0)),
            each["context"] or "",
        )
        for each in fitting
    ]
    return table(("", *(cell(name) for name in names), "VRAM", "HOST", "MOST CONTEXT"), rows)


def _size(size: Bytes, mark: str = "") -> str:
    return mark + format_bytes(size) if size else "-"


def _on_cards(sizes: Mapping[str, Bytes]) -> Bytes:
    return sum(size for device, size in sizes.items() if device != _HOST)
