"""Speculative decoding: which tokens are proposed for a slot's next steps, and how many are worth it.

Used by `slots`. Proposals cost one larger batch; what is drawn from its rows, in order and by the request's own
sampler, decides how many of them were right, so that an answer is what it would have been without. How many to
propose follows from what batches of each size were measured to take and from how often proposals were right: where
that does not pay, none are made. No llama.cpp here; a draft model is one more `Source`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from swapd.units import Seconds

ROWS: Final = 16
"""Of logits, beyond one a slot, that proposals of all slots may take in one batch."""
_LENGTHS: Final = (0, 1, 2, 3, 4, 6, 8, 11, 16)
_RUN: Final = 3
"""Tokens that must agree before what followed them is proposed."""
_TRUST: Final = 0.8
"""Of proposals nobody has seen yet: how often they are right."""
_FORGET: Final = 0.01
"""How fast distrust fades while nothing is proposed: another chance now and then."""
_LEARN: Final = 0.15
_BLEND: Final = 0.3
_UNKNOWN: Final = 0.02
"""What a row is taken to cost beyond the largest batch that was measured: little, so that it will be."""


class Lookup:
    """The text so far as its own draft: what followed the last few tokens when they were there before."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        for token in tokens:
            self.add(token)

    def add(self, token: int) -> None:
        tokens = self._tokens
        if len(tokens) >= _RUN:
            self._after[tuple(tokens[-_RUN:])] = len(tokens)
        tokens.append(token)

    def propose(self, count: int) -> list[int]:
        """At most so many; of a text that repeats itself, round and round."""
        at = self._after.get(tuple(self._tokens[-_RUN:]))
        if at is None or count <= 0:
            return []
        known = self._tokens[at : at + count]
        return (known * (count // len(known) + 1))[:count]


@dataclass(slots=True)
class Gauge:
    """How often the proposals for one answer were right."""

    trust: float = _TRUST

    def expected(self, count: int) -> float:
        """Of so many proposals in a row: how many will be right."""
        trust = self.trust
        return float(count) if trust >= 1 else trust * (1 - trust**count) / (1 - trust)

    def learn(self, proposed: int, accepted: int) -> None:
        for _ in range(accepted):
            self.trust += _LEARN * (1 - self.trust)
        if accepted < proposed:
            self.trust -= _LEARN * self.trust

    def rest(self) -> None:
        """A step without proposals."""
        self.trust += _FORGET * (_TRUST - self.trust)


@dataclass(slots=True)
class Costs:
    """Seconds of a decode by its number of rows, as measured lately."""

    _seconds: dict[int, Seconds] = field(default_factory=dict)

    def measured(self, rows: int, seconds: Seconds) -> None:
        known = self._seconds.get(rows)
        self._seconds[rows] = seconds if known is None else known + _BLEND * (seconds - known)

    def of(self, rows: int) -> Seconds | None:
        """Between two that were measured in a straight line; None: nothing so small was measured."""
        known = self._seconds
        if rows in known:
            return known[rows]
        below = max((size for size in known if size < rows), default=None)
        if below is None:
            return None
        above = min((size for size in known if size > rows), default=None)
        if above is None:
            return known[below] * (1 + _UNKNOWN * (rows - below))
        return known[below] + (known[above] - known[below]) * (rows - below) / (above - below)


class Source(Protocol):
    """Who proposes for a model."""

    def seconds(self, count: int, answers: int) -> Seconds:
        """What it takes to propose so many for so many answers."""

    def propose(self, wanted: Sequence[tuple[int, Sequence[int]]], count: int) -> list[list[int]]:
        """For each (sequence, all its tokens) at most `count` tokens that may come next."""


@dataclass(slots=True)
class Hopeful:
    """An answer that goes on by one token at least."""

    sequence: int
    tokens: Sequence[int]
    """All of it, the last one not yet decoded."""
    lookup: Lookup
    gauge: Gauge
    room: int
    """Proposals that could still be of use."""


class Drafter:
    """Proposes for all slots of one model; told afterwards what a batch took."""

    def __init__(self, source: Source | None = None) -> None:
        self._source, self._costs = source, Costs()

    def propose(self, answers: Sequence[Hopeful]) -> list[list[int]]:
        """For each answer the tokens to try after its last one."""
        most = ROWS // max(1, len(answers))
        found = [answer.lookup.propose(min(most, answer.room)) for answer in answers]
        asked = [index for index, tokens in enumerate(found) if not tokens and answers[index].room > 0]
        count = self._worth(answers, [len(tokens) for tokens in found], asked if self._source is not None else [])
        drafts = [tokens[:count] for tokens in found]
        if count and self._source is not None and asked:
            wanted = [(answers[index].sequence, answers[index].tokens) for index in asked]
            for index, tokens in zip(asked, self._source.propose(wanted, count), strict=True):
                drafts[index] = tokens[: answers[index].room]
        for answer, draft in zip(answers, drafts, strict=True):
            if not draft:
                answer.gauge.rest()
        return drafts

    def measured(self, rows: int, seconds: Seconds) -> None:
        """Of a batch without prompts."""
        self._costs.measured(rows, seconds)

    def _worth(self, answers: Sequence[Hopeful], known: Sequence[int], asked: Sequence[int]) -> int:
        """How many to propose for each: what gives most tokens a second."""
        if not any(known) and not asked:
            return 0
        best, most = 0, 0.0
        for count in _LENGTHS:
            lengths = [min(count, length) for length in known]
            for index in asked:
                lengths[index] = min(count, answers[index].room)
            rows = len(answers) + sum(lengths)
            seconds = self._costs.of(rows)
            if rows > len(answers) + ROWS or seconds is None:
                break
            if asked and self._source is not None:
                seconds += self._source.seconds(count, len(asked))
            right = sum(answer.gauge.expected(n) for answer, n in zip(answers, lengths, strict=True))
            rate = (len(answers) + right) / max(seconds, 1e-9)
            if rate > most:
                best, most = count, rate
        return best
