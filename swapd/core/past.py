"""What is remembered of each variant: how often it is wanted, how long it loads and answers, what follows it.

Values and how facts change them; `costs` makes prices of them. Forgotten with the process, but for the lessons.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from swapd.core.messages import Usage
from swapd.core.model import VariantId
from swapd.units import Seconds, Tokens

MEMORY: Final[Seconds] = 600.0
"""Requests count less and less: after so long a third of them."""
LEARNING: Final = 0.3
"""How much the last of several measurements counts."""
FOLLOWED: Final = 8
"""So many followers of one variant are remembered, the most frequent ones."""
WARM: Final = 0.9
COLD: Final = 0.1
"""Shares of a file in page cache from which on, down to which, its load counts as warm, as cold."""


@dataclass(frozen=True, slots=True)
class Past:
    """Of one variant. None: never seen."""

    asked_at: Seconds
    weight: float = 0.0
    """Requests, each counting exp(-age / MEMORY), as of `asked_at`."""
    warm_load: Seconds | None = None
    cold_load: Seconds | None = None
    """From the start of the process until ready."""
    answer: Seconds | None = None
    """How long one answer takes, from its slot to its end."""
    prefill: float | None = None
    """Tokens a second."""
    token: Mapping[int, Seconds] = field(default_factory=dict)
    """Seconds for a token of an answer, by layers on the GPU."""
    followers: Mapping[VariantId, float] = field(default_factory=dict)
    """How often which other variant was asked for next."""

    def rate(self, now: Seconds) -> float:
        """Requests a second lately."""
        return self.weight * math.exp(-max(0.0, now - self.asked_at) / MEMORY) / MEMORY

    def chance(self, now: Seconds, horizon: Seconds) -> float:
        """That it is asked for within the horizon, if requests come as they did."""
        return 1.0 - math.exp(-self.rate(now) * horizon)

    def asked(self, now: Seconds) -> Past:
        return replace(self, asked_at=now, weight=self.rate(now) * MEMORY + 1.0)

    def followed_by(self, other: VariantId) -> Past:
        """Old followers count less with each new one."""
        counts = {variant: count * 0.9 for variant, count in self.followers.items()}
        counts[other] = counts.get(other, 0.0) + 1.0
        kept = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:FOLLOWED]
        return replace(self, followers=dict(kept))

    def loaded(self, seconds: Seconds, warmth: float | None) -> Past:
        """`warmth`: the share of the file that was in page cache; None: not known, which counts as warm."""
        if warmth is None or warmth >= WARM:
            return replace(self, warm_load=blend(self.warm_load, seconds))
        if warmth <= COLD:
            return replace(self, cold_load=blend(self.cold_load, seconds))
        return self

    def answered(self, usage: Usage, gpu_layers: int) -> Past:
        past = replace(self, answer=blend(self.answer, usage.prefill_s + usage.decode_s))
        if usage.prompt > 0 and usage.prefill_s > 0:
            past = replace(past, prefill=blend(past.prefill, usage.prompt / usage.prefill_s))
        if usage.output > 1 and usage.decode_s > 0:
            token = blend(past.token.get(gpu_layers), usage.decode_s / usage.output)
            past = replace(past, token={**past.token, gpu_layers: token})
        return past

    def next_chance(self, other: VariantId) -> float:
        """That this one's next follower is the other."""
        total = sum(self.followers.values())
        return self.followers.get(other, 0.0) / total if total else 0.0


def blend(old: float | None, new: float) -> float:
    return new if old is None else old + LEARNING * (new - old)


def kept_tokens(usage: Usage) -> Tokens:
    """What the slot remembers after an answer."""
    return usage.prompt + usage.cached + usage.output
