"""Settings that would have made a recorded day shorter for those who waited: a small search by replay.

Used by `swapctl replay --tune`. Tries `max_wait`, `keep_alive` and pins, one after the other; proposes only what helps
clearly, in each half of the day too, and keeps nobody waiting much longer.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from swapd.core.messages import Policy
from swapd.sim.lab import recorded, report
from swapd.sim.lab.report import Report
from swapd.sim.lab.run import Outcome, Refused, run
from swapd.trace import Trace
from swapd.units import FOREVER, Seconds

MOST: Final = 8_000
"""Calls that are replayed for each try: the latest."""
MAX_WAITS: Final[tuple[Seconds, ...]] = (5.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0)
KEEP_ALIVES: Final[tuple[Seconds, ...]] = (60.0, 300.0, 900.0, 1800.0, 3600.0, FOREVER)
PINNED: Final = 5
"""So many models, those called most, are tried as pins."""
WORTH: Final = 0.05
"""Of all that requests wait and are slowed: less is not worth a change."""
WORTH_S: Final[Seconds] = 0.05
"""The same in seconds of one request."""
_STEP: Final = 0.01
"""What a single setting must gain to be part of a proposal."""
_LONGER: Final = 1.1
"""The longest waits may grow by so much."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is tuned. `pins`: names of models."""

    max_wait: Seconds
    keep_alive: Seconds
    pins: frozenset[str]


@dataclass(frozen=True, slots=True)
class Tried:
    """A day under some settings. `pain`: seconds for each request that it waited or was slowed, or waited in vain."""

    settings: Settings
    report: Report
    pain: Seconds


@dataclass(frozen=True, slots=True)
class Tuning:
    """`now` is the day as it is configured. `best` None: nothing helps; `nearest` is what came closest."""

    now: Tried
    nearest: Tried
    best: Tried | None
    count: int
    """Settings tried."""
    why_not: str = ""


def tune(trace: Trace, policy: Policy, told: Callable[[int], None] = lambda count: None) -> Tuning:
    """`told` hears of each try how many there have been. Raises Refused if the day cannot be lived as it is."""
    return _Search(recorded.latest(trace, MOST), policy, told).answer()


class _Search:
    def __init__(self, trace: Trace, policy: Policy, told: Callable[[int], None]) -> None:
        self.trace, self.policy, self._told = trace, policy, told
        self.count = 0
        self._known: dict[Settings, Tried | None] = {}

    def answer(self) -> Tuning:
        pins = frozenset(model.name for model in self.trace.models if model.pin)
        before = Settings(self.policy.max_wait, self.policy.keep_alive, pins)
        now = self._live(self.trace, before)
        best = self._simpler(now, self._climb(now))
        if best is now:
            return Tuning(now, now, None, self.count, "nothing that was tried is better")
        why_not = self._doubt(now, best)
        return Tuning(now, best, None if why_not else best, self.count, why_not)

    def _climb(self, now: Tried) -> Tried:
        """One setting after the other, each where the others stand, until none of them gains any more."""
        best = now
        for _ in range(3):
            before = best
            for others in (_max_waits, _keep_alives, self._pins):
                tries = [tried for each in others(best.settings) if (tried := self._try(now, each)) is not None]
                better = min(tries, key=lambda tried: tried.pain, default=best)
                if better.pain < best.pain * (1 - _STEP):
                    best = better
            if best is before:
                break
        return best

    def _simpler(self, now: Tried, best: Tried) -> Tried:
        """Without the changes that gain next to nothing beside the others."""
        for name in ("max_wait", "keep_alive", "pins"):
            without = replace(best.settings, **{name: getattr(now.settings, name)})
            tried = self._try(now, without) if without != best.settings else None
            if tried is not None and tried.pain <= best.pain * (1 + _STEP):
                best = tried
        return best if best.settings != now.settings else now

    def _doubt(self, now: Tried, best: Tried) -> str:
        """Why it is not to be proposed; empty: it is."""
        gain = now.pain - best.pain
        if gain < WORTH * now.pain or gain < WORTH_S:
            return "it is hardly better"
        middle = len(self.trace.calls) // 2
        for half in (
            recorded.between(self.trace, 0, middle),
            recorded.between(self.trace, middle, len(self.trace.calls)),
        ):
            if half.calls and self._live(half, best.settings).pain >= self._live(half, now.settings).pain:
                return "it helps in one half of the time only: that may be chance"
        return ""

    def _try(self, now: Tried, settings: Settings) -> Tried | None:
        """None: a model finds no place, or somebody waits much longer than now."""
        if settings not in self._known:
            try:
                self._known[settings] = self._live(self.trace, settings)
            except Refused:
                self._known[settings] = None
        tried = self._known[settings]
        return tried if tried is not None and _is_bearable(now.report, tried.report) else None

    def _live(self, trace: Trace, settings: Settings) -> Tried:
        self.count += 1
        self._told(self.count)
        models = tuple(replace(model, pin=model.name in settings.pins) for model in trace.models)
        trace = replace(trace, models=models)
        policy = replace(self.policy, max_wait=settings.max_wait, keep_alive=settings.keep_alive)
        outcome = run(trace, policy)
        seen = report.measure(trace, outcome, bounded=False)
        return Tried(settings, seen, _pain(seen, outcome))

    def _pins(self, settings: Settings) -> Iterator[Settings]:
        """One pin more or less, as long as every other model still fits beside all pins."""
        calls = Counter(call.model for call in self.trace.calls)
        for name, _ in calls.most_common(PINNED):
            pins = settings.pins ^ {name}
            pinned = sum(model.size for model in self.trace.models if model.name in pins)
            largest = max((model.size for model in self.trace.models if model.name not in pins), default=0)
            if name in settings.pins or pinned + largest <= self.trace.card:
                yield replace(settings, pins=pins)


def _max_waits(settings: Settings) -> Iterator[Settings]:
    return (replace(settings, max_wait=each) for each in MAX_WAITS if each != settings.max_wait)


def _keep_alives(settings: Settings) -> Iterator[Settings]:
    return (replace(settings, keep_alive=each) for each in KEEP_ALIVES if each != settings.keep_alive)


def _pain(seen: Report, outcome: Outcome) -> Seconds:
    vain = sum((one.left_at or one.call.at) - one.call.at for one in outcome.served if one.end is None)
    return (seen.delay + vain) / max(1, seen.calls)


def _is_bearable(now: Report, then: Report) -> bool:
    """Nobody waits much longer, and hardly anybody more gives up."""
    pairs = ((now.wait_p99, then.wait_p99), (now.wait_max, then.wait_max))
    return then.left <= math.ceil(now.left * 1.02) and all(new <= old * _LONGER + 1.0 for old, new in pairs)
