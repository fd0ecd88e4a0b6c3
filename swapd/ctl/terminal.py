"""What reaches the screen: tables, times, the progress line, and the output of models made harmless.

Called by pages and commands. It knows terminals and text, nothing of the daemon.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, TextIO

_GAP: Final = "    "
_BAR: Final = 20
_PICTURES: Final = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"},
    0x7F: 0x2421,
    **dict.fromkeys(range(0x80, 0xA0), 0xFFFD),
    # Not control characters, but they reorder what stands around them.
    **dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), 0xFFFD),
}
_UNITS: Final = (
    (365 * 86400, "year"),
    (30 * 86400, "month"),
    (7 * 86400, "week"),
    (86400, "day"),
    (3600, "hour"),
    (60, "minute"),
    (1, "second"),
)


def harmless(text: str) -> str:
    """`text` with every control character but newline and tab shown as a picture of itself: no terminal obeys it."""
    return text.translate(_PICTURES)


def cell(text: object) -> str:
    """One line of harmless text."""
    return harmless(str(text)).replace("\n", "␊").replace("\t", " ")


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Left-aligned columns, as wide as their widest cell, without trailing spaces."""
    lines = [list(headers), *([cell(value) for value in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    return "\n".join(
        _GAP.join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def count(number: int, noun: str) -> str:
    """`"1 slot"`, `"4 slots"`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def span(seconds: float) -> str:
    """`"4 minutes"`: the largest unit that fits, cut off, not rounded; "less than a second" below one."""
    for unit, name in _UNITS:
        if seconds >= unit:
            return count(int(seconds // unit), name)
    return "less than a second"


def when(moment: str | float, now: datetime) -> str:
    """`"4 minutes from now"`, `"2 days ago"`, of RFC 3339 text or seconds since the epoch."""
    then = datetime.fromisoformat(moment) if isinstance(moment, str) else datetime.fromtimestamp(moment, UTC)
    seconds = (then - now).total_seconds()
    return f"{span(seconds)} from now" if seconds > 0 else f"{span(-seconds)} ago"


class Progress:
    """What is being waited for: on a terminal one line rewritten in place, else a plain line per change."""

    def __init__(self, stream: TextIO | None, quiet: bool = False) -> None:
        self._stream = None if quiet else stream
        self._rewrites = stream is not None and stream.isatty()
        self._shown: object = None

    def show(self, status: str, fraction: float | None = None) -> None:
        """`fraction` of the work done draws a bar; plain lines come at every quarter."""
        if self._stream is None:
            return
        label = cell(status)
        if fraction is not None:
            # The daemon's words repeat the figure for clients that draw none.
            label = label.rpartition(":")[0] if label.endswith("%") and ":" in label else label
        news = (label, fraction if self._rewrites or fraction is None else int(fraction * 4))
        if news == self._shown:
            return
        self._shown = news
        if not self._rewrites:
            figure = "" if fraction is None else f" {fraction:.0%}"
            self._stream.write(f"{label}{figure}\n")
        else:
            bar = ""
            if fraction is not None:
                done = int(min(max(fraction, 0.0), 1.0) * _BAR)
                bar = f"  [{'#' * done}{'.' * (_BAR - done)}] {fraction:.0%}"
            room = max(_columns(self._stream) - 1, len(bar))
            self._stream.write(f"\r{label[: room - len(bar)]}{bar}\x1b[K")
        self._stream.flush()

    def clear(self) -> None:
        """Make room for what comes next."""
        if self._stream is not None and self._rewrites and self._shown is not None:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
        self._shown = None


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80


class Answer:
    """Where a model's words go, each as it comes: made harmless on a terminal, untouched in a pipe."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._is_inside_line = False

    def write(self, text: str) -> None:
        if text:
            self._is_inside_line = not text.endswith("\n")
            self._stream.write(harmless(text) if self._is_terminal else text)
            self._stream.flush()

    def end(self) -> None:
        """End the line, if the model did not."""
        if self._is_inside_line:
            self.write("\n")
