"""Which model is asked for after which: counts that fade, of few models, and how arrivals change them.

Values, like `past`; `foresee` makes guesses of them. Forgotten with the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from swapd.core.model import Variant, VariantId
from swapd.core.values import replace
from swapd.units import Seconds

FADING: Final = 0.9
"""Each time that a model is followed by another, what followed it before counts so much less."""
DOUBT: Final = 1.0
"""So much is always on the side of something else: what was seen once is no habit."""
WASTED: Final = 0.5
"""So much of its count is left to a guess that was made for nothing."""
MODELS: Final = 64
"""The last ones asked for; others are forgotten."""
SUCCESSORS: Final = 8
"""Of each model, the most frequent."""


@dataclass(frozen=True, slots=True)
class Follower:
    """How often another model came next, and how long after (a mean, from the first request of the one before)."""

    weight: float
    lag: Seconds


@dataclass(frozen=True, slots=True)
class Habit:
    """Of one model: what it is, and who came after it."""

    variant: Variant
    owner_keep_alive: Seconds | None
    followers: Mapping[VariantId, Follower] = field(default_factory=dict)

    def chance(self, other: VariantId) -> float:
        """That it is the next other model: from 0, never quite 1."""
        follower = self.followers.get(other)
        if follower is None:
            return 0.0
        return follower.weight / (sum(each.weight for each in self.followers.values()) + DOUBT)

    def followed(self, other: VariantId, lag: Seconds) -> Habit:
        known = {v: replace(each, weight=each.weight * FADING) for v, each in self.followers.items()}
        before = known.get(other, Follower(0.0, lag))
        known[other] = Follower(before.weight + 1.0, before.lag + (lag - before.lag) / 2)
        if len(known) > SUCCESSORS:  # never the newcomer, or nothing new could be learnt
            del known[min((v for v in known if v != other), key=lambda v: (known[v].weight, v))]
        return replace(self, followers=known)


@dataclass(frozen=True, slots=True)
class Succession:
    habits: Mapping[VariantId, Habit] = field(default_factory=dict)
    """The one asked for last at the end."""
    last: VariantId | None = None
    since: Seconds = 0.0
    """When the first of its requests in a row came."""
    tried: frozenset[VariantId] = frozenset()
    """Loaded ahead since then: not once more on the same guess."""
    read: frozenset[VariantId] = frozenset()
    """The same of files read ahead."""
    barred: frozenset[VariantId] = frozenset()
    """Unloaded by hand, or asked not to stay: not loaded ahead until asked for again."""

    def asked(self, variant: Variant, owner_keep_alive: Seconds | None, now: Seconds) -> Succession:
        here = self.habits.get(variant.id)
        is_same = here is not None and here.variant is variant and here.owner_keep_alive == owner_keep_alive
        if self.last == variant.id and is_same and variant.id not in self.barred:
            return self
        habits = {known: habit for known, habit in self.habits.items() if known != variant.id}
        followers = here.followers if here is not None else {}
        habits[variant.id] = Habit(variant, owner_keep_alive, followers)
        barred = self.barred - {variant.id}
        if self.last == variant.id:
            return replace(self, habits=habits, barred=barred)
        before = None if self.last is None else habits.get(self.last)
        if before is not None:
            habits[before.variant.id] = before.followed(variant.id, now - self.since)
        while len(habits) > MODELS:
            del habits[next(iter(habits))]
        return Succession(habits, variant.id, now, barred=barred)

    def wasted(self, after: VariantId, other: VariantId) -> Succession:
        """The other model was expected after this one, and did not come while it was there."""
        habit = self.habits.get(after)
        follower = None if habit is None else habit.followers.get(other)
        if habit is None or follower is None:
            return self
        fewer = replace(follower, weight=follower.weight * WASTED)
        habit = replace(habit, followers={**habit.followers, other: fewer})
        return replace(self, habits={**self.habits, after: habit})

    def only(self, known: frozenset[VariantId]) -> Succession:
        """Without models that are no more."""
        if self.habits.keys() <= known:
            return self
        habits = {variant: habit for variant, habit in self.habits.items() if variant in known}
        return replace(self, habits=habits, last=self.last if self.last in known else None)
