"""What no schedule avoids, whatever it knows of the day: how long somebody waits, how often somebody has to leave.

Used by the lab's table, so that what nobody can reach is proved and not asserted. Both are lower bounds for schedules
that load models whole, load nobody for nobody, and interrupt no call, as in `optimum`; the true least is above them.
Calls whose client has a patience are left out: without them there is only less to do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from swapd.sim.lab.card import reading_s
from swapd.sim.lab.optimum import UNLOAD, alone_s
from swapd.trace import Call, Trace, TraceModel
from swapd.units import Bytes, Seconds

_WINDOW: Final = 6
"""Calls that are looked at together."""
_SPREAD: Final = 0.3
"""A window of `swaps` takes in calls that come later than its first by at most so much of the wait."""


# --- waiting


@dataclass(frozen=True, slots=True)
class _Patient:
    """A call that waits until it is served. `start`: before that its model cannot be there for it."""

    call: Call
    model: TraceModel
    start: Seconds


def longest_wait(trace: Trace, unload_s: Seconds = UNLOAD) -> Seconds:
    """In every schedule somebody waits as long as this.

    No file is in the page cache at the beginning. One that is read ahead from then on, before its model is first asked
    for, is there in part; so the first load takes `cold_load_s` less what that part saves. Of two calls for models that
    do not fit together, the one that starts second starts no sooner than the first one's end, an unloading and a load
    after (`optimum.lower_bound`, 2). So the longest wait of a few calls is at least the least, over all orders of
    starting, of the longest one when each starts as early as this permits; and that of all is the longest of any few:
    here of every six that follow each other.
    """
    patient = _patient(trace)
    most = 0.0
    for first in range(len(patient)):
        window = patient[first : first + _WINDOW]
        most = max(most, _least_longest(window, trace.card, unload_s, most))
    return most


def _patient(trace: Trace) -> list[_Patient]:
    models = {model.name: model for model in trace.models}
    there: dict[str, Seconds] = {}
    for call in trace.calls:
        there.setdefault(call.model, call.at + _first_load_s(models[call.model], call.at))
    return [
        _Patient(call, models[call.model], max(call.at, there[call.model]))
        for call in trace.calls
        if call.patience is None
    ]


def _first_load_s(model: TraceModel, after: Seconds) -> Seconds:
    """Its file has been read since the beginning of the trace."""
    cached = min(1.0, after / reading_s(model))
    return model.load_s + (1.0 - cached) * (model.cold_load_s - model.load_s)


def _least_longest(window: Sequence[_Patient], card: Bytes, unload_s: Seconds, enough: Seconds) -> Seconds:
    """Over all orders the least longest wait; not looked for any further once it is not above `enough`."""
    best = float("inf")

    def follow(left: list[tuple[_Patient, Seconds]], worst: Seconds) -> None:
        nonlocal best
        worst = max(worst, max((start - one.call.at for one, start in left), default=0.0))
        if worst >= best or best <= enough:
            return
        if not left:
            best = worst
            return
        for one, start in sorted(left, key=lambda each: each[1]):
            others = [each for each in left if each[0] is not one]
            leaves = start + alone_s(one.model, one.call) + unload_s
            pushed = [
                (other, max(its, leaves + min(other.model.load_s, other.model.cold_load_s)))
                if other.model.name != one.model.name and other.model.size + one.model.size > card
                else (other, its)
                for other, its in others
            ]
            follow(pushed, max(worst, start - one.call.at))

    follow([(one, one.start) for one in window], 0.0)
    return best


# --- swaps


@dataclass(slots=True)
class _Span:
    """From the first of some calls until the last of them must have been served: each of `models` is there in it."""

    start: Seconds
    end: Seconds
    models: set[str] = field(default_factory=set)


def swaps(trace: Trace, longest: Seconds) -> int:
    """Every schedule that lets nobody wait longer than `longest` makes as many loads for which somebody had to leave.

    1. A call that arrives at t is served by its model's resident at some moment from t to t + longest.
    2. Spans of time are chosen that do not overlap, each with calls whose moments all lie within it. So within each
       span each model of its calls is there at some moment.
    3. What is on the card is a set of models that fits. It grows without a swap; to become a set that does not contain
       it takes one at least. So if sets are taken as large as they can be, a schedule is a walk over such sets, each
       step a swap or more, in which every model of a span is in one of the sets that are passed in that span.
    4. The least number of steps of such a walk is found by trying all of them, span by span: no step if the set that
       is there has all the models, one to another that has those which are missing, two at most to any other.

    Any choice of spans is right; the one made here gives rarely called models theirs first.
    """
    sets = _largest_sets(trace)
    steps = dict.fromkeys(sets, 0)
    for span in _spans(trace, longest):
        cheapest = min(steps.values())
        least: dict[frozenset[str], int] = {}
        for there in sets:
            stays = steps[there] if span.models <= there else cheapest + 2
            once = min((n + 1 for before, n in steps.items() if span.models <= before | there), default=cheapest + 2)
            least[there] = min(stays, once, cheapest + 2)
        steps = least
    return min(steps.values(), default=0)


def _largest_sets(trace: Trace) -> list[frozenset[str]]:
    """Models that fit beside each other, and with any other one would not."""
    called = {call.model for call in trace.calls}
    models = sorted((model for model in trace.models if model.name in called), key=lambda model: model.name)
    found: list[frozenset[str]] = []

    def add(chosen: tuple[TraceModel, ...], rest: Sequence[TraceModel], room: Bytes) -> None:
        for number, model in enumerate(rest):
            if model.size <= room:
                add((*chosen, model), rest[number + 1 :], room - model.size)
        if all(model in chosen or model.size > room for model in models):
            found.append(frozenset(model.name for model in chosen))

    add((), models, trace.card)
    return found


def _spans(trace: Trace, longest: Seconds) -> list[_Span]:
    """In order of time. Each model's calls find their places in turn, those of the rarest first; then in what is left
    spans begin with whatever comes next and take in what comes soon after.
    """
    calls = [call for call in trace.calls if call.patience is None]
    counts = Counter(call.model for call in calls)
    spans: list[_Span] = []
    for call in sorted(calls, key=lambda call: (counts[call.model], call.at)):
        if counts[call.model] * longest * 3 > trace.duration:
            continue  # not rare
        if all(call.at + longest < span.start or span.end < call.at for span in spans):
            spans.append(_Span(call.at, call.at + longest, {call.model}))
    spans.sort(key=lambda span: span.start)
    return sorted([*spans, *_between(calls, spans, longest)], key=lambda span: span.start)


def _between(calls: Sequence[Call], taken: Sequence[_Span], longest: Seconds) -> Iterator[_Span]:
    ahead = list(taken)
    span: _Span | None = None
    for call in calls:
        while ahead and ahead[0].end < call.at:
            ahead.pop(0)
        is_free = not ahead or call.at + longest < ahead[0].start
        if span is not None and call.at <= span.start + _SPREAD * longest and is_free:
            if call.model not in span.models:
                span.models.add(call.model)
                span.end = call.at + longest
        elif is_free and (span is None or call.at > span.end):
            if span is not None:
                yield span
            span = _Span(call.at, call.at + longest, {call.model})
    if span is not None:
        yield span
