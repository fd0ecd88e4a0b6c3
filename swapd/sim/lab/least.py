"""What no schedule avoids, whatever it knows of the day: how long somebody waits, how often somebody has to leave.

Used by the lab's table, so that what nobody can reach is proved and not asserted. Both are lower bounds for schedules
that load models whole, interrupt no call, load nobody for nobody, as in `optimum`, and have nobody leave before
somebody waits for the room; the true least is above them. Calls whose client has a patience are left out: without them
there is only less to do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final, TypeAlias

from swapd.sim.lab.card import reading_s
from swapd.sim.lab.optimum import UNLOAD, alone_s
from swapd.trace import Call, Trace, TraceModel
from swapd.units import Bytes, Seconds

_WINDOW: Final = 6
"""Calls that are looked at together."""


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


_There: TypeAlias = tuple[frozenset[str], tuple[tuple[str, Seconds], ...]]
"""A set of models, and of others which of them are waited for and when they must be loaded at the latest."""


def swaps(trace: Trace, longest: Seconds) -> int:
    """Every schedule that lets nobody wait longer than `longest` makes as many loads for which somebody had to leave.

    1. Between two swaps nobody leaves, so all who are there fit beside each other: they are part of one of the largest
       sets that fit. So a schedule is a walk over such sets, and each step of it a swap at least.
    2. Who arrives while its model is in the set may be served at once. Who does not is served in a later set that has
       it, once it is loaded: that step is taken no later than the arrival, `longest` less a load after.
    3. Steps take no time here, so they can be put off until somebody can wait no longer: who waits is helped by the
       same step, and until then whoever is in the set is served.
    4. Which steps are taken then is tried in all ways. Of those that come to the same set and the same waiting only
       the fewest count, and nobody who has made so many more that the others could have served all and gone anywhere.
    """
    sets = _largest_sets(trace)
    models = {model.name: model for model in trace.models}
    calls = [call for call in trace.calls if call.patience is None]
    found: dict[_There, int] = {(there, ()): 0 for there in sets}
    for call, following in zip_longest(calls, calls[1:]):
        model = models[call.model]
        latest = call.at + longest - min(model.load_s, model.cold_load_s)
        found = _walked(sets, _asked(found, call.model, latest), math.inf if following is None else following.at)
    return min(found.values())


def _asked(found: Mapping[_There, int], model: str, latest: Seconds) -> dict[_There, int]:
    """The same after one more call."""
    after: dict[_There, int] = {}
    for (there, waited_for), steps in found.items():
        if model not in there and all(name != model for name, _ in waited_for):
            waited_for = tuple(sorted((*waited_for, (model, latest))))
        after[there, waited_for] = min(steps, after.get((there, waited_for), steps))
    return after


def _walked(sets: Sequence[frozenset[str]], found: dict[_There, int], until: Seconds) -> dict[_There, int]:
    """The same after the steps without which somebody would wait too long before `until`."""
    reached, new = dict(found), found
    while new:
        enough, further = _enough(reached), dict[_There, int]()
        for (_, waited_for), steps in new.items():
            if steps >= enough or all(latest >= until for _, latest in waited_for):
                continue
            for there in sets:
                rest = tuple(each for each in waited_for if each[0] not in there)
                before = min(reached.get((there, rest), enough), further.get((there, rest), enough))
                if len(rest) < len(waited_for) and steps + 1 < before:
                    further[there, rest] = steps + 1
        reached, new = reached | further, further
    left = {place: steps for place, steps in reached.items() if all(latest >= until for _, latest in place[1])}
    enough = _enough(left)
    return {place: steps for place, steps in left.items() if steps < enough}


def _enough(found: Mapping[_There, int]) -> int:
    """With so many steps the best of them could be anywhere, and nobody would be waiting."""
    return min(steps + len(waited_for) + 1 for (_, waited_for), steps in found.items())


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
