"""What is remembered of each variant: how often it is wanted, how long it loads and answers.

Values and how facts change them; `costs` makes prices of them. Forgotten with the process, but for the loads.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from swapd.core.messages import Usage
from swapd.core.model import Tier
from swapd.core.values import replace
from swapd.units import Seconds, Tokens

MEMORY: Final[Seconds] = 600.0
"""Requests count less and less: after so long a third of them."""
SURGING: Final[Seconds] = 60.0
"""The same where only what goes on just now is of interest."""
LEARNING: Final = 0.3
"""How much the last of several measurements counts."""
ENOUGH: Final[Tokens] = 32
"""A prompt of which less had to be evaluated does not tell how fast that is."""

GAPS: Final[tuple[Seconds, ...]] = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
"""Rests between one answer and the next request are counted up to these lengths."""
FADING: Final = 0.95
"""With each rest those before it count so much less."""


@dataclass(frozen=True, slots=True)
class Past:
    """Of one variant. None: never seen."""

    asked_at: Seconds
    weight: float = 0.0
    """Requests, each counting exp(-age / MEMORY), as of `asked_at`."""
    lately: float = 0.0
    """The same, each counting exp(-age / SURGING)."""
    load: Seconds | None = None
    """From the start of the process until ready, all of it on the GPU; lately, wherever the weights were."""
    loads: Mapping[Tier, Seconds] = field(default_factory=dict)
    """The same by where they were."""
    answer: Seconds | None = None
    """How long one takes from its slot to its end with all of it on the GPU."""
    prefill: float | None = None
    """Tokens a second."""
    token: Mapping[int, Seconds] = field(default_factory=dict)
    """Seconds for a token of an answer, by layers on the GPU."""
    rested_at: Seconds | None = None
    """Since when it has had nothing to do; None: it has, or was never used."""
    gaps: tuple[float, ...] = (0.0,) * (len(GAPS) + 1)
    """How many of its rests were so long: up to each of GAPS but not the one before, or longer; they fade."""

    def rate(self, now: Seconds) -> float:
        """Requests a second lately."""
        return self.weight * math.exp(-max(0.0, now - self.asked_at) / MEMORY) / MEMORY

    def surge(self, now: Seconds) -> float:
        """Requests a second just now, where they are more than lately."""
        return max(self.rate(now), self._lately(now) / SURGING)

    def _lately(self, now: Seconds) -> float:
        return self.lately * math.exp(-max(0.0, now - self.asked_at) / SURGING)

    def chance(self, now: Seconds, horizon: Seconds) -> float:
        """That it is asked for within the horizon, if requests come as they did."""
        return 1.0 - math.exp(-self.rate(now) * horizon)

    def asked(self, now: Seconds) -> Past:
        gaps = self.gaps
        if self.rested_at is not None:
            faded = [FADING * count for count in gaps]
            faded[bisect_left(GAPS, now - self.rested_at)] += 1
            gaps = tuple(faded)
        weight, lately = self.rate(now) * MEMORY + 1.0, self._lately(now) + 1.0
        return replace(self, asked_at=now, weight=weight, lately=lately, rested_at=None, gaps=gaps)

    def loaded(self, seconds: Seconds, tier: Tier | None = None) -> Past:
        """`tier` None: not known, or between two."""
        past = replace(self, load=blend(self.load, seconds))
        if tier is None:
            return past
        return replace(past, loads={**self.loads, tier: blend(self.loads.get(tier), seconds)})

    def answered(self, usage: Usage, gpu_layers: int, share: float) -> Past:
        """`share` of it on the GPU: in part it says nothing of how long a whole one takes."""
        answer, prefill, token = self.answer, self.prefill, self.token
        if share >= 1:
            answer = blend(answer, usage.prefill_s + usage.decode_s)
        if usage.prompt >= ENOUGH and usage.prefill_s > 0:
            prefill = blend(prefill, usage.prompt / usage.prefill_s)
        if usage.output > 1 and usage.decode_s > 0:
            token = {**token, gpu_layers: blend(token.get(gpu_layers), usage.decode_s / usage.output)}
        return replace(self, answer=answer, prefill=prefill, token=token)


def blend(old: float | None, new: float) -> float:
    return new if old is None else old + LEARNING * (new - old)


def kept_tokens(usage: Usage) -> Tokens:
    """What the slot remembers after an answer."""
    return usage.prompt + usage.cached + usage.output
