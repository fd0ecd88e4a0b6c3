"""What the daemon records becomes a day that can be lived again, on this card or another."""

from __future__ import annotations

from dataclasses import replace

import pytest

from swapd.core.messages import Overflow, Policy
from swapd.sim.lab import generate, recorded
from swapd.sim.lab.rivals import RIVALS
from swapd.sim.lab.run import Refused, run
from swapd.trace import Call, Trace, TraceModel
from swapd.units import FOREVER, GiB, MiB

A = TraceModel("a", 6 * GiB, 33, 1, 2.0, 2.0, 1000.0, 20.0)
B = replace(A, name="b")


def day(*calls: Call, models: tuple[TraceModel, ...] = (A, B), card: int = 10 * GiB, cards: int = 1) -> Trace:
    return Trace("day", card, 64 * GiB, models, calls, cards)


def test_who_left_had_the_models_usual_prompt_and_an_answer_as_long_as_it_went_on() -> None:
    known = [Call(str(n), n, "a", prompt, 40) for n, prompt in enumerate((100, 500, 9000))]
    queued = Call("queued", 5.0, "a", 0, 0, patience=2.0)
    cut = Call("cut", 6.0, "a", 0, 0, patience=4.0, waited_s=0.5, took_s=3.5)
    typed_over = Call("typed over", 7.0, "a", 0, 0, patience=0.3, waited_s=0.0, took_s=0.3)
    stranger = Call("stranger", 8.0, "b", 0, 0, patience=1.0)
    trace = recorded.complete(day(*known, queued, cut, typed_over, stranger))
    assert trace.calls[:3] == tuple(known)
    assert trace.calls[3:] == (
        replace(queued, prompt=500, output=40),
        replace(cut, prompt=500, output=60),  # 3 of its seconds, 20 tokens each
        replace(typed_over, prompt=500, output=1),
        replace(stranger, prompt=500, output=100),
    )


def test_models_that_nobody_called_are_left_out() -> None:
    assert recorded.complete(day(Call("1", 0.0, "b", 1, 1))).models == (B,)


def test_how_long_they_really_waited() -> None:
    calls = (
        Call("1", 0.0, "a", 1, 1, waited_s=3.0, took_s=1.0),
        Call("2", 0.0, "a", 1, 1, waited_s=0.0, took_s=1.0),
        Call("3", 0.0, "a", 0, 0, patience=9.0),
    )
    trace = replace(day(*calls), policy=Policy())
    assert recorded.waits(trace) == recorded.Waits(3, 1, 4.0, 3.0, 9.0, 9.0)
    assert recorded.waits(recorded.complete(trace)) == recorded.waits(trace)
    assert recorded.waits(generate.small(0)) is None


def test_other_cards_are_empty_but_for_the_reserve() -> None:
    trace = recorded.on_cards(day(Call("1", 0.0, "a", 1, 1)), [24 * GiB, 100 * MiB])
    assert (trace.card, trace.cards) == (24 * GiB - 512 * MiB, 2)


def test_the_latest_calls_are_a_day_of_their_own() -> None:
    trace = day(*(Call(str(n), 10.0 * n, "a", 1, 1) for n in range(5)))
    assert [(call.id, call.at) for call in recorded.latest(trace, 2).calls] == [("3", 0.0), ("4", 10.0)]
    assert recorded.latest(trace, 5) == trace


@pytest.mark.parametrize("rival", ["", *RIVALS])
def test_a_day_ends_also_where_seconds_are_coarse(rival: str) -> None:
    """A file with years in it: there is no moment between one and the next that is a nanosecond later."""
    calls = [Call(str(n), 3e8 + n * 0.37, "ab"[n % 2], 1511 + 7 * n, 71 + n) for n in range(80)]
    slots = tuple(replace(model, slots=3) for model in (A, B))
    outcome = run(day(*calls, models=slots), Policy(keep_alive=60.0), rival)
    assert {one.call.id for one in outcome.served if one.end is not None} == {call.id for call in calls}


def test_a_requests_own_keep_alive_counts() -> None:
    calls = [Call(str(n), 100.0 * n, "a", 1, 1, keep_alive=50.0 if n < 3 else FOREVER) for n in range(6)]
    assert len(run(day(*calls), Policy()).loads) == 4


def test_without_a_card_models_are_whole_on_the_host_or_nowhere() -> None:
    """What the trace calls its card is the host then: nothing can be put beside it."""
    calls = [Call(str(n), 0.1 * n, "ab"[n % 2], 100, 40) for n in range(12)]
    for overflow in Overflow:
        outcome = run(day(*calls, cards=0), Policy(overflow=overflow))
        assert {load.size for load in outcome.loads} == {A.size}
        assert all(one.end is not None for one in outcome.served)
    with pytest.raises(Refused, match="a needs 6 GiB of 5 GiB, and can only be loaded whole"):
        run(day(*calls, cards=0, card=5 * GiB))


def test_on_a_card_too_small_the_core_loads_in_part_and_others_refuse() -> None:
    calls = [Call(str(n), float(n), "a", 100, 40) for n in range(3)]
    assert 0 < run(day(*calls, card=5 * GiB)).loads[0].size <= 5 * GiB
    for rival in RIVALS:
        with pytest.raises(Refused, match="only be loaded whole"):
            run(day(*calls, card=5 * GiB), rival=rival)


def test_what_fits_nowhere_is_refused() -> None:
    huge = replace(A, size=100 * GiB)
    with pytest.raises(Refused, match="a needs"):
        run(day(Call("1", 0.0, "a", 1, 1), models=(huge,)))


def test_a_host_that_is_nearly_full_holds_what_it_can() -> None:
    """Parts on the host are never more than the trace says that there is."""
    models = tuple(replace(A, name=name, size=9 * GiB, slots=4) for name in "abc")
    calls = [Call(str(n), 0.5 * n, "abc"[n % 3], 200, 50) for n in range(60)]
    trace = replace(day(*calls, models=models), host=4 * GiB)
    outcome = run(trace, Policy(overflow=Overflow.OFFLOAD, max_wait=5.0))
    assert all(one.end is not None for one in outcome.served)
