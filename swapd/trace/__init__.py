"""A day of requests as values, and as JSON lines.

Made by `sim/lab/generate` and written by the daemon (`runtime/recorder`); read by `sim/lab` and `ctl`. Knows no policy
but as a value, and no file.
"""

from swapd.trace.lines import (
    FILES,
    FORMAT,
    LONGEST,
    BadTrace,
    Reading,
    call_line,
    head_line,
    lines,
    model_line,
    parse,
)
from swapd.trace.values import VECTORS, Call, Trace, TraceModel, load, service_s

__all__ = [
    "FILES",
    "FORMAT",
    "LONGEST",
    "VECTORS",
    "BadTrace",
    "Call",
    "Reading",
    "Trace",
    "TraceModel",
    "call_line",
    "head_line",
    "lines",
    "load",
    "model_line",
    "parse",
    "service_s",
]
