"""What swap schedulers got wrong elsewhere, told as event sequences: the corners that no other page here has.

Each docstring begins with the scenario's number in `tests/scenarios.py`, where the plain cases are listed too.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from swapd.core.messages import GrantLease, Overflow, Ranking, RefuseRequest, RevokeLease, TimerFired
from swapd.core.model import RequestId
from swapd.units import FOREVER, GiB
from tests.core.builders import CARD, Death, Desk, Phase, granted, refused, started, stopped, variant

A, B, C = variant("a", 8 * GiB), variant("b", 8 * GiB), variant("c", 1 * GiB)
A2 = variant("a", 8 * GiB, slots=2)
WAIT = 5.0


def answers(desk: Desk, request: str) -> list[int]:
    """Which residents were granted to it, in order."""
    return [o.resident for o in desk.orders if isinstance(o, GrantLease) and o.request == request]


def settle(desk: Desk) -> None:
    """The machine does all that was ordered: measures, loads, ends."""
    for _ in range(20):
        if desk.state.is_measuring:
            desk.measured()
        for resident in desk.state.in_phases([Phase.UNLOADING]):
            desk.gone(resident.id)
        for resident in desk.state.in_phases([Phase.LOADING]):
            desk.loaded(resident.id)
        if not desk.state.is_measuring and not desk.state.in_phases([Phase.LOADING, Phase.UNLOADING]):
            return
    raise AssertionError("it never comes to rest")


# --- one resident for all who ask


@pytest.mark.parametrize("ranking", Ranking)
def test_one_load_serves_all_who_come_while_it_is_prepared(ranking: Ranking) -> None:
    """1 and B2. Told before the measurement, before the room is free, and during the load."""
    desk = Desk(ranking=ranking)
    three = variant("new", 8 * GiB, slots=3)
    desk.idle(A)
    desk.wants(three, "1")
    desk.measured()
    desk.wants(three, "2")
    desk.gone(1)
    desk.measured()
    desk.wants(three, "3")
    assert granted(desk.loaded(2)) == ["1", "2", "3"]
    assert desk.loads() == ["a", "new"]


# --- leaving has no way back


@pytest.mark.parametrize("moment", ["drains", "ends", "is gone", "newcomer loads"])
@pytest.mark.parametrize("keep_alive", [None, 0.0, FOREVER])
@pytest.mark.parametrize("ranking", Ranking)
def test_a_victim_asked_for_again_at_any_moment_of_its_leaving_leaves_all_the_same(
    moment: str, keep_alive: float | None, ranking: Ranking
) -> None:
    """6 and B1. The newcomer has its turn, then the victim's model is back as another resident."""
    desk = Desk(max_wait=WAIT, min_residency=0.0, ranking=ranking, overflow=Overflow.EVICT)
    victim = desk.serve(A, "a1")
    desk.wants(B, "b1")
    desk.later(WAIT)
    desk.measured()
    steps: dict[str, Callable[[], object]] = {
        "drains": lambda: None,
        "ends": lambda: desk.ends("a1"),
        "is gone": lambda: desk.gone(victim),
        "newcomer loads": desk.measured,
    }
    for name, happens in steps.items():
        happens()
        if name == moment:
            for number in range(5):
                assert granted(desk.wants(A, f"again {number}", keep_alive=keep_alive)) == []
    newcomer = desk.resident(B).id
    assert granted(desk.loaded(newcomer)) == ["b1"]
    assert desk.phase(victim) is Phase.GONE
    desk.ends("b1")
    settle(desk)
    assert answers(desk, "again 0") == [desk.resident(A).id]
    assert desk.resident(A).id > newcomer


def test_bystanders_are_served_in_every_step_of_a_swap() -> None:
    """8: before the victim is told, while it drains, ends and is gone, while the newcomer loads, and after it."""
    desk = Desk(max_wait=WAIT, min_residency=0.0, overflow=Overflow.EVICT)
    bystander, victim = desk.idle(C), desk.serve(A, "a1")

    def answers_at_once(request: str) -> None:
        assert granted(desk.wants(C, request)) == [request]
        assert answers(desk, request) == [bystander]
        desk.ends(request)
        if desk.state.is_measuring:
            desk.measured()

    desk.wants(B, "b1")
    answers_at_once("while it waits")
    desk.later(WAIT)
    desk.measured()
    assert desk.phase(victim) is Phase.DRAINING
    answers_at_once("while the victim drains")
    desk.ends("a1")
    answers_at_once("while it ends")
    desk.gone(victim)
    assert started(desk.measured()) == ["b"]
    answers_at_once("while the newcomer loads")
    desk.loaded(desk.resident(B).id)
    answers_at_once("after the swap")
    assert desk.phase(bystander) is Phase.READY


@pytest.mark.parametrize("slots", [1, 2, 4])
@pytest.mark.parametrize("ranking", Ranking)
def test_overlapping_traffic_of_one_model_ends_for_another_after_max_wait(slots: int, ranking: Ranking) -> None:
    """5 and 7: there is never a moment without work, and no answer is cut short. Where prices say so, after three times
    as long: those of the first lose more.
    """
    latest = WAIT if ranking is Ranking.LRU else 3 * WAIT
    desk = Desk(max_wait=WAIT, min_residency=0.0, ranking=ranking, overflow=Overflow.EVICT)
    hot = variant("hot", 8 * GiB, slots=slots)
    first = desk.serve(hot, "0")
    desk.wants(B, "b")
    number = 0
    while desk.phase(first) is not Phase.UNLOADING:
        desk.later(0.5)
        number += 1
        desk.wants(hot, str(number), keep_alive=FOREVER)
        if desk.state.is_measuring:
            desk.measured()
        if len(desk.state.leases) == slots or desk.phase(first) is Phase.DRAINING:
            desk.ends(next(iter(desk.state.leases)))
        assert desk.at <= latest + 0.5 * (slots + 1)
    assert not any(isinstance(order, RevokeLease) for order in desk.orders)
    desk.gone(first)
    assert started(desk.measured()) == ["b"]
    assert granted(desk.loaded(desk.resident(B).id)) == ["b"]


# --- keep-alive


def test_an_end_told_twice_ends_nobody_elses_answer() -> None:
    """14 and 16: two answers run and the first one's end comes three times; only that of the second lets it go."""
    desk = Desk(keep_alive=0.0)
    desk.serve(A2, "1")
    desk.wants(A2, "2")
    for _ in range(3):
        assert stopped(desk.ends("1")) == []
    assert desk.holder("2") == 1
    assert granted(desk.wants(A2, "3")) == ["3"]
    assert stopped(desk.ends("3")) == []
    assert stopped(desk.ends("2")) == [1]


def test_a_later_keep_alive_holds_whether_it_is_longer_or_shorter() -> None:
    """15: what the last granted request said counts, not the last that ended and not the largest."""
    desk = Desk()
    desk.serve(A2, "long", keep_alive=300.0)
    desk.wants(A2, "short", keep_alive=1.0)
    desk.ends("short")
    assert stopped(desk.later(10.0)) == []
    desk.ends("long")
    assert stopped(desk.later(0.9)) == []
    assert stopped(desk.later(0.1)) == [1]


def test_a_request_that_waits_for_a_slot_keeps_the_model_that_is_about_to_expire() -> None:
    """16 and 17: the last answer ends and its keep-alive is nought, but somebody waits."""
    desk = Desk(keep_alive=0.0)
    desk.serve(A, "1")
    desk.wants(A, "2")
    orders = desk.ends("1")
    assert (granted(orders), stopped(orders)) == (["2"], [])


@pytest.mark.parametrize("offset", [-1.0, -1e-9, 0.0, 1e-9, 1.0])
@pytest.mark.parametrize("is_timer_first", [True, False])
@pytest.mark.parametrize("start", [0.1, 0.7, 27.476000000000006])
def test_a_request_around_the_expiry_is_answered_once_by_a_resident_that_stays(
    offset: float, is_timer_first: bool, start: float
) -> None:
    """17 and B4: a moment before, at and after it, whichever of timer and request is told first."""
    desk = Desk(keep_alive=10.0)
    desk.at = start
    desk.serve(A, "1")
    desk.ends("1")
    desk.at = start + 10.0 + offset
    if is_timer_first:
        desk.tell(TimerFired(desk.at))
    desk.wants(A, "2")
    desk.tell(TimerFired(desk.at))
    settle(desk)
    (resident,) = answers(desk, "2")
    assert desk.phase(resident) is Phase.READY
    assert desk.holder("2") == resident
    assert refused(desk.orders) == {}
    assert len(desk.loads()) == (1 if resident == 1 else 2)
    assert resident == 1 or is_timer_first


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("times", [1, 3])
def test_an_unload_during_the_end_by_keep_alive_or_eviction_holds_up_nobody(force: bool, times: int) -> None:
    """18 and B6: the end goes on, whoever asked meanwhile is served, and the unload does not reach the newcomer."""
    desk = Desk(keep_alive=10.0)
    desk.serve(A, "1")
    desk.ends("1")
    assert stopped(desk.later(10.0)) == [1]
    for _ in range(times):
        desk.unload("a", force=force)
    desk.wants(B, "b")
    desk.wants(A, "2")
    settle(desk)
    served = next(request for request in ("b", "2") if desk.holder(request) is not None)
    desk.ends(served)
    desk.later(10.0)
    settle(desk)
    assert [len(answers(desk, request)) for request in ("b", "2")] == [1, 1]


def test_an_unload_of_a_victim_changes_nothing_about_the_swap() -> None:
    """18: the operator's unload and the eviction of one resident meet in either order."""
    for unload_first in (True, False):
        desk = Desk(max_wait=WAIT, min_residency=0.0, overflow=Overflow.EVICT)
        desk.serve(A, "1")
        desk.wants(B, "2")
        desk.measured()
        if unload_first:
            desk.unload("a")
        desk.later(WAIT)
        if desk.state.is_measuring:
            desk.measured()
        if not unload_first:
            desk.unload("a")
        assert desk.phase(1) is Phase.DRAINING
        assert stopped(desk.ends("1")) == [1]
        settle(desk)
        assert desk.holder("2") == desk.resident(B).id


# --- callers that go away


def test_a_caller_that_leaves_while_the_victim_drains_lets_the_victims_model_come_back() -> None:
    """21: the drain goes on, nothing is loaded for the one who left, and those behind the gate are served."""
    desk = Desk(max_wait=WAIT, min_residency=0.0, overflow=Overflow.EVICT)
    desk.serve(A, "a1")
    desk.wants(B, "b1")
    desk.later(WAIT)
    desk.measured()
    desk.wants(A, "a2")
    assert desk.phase(1) is Phase.DRAINING
    desk.ends("b1")
    assert stopped(desk.ends("a1")) == [1]
    settle(desk)
    assert desk.loads() == ["a", "a"]
    assert desk.holder("a2") == desk.resident(A).id


def test_a_caller_that_leaves_before_anything_was_ordered_for_it_leaves_no_trace() -> None:
    """19, 21 and B5: the measurement that was ordered for it comes, and starts nothing and ends nobody."""
    desk = Desk()
    victim = desk.idle(A)
    desk.wants(B, "1")
    desk.ends("1")
    assert desk.measured() == []
    assert desk.phase(victim) is Phase.READY
    assert desk.state.waiting == {}


def test_a_load_that_is_under_way_when_the_last_caller_leaves_ends_up_idle_and_expires() -> None:
    """19 and 20: it is not wasted, and nobody holds it."""
    desk = Desk(keep_alive=10.0)
    desk.wants(A, "1")
    desk.measured()
    desk.ends("1")
    assert granted(desk.loaded(1)) == []
    assert granted(desk.wants(A, "2")) == ["2"]
    desk.ends("2")
    assert stopped(desk.later(10.0)) == [1]


def test_each_of_three_who_wait_for_a_load_may_leave_and_the_others_are_served() -> None:
    """20: first, second or last, before and after the load failed once."""
    for leaver in "123":
        for fails in (False, True):
            desk = Desk()
            three = variant("a", slots=3)
            for number in "123":
                desk.wants(three, number)
            desk.measured()
            if fails:
                desk.died(1)
            desk.ends(leaver)
            settle(desk)
            assert [number for number in "123" if desk.holder(number) is not None] == [n for n in "123" if n != leaver]
            assert refused(desk.orders) == {}


def test_a_place_in_a_full_queue_is_free_again_whichever_way_somebody_left_it() -> None:
    """19 and 22: granted, gone away, refused."""
    desk = Desk(max_queue=1, host=GiB)
    desk.serve(A, "1")
    desk.wants(A, "waits")
    assert refused(desk.wants(C, "one too many")) == {"one too many": "overloaded"}
    desk.ends("waits")
    assert refused(desk.wants(A, "waits again")) == {}
    assert granted(desk.ends("1")) == ["waits again"]
    assert refused(desk.wants(variant("huge", 11 * GiB), "huge")) == {}
    assert refused(desk.measured()) == {"huge": "does not fit"}
    assert refused(desk.wants(A, "and again")) == {}
    assert refused(desk.wants(C, "too many again")) == {"too many again": "overloaded"}


# --- newcomers, victims, others


@pytest.mark.parametrize("ranking", Ranking)
def test_where_everybody_is_overdue_at_once_each_newcomer_still_serves_before_it_leaves(ranking: Ranking) -> None:
    """B3: no wait and no residency is guaranteed, and still nobody is loaded for nothing."""
    desk = Desk(max_wait=0.0, min_residency=0.0, ranking=ranking, overflow=Overflow.EVICT)
    models = [variant(name, 8 * GiB) for name in "abc"]
    for number in range(4):
        for model in models:
            desk.wants(model, f"{model.name}{number}")
    served: list[str] = []
    for _ in range(60):
        settle(desk)
        held = [str(request) for request in desk.state.leases]
        for request in held:
            desk.ends(request)
        served += held
    assert sorted(served) == sorted(f"{name}{number}" for name in "abc" for number in range(4))
    users = {answers(desk, request)[0] for request in served}
    assert users == set(range(1, len(desk.loads()) + 1))


@pytest.mark.parametrize("ranking", Ranking)
def test_requests_for_two_models_in_turn_make_two_loads_and_keep_their_order(ranking: Ranking) -> None:
    """30: they come one by one, half a second apart, while the first of them is answered."""
    desk = Desk(ranking=ranking, overflow=Overflow.EVICT)
    desk.serve(A, "a0")
    for number in range(3):
        if number:
            desk.later(0.5)
            desk.wants(A, f"a{number}")
        desk.later(0.5)
        desk.wants(B, f"b{number}")
    order: list[str] = []
    while desk.state.leases or desk.state.waiting:
        settle(desk)
        (held,) = desk.state.leases
        order.append(held)
        desk.later(1.0)
        desk.ends(held)
    assert order == ["a0", "a1", "a2", "b0", "b1", "b2"]
    assert desk.loads() == ["a", "b"]


def loads_beside_a_rare_model(ranking: Ranking, rounds: int) -> list[str]:
    """What is loaded when three models that fill the card are asked in turn, and a fourth every tenth time."""
    desk = Desk(total=12 * GiB, ranking=ranking, overflow=Overflow.EVICT)
    for turn in range(rounds):
        for name in ("h1", "h2", "h3", *(["rare"] if turn % 10 == 9 else [])):
            desk.wants(variant(name), f"{name} {turn}")
            settle(desk)
            desk.ends(f"{name} {turn}")
            desk.later(2.0)
    return desk.loads()


def test_a_rare_model_costs_its_own_load_and_one_more_and_sets_off_no_chain_of_evictions() -> None:
    """B9: by last use alone each returning model would drive out the next that is wanted."""
    priced, by_use = (loads_beside_a_rare_model(ranking, 60) for ranking in (Ranking.COST, Ranking.LRU))
    assert priced.count("rare") == by_use.count("rare") == 6
    returns, chained = (len(loads) - 3 - 6 for loads in (priced, by_use))
    assert returns <= 6
    assert chained == 3 * returns


@pytest.mark.parametrize("cause", [Death.CRASHED, Death.OUT_OF_MEMORY])
def test_every_answer_of_a_dead_worker_is_told_and_the_next_request_gets_another(cause: Death) -> None:
    """25 and 32: two ran and one waited; told twice it is told once, and the neighbour goes on."""
    desk = Desk()
    neighbour = desk.serve(C, "c1")
    dead = desk.serve(A2, "1")
    desk.wants(A2, "2")
    desk.wants(A2, "3")
    orders = desk.died(dead, cause) + desk.died(dead, cause)
    assert [order.request for order in orders if isinstance(order, RevokeLease)] == ["1", "2"]
    assert refused(orders) == {}
    for number in "12":
        assert desk.ends(number) == []
    settle(desk)
    assert desk.holder("3") == desk.resident(A2).id != dead
    assert granted(desk.wants(A2, "4")) == ["4"]
    assert (desk.phase(neighbour), desk.holder("c1")) == (Phase.READY, neighbour)


@pytest.mark.parametrize("ranking", Ranking)
@pytest.mark.parametrize("overflow", Overflow)
def test_a_wish_for_no_layers_on_the_card_ends_nobody_there(ranking: Ranking, overflow: Overflow) -> None:
    """34: asked for by the request, with the card full of idle models and even when it has waited too long."""
    desk = Desk(ranking=ranking, overflow=overflow, max_wait=0.0, min_residency=0.0)
    at_work, idle = desk.serve(variant("w", 5 * GiB), "w1"), desk.idle(variant("i", 5 * GiB))
    desk.wants(A, "load", slotless=True, gpu_layers=0)
    settle(desk)
    assert granted(desk.orders)[-1:] == ["load"]
    assert (desk.resident(A).placement.gpu_layers, desk.resident(A).footprint[CARD]) == (0, 0)
    assert (desk.phase(at_work), desk.phase(idle)) == (Phase.READY, Phase.READY)


def test_what_could_not_run_with_everybody_gone_is_refused_in_the_step_that_sees_it() -> None:
    """13: with one at work, one idle and one that loads; all three are as they were."""
    desk = Desk(host=GiB)
    desk.serve(variant("w", 2 * GiB), "w1")
    desk.idle(variant("i", 2 * GiB))
    desk.wants(variant("l", 2 * GiB), "l1")
    desk.measured()
    phases = {r.id: r.phase for r in desk.state.residents.values()}
    desk.at += 1.0
    desk.wants(variant("huge", 11 * GiB), "1")
    (order,) = [o for o in desk.measured() if isinstance(o, RefuseRequest)]
    assert order.request == RequestId("1")
    assert (order.device, order.needed, order.available) == (CARD, 11 * GiB, 10 * GiB)
    assert {r.id: r.phase for r in desk.state.residents.values()} == phases


@pytest.mark.parametrize("comes_back", [True, False])
def test_late_memory_is_waited_for_by_whoever_needs_it_and_by_nobody_else(comes_back: bool) -> None:
    """27 and B7: the newcomer stands back until the end is told; a small one beside it does not."""
    desk = Desk(overflow=Overflow.EVICT)
    victim = desk.idle(A)
    desk.wants(B, "1")
    assert stopped(desk.measured()) == [victim]
    desk.wants(C, "2")
    for _ in range(3):
        desk.later(1.0)
        assert "b" not in started(desk.watch())
    assert desk.phase(victim) is Phase.UNLOADING
    desk.foreign[CARD] = 0 if comes_back else 5 * GiB
    desk.gone(victim)
    settle(desk)
    assert desk.holder("1") == desk.resident(B).id
    layers = desk.resident(B).placement
    assert (layers.gpu_layers == layers.layers) is comes_back
