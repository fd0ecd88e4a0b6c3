"""Speculative decoding: which tokens are proposed for a slot's next steps, and how many are worth it.

Used by `slots`. Proposals cost one larger batch; what is drawn from its rows, in order and by the request's own
sampler, decides how many of them were right, so that an answer is what it would have been without. How many to
propose follows from what batches of each size were measured to take and from how often proposals were right: where
that does not pay, none are made. What the text repeats of itself costs nothing to look up, so whether that would have
been right is known of every token, proposed or not. No llama.cpp here; a draft model is one more `Source`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from swapd.units import Seconds

ROWS: Final = 16
"""Of logits, beyond one a slot, that proposals of all slots may take in one batch."""
_LENGTHS: Final = (0, 1, 2, 3, 4, 6, 8, 11, 16)
_RUN: Final = 3
"""Tokens that must agree before what followed them is proposed."""
_STREAKS: Final = (0, 1, 3, 7)
"""What comes after so many that were right in a row is trusted apart: records repeat more than the line after them."""
_HOPE: Final = 0.8
"""Of a draft model's proposals nobody has seen yet: how often they are right."""
_DOUBT: Final = 0.5
"""Of what was looked up: the first tokens tell, at no cost."""
_FORGET: Final = 0.01
"""How fast distrust of a draft model fades while it proposes nothing: another chance now and then."""
_LEARN: Final = 0.2
_BLEND: Final = 0.3
_UNKNOWN: Final = 0.2
"""What each row more is taken to cost, of a plain step, before a larger batch was measured: little, so that it will
be. From one row to two other kernels come in, which says nothing of the rows after that."""
_FADE: Final = 0.001
"""By so much a plain step lowers what larger batches are taken to cost: one that others slowed is tried again."""
_WORTH: Final = 1.1
"""So many times the plain rate proposals must promise: what they cost besides is not measured."""
_AGAIN: Final = 12
"""After so many steps with proposals one is plain: all is compared with these, and the first after a load are slow."""
_SURPRISE: Final = 2.0
"""One measurement that is further off counts as so many times what was expected: others may have had the cores."""


@dataclass(slots=True)
class Gauge:
    """How often proposals for one answer were right, by how many before them were right in a row."""

    trust: list[float] = field(default_factory=lambda: [_HOPE] * len(_STREAKS))
    streak: int = 0

    def expected(self, count: int) -> float:
        """Of so many proposals in a row: how many will be right."""
        right, chance = 0.0, 1.0
        for streak in range(self.streak, self.streak + count):
            chance *= self.trust[_place(streak)]
            right += chance
        return right

    def seen(self, is_right: bool) -> None:
        """The next token was what was proposed, or would have been."""
        place = _place(self.streak)
        self.trust[place] += _LEARN * (is_right - self.trust[place])
        self.streak = self.streak + 1 if is_right else 0

    def learn(self, proposed: int, accepted: int) -> None:
        for _ in range(accepted):
            self.seen(True)
        if accepted < proposed:
            self.seen(False)

    def rest(self) -> None:
        """A step without proposals."""
        self.trust = [trust + _FORGET * (_HOPE - trust) for trust in self.trust]


def _place(streak: int) -> int:
    return bisect_right(_STREAKS, streak) - 1


class Lookup:
    """The text so far as its own draft: what followed the last few tokens when they were there before."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = list(tokens)
        self._after = {tuple(tokens[at - _RUN : at]): at for at in range(_RUN, len(tokens))}
        self.gauge = Gauge([_DOUBT] * len(_STREAKS))

    def add(self, token: int) -> None:
        """The answer's next one."""
        tokens = self._tokens
        if len(tokens) >= _RUN:
            run = tuple(tokens[-_RUN:])
            known = self._after.get(run)
            if known is None:
                self.gauge.streak = 0
            else:
                self.gauge.seen(tokens[known] == token)
            self._after[run] = len(tokens)
        tokens.append(token)

    def propose(self, count: int) -> list[int]:
        """At most so many; of a text that repeats itself, round and round."""
        at = self._after.get(tuple(self._tokens[-_RUN:]))
        if at is None or count <= 0:
            return []
        known = self._tokens[at : at + count]
        return (known * (count // len(known) + 1))[:count]


@dataclass(slots=True)
class Costs:
    """Seconds of a decode by its number of rows, as measured lately."""

    _seconds: dict[int, Seconds] = field(default_factory=dict)

    def measured(self, rows: int, seconds: Seconds) -> None:
        known, expected = self._seconds, self.of(rows)
        if expected is None:
            known[rows] = seconds
            return
        off = min(max(seconds / max(expected, 1e-9), 1 / _SURPRISE), _SURPRISE)
        least = min(known)
        if rows == least:  # the machine is faster or slower than it was: so it is for all sizes
            change = min(off, 1 + _BLEND * (off - 1))  # no step is faster by chance
            self._seconds = {size: each * change * (1 - _FADE * (size > least)) for size, each in known.items()}
        else:
            blend = _BLEND if rows in known else 1.0
            as_plain = known[least] * rows / least  # more it cannot be
            known[rows] = min(expected * (1 + blend * (off - 1)), as_plain)

    def of(self, rows: int) -> Seconds | None:
        """Between two that were measured in a straight line, and beyond; None: nothing so small was measured."""
        known = self._seconds
        if rows in known:
            return known[rows]
        below = max((size for size in known if size < rows), default=None)
        if below is None:
            return None
        above = min((size for size in known if size > rows), default=None)
        if above is not None:
            return known[below] + (known[above] - known[below]) * (rows - below) / (above - below)
        return known[below] + _UNKNOWN * known[min(known)] * (rows - below)


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
    """Of the draft model."""
    room: int
    """Proposals that could still be of use."""


@dataclass(frozen=True, slots=True)
class Draft:
    """The tokens to try after an answer's last one."""

    tokens: Sequence[int] = ()
    gauge: Gauge | None = None
    """Which has to be told how many were right; what was looked up finds out by itself."""


class Drafter:
    """Proposes for all slots of one model; told afterwards what a batch took."""

    def __init__(self, source: Source | None = None) -> None:
        self._source, self._costs = source, Costs()
        self._proposed = 0
        """Steps in a row."""

    def propose(self, answers: Sequence[Hopeful]) -> list[Draft]:
        """For each answer."""
        if self._proposed >= _AGAIN:
            self._proposed = 0
            return [Draft()] * len(answers)
        most = ROWS // max(1, len(answers))
        found = [self._look_up(answer, min(most, answer.room)) for answer in answers]
        asked = [index for index, tokens in enumerate(found) if not tokens and answers[index].room > 0]
        count = self._worth(answers, [len(tokens) for tokens in found], asked if self._source is not None else [])
        drafts = [Draft(tokens[:count]) for tokens in found]
        if count and self._source is not None and asked:
            wanted = [(answers[index].sequence, answers[index].tokens) for index in asked]
            for index, tokens in zip(asked, self._source.propose(wanted, count), strict=True):
                answer = answers[index]
                drafts[index] = Draft(tokens[: answer.room], answer.gauge)
        for answer, draft in zip(answers, drafts, strict=True):
            if not draft.tokens:
                answer.gauge.rest()
        self._proposed = self._proposed + 1 if any(draft.tokens for draft in drafts) else 0
        return drafts

    def measured(self, rows: int, seconds: Seconds) -> None:
        """Of a batch without prompts."""
        self._costs.measured(rows, seconds)

    def _look_up(self, answer: Hopeful, most: int) -> list[int]:
        """Nothing where a draft model is more often right."""
        is_better = self._source is None or answer.lookup.gauge.expected(1) >= answer.gauge.expected(1)
        return answer.lookup.propose(most) if is_better else []

    def _worth(self, answers: Sequence[Hopeful], known: Sequence[int], asked: Sequence[int]) -> int:
        """How many to propose for each: what gives most tokens a second."""
        if not any(known) and not asked:
            return 0
        best, most = 0, 0.0
        for count in _LENGTHS:
            lengths = [min(count, length) for length in known]
            right = sum(answer.lookup.gauge.expected(n) for answer, n in zip(answers, lengths, strict=True))
            for index in asked:
                length = min(count, answers[index].room)
                lengths[index] = length
                right += answers[index].gauge.expected(length)
            rows = len(answers) + sum(lengths)
            seconds = self._costs.of(rows)
            if rows > len(answers) + ROWS or seconds is None:
                break
            if asked and self._source is not None:
                seconds += self._source.seconds(count, len(asked))
            rate = (len(answers) + right) / max(seconds, 1e-9)
            if rate > most:
                best, most = count, rate if count else _WORTH * rate
        return best
