"""The blocks of `swapctl show` about memory: what was predicted, what was measured, how far apart they are.

Called by pages. It asks nothing and prints nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from swapd.ctl.client import Json
from swapd.ctl.terminal import cell, count, table
from swapd.units import Bytes, format_bytes

_HOST: Final = "host"


def blocks(footprint: Json, *, is_loaded: bool) -> list[str]:
    """Where it would go if it is not loaded, and what its last load took, whether it is or not."""
    told = [] if is_loaded else [_now(footprint["now"])]
    last = footprint["last"]
    if last is not None:
        head = f"Last measured, {cell(layers(last))}"
        if last["predicted"] is None:
            told.append(f"{head}; what was predicted before the first load is not known\n{_last(last)}")
        else:
            told.append(f"{head}, beside the prediction before the first load so placed\n{_last(last)}")
    elif not is_loaded:
        told.append("Never measured: it has not been loaded yet.")
    return told


def layers(placed: Json) -> str:
    """`100% GPU (31 of 31 layers on the GPU)`."""
    return f"{placed['placement']} ({placed['gpu_layers']} of {count(placed['layers'], 'layer')} on the GPU)"


def compared(predicted: Mapping[str, Bytes], measured: Mapping[str, Bytes]) -> str:
    """One row a device, the host last; the error is what was measured less what was predicted."""
    rows = []
    for device in _ordered({*predicted, *measured}):
        cells = [format_bytes(held[device]) if device in held else "-" for held in (predicted, measured)]
        error = "-"
        if device in predicted and device in measured:
            more = measured[device] - predicted[device]
            error = f"{'+' if more > 0 else ''}{format_bytes(more)}{_percent(more, predicted[device])}"
        rows.append((device, *cells, error))
    return _indent(table(("DEVICE", "PREDICTED", "MEASURED", "ERROR"), rows))


def _now(now: Json) -> str:
    who = ", ".join(cell(name) for name in now["leaving"])
    match now["outcome"]:
        case "refused":
            head = "Not loaded. Asked for now it would be refused; predicted"
        case "waits":
            head = f"Not loaded. Asked for now it would wait{f' for {who}' if who else ''}, and then be loaded: "
            head += f"{cell(layers(now))}"
        case _:
            leave = f"; {who} would leave" if who else ""
            head = f"Not loaded. Asked for now it would be loaded: {cell(layers(now))}{leave}"
    estimate = "" if now["exact"] else "~"
    rows = [(device, f"{estimate}{format_bytes(now['predicted'][device])}") for device in _ordered(now["predicted"])]
    return f"{head}\n{_indent(table(('DEVICE', 'PREDICTED'), rows))}"


def _last(last: Json) -> str:
    return compared(last["predicted"] or {}, last["measured"])


def _ordered(devices: Mapping[str, Bytes] | set[str]) -> list[str]:
    return sorted(devices, key=lambda device: (device == _HOST, device))


def _percent(more: Bytes, predicted: Bytes) -> str:
    return f" ({more / predicted:+.1%})" if predicted else ""


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.split("\n"))
