"""Where an answer ends by its lines: after so long at the end of one, or before one that is indented by less.

Used by `slots`, for editors that fill in a block and want no more of it; pure.
"""

from __future__ import annotations

from swapd.units import Seconds, Tokens

_BLANKS = " \t"


class Lines:
    """`is_over`: nothing more is wanted. The blanks that begin a line wait until it is known how many they are."""

    def __init__(self, indent: int, limit: Seconds | None) -> None:
        """`indent` 0: any line may come; `limit` None: at any time."""
        self._indent, self._limit = indent, limit
        self._held: str | None = None
        """The beginning of a line that is not known to be wanted; None: this one is."""
        self._tokens: Tokens = 0
        self.is_over = False

    def feed(self, text: str, tokens: Tokens, elapsed: Seconds) -> tuple[str, Tokens]:
        """What may be said after more of the answer, and how many tokens went into it; no tokens: nothing yet."""
        said = "".join(self._passed(part) for part in text.splitlines(keepends=True)) if self._indent else text
        if self._limit is not None and elapsed > self._limit and "\n" in text:
            self.is_over = True
        self._tokens += tokens
        return (said, self._take()) if said or self.is_over else ("", 0)

    def finish(self) -> tuple[str, Tokens]:
        """What was held back, when the answer ended for another reason."""
        held, self._held = self._held or "", None
        return held, self._take()

    def _passed(self, part: str) -> str:
        """Of a line, or the end or beginning of one."""
        if self.is_over:
            return ""
        if self._held is not None:
            self._held += part
            stripped = self._held.lstrip(_BLANKS)
            if not stripped:
                return ""
            if len(self._held) - len(stripped) < self._indent:
                self.is_over = True
                return ""
            part, self._held = self._held, None
        if part.endswith("\n"):
            self._held = ""
        return part

    def _take(self) -> Tokens:
        tokens, self._tokens = self._tokens, 0
        return tokens
