"""Bytes, seconds and tokens: the names of our numbers, and their spelling for people.

Used by every layer; knows none of them.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Final, TypeAlias

Bytes: TypeAlias = int
Seconds: TypeAlias = float
Tokens: TypeAlias = int

FOREVER: Final[Seconds] = math.inf

KiB: Final[Bytes] = 2**10
MiB: Final[Bytes] = 2**20
GiB: Final[Bytes] = 2**30

_BYTES = {
    "": 1,
    "b": 1,
    "kib": KiB,
    "mib": MiB,
    "gib": GiB,
    "tib": 2**40,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h|d)")
_NUMBER = re.compile(r"[+-]?(\d+(?:\.\d*)?|\.\d+)")


def parse_bytes(given: str | int) -> Bytes:
    """Bytes of `"512MiB"`, `"1.5 GiB"`, `"8GB"` or a plain number. Raises ValueError."""
    if isinstance(given, bool) or (isinstance(given, int) and given < 0):
        raise ValueError(f"{given!r} is not a size; write it like 512MiB or 8GiB")
    if isinstance(given, int):
        return given
    match = _SIZE.fullmatch(given)
    if match is None or match[2].lower() not in _BYTES:
        raise ValueError(f"{given!r} is not a size; write it like 512MiB or 8GiB")
    size = float(match[1]) * _BYTES[match[2].lower()]
    if math.isinf(size):
        raise ValueError(f"{given[:20]}... is more than any memory; write it like 512MiB or 8GiB")
    return round(size)


@lru_cache(maxsize=1024)  # the core asks for the same few many times in one decision
def parse_share(given: str | int, total: Bytes) -> Bytes:
    """Bytes of `"85%"` of `total`, or of a size; never more than `total`. Raises ValueError."""
    if isinstance(given, str) and given.strip().endswith("%"):
        try:
            percent = float(given.strip()[:-1])
        except ValueError:
            percent = math.nan
        if not 0 <= percent <= 100:
            raise ValueError(f"{given!r} is not a share; write it like 85% (0 to 100) or as a size")
        return int(total * percent / 100)
    return min(parse_bytes(given), total)


def parse_duration(given: str | float) -> Seconds:
    """Seconds of Ollama's keep-alive syntax: 300, `"300"`, `"30m"`, `"1h30m"`; negative is FOREVER.

    Raises ValueError.
    """
    if isinstance(given, bool):
        raise ValueError(f"{given!r} is not a duration; write it like 30s, 5m, 1h30m, 0 or -1")
    if isinstance(given, (int, float)):
        if math.isnan(given):
            raise ValueError("NaN is not a duration; write it like 30s, 5m, 1h30m, 0 or -1")
        return FOREVER if given < 0 or math.isinf(given) else float(given)
    text = given.strip()
    if _NUMBER.fullmatch(text):
        return parse_duration(float(text))
    sign, body = (text[0], text[1:]) if text[:1] in "+-" and text else ("", text)
    parts = list(_PART.finditer(body))
    if not parts or "".join(part[0] for part in parts) != body:
        raise ValueError(f"{given!r} is not a duration; write it like 30s, 5m, 1h30m, 0 or -1")
    seconds = sum(float(part[1]) * _SECONDS[part[2]] for part in parts)
    return FOREVER if sign == "-" and seconds > 0 else seconds


def format_bytes(size: Bytes) -> str:
    """`"512 MiB"`, `"1.5 GiB"`: binary units, three figures at most."""
    for unit, name in ((GiB, "GiB"), (MiB, "MiB"), (KiB, "KiB")):
        if abs(size) >= unit:
            value = size / unit
            return f"{value:.0f} {name}" if abs(value) >= 100 else f"{value:.3g} {name}"
    return f"{size} B"


def format_duration(seconds: Seconds) -> str:
    """`"350 ms"`, `"4.2 s"`, `"5 minutes"`, `"forever"`."""
    if math.isinf(seconds):
        return "forever"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    for unit, name in ((86400.0, "day"), (3600.0, "hour"), (60.0, "minute")):
        if seconds >= unit:
            count = round(seconds / unit)
            return f"{count} {name}" + ("s" if count != 1 else "")
    raise AssertionError(seconds)
