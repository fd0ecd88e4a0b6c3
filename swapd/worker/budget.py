"""How long a model may think: when a request's tokens for it are used up, the end of the thoughts is written for it.

Used by `slots`, one budget an answer. Follows the answer by its text, since marks may be one token or several.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence

from swapd.units import Tokens
from swapd.worker.toolcalls.formats import Thinking

_new_decoder = codecs.getincrementaldecoder("utf-8")


class Budget:
    """Of all thoughts of one answer together; the marks around them do not count."""

    def __init__(
        self, tokens: Tokens, thinking: Thinking, primer: str, end: Sequence[int], spelled: Callable[[int], bytes]
    ) -> None:
        """`primer`: what of the answer is already in the prompt. `end`: the tokens that end the thoughts."""
        self._left, self._end, self._spelled = tokens, tuple(end), spelled
        self._opens, self._closes = thinking.opens.strip().encode(), thinking.closes.strip().encode()
        self._keep = max(len(self._opens), len(self._closes)) - 1
        self._is_inside = primer.rfind(thinking.opens.strip()) > primer.rfind(thinking.closes.strip())
        self._tail = b""
        self._decoder = _new_decoder("replace")
        self._written = 0
        """Of the end, so many tokens."""

    @property
    def forced(self) -> int | None:
        """The token that has to come next; None: the model decides."""
        if not self._is_inside or self._left > 0 or self._decoder.getstate()[0]:
            return None
        return self._end[self._written]

    def feed(self, token: int) -> None:
        """It came next."""
        raw = self._spelled(token)
        is_of_end = token == self.forced
        self._decoder.decode(raw)
        if not self._is_inside:
            if self._follow(self._opens, raw):
                self._is_inside = True
        elif self._follow(self._closes, raw):
            self._is_inside, self._written = False, 0
        elif is_of_end:
            self._written += 1
            self._is_inside = self._written < len(self._end)
        else:
            self._left -= 1
            self._written = 0

    def _follow(self, mark: bytes, raw: bytes) -> bool:
        """Whether the mark is whole now."""
        text = self._tail + raw
        found = mark in text
        self._tail = b"" if found else text[max(0, len(text) - self._keep) :]
        return found
