"""What somebody who knew the whole day could have reached: exactly for tiny traces, a bound for large ones.

Called by the lab's comparisons, which say how far a policy is from it, and by the tests. Knows no policy and no
machine: only what no schedule can avoid.

A call's delay is its end less its arrival less the seconds that it computes alone with its `cached` tokens kept. A
schedule loads a model, whole and on the card, only while somebody who has arrived waits for it: it may know the future,
but it loads nothing for nobody. It interrupts no call, and a model that serves stays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Final, TypeAlias

from swapd.trace import Call, Trace, TraceModel
from swapd.units import Seconds

MOST: Final = 12
"""Calls of a trace that can be solved exactly."""
UNLOAD: Final[Seconds] = 0.3
"""From the decision that a model leaves until its memory is seen free."""


@dataclass(frozen=True, slots=True)
class Step:
    """A load, or with `call` the serving of that call."""

    at: Seconds
    end: Seconds
    model: str
    call: str | None = None


@dataclass(frozen=True, slots=True)
class Optimum:
    """The least total delay, and one schedule that has it."""

    delay: Seconds
    steps: tuple[Step, ...]

    @property
    def loads(self) -> int:
        return sum(step.call is None for step in self.steps)


def alone_s(model: TraceModel, call: Call) -> Seconds:
    """How long it takes alone if all of its `cached` tokens were kept: no machine is faster."""
    return (call.prompt - call.cached) / model.prefill + call.output / model.decode


# --- exactly


@dataclass(frozen=True, slots=True)
class _Point:
    """What decides about the rest: who is served, who is resident, whose files were read, as sets of bits."""

    served: int
    resident: int | None
    warm: int


_Trail: TypeAlias = tuple["_Trail | None", Step]
"""The last step and the trail before it."""


def exact(trace: Trace, unload_s: Seconds = UNLOAD, *, is_eager: bool = False) -> Optimum:
    """The least total delay of any schedule, for one model on the card at a time and one slot.

    At the beginning nothing is resident and no file was read: the first load of each takes `cold_load_s`, later ones
    `load_s`. An idle model may be unloaded ahead of the next load. What a load is for need not be what is served first
    after it. Priorities and pins do not count.

    `is_eager`: only of schedules that know everything too, but never let the card stand idle while somebody waits, nor
    load for nobody's answer: to gain by that they would have to know what comes.

    Raises ValueError for more than MOST calls, two models that fit together, one that does not fit, several slots, or
    calls with cached tokens or a patience.
    """
    _check(trace)
    models = trace.models
    index = {model.name: number for number, model in enumerate(models)}
    calls = [(call, index[call.model], alone_s(models[index[call.model]], call)) for call in trace.calls]
    before = [_before(calls, number) for number in range(len(calls))]
    everyone = (1 << len(calls)) - 1

    # In order of the number served and then of time: of those that come to the same point later, only a smaller delay
    # is worth going on with, since whoever is there sooner could wait.
    best: dict[tuple[_Point, Seconds, bool], Seconds] = {}
    serial = 0
    heap: list[tuple[int, Seconds, Seconds, int, _Point, _Trail | None]] = [(0, 0.0, 0.0, 0, _Point(0, None, 0), None)]
    goal: tuple[Seconds, _Trail | None] | None = None
    while heap:
        count, now, delay, _, point, trail = heappop(heap)
        is_loaded = is_eager and trail is not None and trail[1].call is None  # and must serve somebody next
        same = point, now if is_eager else 0.0, is_loaded  # who may not wait is not better off for being there sooner
        if same in best and best[same] <= delay:
            continue
        best[same] = delay
        if point.served == everyone:
            if goal is None or delay < goal[0]:
                goal = delay, trail
            continue
        free = now if point.resident is None else now + unload_s
        waiting = [number for number in range(len(calls)) if not point.served >> number & 1]
        latest = max(now, min(calls[number][0].at for number in waiting)) if is_eager else math.inf
        for asked in {calls[number][1] for number in waiting} - {point.resident} if not is_loaded else ():
            arrival = min(calls[number][0].at for number in waiting if calls[number][1] == asked)
            if arrival > latest:
                continue
            is_warm = point.warm >> asked & 1
            begun = max(free, arrival)
            end = begun + (models[asked].load_s if is_warm else models[asked].cold_load_s)
            there = _Point(point.served, asked, point.warm | 1 << asked)
            serial += 1
            heappush(heap, (count, end, delay, serial, there, (trail, Step(begun, end, models[asked].name))))
        for number in waiting:
            call, asked, alone = calls[number]
            if asked != point.resident or before[number] & ~point.served or call.at > latest:
                continue
            begun = max(now, call.at)
            end = begun + alone
            there = _Point(point.served | 1 << number, asked, point.warm)
            step = Step(begun, end, call.model, call.id)
            serial += 1
            heappush(heap, (count + 1, end, delay + begun - call.at, serial, there, (trail, step)))
    assert goal is not None, "serving one after the other is a schedule"
    return Optimum(goal[0], tuple(_steps(goal[1])))


def _check(trace: Trace) -> None:
    sizes = sorted(model.size for model in trace.models)
    if len(trace.calls) > MOST:
        raise ValueError(f"{len(trace.calls)} calls: at most {MOST} can be solved exactly")
    if sizes and sizes[-1] > trace.card:
        raise ValueError("a model does not fit on the card")
    if sum(sizes[:2]) <= trace.card and len(sizes) > 1:
        raise ValueError("two models fit on the card at a time")
    if any(model.slots != 1 for model in trace.models):
        raise ValueError("a model has several slots")
    if any(call.cached or call.patience is not None for call in trace.calls):
        raise ValueError("a call has cached tokens or a patience")


def _before(calls: list[tuple[Call, int, Seconds]], number: int) -> int:
    """Who may as well go first, as bits: of the same model, neither later nor longer.

    If such a call came after, the two could change places and nobody would start later.
    """
    call, asked, alone = calls[number]
    bits = 0
    for other, (first, its, length) in enumerate(calls):
        is_no_worse = its == asked and first.at <= call.at and length <= alone
        if is_no_worse and (other < number or (first.at, length) != (call.at, alone)):
            bits |= (other != number) << other
    return bits


def _steps(trail: _Trail | None) -> list[Step]:
    steps: list[Step] = []
    while trail is not None:
        trail, step = trail
        steps.append(step)
    return steps[::-1]


# --- a bound for any trace


_WINDOW: Final = 6
"""Calls that are looked at together."""
_LARGE: Final = 10_000
_SMALL_WINDOW: Final = 4
"""The same in a trace of more calls than _LARGE: a lower bound, in a hundredth of the time."""


def lower_bound(trace: Trace, unload_s: Seconds = UNLOAD) -> Seconds:
    """Total delay of the calls without patience that no schedule goes below: the sum of what windows of them must have.

    Files may be in memory from the beginning and models may have any number of slots. Proof:

    1. No model is loaded before the first call for it arrives, so no call starts before that and a load: `_ready`.
    2. Two models that do not fit together are never there together. Of two calls for them the one that starts first
       keeps its model until it ends, `alone_s` later or more; then this model leaves and the other one is loaded, or
       was in between times; so the other call starts at least those seconds and `unload_s` and a load after that.
    3. Delay is at least start less arrival, for a call computes for `alone_s` at least. So the delays of a few calls
       sum up to no less than the least sum of starts less arrivals, over all orders of starting, if each starts as
       early as 1 and 2 permit: leaving out other calls and what 1 and 2 do not say only permits more.
    4. Windows of consecutive calls do not overlap, so their sums add up. The windows are the best of at most six calls.

    How much computes at once on the card is not used, nor sets of three that fit in pairs: the true optimum is higher,
    most of all at a high load. Raises nothing: a model that fits nowhere is as good as alone.
    """
    models = {model.name: model for model in trace.models}
    ready: dict[str, Seconds] = {}
    for call in trace.calls:
        ready.setdefault(call.model, call.at + _load_s(models[call.model]))
    lasting = [
        _Lasting(models[call.model], call.at, max(call.at, ready[call.model]), alone_s(models[call.model], call))
        for call in trace.calls
        if call.patience is None
    ]
    width = _WINDOW if len(lasting) <= _LARGE else _SMALL_WINDOW
    sums = [0.0]
    for end in range(1, len(lasting) + 1):
        firsts = range(max(0, end - width), end)
        sums.append(max(sums[first] + _least(lasting[first:end], trace, unload_s) for first in firsts))
    return sums[-1]


@dataclass(frozen=True, slots=True)
class _Lasting:
    """A call, there until it is served: when it arrives, when its model could first be there, how long it takes."""

    model: TraceModel
    at: Seconds
    ready: Seconds
    alone: Seconds


def _load_s(model: TraceModel) -> Seconds:
    return min(model.load_s, model.cold_load_s)


def _least(window: list[_Lasting], trace: Trace, unload_s: Seconds) -> Seconds:
    """The least sum of starts less arrivals over all orders, each call as early as those before it permit."""
    best = float("inf")

    def follow(left: list[tuple[_Lasting, Seconds]], delay: Seconds) -> None:
        """`left`: who has not started, and when they may."""
        nonlocal best
        if delay + sum(start - call.at for call, start in left) >= best:
            return
        if not left:
            best = delay
            return
        for number, (call, start) in enumerate(left):
            others = left[:number] + left[number + 1 :]
            pushed = [
                (other, max(its, start + call.alone + unload_s + _load_s(other.model)))
                if other.model != call.model and other.model.size + call.model.size > trace.card
                else (other, its)
                for other, its in others
            ]
            follow(pushed, delay + start - call.at)

    follow([(call, call.ready) for call in window], 0.0)
    return best
