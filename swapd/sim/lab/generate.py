"""Made-up days: who calls which models on a workstation with one card of 24 GiB, at a load that can be chosen.

Used by the lab's comparisons and by the tests. The same arguments give the same trace on every machine. What a single
session looks like is in `habits`, which sessions make up a day in `days`; here they get their times and the exact
load. Knows no policy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Final

from swapd.sim.lab import days, habits
from swapd.sim.lab.days import Day, Laid, model, renewed, seldom, work_of
from swapd.sim.lab.habits import Story
from swapd.trace import Call, Trace, TraceModel
from swapd.units import Bytes, GiB, Seconds

CARD: Final[Bytes] = 47 * GiB // 2
HOST: Final[Bytes] = 48 * GiB
SMALL: Final = 30
"""So many different small traces."""

_DAYS: Final[dict[str, Callable[[Random, Seconds, Seconds], Day]]] = {
    "solo": days.solo,
    "review": days.review,
    "team": days.team,
    "agents": days.agents,
    "tail": days.tail,
    "bursts": days.bursts,
}
KINDS: Final[tuple[str, ...]] = tuple(_DAYS)


def kinds() -> tuple[str, ...]:
    """What `make` knows."""
    return KINDS


def make(kind: str, load: float, seed: int, hours: float = 2.0) -> Trace:
    """A day of about `hours` whose `trace.load` is `load`: more sessions side by side, never faster people.

    Of the same seed, a higher load has the same sessions and more of them. Raises ValueError for a kind that is not
    in KINDS, a load that is not positive, or less than a tenth of an hour.
    """
    if kind not in _DAYS:
        raise ValueError(f"{kind!r} is no kind of day: there are {', '.join(KINDS)}")
    if not load > 0 or not hours >= 0.1:
        raise ValueError(f"a load of {load} for {hours} hours cannot be made")
    chance = Random(seed)  # noqa: S311  the same day for the same seed is the point
    models, laid = _DAYS[kind](chance, load * hours * 3600.0, hours * 1200.0)
    return _lay(f"{kind} {load:g} #{seed}", models, laid, load)


def d_inference(seed: int) -> Trace:
    """49 hours of five models of which three fit; three of them get 1.13 % of the calls.

    The shape of a report about a real server that evicted the least recently used (d-inference, issue 789): there the
    rare models caused 71 % of 692 loads, which takes seven times as many calls as here. The hot ones rest now and
    then, long enough to be the ones that leave.
    """
    chance = Random(seed)  # noqa: S311
    hot = (model("hot1", 7.5), model("hot2", 7))
    rare = tuple(model(f"rare{number}", 7.5 - number / 4) for number in (1, 2, 3))
    count, hours = 6000, 49
    few = round(count * 0.0113)
    laid: Laid = []
    for asked, share in zip(hot, (0.65, 0.35), strict=True):
        stories: list[Story] = []
        calls = 0
        while calls < share * (count - few):
            stories.append(habits.conversation(chance, f"{asked.name}.{len(stories)}", asked))
            calls += len(stories[-1].calls)
        laid += renewed(chance, stories, cv=2.0)
    laid += seldom(chance, rare, few)
    work = sum(work_of(hot + rare, story) for _, story in laid)
    return _lay(f"d-inference #{seed}", hot + rare, laid, work / (hours * 3600.0))


def _lay(name: str, models: tuple[TraceModel, ...], laid: Laid, load: float) -> Trace:
    """As long as the work at this load takes. What is said within a story keeps its pace; only where it begins moves.

    A story that lies at 1 ends with the trace, so the last call is just where the load wants it.
    """
    span = sum(work_of(models, story) for _, story in laid) / load
    last = max(place for place, _ in laid)
    calls = [
        replace(call, at=round(place / last * (span - story.length) + call.at, 3))
        for place, story in laid
        for call in story.calls
    ]
    return Trace(name, CARD, HOST, models, tuple(sorted(calls, key=lambda call: call.at)))


# --- small ones, for which the optimum can be computed


def small(number: int) -> Trace:
    """6 to 9 calls within 40 s to two or three models with one slot each, one of which fits: one of SMALL and more.

    By `number` modulo four: a burst at the beginning, by turns, one hot and one rare, at random. Services and loads
    take a few seconds. Raises ValueError for a negative number.
    """
    if number < 0:
        raise ValueError(f"there is no small trace {number}")
    chance = Random(number)  # noqa: S311
    models = tuple(model(f"m{n}", round(chance.uniform(6.0, 9.5), 1), slots=1) for n in range(2 + number // 4 % 2))
    count = 6 + number // 8 % 4
    asked = list(_asked(chance, number % 4, models, count))
    calls = [
        Call(f"c{n}", at, model.name, chance.randint(200, 2000), chance.randint(60, 450), f"s{n}")
        for n, (at, model) in enumerate(sorted(asked, key=lambda one: one[0]))
    ]
    return Trace(f"small #{number}", 10 * GiB, HOST, models, tuple(calls))


def _asked(
    chance: Random, pattern: int, models: Sequence[TraceModel], count: int
) -> Iterator[tuple[Seconds, TraceModel]]:
    for number in range(count):
        match pattern:
            case 0:
                yield round(chance.uniform(0.0, 6.0), 2), chance.choice(models)
            case 1:
                yield round(number * 30.0 / count + chance.uniform(0.0, 4.0), 2), models[number % len(models)]
            case 2:
                is_rare = number in (1, count - 2)
                yield round(chance.uniform(0.0, 40.0), 2), models[1 + number % (len(models) - 1) if is_rare else 0]
            case _:
                yield round(chance.uniform(0.0, 40.0), 2), chance.choice(models)
