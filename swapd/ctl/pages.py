"""What people read: each page is a pure function of the daemon's documents and the time.

Called by commands. It asks nothing and prints nothing; control characters in names are made harmless by
`terminal`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from swapd.ctl import foreseen
from swapd.ctl.client import Json
from swapd.ctl.terminal import cell, count, span, table, when
from swapd.units import Bytes, format_bytes, format_duration

_HOST = "host"
_NAMED = 3
_STOPPING = ("draining", "unloading")
_TIERS = {
    "gpu": "on the GPU",
    "split": "on the GPU and on the host",
    "host": "on the host",
    "warm": "warm: in the page cache",
    "cold": "cold: on disk",
    "-": "not loaded",
}


def ps(models: Sequence[Json], digests: Mapping[str, str], now: datetime) -> str:
    """Residents, one a row; `digests` by model name."""
    headers = ("NAME", "ID", "SIZE", "PROCESSOR", "VRAM", "CONTEXT", "SLOTS", "STATE", "UNTIL")
    return table(headers, [_resident_row(model, identifier(digests.get(model["name"])), now) for model in models])


def ls(models: Sequence[Json], now: datetime) -> str:
    """The catalog; what cannot be used comes in a block of its own, with the reasons."""
    usable = [model for model in models if model["usable"]]
    unusable = [model for model in models if not model["usable"]]
    rows = [
        (
            model["name"],
            identifier(model["digest"]),
            format_bytes(model["size"]),
            model["quantization"] or "-",
            model["context"] or "-",
            model["state"] or "-",
            tier(model),
            when(model["modified"], now),
        )
        for model in usable
    ]
    page = table(("NAME", "ID", "SIZE", "QUANT", "CONTEXT", "STATE", "TIER", "MODIFIED"), rows)
    if unusable:
        reasons = [(model["name"], model["path"], model["reason"]) for model in unusable]
        page += "\n\nCannot be used:\n" + table(("NAME", "PATH", "REASON"), reasons)
    return page


def show(model: Json, resident: Json | None, footprint: Json | None, now: datetime) -> str:
    """Everything about one model of the catalog, its memory (None: it cannot be used), and its resident if any."""
    facts: list[tuple[str, object]] = [
        ("path", model["path"]),
        ("size", format_bytes(model["size"])),
        ("modified", when(model["modified"], now)),
    ]
    if model["aliases"]:
        facts.insert(0, ("aliases", ", ".join(model["aliases"])))
    if model["usable"]:
        kind = (model["family"], _parameters(model["parameters"]), model["quantization"])
        facts += [
            ("architecture", ", ".join(filter(None, kind)) or "unknown"),
            ("context", f"{model['context']} tokens per slot"),
            ("slots", model["slots"]),
            ("chat template", "the file's own" if model["template"] else "none in the file: a plain ChatML-like one"),
            ("pinned", "yes" if model["pinned"] else "no"),
            ("weights", _TIERS.get(tier(model), f"{tier(model)}: in the page cache, the rest on disk")),
        ]
    else:
        facts.append(("cannot be used", model["reason"]))
    blocks = [f"{cell(model['name'])}\n{_facts(facts)}"]
    if resident is not None:
        memory = foreseen.compared(resident["predicted"], resident["measured"])
        blocks += [f"Resident\n{_facts(_resident_facts(resident, now))}", f"Memory of this load\n{memory}"]
    if footprint is not None:
        blocks += foreseen.blocks(footprint, is_loaded=resident is not None)
    return "\n\n".join(blocks)


def status(document: Json, address: str, now: datetime) -> str:
    """The daemon, its devices, its residents, who waits, and what happened since it started."""
    columns = ("total", "free", "ours", "foreign", "limit", "reserve")
    devices = [
        (device["id"], device["name"], *(format_bytes(device[column]) for column in columns))
        for device in document["devices"]
    ]
    blocks = [
        f"swapd {cell(document['version'])}, up for {span(document['uptime_s'])}, at {cell(address)}",
        table(("DEVICE", "NAME", *(column.upper() for column in columns)), devices)
        if devices
        else "No device is measured yet.",
    ]
    others = [line for device in document["devices"] if (line := _others(device))]
    if others:
        blocks[-1] += "\n" + "\n".join(others)
    if document["models"]:
        headers = ("MODEL", "SIZE", "PROCESSOR", "VRAM", "CONTEXT", "SLOTS", "STATE", "UNTIL")
        rows = [_resident_row(model, "", now) for model in document["models"]]
        blocks.append(table(headers, [(name, *rest) for name, _, *rest in rows]))
    else:
        blocks.append("No model is loaded.")
    if document["queue"]:
        waiting = [
            (entry["position"], entry["model"], entry["request"], when(entry["since"], now), entry["reason"])
            for entry in document["queue"]
        ]
        blocks.append(table(("PLACE", "MODEL", "REQUEST", "SINCE", "WAITS BECAUSE"), waiting))
    else:
        blocks.append("No request is waiting.")
    counters = document["counters"]
    told = (
        count(counters["loads"], "load"),
        count(counters["evictions"], "eviction"),
        count(counters["partial_offloads"], "partial offload"),
        f"{counters['oom_retries']} out of memory",
        count(counters["crashes"], "worker") + " crashed",
        f"{count(counters['prefetches'], 'model')} loaded ahead ({counters['prefetch_hits']} used)",
    )
    blocks.append(f"Since the start: {', '.join(told)}.")
    return "\n\n".join(blocks)


def tier(model: Json) -> str:
    """Where the weights are: `gpu`, `split`, `host`; of one that is not loaded `warm`, `cold`, or `37% warm`."""
    share = model["cached"]
    if model["state"] is None and share is not None and 0.05 <= share < 0.95:
        return f"{share:.0%} warm"
    return model["tier"] or "-"


def loaded(resident: Json) -> str:
    """One line: what is where, and how long that took."""
    return cell(
        f"{resident['name']} is loaded: {resident['placement']}, {format_bytes(size(resident))} "
        f"({_by_device(_bytes(resident))}), {_slots(resident)}, in {format_duration(resident['load_s'])}"
    )


def timings(final: Json) -> str:
    """`run --verbose`: of the last line of an answer, whose durations are nanoseconds."""
    rows = [
        ("load", format_duration(_seconds(final, "load_duration")), ""),
        ("prompt", *_rate(final.get("prompt_eval_count", 0), _seconds(final, "prompt_eval_duration"))),
        ("answer", *_rate(final.get("eval_count", 0), _seconds(final, "eval_duration"))),
        ("total", format_duration(_seconds(final, "total_duration")), f"ended by {final.get('done_reason')}"),
    ]
    return "\n".join(f"{name:<8}{first:<34}{cell(second)}".rstrip() for name, first, second in rows)


def size(resident: Json) -> Bytes:
    """Over all devices: measured, or before that predicted."""
    return sum(_bytes(resident).values())


def vram(resident: Json) -> Bytes:
    return sum(held for device, held in _bytes(resident).items() if device != _HOST)


def until(resident: Json, now: datetime) -> str:
    """When a resident leaves if nobody asks for it; while it loads there is no such time yet."""
    if resident["state"] in _STOPPING:
        return "Stopping..."
    if resident["expires_at"] is not None:
        left = datetime.fromisoformat(resident["expires_at"]) > now
        return when(resident["expires_at"], now) if left else "Stopping..."
    return "-" if resident["state"] == "loading" and not resident["pinned"] else "Forever"


def identifier(digest: str | None) -> str:
    """The twelve digits that Ollama's users know."""
    return digest.removeprefix("sha256:")[:12] if digest else "-"


def _resident_row(model: Json, short_id: str, now: datetime) -> tuple[object, ...]:
    state = f"loading {model['progress']:.0%}" if model["state"] == "loading" else model["state"]
    return (
        model["name"],
        short_id,
        format_bytes(size(model)),
        model["placement"],
        format_bytes(vram(model)),
        model["context"],
        f"{model['slots_busy']}/{model['slots']}",
        state,
        until(model, now),
    )


def _resident_facts(resident: Json, now: datetime) -> list[tuple[str, object]]:
    state = f"{resident['state']}, loaded ahead and not used yet" if resident["prefetched"] else resident["state"]
    facts: list[tuple[str, object]] = [
        ("state", state),
        ("placement", foreseen.layers(resident)),
        ("slots", f"{_slots(resident)}, {resident['slots_busy']} busy"),
        ("worker", f"pid {resident['pid']}" if resident["pid"] else "-"),
        ("served", f"{count(resident['requests'], 'request')}, {count(resident['tokens'], 'token')}"),
        ("until", until(resident, now)),
    ]
    if resident["loaded_at"] is not None:
        took = format_duration(resident["load_s"])
        where = {"cold": " from disk", "warm": " from the page cache", "host": " from host memory"}
        source = where.get(resident["loaded_from"], "")
        facts.insert(1, ("loaded", f"{when(resident['loaded_at'], now)}, in {took}{source}"))
    return facts


def _others(device: Json) -> str:
    """Who else holds memory of a card; the largest are enough to know whom to ask."""
    told = []
    for process in device.get("processes", ())[:_NAMED]:
        number = f"pid {process['pid']}"
        who = number if process["name"] == number else f"{process['name']} ({number})"
        amount = "an unknown amount" if process["bytes"] is None else format_bytes(process["bytes"])
        told.append(f"{who} {amount}")
    return cell(f"also on {device['id']}: {', '.join(told)}") if told else ""


def _bytes(resident: Json) -> dict[str, Bytes]:
    held: dict[str, Bytes] = resident["measured"] or resident["predicted"]
    return held


def _by_device(held: Mapping[str, Bytes]) -> str:
    return ", ".join(f"{device} {format_bytes(size)}" for device, size in held.items()) or "nothing measured"


def _slots(resident: Json) -> str:
    return f"{count(resident['slots'], 'slot')} of {resident['context']} tokens"


def _parameters(number: int) -> str:
    for unit, name in ((10**9, "B"), (10**6, "M")):
        if number >= unit:
            return f"{number / unit:.3g}{name} parameters"
    return ""


def _facts(facts: Sequence[tuple[str, Any]]) -> str:
    return "\n".join(f"  {name:<16}{cell(value)}" for name, value in facts)


def _seconds(final: Json, key: str) -> float:
    return float(final.get(key) or 0) / 1e9


def _rate(tokens: int, seconds: float) -> tuple[str, str]:
    told = f"{count(tokens, 'token')} in {format_duration(seconds)}"
    return told, f"{tokens / seconds:.3g} tokens/s" if seconds > 0 else ""
