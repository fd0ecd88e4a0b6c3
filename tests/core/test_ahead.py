"""What is done before anybody asks: who is expected, when it is loaded or read ahead, and how it gives way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from swapd.core import costs, foresee
from swapd.core.messages import (
    CatalogChanged,
    Command,
    FilesSeen,
    FileWarmed,
    PolicyChanged,
    StartWorker,
    StopWarming,
    UnloadRequested,
    WarmFile,
    WorkerLoaded,
)
from swapd.core.model import ResidentId, Tier, Variant, VariantId
from swapd.core.succession import MODELS, SUCCESSORS, Succession
from swapd.units import GiB, MiB
from tests.core.builders import (
    CARD,
    HOST,
    MEASURE,
    OTHER_CARD,
    Death,
    Desk,
    granted,
    refused,
    started,
    stopped,
    variant,
)

A, B, C = variant("a", 4 * GiB), variant("b", 4 * GiB), variant("c", 4 * GiB)
LARGE = variant("large", 8 * GiB)


def habit(desk: Desk, *, times: int = 2) -> None:
    """A, then B, so many times; A at last. Of them only A is there, and there is room for B."""
    for turn in range(times):
        for wanted in (A, B):
            use(desk, wanted, f"{wanted.name}{turn}")
    desk.died(desk.resident(B).id)
    desk.gone(desk.resident(B).id)
    use(desk, A, "last")


def use(desk: Desk, wanted: Variant, request: str) -> None:
    """It answers for ten seconds, loaded for that if it is not there."""
    desk.wants(wanted, request)
    if desk.holder(request) is None:
        desk.measured()
        for resident in tuple(desk.state.residents.values()):
            if resident.retired is not None:
                desk.gone(resident.id)
                desk.measured()
        desk.loaded(desk.resident(wanted).id)
    desk.later(10.0)
    desk.ends(request)


def warmed(orders: list[Command]) -> list[tuple[str, int]]:
    return [(order.variant.name, order.size) for order in orders if isinstance(order, WarmFile)]


def test_the_model_that_follows_is_loaded_before_it_is_asked_for() -> None:
    desk = Desk(prefetch=True)
    habit(desk)
    assert started(desk.watch()) == ["b"]
    desk.loaded(desk.resident(B).id)
    assert granted(desk.wants(B, "next")) == ["next"]
    assert not desk.resident(B).is_foreseen


def test_it_is_loaded_while_the_one_before_it_answers() -> None:
    desk = Desk(prefetch=True)
    for turn in range(2):
        use(desk, A, f"a{turn}")
        use(desk, B, f"b{turn}")
    desk.died(desk.resident(B).id)
    desk.gone(desk.resident(B).id)
    assert MEASURE in desk.wants(A, "again")
    assert started(desk.measured()) == ["b"]
    assert desk.holder("again") is not None


def test_nothing_is_loaded_ahead_where_the_owner_does_not_want_it() -> None:
    desk = Desk(prefetch=False)
    habit(desk)
    assert started(desk.watch()) == []


def test_what_was_seen_once_is_no_habit() -> None:
    desk = Desk(prefetch=True)
    habit(desk, times=1)
    assert started(desk.watch()) == []


def test_of_two_that_follow_equally_often_neither_is_loaded() -> None:
    desk = Desk(prefetch=True, total=14 * GiB)
    for turn in range(6):
        use(desk, A, f"a{turn}")
        use(desk, (B, C)[turn % 2], f"{turn}")
    for gone in (B, C):
        desk.died(desk.resident(gone).id)
        desk.gone(desk.resident(gone).id)
    use(desk, A, "last")
    assert started(desk.watch()) == []


def test_nobody_is_evicted_for_a_guess() -> None:
    desk = Desk(prefetch=True)
    for turn in range(2):
        use(desk, A, f"a{turn}")
        use(desk, LARGE, f"l{turn}")
    use(desk, A, "last")
    assert desk.watch() == []


def test_a_guess_is_loaded_wholly_or_not_at_all() -> None:
    desk = Desk(prefetch=True)
    habit(desk)
    desk.foreign[CARD] = 3 * GiB
    assert desk.watch() == []


def test_max_loaded_counts_guesses_too() -> None:
    desk = Desk(prefetch=True, max_loaded=1)
    for turn in range(2):
        use(desk, A, f"a{turn}")
        use(desk, B, f"b{turn}")
    use(desk, A, "last")
    assert desk.watch() == []


@pytest.mark.parametrize("is_loaded", [False, True])
def test_a_guess_leaves_at_once_for_whoever_needs_its_room(is_loaded: bool) -> None:
    """And before anybody else, though it was loaded last."""
    desk = Desk(prefetch=True)
    habit(desk)
    desk.watch()
    guess = desk.resident(B).id
    if is_loaded:
        desk.loaded(guess)
    assert stopped(desk.wants(C, "1") + (desk.measured() if desk.state.is_measuring else [])) == [guess]
    assert granted(desk.wants(A, "2")) == ["2"]
    desk.gone(guess)
    assert started(desk.measured()) == ["c"]


def test_a_guess_that_loads_is_stopped_for_a_load_on_its_card_though_both_fit() -> None:
    desk = Desk(prefetch=True, total=14 * GiB)
    habit(desk)
    desk.watch()
    guess = desk.resident(B).id
    orders = desk.wants(C, "1") + desk.measured()
    assert stopped(orders) == [guess]
    assert started(orders) == ["c"]


def test_a_guess_that_is_there_stays_where_a_newcomer_fits_beside_it() -> None:
    desk = Desk(prefetch=True, total=14 * GiB)
    habit(desk)
    desk.watch()
    desk.loaded(desk.resident(B).id)
    orders = desk.wants(C, "1") + (desk.measured() if desk.state.is_measuring else [])
    assert stopped(orders) == []
    assert started(orders) == ["c"]


def test_a_guess_on_another_card_goes_on_loading() -> None:
    desk = Desk(prefetch=True, cards=(CARD, OTHER_CARD), total=5 * GiB)
    use(desk, C, "so that its size is known")
    desk.died(desk.resident(C).id)
    desk.gone(desk.resident(C).id)
    habit(desk)
    desk.cards[OTHER_CARD] = 9 * GiB
    desk.watch()
    guess = desk.resident(B)
    assert guess.placement.devices == (OTHER_CARD,)
    desk.died(desk.resident(A).id)
    desk.gone(desk.resident(A).id)
    desk.foreign[OTHER_CARD] = 5 * GiB
    orders = desk.wants(C, "1") + (desk.measured() if desk.state.is_measuring else [])
    assert stopped(orders) == []
    assert started(orders) == ["c"]


def test_nobody_is_refused_for_a_guess() -> None:
    desk = Desk(prefetch=True)
    habit(desk)
    desk.watch()
    desk.loaded(desk.resident(B).id)
    desk.wants(variant("huge", 10 * GiB), "1")
    assert refused(desk.measured()) == {}


def test_a_guess_gives_way_to_other_programs_before_anybody_else() -> None:
    desk = Desk(prefetch=True, vram_reserve=1 * GiB, total=11 * GiB)
    habit(desk)
    desk.watch()
    guess = desk.resident(B).id
    desk.loaded(guess)
    desk.measured()
    desk.foreign[CARD] = 3 * GiB
    assert stopped(desk.watch()) == [guess]


def test_a_guess_does_not_count_as_used_and_expires() -> None:
    desk = Desk(prefetch=True, keep_alive=100.0)
    habit(desk)
    desk.watch()
    guess = desk.resident(B).id
    desk.loaded(guess)
    desk.wants(A, "long")
    assert stopped(desk.later(99.0)) == []
    assert stopped(desk.later(1.0)) == [guess]


def test_after_a_guess_in_vain_the_next_is_made_with_less_faith() -> None:
    desk = Desk(prefetch=True, keep_alive=100.0)
    habit(desk)
    before = foresee.expected(desk.state)
    desk.watch()
    guess = desk.resident(B).id
    desk.loaded(guess)
    desk.wants(A, "long")
    desk.later(100.0)
    desk.gone(guess)
    after = foresee.expected(desk.state)
    assert before is not None
    assert after is not None
    assert after[1] < before[1]
    assert desk.watch() == []


def test_a_guess_whose_load_fails_is_not_tried_again_and_again() -> None:
    desk = Desk(prefetch=True)
    habit(desk)
    desk.watch()
    guess = desk.resident(B).id
    assert stopped(desk.died(guess, Death.UNUSABLE)) == [guess]
    desk.gone(guess)
    assert desk.watch() == []
    assert desk.watch() == []


@pytest.mark.parametrize("is_loaded", [False, True])
def test_what_was_unloaded_by_hand_is_not_loaded_ahead_until_it_is_asked_for_again(is_loaded: bool) -> None:
    desk = Desk(prefetch=True)
    habit(desk)
    if is_loaded:
        desk.watch()
        guess = desk.resident(B).id
        assert stopped(desk.tell(UnloadRequested(desk.at, B.id))) == [guess]
        desk.gone(guess)
    else:
        desk.unload("b")
    use(desk, A, "once more")
    assert desk.watch() == []


def test_what_is_not_to_stay_is_not_loaded_ahead() -> None:
    """Whoever says keep_alive 0 wants it to be gone."""
    desk = Desk(prefetch=True)
    for turn in range(3):
        use(desk, A, f"a{turn}")
        desk.wants(B, f"b{turn}", keep_alive=0.0)
        desk.measured()
        desk.loaded(desk.resident(B).id)
        desk.ends(f"b{turn}")
        desk.gone(desk.resident(B).id)
    use(desk, A, "last")
    assert desk.watch() == []


def test_what_would_be_gone_before_it_is_asked_for_is_not_loaded_ahead() -> None:
    """It follows after 100 seconds, and its keep-alive is 50."""
    desk = Desk(prefetch=True)
    for turn in range(3):
        use(desk, A, f"a{turn}")
        desk.later(90.0)
        desk.wants(B, f"b{turn}", owner_keep_alive=50.0)
        desk.measured()
        desk.loaded(desk.resident(B).id)
        desk.ends(f"b{turn}")
        desk.later(50.0)
        desk.gone(desk.resident(B).id)
    use(desk, A, "last")
    assert desk.watch() == []


def test_a_guess_that_is_pinned_stays() -> None:
    desk = Desk(prefetch=True)
    habit(desk)
    desk.watch()
    desk.loaded(desk.resident(B).id)
    desk.pin("b")
    desk.wants(C, "1")
    assert stopped(desk.measured()) == [desk.resident(A).id]


def test_a_guess_leaves_when_guessing_is_switched_off() -> None:
    desk = Desk(prefetch=True)
    habit(desk)
    desk.watch()
    guess = desk.resident(B).id
    desk.loaded(guess)
    assert stopped(desk.tell(PolicyChanged(desk.at, replace(desk.policy, prefetch=False)))) == [guess]


def test_without_a_card_a_guess_waits_until_answers_are_done_and_stops_for_the_next_one() -> None:
    """It loads with the cores that compute."""
    desk = Desk(cards=(), prefetch=True)
    habit(desk)
    desk.wants(A, "busy")
    assert desk.watch() == []
    assert started(desk.ends("busy")) == ["b"]
    orders = desk.wants(A, "next")
    assert granted(orders) == ["next"]
    assert stopped(orders) == [desk.resident(B).id]


def test_a_model_that_is_no_more_is_not_expected() -> None:
    desk = Desk(prefetch=True)
    habit(desk)
    desk.tell(CatalogChanged(desk.at, frozenset({A.id})))
    assert desk.watch() == []


def test_what_is_known_of_habits_is_bounded() -> None:
    succession = Succession()
    for number in range(10 * MODELS):
        succession = succession.asked(variant(f"m{number * 7919 % (3 * MODELS)}"), None, float(number))
        succession = succession.asked(A, None, float(number))
    assert len(succession.habits) <= MODELS
    assert len(succession.habits[A.id].followers) <= SUCCESSORS


# --- files


def see(desk: Desk, of: Variant, share: float) -> list[Command]:
    return desk.tell(FilesSeen(desk.at, ((of.id, share),)))


def test_the_file_that_is_loaded_next_is_read_while_the_one_in_its_way_leaves() -> None:
    desk = Desk()
    desk.serve(LARGE, "1")
    desk.ends("1")
    see(desk, C, 0.0)
    desk.wants(C, "2")
    orders = desk.measured()
    assert stopped(orders) == [1]
    assert warmed(orders) == [("c", 4 * GiB)]
    desk.gone(1)
    orders = desk.measured()
    assert orders.index(StopWarming()) > [isinstance(order, StartWorker) for order in orders].index(True)


def test_while_those_at_work_are_waited_for_the_file_of_whoever_waits_longest_is_read() -> None:
    desk = Desk(prefetch=True)
    desk.serve(LARGE, "1")
    see(desk, B, 0.0)
    see(desk, C, 0.0)
    assert warmed(desk.wants(C, "2") + desk.measured()) == [("c", 4 * GiB)]
    desk.later(1.0)
    assert warmed(desk.wants(B, "3") + desk.measured()) == []
    assert warmed(desk.tell(FileWarmed(desk.at, C.id, 1.0)) + desk.watch()) == [("b", 4 * GiB)]


def test_nothing_is_read_meanwhile_where_the_owner_does_not_want_it() -> None:
    desk = Desk(prefetch=False)
    desk.serve(LARGE, "1")
    see(desk, C, 0.0)
    assert warmed(desk.wants(C, "2") + desk.measured()) == []


def test_a_file_that_is_there_is_not_read() -> None:
    desk = Desk()
    desk.serve(LARGE, "1")
    desk.ends("1")
    see(desk, C, 1.0)
    desk.wants(C, "2")
    assert warmed(desk.measured()) == []


def test_the_file_that_is_likely_next_is_read_when_nobody_waits() -> None:
    """Already after having seen it once, and though there is no room to load it."""
    desk = Desk(prefetch=True)
    for wanted in (A, LARGE, A):
        use(desk, wanted, f"{wanted.name}{desk.at}")
    assert warmed(see(desk, LARGE, 0.25)) == [("large", 8 * GiB)]
    assert warmed(desk.watch()) == []
    desk.tell(FileWarmed(desk.at, LARGE.id, 0.5))
    assert warmed(desk.watch()) == []


@pytest.mark.parametrize(
    ("policy", "free", "read"),
    [
        ({}, 60, 8),
        ({"warm_cache": 2 * GiB}, 60, 2),
        ({"host_reserve": 57 * GiB}, 60, 3),
        ({}, 5, 5),
        ({"warm_cache": 0}, 60, 0),
        ({"prefetch": False}, 60, 0),
    ],
)
def test_reading_ahead_takes_no_memory_that_is_wanted(policy: dict[str, Any], free: int, read: int) -> None:
    desk = Desk(host=61 * GiB, **{"prefetch": True, **policy})
    for wanted in (A, LARGE, A):
        use(desk, wanted, f"{wanted.name}{desk.at}")
    held = sum(r.takes(HOST) for r in desk.state.residents.values())
    desk.foreign[HOST] = 61 * GiB - held - free * GiB
    desk.watch()
    assert warmed(see(desk, LARGE, 0.0)) == ([("large", read * GiB)] if read else [])


def test_reading_ahead_ends_when_memory_gets_short_and_when_somebody_loads() -> None:
    for happens in ("short", "load"):
        desk = Desk(prefetch=True)
        for wanted in (A, LARGE, A):
            use(desk, wanted, f"{wanted.name}{desk.at}")
        assert warmed(see(desk, LARGE, 0.0))
        if happens == "short":
            desk.foreign[HOST] = desk.host
            assert StopWarming() in desk.watch()
        else:
            orders = desk.wants(C, "1") + desk.measured()
            assert StopWarming() in orders
            assert started(orders) == ["c"]


def name(desk: Desk, *named: Variant) -> list[Command]:
    known = frozenset(each.id for each in (A, B, C, LARGE))
    return desk.tell(CatalogChanged(desk.at, known, named))


def unread(desk: Desk, *files: Variant) -> list[Command]:
    return desk.tell(FilesSeen(desk.at, tuple((each.id, 0.0) for each in files)))


def read(desk: Desk, of: Variant, share: float = 1.0) -> list[Command]:
    return desk.tell(FileWarmed(desk.at, of.id, share))


def test_what_the_owner_has_named_is_read_when_there_is_nothing_to_do_the_smallest_first() -> None:
    desk = Desk(prefetch=True)
    desk.watch()
    assert name(desk, LARGE, A, B) == []  # nobody has looked yet how much of them is there
    assert warmed(unread(desk, LARGE, A, B)) == [("a", 4 * GiB)]
    assert warmed(read(desk, A)) == [("b", 4 * GiB)]
    assert warmed(read(desk, B)) == [("large", 8 * GiB)]
    assert warmed(read(desk, LARGE)) == []


def test_what_was_asked_for_lately_is_read_before_what_is_only_named() -> None:
    desk = Desk(prefetch=True)
    use(desk, LARGE, "1")
    use(desk, C, "2")  # for which the large one has left
    name(desk, A)
    assert warmed(unread(desk, A, LARGE, B)) == [("large", 8 * GiB)]
    assert warmed(read(desk, LARGE)) == [("a", 4 * GiB)]
    assert warmed(read(desk, A)) == []


@pytest.mark.parametrize(
    ("policy", "files"),
    [
        ({}, ["a", "b", "large"]),
        ({"warm_cache": 11 * GiB}, ["a", "b"]),
        ({"warm_cache": 7 * GiB}, ["a"]),
        ({"warm_cache": 0}, []),
        ({"host_reserve": 54 * GiB}, ["a", "b"]),
        ({"prefetch": False}, []),
    ],
)
def test_as_many_files_are_read_as_there_is_room_for_beside_each_other(
    policy: dict[str, Any], files: list[str]
) -> None:
    desk = Desk(host=64 * GiB, **{"prefetch": True, **policy})
    desk.watch()
    name(desk, A, B, LARGE)
    orders, found = unread(desk, A, B, LARGE), []
    while warmed(orders):
        found.append(warmed(orders)[0][0])
        orders = read(desk, {"a": A, "b": B, "large": LARGE}[found[-1]])
    assert found == files


def test_reading_goes_on_after_a_load_and_is_not_begun_again_for_an_hour() -> None:
    desk = Desk(prefetch=True)
    desk.watch()
    name(desk, A)
    assert warmed(unread(desk, A))
    assert StopWarming() in desk.wants(C, "1")
    assert warmed(desk.measured()) == []
    assert warmed(desk.loaded(desk.resident(C).id)) == [("a", 4 * GiB)]
    assert warmed(read(desk, A)) == []
    assert warmed(unread(desk, A)) == []  # others have taken that memory
    desk.later(3600.0)
    assert warmed(desk.watch()) == [("a", 4 * GiB)]


def test_nothing_is_read_for_some_time_while_somebody_waits_or_answers_are_made_on_the_host() -> None:
    desk = Desk(prefetch=True)
    desk.serve(LARGE, "1")
    desk.wants(C, "2")
    desk.measured()
    name(desk, A)
    assert warmed(unread(desk, A)) == []

    desk = Desk(cards=(), prefetch=True, total=20 * GiB)
    desk.serve(B, "1")
    name(desk, A)
    assert warmed(unread(desk, A)) == []
    assert warmed(desk.ends("1")) == [("a", 4 * GiB)]


def test_what_is_loaded_or_was_unloaded_by_hand_is_not_read() -> None:
    desk = Desk(prefetch=True)
    use(desk, A, "1")
    use(desk, B, "2")
    desk.unload("b")
    desk.gone(desk.resident(B).id)
    name(desk, A, B)
    assert warmed(unread(desk, A, B)) == []


def test_a_load_costs_what_loads_from_there_took() -> None:
    desk = Desk()
    for number, (cached, seconds) in enumerate([(0.0, 40.0), (1.0, 4.0), (0.5, 1000.0)]):
        desk.wants(A, f"{number}")
        desk.measured()
        resident = desk.resident(A).id
        desk.later(seconds)
        desk.tell(WorkerLoaded(desk.at, ResidentId(resident), cached))
        desk.ends(f"{number}")
        desk.unload("a")
        desk.gone(resident)
    see(desk, A, 1.0)
    assert costs.load(desk.state, A) == 4.0
    see(desk, A, 0.0)
    assert costs.load(desk.state, A) == 40.0
    see(desk, A, 0.5)
    assert costs.load(desk.state, A) == 22.0


def test_where_the_weights_were_is_told_with_the_resident() -> None:
    desk = Desk()
    for name, cached, tier in (("x", 0.02, Tier.COLD), ("y", 0.97, Tier.WARM), ("z", None, None)):
        wanted = variant(name, 512 * MiB)
        desk.wants(wanted, name)
        desk.measured()
        desk.tell(WorkerLoaded(desk.at, desk.resident(wanted).id, cached))
        assert desk.resident(wanted).tier is tier


def test_memory_of_habits_does_not_hang_on_the_order_of_names() -> None:
    """Of equally frequent ones the first by name is expected, in every process."""
    desk = Desk(prefetch=True)
    for wanted in (A, C, A, B, A):
        use(desk, wanted, f"{wanted.name}{desk.at}")
    guess = foresee.expected(desk.state)
    assert guess is not None
    assert guess[0].variant.id == VariantId("b")
