"""The lab's table: swapd's policies beside how others decide, on made-up days, in virtual time.

`python -m benchmarks lab` writes `benchmarks/lab.md`. Nothing is timed, so a busy machine changes nothing.
LAB_SEEDS (`11,12,13`): which days; LAB_LOADS (`0.3,0.6,0.8,0.9`); LAB_HOURS (2): how long each is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from swapd.core.messages import Policy, Ranking
from swapd.sim.lab import generate, least, optimum, report
from swapd.sim.lab.card import UNLOAD
from swapd.sim.lab.hindsight import Answer, shorter
from swapd.sim.lab.report import Report
from swapd.sim.lab.rivals import RIVALS
from swapd.sim.lab.run import follow, run
from swapd.trace import Trace
from swapd.units import FOREVER

RESULT: Final = Path(__file__).parent / "lab.md"
OURS: Final = "swapd"
NEAR: Final = 1.15
"""Times the best of the others: a mean that is not above it is near."""
_OTHERS: Final = tuple(RIVALS)
_WHO: Final = (*_OTHERS, "swapd lru", OURS)
_LOADS: Final = os.environ.get("LAB_LOADS", "0.3,0.6,0.8,0.9")
_SEEDS: Final = os.environ.get("LAB_SEEDS", "11,12,13")
_HOURS: Final = float(os.environ.get("LAB_HOURS", "2"))


@dataclass(frozen=True, slots=True)
class Day:
    """Which trace. `load` 0: the d-inference shape, `kind` "small": one that can be solved exactly."""

    kind: str
    load: float
    seed: int

    def trace(self) -> Trace:
        if self.kind == "small":
            return generate.small(self.seed)
        return generate.make(self.kind, self.load, self.seed, _HOURS) if self.load else generate.d_inference(self.seed)


def _policy(who: str, day: Day) -> Policy:
    """On small days nothing is read ahead: the optimum does not do so."""
    ranking = Ranking.LRU if who == "swapd lru" else Ranking.COST
    return Policy(keep_alive=FOREVER, ranking=ranking, prefetch=day.kind != "small")


def measured(job: tuple[Day, str]) -> Report:
    day, who = job
    trace = day.trace()
    outcome = run(trace, _policy(who, day), who if who in RIVALS else "")
    return report.measure(trace, outcome, bounded=day.kind == "small")


def bound_on_waiting(trace: Trace, policy: Policy, longest: float) -> float:
    """The formula of `swapd/core/README.md` for this trace. `longest`: seconds of its longest answer."""
    asked = {call.model for call in trace.calls}
    swap = max(model.cold_load_s for model in trace.models) + 1.0
    rounds = max(-(-40 // model.slots) for model in trace.models)
    tenure = max(policy.min_residency, 3 * policy.max_wait)
    return 3 * policy.max_wait + len(asked) * (tenure + rounds * longest + longest + swap)


_Found: TypeAlias = Mapping[tuple[Day, str], Report]


def within_reach(day: Day, found: _Found) -> tuple[int, float]:
    """The fewest swaps and the least longest wait of any schedule that loads models whole and is within the other
    bars: a mean wait of 1.15 of the best rival's, nobody waits longer than with resident-first. Nobody leaves in it
    before somebody waits for the room: leaves like those are not counted as swaps.
    """
    trace = day.trace()
    best = min(found[day, who].wait_mean for who in _OTHERS)
    longest = min(found[day, "resident-first"].wait_max, NEAR * best * len(trace.calls))
    return least.swaps(trace, longest), least.longest_wait(trace)


def known_before(job: tuple[Day, float]) -> Report | Answer:
    """How it goes on the card for one who knows the day, keeps `hindsight`'s rules and everybody's wait below this."""
    day, limit = job
    trace = day.trace()
    orders = shorter(trace, limit)
    return orders if isinstance(orders, Answer) else report.measure(trace, follow(trace, orders), bounded=False)


def main() -> None:
    days = [
        Day(kind, float(load), int(seed))
        for kind in generate.KINDS
        for load in _LOADS.split(",")
        for seed in _SEEDS.split(",")
    ]
    days += [Day("d-inference", 0.0, int(seed)) for seed in _SEEDS.split(",")[:1]]
    small = [Day("small", 0.0, number) for number in range(generate.SMALL)]
    jobs = [(day, who) for day in (*days, *small) for who in _WHO]
    with ProcessPoolExecutor() as workers:
        found = dict(zip(jobs, workers.map(measured, jobs), strict=True))
        limits = {day: found[day, "resident-first"].wait_max for day in days}
        missed = [(day, limit) for day, limit in limits.items() if found[day, OURS].wait_max >= limit]
        known = dict(zip((day for day, _ in missed), workers.map(known_before, missed), strict=True))
    text = "\n".join(_text(days, small, found, known)) + "\n"
    RESULT.write_text(text)
    print(text)


def _text(days: Sequence[Day], small: Sequence[Day], found: _Found, known: _Known) -> Iterator[str]:
    yield "# The lab's table"
    yield ""
    yield (
        "Made by `python -m benchmarks lab`: the core itself, beside how others decide re-created in"
        f" `swapd/sim/lab/rivals.py`, on a simulated card of 24 GiB in virtual time."
        f" Hours in a day: {_HOURS:g}, generated after"
        " published statistics (`swapd/sim/lab/days.py`). As with the others, swapd's keep-alives do not"
        " end. Each cell: swaps, mean and"
        " longest wait (s), mean delay (s). The last column: swaps and longest wait (s) that no schedule goes below"
        " which loads models whole, has a mean wait of at most 1.15 of the best rival's and keeps nobody waiting longer"
        " than resident-first does, and in which nobody leaves before somebody waits for the room; proofs in"
        " `swapd/sim/lab/least.py`. They may know what comes. The true least is somewhere above."
    )
    yield ""
    yield f"| day | {' | '.join(_WHO)} | nobody below |"
    yield f"|---|{'---|' * len(_WHO)}---|"
    reach = {day: within_reach(day, found) for day in days}
    for day in days:
        cells = " | ".join(_cell(found[day, who]) for who in _WHO)
        yield f"| {_name(day)} | {cells} | {reach[day][0]} · {reach[day][1]:.1f} |"
    yield ""
    yield "## Verdicts"
    yield ""
    yield from (f"- {line}" for line in _verdicts(days, small, found, reach, known))


def _cell(one: Report) -> str:
    return f"{one.swaps} · {one.wait_mean:.2f} / {one.wait_max:.0f} · {one.delay_mean:.2f}"


_Reach: TypeAlias = Mapping[Day, tuple[int, float]]
_Known: TypeAlias = Mapping[Day, Report | Answer]
"""Of the days on which nobody waits less than with resident-first, what `known_before` says."""


def _verdicts(days: Sequence[Day], small: Sequence[Day], found: _Found, reach: _Reach, known: _Known) -> Iterator[str]:
    busy = [day for day in days if day.load >= 0.8]
    halved = [day for day in busy if 2 * found[day, OURS].swaps <= found[day, "fifo"].swaps]
    yield f"at most half of FIFO's swaps at load 0.8 and above: {_of(halved, busy)}; not {_names(busy, halved)}"
    out = [day for day in busy if day not in halved and 2 * reach[day][0] > found[day, "fifo"].swaps]
    yield f"of these proved to be out of reach beside the bars on waiting: {', '.join(map(_name, out)) or 'none'}"
    best = {day: min(found[day, who].wait_mean for who in _OTHERS) for day in days}
    near = [day for day in days if found[day, OURS].wait_mean <= NEAR * best[day]]
    yield f"mean wait at most 1.15 of the best of the others: {_of(near, days)}; not {_names(days, near)}"
    better = [day for day in days if found[day, OURS].wait_mean < best[day]]
    yield f"mean wait better than all others: {_of(better, days)}"
    quickest = {day: min(found[day, who].delay_mean for who in _OTHERS) for day in days}
    quick = [day for day in days if found[day, OURS].delay_mean <= NEAR * quickest[day]]
    yield f"mean delay at most 1.15 of the best of the others: {_of(quick, days)}; not {_names(days, quick)}"
    faster = [day for day in days if found[day, OURS].delay_mean < quickest[day]]
    yield f"mean delay better than all others: {_of(faster, days)}"
    sooner = [day for day in days if found[day, OURS].wait_max < found[day, "resident-first"].wait_max]
    yield f"longest wait below resident-first's: {_of(sooner, days)}; not {_names(days, sooner)}"
    even = [day for day in days if found[day, OURS].wait_max == found[day, "resident-first"].wait_max]
    yield f"longest wait not above resident-first's: {len(sooner) + len(even)} of {len(days)}"
    yield from _hindsight(found, known)
    bounded = [day for day in days if found[day, OURS].wait_max <= bound_on_waiting(day.trace(), Policy(), 60.0)]
    yield f"longest wait within the stated bound (answers of at most 60 s, 40 waiting): {_of(bounded, days)}"
    lru = [day for day in days if found[day, OURS].delay_mean <= found[day, "swapd lru"].delay_mean]
    yield f'`policy = "cost"` no slower than `"lru"`: {_of(lru, days)}'
    least_delays = [found[day, OURS].bound for day in small]
    for who in _WHO:
        ratios = [found[day, who].delay / best for day, best in zip(small, least_delays, strict=True)]
        within = sum(ratio <= 1.3 for ratio in ratios)
        yield (
            f"{len(small)} small days, delay over the offline optimum's, {who}: mean {sum(ratios) / len(ratios):.3f},"
            f" worst {max(ratios):.2f}, within 1.3 on {within}"
        )
    eager = [optimum.exact(day.trace(), UNLOAD, is_eager=True).delay for day in small]
    ratios = [found[day, OURS].delay / best for day, best in zip(small, eager, strict=True)]
    yield (
        f"the same of {OURS} over the best of those who know what comes too, but let nobody wait beside an idle card:"
        f" mean {sum(ratios) / len(ratios):.3f}, worst {max(ratios):.2f},"
        f" within 1.3 on {sum(ratio <= 1.3 for ratio in ratios)}"
    )


def _hindsight(found: _Found, known: _Known) -> Iterator[str]:
    """Of the days on which resident-first's longest wait was not undercut."""
    seen = {day: one for day, one in known.items() if isinstance(one, Report)}
    near = [day for day in seen if seen[day].wait_mean <= NEAR * min(found[day, who].wait_mean for who in _OTHERS)]
    yield (
        "of those where it is not, days on which it is with a schedule of who knows what comes but lets nobody wait"
        f" beside an idle card (`swapd/sim/lab/hindsight.py`), seen on the card: {_of(tuple(seen), tuple(known))};"
        f" its mean wait is at most {NEAR} of the best of the others on all but {_names(seen, near)}"
    )
    for answer, what in ((Answer.NOBODY, "proved that no such schedule is"), (Answer.UNKNOWN, "neither")):
        yield f"{what}: {', '.join(_name(day) for day, one in known.items() if one is answer) or 'none'}"


def _of(some: Sequence[Day], every: Sequence[Day]) -> str:
    return f"{len(some)} of {len(every)}"


def _names(every: Iterable[Day], good: Sequence[Day]) -> str:
    return ", ".join(_name(day) for day in every if day not in good) or "none"


def _name(day: Day) -> str:
    return f"{day.kind} {day.load:g} #{day.seed}"
