"""From an answer's text to the pieces that tell it: what was said, thought and called, and how many tokens it took.

Used by `slots`, one teller an answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from swapd.generation import CallPart, Chunk, TokenLogprob
from swapd.units import Tokens
from swapd.wire import Piece
from swapd.worker.toolcalls.parser import Parser
from swapd.worker.toolcalls.reading import Part, Said, Thought


class Teller:
    """Pieces of one request's answer. Without a parser all of it is text."""

    def __init__(self, request: str, parser: Parser | None, several_calls: bool = True) -> None:
        self._request, self._parser, self._several = request, parser, several_calls
        self._tokens: Tokens = 0
        self._logprobs: tuple[TokenLogprob, ...] = ()

    @property
    def is_calling(self) -> bool:
        """Tools were called, and every call is whole."""
        return self._parser is not None and self._parser.calls > 0 and self._parser.is_whole

    @property
    def is_over(self) -> bool:
        """A call is whole, and more than one is not wanted."""
        return not self._several and self.is_calling

    def tell(self, text: str, tokens: Tokens, logprobs: tuple[TokenLogprob, ...] = ()) -> list[Piece]:
        """More of the answer; what it is may be told later."""
        if self._parser is None:
            return [Piece(self._request, text, tokens, logprobs=logprobs)]
        self._tokens += tokens
        self._logprobs += logprobs
        return self._pieces(self._parser.feed(text))

    def finish(self, *, is_cut: bool) -> list[Piece]:
        """What was held back, when no more text comes. `is_cut`: because of a limit."""
        if self._parser is None:
            return []
        pieces = self._pieces(self._parser.finish(is_cut=is_cut))
        if self._tokens:
            tokens, logprobs = self._cost()
            pieces.append(Piece(self._request, "", tokens, logprobs=logprobs))
        return pieces

    def _pieces(self, parts: Iterable[Part]) -> list[Piece]:
        """As few as can tell these parts in their order; what they cost is told with the first."""
        chunks: list[Chunk] = []
        for part in parts:
            chunk = _chunk(part)
            if chunks and chunks[-1].joins(chunk):
                chunks[-1] = chunks[-1].then(chunk)
            else:
                chunks.append(chunk)
        pieces: list[Piece] = []
        for chunk in chunks:
            tokens, logprobs = self._cost()
            pieces.append(Piece(self._request, chunk.text, tokens, chunk.thinking, _joined(chunk.calls), logprobs))
        return pieces

    def _cost(self) -> tuple[Tokens, tuple[TokenLogprob, ...]]:
        """Tokens that nothing was told for yet, and their likelihoods."""
        cost = self._tokens, self._logprobs
        self._tokens, self._logprobs = 0, ()
        return cost


def _chunk(part: Part) -> Chunk:
    match part:
        case Said(text):
            return Chunk(text, 0)
        case Thought(text):
            return Chunk("", 0, text)
        case CallPart():
            return Chunk("", 0, calls=(part,))
        case _:
            assert_never(part)


def _joined(parts: tuple[CallPart, ...]) -> tuple[CallPart, ...]:
    """Neighbours of one call as one."""
    joined: list[CallPart] = []
    for part in parts:
        if joined and joined[-1].index == part.index:
            before = joined[-1]
            joined[-1] = CallPart(part.index, before.id, before.name, before.arguments + part.arguments)
        else:
            joined.append(part)
    return tuple(joined)
