"""How likely tokens were, and which of them belong to text that has been sent.

Used by `sampling` and `slots`; pure but for the vocabulary's bytes.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import numpy as np
import numpy.typing as npt

from swapd.generation import Likelihood, TokenLogprob
from swapd.worker.llama import Vocabulary
from swapd.worker.penalties import Logits

_LEAST: Final = -9999.0
"""Told for what could not be drawn at all: JSON has no infinities."""


def likelihoods(
    logits: Logits, drawn: int, top: int, vocabulary: Vocabulary, ids: npt.NDArray[np.int64] | None = None
) -> TokenLogprob:
    """Of one draw, from logits before any filter; or from those of the tokens `ids`, of which one was drawn."""
    best = float(logits.max())
    total = best + float(np.log(np.exp(logits - np.float32(best)).sum(dtype=np.float64)))

    def tell(index: int) -> Likelihood:
        token = index if ids is None else int(ids[index])
        return Likelihood(token, vocabulary.spelled(token), max(_LEAST, float(logits[index]) - total))

    if ids is not None:
        drawn = int(np.flatnonzero(ids == drawn)[0])
    if top <= 0:
        return TokenLogprob(tell(drawn))
    top = min(top, len(logits))
    # A threshold that surely keeps enough makes the search for the best short: most tokens are far below.
    near = np.flatnonzero(logits > best - 10)
    if len(near) < top:
        near = np.arange(len(logits))
    order = near[np.argsort(-logits[near], kind="stable")[:top]]
    return TokenLogprob(tell(drawn), tuple(tell(int(index)) for index in order))


class Untold:
    """Likelihoods of tokens whose text is still held back, by where their characters are in the answer."""

    def __init__(self) -> None:
        self._held: deque[tuple[int, int, TokenLogprob]] = deque()

    def add(self, start: int, end: int, likelihood: TokenLogprob) -> None:
        """Of the token that completed the characters from `start` to `end`."""
        self._held.append((start, end, likelihood))

    def take(self, sent: int) -> tuple[TokenLogprob, ...]:
        """Of all tokens that have a part in the first `sent` characters; each is told once."""
        told: list[TokenLogprob] = []
        while self._held and (self._held[0][0] < sent or self._held[0][1] <= sent):
            told.append(self._held.popleft()[2])
        return tuple(told)
