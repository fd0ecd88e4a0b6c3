"""The offline optimum, against all orders there are."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest

from swapd.core.messages import Overflow, Policy
from swapd.sim.lab import generate, optimum, report
from swapd.sim.lab.rivals import RIVALS
from swapd.sim.lab.run import run
from swapd.trace import Call, Trace, service_s

UNLOAD = 0.3


def best_of_all_orders(trace: Trace) -> float:
    return min(delay_of(trace, order) for order in permutations(trace.calls))


def delay_of(trace: Trace, order: tuple[Call, ...]) -> float:
    """Each model is loaded as soon as one of its calls waits; the one before may be left earlier."""
    now, delay, resident = 0.0, 0.0, ""
    loaded: set[str] = set()
    for number, call in enumerate(order):
        model = trace.model(call.model)
        if call.model != resident:
            waits = min(other.at for other in order[number:] if other.model == call.model)
            now = max(now + UNLOAD * bool(resident), waits)
            now += model.load_s if call.model in loaded else model.cold_load_s
            loaded.add(call.model)
            resident = call.model
        took = service_s(model, call)
        now = max(now, call.at) + took
        delay += now - call.at - took
    return delay


@pytest.mark.parametrize("number", range(8))
def test_no_order_is_better_and_one_is_as_good(number: int) -> None:
    trace = generate.small(number)
    assert optimum.exact(trace, UNLOAD).delay == pytest.approx(best_of_all_orders(trace))


def test_who_may_not_let_the_card_stand_idle_serves_whoever_is_there_first() -> None:
    """One that comes a moment before three others: it is better to wait for them, if one knows that they come."""
    trace = generate.small(0)
    one, other = (replace(model, load_s=2.0, cold_load_s=2.0, prefill=1000.0, decode=10.0) for model in trace.models)
    calls = (Call("1", 0.0, one.name, 0, 100), *(Call(str(n), 0.5, other.name, 0, 10) for n in (2, 3, 4)))
    crowd = replace(trace, models=(one, other), calls=calls)
    knowing = (2.0) + (2.0 + 1.0) + (2.0 + 2.0) + (0.5 + 2.0 + 3.0 + UNLOAD + 2.0)
    eager = 2.0 + 3 * (2.0 + 10.0 + UNLOAD + 2.0 - 0.5) + 1.0 + 2.0
    assert optimum.exact(crowd, UNLOAD).delay == pytest.approx(knowing)
    assert optimum.exact(crowd, UNLOAD, is_eager=True).delay == pytest.approx(eager)


@pytest.mark.parametrize("number", range(generate.SMALL))
def test_resident_first_never_lets_the_card_stand_idle_and_is_not_below_the_best_of_those(number: int) -> None:
    trace = generate.small(number)
    eager = optimum.exact(trace, is_eager=True).delay
    assert optimum.exact(trace).delay <= eager + 1e-9
    assert report.measure(trace, run(trace, Policy(), "resident-first")).delay >= eager - 1e-9


@pytest.mark.parametrize("number", range(0, generate.SMALL, 2))
def test_the_lower_bound_is_never_above_the_optimum_and_says_something(number: int) -> None:
    trace = generate.small(number)
    best = optimum.exact(trace, UNLOAD).delay
    bound = optimum.lower_bound(trace, UNLOAD)
    assert bound <= best + 1e-9
    loads = {call.model for call in trace.calls}
    assert bound >= min(trace.model(name).load_s for name in loads)  # the first call waits for its load at least


def test_the_lower_bound_counts_loads_that_cannot_be_avoided_and_no_more() -> None:
    """Two models that do not fit together, asked for at once: the shorter goes first, the other one waits for it."""
    trace = generate.small(0)
    one, other = (replace(model, load_s=2.0, cold_load_s=2.0, prefill=1000.0, decode=10.0) for model in trace.models)
    calls = (Call("1", 0.0, one.name, 0, 30), Call("2", 0.0, other.name, 0, 10))  # 3 s and 1 s
    pair = replace(trace, models=(one, other), calls=calls)
    first, then = 2.0, 2.0 + 1.0 + UNLOAD + 2.0
    assert optimum.lower_bound(pair, UNLOAD) == pytest.approx(first + then)
    assert optimum.exact(pair, UNLOAD).delay == pytest.approx(first + then)
    assert optimum.lower_bound(replace(pair, card=one.size + other.size), UNLOAD) == pytest.approx(2 * first)


@pytest.mark.parametrize("policy", ["", *RIVALS])
@pytest.mark.parametrize("kind", ["solo", "team", "bursts"])
def test_no_policy_that_loads_whole_models_is_below_the_lower_bound(kind: str, policy: str) -> None:
    trace = generate.make(kind, 0.6, 5, hours=0.3)
    patient = replace(trace, calls=tuple(replace(call, patience=None) for call in trace.calls))
    seen = report.measure(patient, run(patient, Policy(overflow=Overflow.EVICT), policy))
    assert seen.calls == len(patient.calls)
    assert not seen.is_exact
    assert 0 < seen.bound <= seen.delay
    assert seen.regret_mean == pytest.approx((seen.delay - seen.bound) / seen.calls)
