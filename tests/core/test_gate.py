"""The gate: who closes it, who is still served behind it, and that decisions say why."""

from __future__ import annotations

import pytest

from swapd.core import queueing
from swapd.core.decision import Choice
from swapd.core.messages import Ranking
from swapd.units import GiB
from tests.core.builders import Desk, Phase, granted, started, variant

A, B = variant("a", 8 * GiB), variant("b", 8 * GiB)
WAIT = 30.0


@pytest.mark.parametrize("ranking", Ranking)
def test_all_who_waited_at_the_switch_are_served_before_the_gate_opens_again(ranking: Ranking) -> None:
    desk = Desk(max_wait=WAIT, min_residency=0.0, ranking=ranking)
    desk.serve(A, "a1")
    desk.wants(B, "b1")
    desk.wants(B, "b2")
    desk.later(WAIT)
    desk.measured()
    desk.wants(A, "a2")
    desk.ends("a1")
    desk.gone(1)
    assert started(desk.measured()) == ["b"]
    assert granted(desk.loaded(2)) == ["b1"]

    desk.later(3 * WAIT)  # b was waited for for WAIT, so it may stay three times as long
    desk.measured()
    desk.wants(B, "b3")
    assert desk.phase(2) is Phase.READY
    assert granted(desk.ends("b1")) == ["b2"]

    desk.measured()
    assert desk.phase(2) is Phase.DRAINING
    assert granted(desk.ends("b2")) == []
    desk.gone(2)
    assert started(desk.measured()) == ["a"]


def test_whoever_was_not_waited_for_leaves_as_soon_as_somebody_is_overdue() -> None:
    desk = Desk(max_wait=WAIT, min_residency=0.0)
    desk.serve(A, "a1")
    desk.wants(B, "b1")
    desk.later(WAIT - 0.1)
    desk.measured()
    assert desk.phase(1) is Phase.READY
    desk.later(0.1)
    desk.measured()
    assert desk.phase(1) is Phase.DRAINING


def test_whoever_was_waited_for_stays_three_times_as_long_though_others_are_overdue() -> None:
    desk = Desk(max_wait=WAIT, min_residency=0.0)
    desk.serve(A, "a1")
    desk.wants(B, "b1")
    desk.later(WAIT)
    desk.measured()
    desk.ends("a1")
    desk.gone(1)
    desk.measured()
    desk.loaded(2)
    desk.wants(A, "a2")
    desk.later(3 * WAIT - 0.1)
    desk.measured()
    assert desk.phase(2) is Phase.READY
    desk.later(0.1)
    desk.measured()
    assert desk.phase(2) is Phase.DRAINING


def test_others_pass_by_an_overdue_group_that_cannot_be_helped_until_it_is_pressing() -> None:
    desk = Desk(max_wait=WAIT, overflow="evict", min_residency=100.0)
    desk.serve(variant("busy", 8 * GiB), "b")
    desk.wants(variant("large", 4 * GiB), "l")
    desk.later(WAIT)
    desk.measured()
    desk.wants(variant("small", GiB // 2), "s1")
    desk.measured()
    assert desk.loads() == ["busy", "small"]
    desk.later(2 * WAIT)
    desk.measured()
    desk.wants(variant("other", GiB // 2), "o1")
    desk.measured()
    assert desk.loads() == ["busy", "small"]


def test_a_group_of_many_that_loads_soon_goes_before_an_older_one_of_few() -> None:
    desk = Desk()
    desk.serve(variant("busy", 10 * GiB), "1")
    desk.wants(variant("old", 8 * GiB), "2")
    desk.later(1.0)
    for number in range(3, 8):
        desk.wants(variant("many", 8 * GiB, slots=4), str(number))
    assert queueing.turns(desk.state) == ("many", "old")
    desk.later(WAIT)
    assert queueing.turns(desk.state) == ("old", "many")


def test_without_prices_the_older_group_goes_first() -> None:
    desk = Desk(ranking=Ranking.LRU)
    desk.serve(variant("busy", 10 * GiB), "1")
    desk.wants(variant("old", 8 * GiB), "2")
    desk.later(1.0)
    for number in range(3, 8):
        desk.wants(variant("many", 8 * GiB, slots=4), str(number))
    assert queueing.turns(desk.state) == ("old", "many")


def test_a_swap_says_who_leaves_at_what_price_and_what_would_have_avoided_it() -> None:
    desk = Desk()
    desk.idle(A)
    desk.wants(B, "1")
    desk.measured()
    swap = next(note for note in desk.notes if note.choice is Choice.EVICT)
    assert (swap.model, swap.requests, swap.resident) == ("b", ("1",), 2)
    chosen = next(each for each in swap.candidates if each.is_chosen)
    assert chosen.leaving == ("a",)
    assert {cost.what for cost in chosen.costs} == {"load", "unload", "lose a"}
    assert all(each.price is not None and each.price >= (chosen.price or 0) for each in swap.candidates)
    assert swap.avoid[0] == "6 GiB more room on cuda:0"


def test_waiting_is_told_once_for_each_reason() -> None:
    desk = Desk(overflow="evict")
    desk.serve(A, "1")
    desk.wants(B, "2")
    desk.measured()
    desk.watch()
    desk.watch()
    assert [note.reason for note in desk.notes if note.choice is Choice.WAIT] == ["waits for a to have no work"]


def test_a_rare_model_does_not_flush_one_that_is_often_wanted() -> None:
    """Of two idle ones the rare one leaves, though it was used last."""
    desk = Desk()
    hot, rare, new = variant("hot"), variant("rare"), variant("new")
    desk.idle(hot)
    for number in range(20):
        desk.wants(hot, f"h{number}")
        desk.ends(f"h{number}")
        desk.later(2.0)
    desk.idle(rare)
    desk.wants(new, "1")
    desk.measured()
    assert next(note for note in desk.notes if note.choice is Choice.EVICT).candidates[0].leaving == ("rare",)
