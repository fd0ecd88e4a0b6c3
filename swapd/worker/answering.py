"""An answer on its way: the request in its slot, and what the slot gives to one batch.

Used by `slots`. Values that it moves forward; nothing here decides.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from swapd.generation import GenerationRequest, Usage
from swapd.units import Seconds, Tokens
from swapd.wire import Piece
from swapd.worker.budget import Budget
from swapd.worker.drafting import Gauge, Hopeful, Lookup
from swapd.worker.echoing import Echo
from swapd.worker.likelihoods import Untold
from swapd.worker.lines import Lines
from swapd.worker.prompts import Picture, Prompt
from swapd.worker.sampling import Sampler
from swapd.worker.states import Sequence
from swapd.worker.telling import Teller
from swapd.worker.text import Text


@dataclass(slots=True)
class View:
    """An encoded picture, of which so many tokens are in the sequence."""

    embeddings: npt.NDArray[np.float32]
    positions: npt.NDArray[np.int32]
    done: Tokens = 0


@dataclass(slots=True)
class Answer:
    """A request in a slot."""

    request: GenerationRequest
    prompt: Prompt
    sampler: Sampler
    text: Text
    teller: Teller
    limit: Tokens
    cached: Tokens
    restored: Tokens
    began: Seconds
    answering: Seconds | None = None
    """When the prompt was evaluated."""
    last: int = 0
    """The token drawn last, not yet in the sequence."""
    completion: Tokens = 0
    is_told: bool = False
    """Something of what the model said was told, and with it what the prompt cost."""
    untold: Untold = field(default_factory=Untold)
    lookup: Lookup | None = None
    """Where proposals are wanted."""
    gauge: Gauge = field(default_factory=Gauge)
    """Of a draft model's proposals."""
    judged: Gauge | None = None
    """Has to be told how many of the last ones were right."""
    drafted: Tokens = 0
    accepted: Tokens = 0
    budget: Budget | None = None
    """For its thoughts, where there is a limit."""
    echo: Echo | None = None
    """Where the prompt's own logarithms are told."""
    follows: Leader | None = None
    """Its prompt waits for another's, and goes on from there."""
    lines: Lines | None = None
    """Where it may end by its lines."""
    is_read: bool = False
    """That reading its prompt has begun was told."""
    view: View | None = None
    """The picture that is being read into the sequence."""

    def usage(self, now: Seconds) -> Usage:
        turn = now if self.answering is None else self.answering
        times = turn - self.began, now - turn
        drafts = self.drafted, self.accepted
        return Usage(len(self.prompt.tokens), self.cached, self.completion, *times, *drafts, self.restored)

    def reading(self, read: Tokens) -> list[Piece]:
        """That the prompt is read so far, where that is wanted."""
        if not self.request.tells_reading:
            return []
        marks = [read] if self.is_read or read == self.cached else [self.cached, read]
        self.is_read = True
        usage = self.usage(perf_counter())
        return [Piece(self.request.id, "", 0, usage=usage, read=mark) for mark in marks]

    def say(self, text: str, tokens: Tokens) -> list[Piece]:
        """More of the answer, as its lines allow; nothing where no token is in it."""
        if self.lines is not None:
            text, tokens = self.lines.feed(text, tokens, perf_counter() - (self.answering or self.began))
        if not tokens:
            return []
        pieces = self.teller.tell(text, tokens, self.untold.take(self.text.sent))
        return self._priced(pieces)

    def finish(self, *, is_cut: bool) -> list[Piece]:
        """What was held back, when no more text comes."""
        pieces: list[Piece] = []
        if self.lines is not None and not self.lines.is_over:
            text, tokens = self.lines.finish()
            if tokens:
                pieces += self.teller.tell(text, tokens, self.untold.take(self.text.sent))
        return self._priced([*pieces, *self.teller.finish(is_cut=is_cut)])

    def _priced(self, pieces: list[Piece]) -> list[Piece]:
        """With what the prompt cost, the first time, and with what the answer cost so far, where that is wanted."""
        if pieces and not self.is_told:
            self.is_told = True
            pieces[0] = replace(pieces[0], prompt=(len(self.prompt.tokens), self.cached))
        if pieces and self.request.tells_usage:
            pieces[-1] = replace(pieces[-1], usage=self.usage(perf_counter()))
        return pieces

    def hopeful(self, slot: Slot) -> Hopeful:
        assert self.lookup is not None
        # What a draft model could not see it does not draft for.
        room = 0 if self.prompt.pictures else self.limit - self.completion - 1
        return Hopeful(slot.sequence, [*slot.held, self.last], self.lookup, self.gauge, room)


@dataclass(slots=True)
class Slot(Sequence):
    answer: Answer | None = None

    @property
    def picture(self) -> Picture | None:
        """What comes next, if that is no text."""
        if self.answer is None or not self.answer.prompt.pictures:
            return None
        return next((each for each in self.answer.prompt.pictures if each.start == len(self.held)), None)


@dataclass(frozen=True, slots=True)
class Leader:
    """An answer whose prompt begins as another's does, for the first `at` tokens."""

    slot: Slot
    answer: Answer
    at: Tokens


@dataclass(slots=True)
class Part:
    """What one slot gives to one batch."""

    slot: Slot
    answer: Answer
    tokens: list[int]
    row: int
    """Of the first logits: each token of a decode step has some, of a prompt at most the last."""
    has_logits: bool

    @property
    def draft(self) -> list[int]:
        """What was proposed after the last token."""
        return self.tokens[1:] if self.answer.answering is not None else []
