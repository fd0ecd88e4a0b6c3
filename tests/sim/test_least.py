"""What no schedule avoids: never above what policies that load whole models do, and not nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from swapd.core.messages import Overflow, Policy
from swapd.sim.lab import generate, least, report
from swapd.sim.lab.rivals import RIVALS
from swapd.sim.lab.run import run
from swapd.trace import Call, Trace


def patient(kind: str, seed: int) -> Trace:
    trace = generate.make(kind, 0.7, seed, hours=0.4)
    return replace(trace, calls=tuple(replace(call, patience=None) for call in trace.calls))


@pytest.mark.parametrize("policy", ["", *RIVALS])
@pytest.mark.parametrize("kind", generate.KINDS)
def test_no_policy_that_loads_whole_models_is_below_the_least(kind: str, policy: str) -> None:
    for seed in (3, 4):
        trace = patient(kind, seed)
        seen = report.measure(trace, run(trace, Policy(overflow=Overflow.EVICT), policy), bounded=False)
        assert least.longest_wait(trace) <= seen.wait_max + 1e-6
        assert least.swaps(trace, seen.wait_max) <= seen.swaps


def pair(*asked: tuple[float, str]) -> Trace:
    """Two models that do not fit together, loaded in 2 s, the first time in 5; an answer takes 1 s."""
    trace = generate.small(0)
    models = tuple(
        replace(model, load_s=2.0, cold_load_s=5.0, prefill=1000.0, decode=10.0) for model in trace.models[:2]
    )
    names = {"a": models[0].name, "b": models[1].name}
    calls = tuple(Call(str(n), at, names[name], 0, 10, f"s{n}") for n, (at, name) in enumerate(asked))
    return replace(trace, models=models, calls=calls)


def test_whoever_comes_first_waits_for_a_cold_load() -> None:
    assert least.longest_wait(pair((0.0, "a"), (100.0, "a"))) == pytest.approx(5.0)


def test_of_two_at_once_one_waits_for_the_other_and_a_load() -> None:
    once = pair((0.0, "a"), (100.0, "b"), (200.0, "a"), (200.0, "b"))
    assert least.longest_wait(once) == pytest.approx(5.0)
    assert least.longest_wait(pair((0.0, "a"), (0.0, "b"))) == pytest.approx(5.0 + 1.0 + 0.3 + 2.0)


def test_models_that_are_asked_for_by_turns_swap_each_time_unless_somebody_may_wait() -> None:
    turns = pair(*((100.0 * n, "ab"[n % 2]) for n in range(8)))
    assert least.swaps(turns, 10.0) == 7
    assert least.swaps(turns, 1000.0) <= 1


def test_models_that_fit_together_need_no_swap() -> None:
    turns = pair(*((100.0 * n, "ab"[n % 2]) for n in range(8)))
    assert least.swaps(replace(turns, card=2 * turns.card), 10.0) == 0
