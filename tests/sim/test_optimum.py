"""The offline optimum, against all orders there are."""

from __future__ import annotations

from itertools import permutations

import pytest

from swapd.sim.lab import generate, optimum
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
