"""Moments of a day at which, whoever decides, nobody waits and nothing is under way: what is before need not be known.

Called by `hindsight` to prove that nobody is below a limit without looking through the whole day. All here is about
schedules that keep its rules and in which everybody waits less than the limit; what could be there is never too little.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain, combinations, permutations, product
from typing import Final

from swapd.sim.lab.card import UNLOAD
from swapd.sim.lab.moments import Moment, Resident
from swapd.trace import Trace, TraceModel, service_s
from swapd.units import Bytes, Seconds

MOST_STATES: Final = 4000
"""Of more that could be at one moment nothing is said."""
UNHEARD: Final = "\0"
"""In a slot, the prompt of a session that is not heard of again."""


def quiet_arrivals(trace: Trace, limit: Seconds) -> list[int]:
    """The numbers of the calls before which it is quiet for certain.

    What is to be done, in seconds: of each call that has come its work with nothing kept, of each load its time. The
    card does at least a second of it in each second while there is any, for it never does nothing while somebody waits,
    and calls beside each other together are not slower than one alone. A load is begun for the first who waits for the
    model, who is served by it, so there is no more than one for each call; a model leaves once for each load.

    At any moment it is at most, whatever was before: an unloading of every model; the loads of those who came so late
    that theirs need not be over; and of the work no more than this. Since the last moment before at which nothing was
    computed a second of work was done in each second. Whoever came a limit before that moment had been served by then.
    So it is the work of all who came later, less the seconds since that moment, whenever that was.
    """
    loads = list(_loads(trace, limit))
    models = {model.name: model for model in trace.models}
    found: list[int] = []
    todo, now, recent, young = 0.0, 0.0, 0, 0
    come = [0.0]
    """The work of the first so many calls."""
    since = -math.inf
    for number, call in enumerate(trace.calls):
        todo, now = max(0.0, todo - (call.at - now)), call.at
        if not todo:
            found.append(number)
        come.append(come[-1] + service_s(models[call.model], call))
        todo += come[-1] - come[-2] + loads[number]
        while trace.calls[recent].at + limit + loads[recent] <= now:
            recent += 1
        while trace.calls[young].at + limit <= now:
            since = max(since, trace.calls[young].at + limit - come[young])
            young += 1
        work = max(come[-1] - come[young], come[-1] - now + since)
        todo = min(todo, UNLOAD * len(models) + sum(loads[recent : number + 1]) + work)
    return found


def fits_in_host(trace: Trace) -> bool:
    """Then a file that was read once stays in page cache."""
    called = {call.model for call in trace.calls}
    return sum(model.size for model in trace.models if model.name in called) <= trace.host


def _loads(trace: Trace, limit: Seconds) -> Iterator[Seconds]:
    """Of a load for each call the most that it takes, and an unloading."""
    models = {model.name: model for model in trace.models}
    read_at: dict[str, Seconds] = {}
    is_kept = fits_in_host(trace)
    for call in trace.calls:
        model = models[call.model]
        is_read = is_kept and read_at.get(call.model, math.inf) <= call.at
        yield UNLOAD + (model.load_s if is_read else max(model.load_s, model.cold_load_s))
        if call.patience is None:
            read_at.setdefault(call.model, call.at + limit)


# --- what may be there


def states(trace: Trace, number: int, limit: Seconds) -> list[Moment] | None:
    """All that may be there before this call, where it is quiet. None: too much, or files do not all fit in memory.

    Whoever is there has served somebody, so may leave: more is permitted so than may be.
    """
    if not fits_in_host(trace):
        return None
    models = {model.name: model for model in trace.models}
    earlier, at = trace.calls[:number], trace.calls[number].at
    asked = {call.model for call in earlier}
    surely = {call.model for call in earlier if call.patience is None and call.at + limit <= at}
    sets = _sets(trace, asked, {call.model for call in earlier if call.patience is not None}, surely)
    if sets is None:
        return None
    maybe = sorted(asked - surely)
    found: list[Moment] = []
    for there in sets:
        kept = [list(_kept(trace, number, models[name])) for name in there]
        for chosen in product(*kept):
            for read in _subsets([name for name in maybe if name not in there]):
                moment = Moment(trace)
                moment.now, moment.come = (earlier[-1].at if earlier else 0.0), number
                moment.cached = tuple((name, models[name].size) for name in sorted({*surely, *there, *read}))
                for name, sessions in zip(there, chosen, strict=True):
                    moment.residents[name] = Resident(models[name], 0.0, True, True, kept=sessions)
                found.append(moment)
                if len(found) > MOST_STATES:
                    return None
    return found


def _subsets(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return chain.from_iterable(combinations(names, count) for count in range(len(names) + 1))


def _sets(trace: Trace, asked: set[str], impatient: set[str], surely: set[str]) -> list[tuple[str, ...]] | None:
    """Who may be resident, by `hindsight`'s rule 4, after loads of models that were asked for, in any order, of these
    `surely` one each. None: too many.

    For whom room was made is loaded later, unless all who wait for it leave.
    """
    sizes = {model.name: model.size for model in trace.models}
    nobody = frozenset[str]()
    found = {(nobody, nobody, nobody)}
    new = [(nobody, nobody, nobody)]
    while new:
        there, loaded, due = new.pop()
        for name in asked - there:
            lack = sizes[name] - (trace.card - sum(sizes[other] for other in there))
            if lack <= 0:
                after = [(there | {name}, loaded | {name}, due - {name})]
            else:
                after = [(there - set(some), loaded, due | {name}) for some in enough(sorted(there), sizes, lack)]
            new += [each for each in after if each not in found]
            found.update(after)
        if len(found) > MOST_STATES:
            return None
    quiet = (there for there, loaded, due in found if surely <= loaded and due <= impatient)
    return sorted({tuple(sorted(there)) for there in quiet})


def enough(names: Sequence[str], sizes: dict[str, Bytes], lack: Bytes) -> Iterator[tuple[str, ...]]:
    """Those whose room together is enough, and without one of them would not be."""
    for count in range(1, len(names) + 1):
        for some in combinations(names, count):
            room = [sizes[name] for name in some]
            if sum(room) >= lack > sum(room) - max(room):
                yield some


def _kept(trace: Trace, number: int, model: TraceModel) -> Iterator[tuple[str, ...]]:
    """Which prompts its slots may hold, of sessions that are heard of again, in any order and with others between."""
    before = {call.session for call in trace.calls[:number] if call.model == model.name}
    after = {call.session for call in trace.calls[number:] if call.model == model.name}
    sessions = sorted(before & after)
    for count in range(min(model.slots, len(sessions)) + 1):
        for some in permutations(sessions, count):
            for places in combinations(range(model.slots), count):
                slots = [UNHEARD] * model.slots
                for place, session in zip(places, some, strict=True):
                    slots[place] = session
                yield tuple(slots)
