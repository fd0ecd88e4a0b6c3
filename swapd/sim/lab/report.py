"""What an outcome amounts to: swaps, bytes, waits, delay, fairness, and how far from what nobody could beat.

Made of `run`'s outcomes for the benchmark, `swapctl replay` and the tests.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from swapd.sim.lab import optimum
from swapd.sim.lab.card import UNLOAD, Served
from swapd.sim.lab.run import Outcome
from swapd.trace import Trace, TraceModel
from swapd.units import Bytes, Seconds, format_bytes


@dataclass(frozen=True, slots=True)
class Report:
    """Of one run. A wait is from arrival to slot, or until the client left; delay is all that an answer took more than
    it would have taken alone on a card where everything is loaded.
    """

    calls: int
    left: int
    """Clients who went away before their first token."""
    loads: int
    swaps: int
    """Loads for which somebody had to leave."""
    bytes_moved: Bytes
    """To the card."""
    wait_mean: Seconds
    wait_p50: Seconds
    wait_p99: Seconds
    wait_max: Seconds
    ttft_p50: Seconds
    """From arrival to the first token, of those that got one."""
    ttft_p99: Seconds
    jain: float
    """Fairness among the models, of how fast they were served: alone over with waiting. 1: all alike."""
    delay: Seconds
    """Summed over all answers."""
    bound: Seconds
    """No schedule that loads models whole has a smaller sum of delays."""
    is_exact: bool
    """Some schedule reaches the bound; else the best is somewhere above it."""

    @property
    def delay_mean(self) -> Seconds:
        return self.delay / max(1, self.calls - self.left)

    @property
    def regret_mean(self) -> Seconds:
        """Of an answer, what it was delayed more than the bound says that answers must be."""
        return (self.delay - self.bound) / max(1, self.calls - self.left)


def measure(trace: Trace, outcome: Outcome, *, bounded: bool = True) -> Report:
    """The bound is right for runs in which no file was read ahead. Not `bounded`: without it, for it takes longer than
    all the rest; it is 0 then.
    """
    served = outcome.served
    waits = sorted(_wait(one) for one in served)
    firsts = sorted(one.first_at - one.call.at for one in served if one.first_at is not None)
    best, is_exact = bound(trace) if bounded else (0.0, False)
    models = {model.name: model for model in trace.models}
    return Report(
        calls=len(served),
        left=sum(one.end is None for one in served),
        loads=len(outcome.loads),
        swaps=sum(load.is_swap for load in outcome.loads),
        bytes_moved=sum(load.size for load in outcome.loads),
        wait_mean=sum(waits) / max(1, len(waits)),
        wait_p50=_quantile(waits, 0.5),
        wait_p99=_quantile(waits, 0.99),
        wait_max=waits[-1] if waits else 0.0,
        ttft_p50=_quantile(firsts, 0.5),
        ttft_p99=_quantile(firsts, 0.99),
        jain=_jain(models, served),
        delay=sum(_delay(models, one) for one in served if one.end is not None),
        bound=best,
        is_exact=is_exact,
    )


def _wait(one: Served) -> Seconds:
    until = one.granted_at if one.granted_at is not None else one.left_at
    assert until is not None, "a call is granted or its client leaves"
    return until - one.call.at


def _delay(models: Mapping[str, TraceModel], one: Served) -> Seconds:
    assert one.end is not None
    return one.end - one.call.at - optimum.alone_s(models[one.call.model], one.call)


def bound(trace: Trace, *, reads_ahead: bool = False) -> tuple[Seconds, bool]:
    """The least sum of delays that is known to be needed, and whether some schedule reaches it.

    `reads_ahead`: also for those who read files before they are asked for them; at the best all have been read.
    """
    try:
        if reads_ahead:
            models = tuple(replace(model, cold_load_s=model.load_s) for model in trace.models)
            return optimum.exact(replace(trace, models=models), UNLOAD).delay, models == trace.models
        return optimum.exact(trace, UNLOAD).delay, True
    except ValueError:  # too large, or not of the simple kind
        return optimum.lower_bound(trace, UNLOAD), False


def _quantile(values: Sequence[Seconds], share: float) -> Seconds:
    """The smallest value that so many are not above."""
    return values[max(0, math.ceil(share * len(values)) - 1)] if values else 0.0


def _jain(models: Mapping[str, TraceModel], served: Sequence[Served]) -> float:
    """(sum x)^2 / (n sum x^2) over the models, x the share of its time that a call was not kept from being answered."""
    alone: defaultdict[str, float] = defaultdict(float)
    took: defaultdict[str, float] = defaultdict(float)
    for one in served:
        if one.end is not None:
            alone[one.call.model] += optimum.alone_s(models[one.call.model], one.call)
            took[one.call.model] += one.end - one.call.at
    speeds = [alone[model] / took[model] for model in took if took[model] > 0]
    return sum(speeds) ** 2 / (len(speeds) * sum(x * x for x in speeds)) if any(speeds) else 1.0


_COLUMNS: Final[tuple[tuple[str, Callable[[Report], str]], ...]] = (
    ("swaps", lambda r: str(r.swaps)),
    ("loads", lambda r: str(r.loads)),
    ("moved", lambda r: format_bytes(r.bytes_moved)),
    ("wait mean", lambda r: f"{r.wait_mean:.2f} s"),
    ("p99", lambda r: f"{r.wait_p99:.1f} s"),
    ("max", lambda r: f"{r.wait_max:.1f} s"),
    ("first token p50", lambda r: f"{r.ttft_p50:.2f} s"),
    ("p99", lambda r: f"{r.ttft_p99:.1f} s"),
    ("delay mean", lambda r: f"{r.delay_mean:.2f} s"),
    ("fairness", lambda r: f"{r.jain:.2f}"),
)


def table(rows: Sequence[tuple[str, Report]]) -> str:
    """One line for each, aligned, and under it what the bound says."""
    cells = [["", *(name for name, _ in _COLUMNS)]]
    cells += [[label, *(show(report) for _, show in _COLUMNS)] for label, report in rows]
    widths = [max(len(line[n]) for line in cells) for n in range(len(cells[0]))]
    lines = [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in cells
    ]
    if rows and rows[0][1].bound:
        first = rows[0][1]
        what = "the best possible" if first.is_exact else "nobody could have less than"
        lines.append(f"{what}: {first.bound / max(1, first.calls - first.left):.2f} s of delay for an answer")
    return "\n".join(lines)
