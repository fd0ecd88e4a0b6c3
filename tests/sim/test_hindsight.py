"""Whether anybody could have waited less: against all orders there are on small days, and on the card itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from swapd.core.messages import Policy
from swapd.sim.lab import generate, report
from swapd.sim.lab.card import UNLOAD
from swapd.sim.lab.hindsight import Answer, shorter
from swapd.sim.lab.orders import Deed, Order
from swapd.sim.lab.run import follow, run
from swapd.trace import Call, Trace, service_s


def waits_of(trace: Trace, orders: tuple[Order, ...]) -> float:
    return report.measure(trace, follow(trace, orders), bounded=False).wait_max


def least_of_all_orders(trace: Trace) -> float:
    """Of one model on the card and one slot: what the longest wait is if one always does something for who waits."""
    calls = trace.calls

    def go_on(now: float, there: str, read: frozenset[str], left: tuple[int, ...]) -> float:
        if not left:
            return 0.0
        waiting = [number for number in left if calls[number].at <= now]
        if not waiting:
            return go_on(calls[left[0]].at, there, read, left)
        first = {calls[number].model: number for number in reversed(waiting)}
        found = []
        if there in first:
            found.append(serve(now, first[there], read, left))
        if there and any(name != there for name in first):
            found.append(go_on(now + UNLOAD, "", read, left))
        for name, number in first.items() if not there else ():
            model = trace.model(name)
            ready = now + (model.load_s if name in read else model.cold_load_s)
            found.append(serve(ready, number, read | {name}, left))
        return min(found)

    def serve(now: float, number: int, read: frozenset[str], left: tuple[int, ...]) -> float:
        call = calls[number]
        end = now + service_s(trace.model(call.model), call)
        rest = go_on(end, call.model, read, tuple(other for other in left if other != number))
        return max(now - call.at, rest)

    return go_on(0.0, "", frozenset(), tuple(range(len(calls))))


@pytest.mark.parametrize("number", range(generate.SMALL))
def test_a_shorter_longest_wait_is_found_just_where_some_order_has_one(number: int) -> None:
    trace = generate.small(number)
    least = least_of_all_orders(trace)
    assert shorter(trace, least) is Answer.NOBODY
    orders = shorter(trace, least + 1e-3)
    assert not isinstance(orders, Answer)
    assert waits_of(trace, orders) == pytest.approx(least, abs=1e-3)


@pytest.mark.parametrize("kind", generate.KINDS)
@pytest.mark.parametrize("share", [0.95, 1.2])
def test_what_is_found_is_so_on_the_card_itself(kind: str, share: float) -> None:
    trace = generate.make(kind, 0.6, 7, hours=0.3)
    limit = share * report.measure(trace, run(trace, Policy(), "resident-first"), bounded=False).wait_max
    orders = shorter(trace, limit)
    if isinstance(orders, Answer):
        assert share < 1
    else:
        assert waits_of(trace, orders) < limit
        patient = [call.id for call in trace.calls if call.patience is None]
        assert set(patient) <= {order.what for order in orders if order.deed is Deed.GRANT}


@pytest.mark.parametrize("kind", generate.KINDS)
def test_who_keeps_the_rules_is_never_said_to_be_impossible(kind: str) -> None:
    """Resident-first lets nobody wait beside an idle card, and all the others do as its rules say."""
    for seed in (3, 4, 5):
        trace = generate.make(kind, 0.4, seed, hours=0.3)
        seen = report.measure(trace, run(trace, Policy(), "resident-first"), bounded=False)
        assert shorter(trace, seen.wait_max + 1e-3) is not Answer.NOBODY


def pair(*asked: tuple[float, str, int]) -> Trace:
    """Two models that do not fit together, loaded in 2 s, the first time in 5; ten tokens of answer take 1 s."""
    trace = generate.small(0)
    models = tuple(
        replace(model, load_s=2.0, cold_load_s=5.0, prefill=1000.0, decode=10.0, slots=2) for model in trace.models[:2]
    )
    names = {"a": models[0].name, "b": models[1].name}
    calls = tuple(Call(str(n), at, names[name], 0, 10 * s, f"s{n}") for n, (at, name, s) in enumerate(asked))
    return replace(trace, models=models, calls=calls)


def test_nobody_puts_off_who_waits_beside_an_idle_card_for_one_who_is_to_come() -> None:
    """The second call comes just after the load for the first has begun, whose answer is long."""
    late = pair((0.0, "a", 20), (0.5, "b", 1))
    waits = 5.0 + 20.0 + UNLOAD + 5.0 - 0.5
    assert shorter(late, waits) is Answer.NOBODY
    assert not isinstance(shorter(late, waits + 1e-3), Answer)


def test_a_gate_that_closes_in_time_keeps_the_wait_short() -> None:
    """A second long answer, begun beside the first one while somebody waits, is what it takes to wait for."""
    gated = pair((0.0, "a", 10), (6.0, "b", 1), (14.0, "a", 50))
    waits = (5.0 + 10.0) + UNLOAD + 5.0 - 6.0
    assert run_max(gated) > waits + 30.0
    assert shorter(gated, waits) is Answer.NOBODY
    orders = shorter(gated, waits + 1e-3)
    assert not isinstance(orders, Answer)
    assert waits_of(gated, orders) == pytest.approx(waits)


def run_max(trace: Trace) -> float:
    return report.measure(trace, run(trace, Policy(), "resident-first"), bounded=False).wait_max


def test_who_may_not_look_at_more_says_that_it_does_not_know() -> None:
    assert shorter(pair((0.0, "a", 20), (0.5, "b", 1)), 100.0, most=2) is Answer.UNKNOWN


def test_what_was_long_before_need_not_be_looked_through_to_know_that_nobody_waits_less() -> None:
    """By turns in quiet hours there are many ways to go; at the end a model is asked for that nobody has read."""
    trace = generate.make("bursts", 0.3, 22, hours=0.4)
    later = trace.duration + 200.0
    rare = next(model for model in trace.models if model.name not in {call.model for call in trace.calls})
    calls = (*trace.calls, Call("rare", later, rare.name, 100, 10, "rare"))
    trace = replace(trace, calls=calls, card=max(trace.card, rare.size))
    limit = rare.cold_load_s  # if there is room at once
    assert shorter(trace, limit, most=2000) is Answer.NOBODY
