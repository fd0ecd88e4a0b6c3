"""A prompt told with the logarithms of its own tokens, part by part as it is evaluated.

Used by `slots`, one echo a request. Of each row of logits only what is told is kept: rows are as long as the
vocabulary.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from typing import Final

from swapd.errors import InvalidRequest
from swapd.generation import GenerationRequest, Likelihood, TokenLogprob
from swapd.units import Tokens
from swapd.wire import Piece
from swapd.worker.likelihoods import likelihoods
from swapd.worker.llama import Vocabulary
from swapd.worker.penalties import Logits
from swapd.worker.prompts import Prompt

MOST: Final = 2**18
"""Logarithms told of one prompt."""

_new_decoder = codecs.getincrementaldecoder("utf-8")


class Echo:
    """Of a prompt that is evaluated from its first token on."""

    def __init__(self, request: GenerationRequest, prompt: Prompt, vocabulary: Vocabulary) -> None:
        """Raises InvalidRequest."""
        assert request.logprobs is not None
        self._request, self._vocabulary = request.id, vocabulary
        self._tokens, self._top = prompt.tokens, request.logprobs
        told = len(prompt.tokens) * (1 + request.logprobs)
        if told > MOST:
            raise InvalidRequest(
                f"cannot tell {request.logprobs} alternatives beside each of the prompt's {len(prompt.tokens)} tokens: "
                f"at most {MOST} logarithms are told",
                "logprobs",
            )
        given = request.prompt
        if isinstance(given, str):
            self._written = _written(given.encode(), list(map(vocabulary.spelled, prompt.tokens)))
        else:
            self._written = [vocabulary.pieces[token] or b"" for token in prompt.tokens]
        self._decoder = _new_decoder("replace")

    def tell(self, start: Tokens, count: Tokens, logits: Callable[[int], Logits]) -> Piece:
        """So many tokens from `start` on were just evaluated; `logits` gives the row of each of them, from 0."""
        told = [TokenLogprob(Likelihood(self._tokens[0], self._written[0], 0.0), is_first=True)] if start == 0 else []
        for row in range(count):
            after = start + row + 1
            if after < len(self._tokens):
                likely = likelihoods(logits(row), self._tokens[after], self._top, self._vocabulary)
                drawn = Likelihood(likely.drawn.token, self._written[after], likely.drawn.logprob)
                told.append(TokenLogprob(drawn, likely.top))
        is_last = start + count == len(self._tokens)
        text = self._decoder.decode(b"".join(one.drawn.raw for one in told), is_last)
        return Piece(self._request, text, 0, logprobs=tuple(told))


def _written(text: bytes, spelled: list[bytes]) -> list[bytes]:
    """What of the text each token stands for: nothing where the vocabulary has put it there."""
    at, written = 0, []
    for raw in spelled:
        found = next((form for form in (raw, raw.removeprefix(b" ")) if text.startswith(form, at)), b"")
        at += len(found)
        written.append(found)
    written[-1] += text[at:]
    return written
