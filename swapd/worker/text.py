"""From tokens' bytes to text that may be sent: whole characters, and nothing that may yet be a stop string.

Used by `slots`, one per answer; pure.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from swapd.units import Tokens

_new_decoder = codecs.getincrementaldecoder("utf-8")


class Text:
    """An answer's text as it grows. `stop` is the stop string that ended it, if one did."""

    def __init__(self, stops: Iterable[str] = ()) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._decoder = _new_decoder("replace")
        self._held = ""
        self._tokens = 0
        self.stop: str | None = None
        self.decoded = self.sent = 0
        """Characters that the tokens gave so far, and how many of them were released."""

    def feed(self, piece: bytes) -> tuple[str, Tokens]:
        """What may be sent after one more token, and how many tokens went into it; "" while it is held back."""
        self._tokens += 1
        fresh = self._decoder.decode(piece)
        self.decoded += len(fresh)
        text = self._held + fresh
        if not self._stops:
            return self._release(text) if text else ("", 0)
        text, self._held = self._cut(text) if text else ("", "")
        if not text and self.stop is None:
            return "", 0
        tokens, self._tokens = self._tokens, 0
        self.sent += len(text)
        return text, tokens

    def finish(self) -> tuple[str, Tokens]:
        """The rest, when the answer ended other than by a stop string: incomplete characters become U+FFFD."""
        fresh = self._decoder.decode(b"", True)
        self.decoded += len(fresh)
        text, rest = self._held + fresh, ""
        if self._stops:
            text, rest = self._cut(text)
        return self._release(text + rest)

    def _release(self, text: str) -> tuple[str, Tokens]:
        tokens, self._tokens, self._held = self._tokens, 0, ""
        self.sent += len(text)
        return text, tokens

    def _cut(self, text: str) -> tuple[str, str]:
        """(may be sent, must wait) of `text`; all before the stop string that is complete first, if one is."""
        ends = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if ends:
            _, at, self.stop = min(ends)
            return text[:at], ""
        wait = max(_overlap(text, stop) for stop in self._stops)
        return text[: len(text) - wait], text[len(text) - wait :]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
