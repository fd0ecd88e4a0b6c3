"""What fits beside what, on this machine and on made-up ones."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swapd.core import combine
from swapd.core.combine import Placed, emptied, leaving, one_after_another, subsets, together
from swapd.core.messages import Policy
from swapd.core.model import HOST, Device, DeviceId, DeviceKind, Footprint, Shape, Variant, VariantId
from swapd.core.state import State
from swapd.units import Bytes, GiB
from tests.core.builders import CARD, Desk, variant

PLAIN = Policy(vram_reserve=0, host_reserve=0)
REALISTIC = {
    "9B": Shape("llama", 40, 4096, 32, (8,) * 40, 128, 128, 151_936, 32_768, int(5.6 * GiB)),
    "14B": Shape("llama", 48, 5120, 40, (8,) * 48, 128, 128, 151_936, 32_768, int(8.4 * GiB)),
    "27B": Shape("llama", 62, 5376, 32, (16,) * 62, 128, 128, 262_144, 32_768, int(15.4 * GiB)),
    "32B": Shape("llama", 64, 5120, 40, (8,) * 64, 128, 128, 151_936, 32_768, int(18.5 * GiB)),
}
"""Four models at four bits and more, by their parameters."""
SIZES = (24 * GiB, 32 * GiB, 48 * GiB)


def machine(*cards: Bytes, host: Bytes = 64 * GiB, policy: Policy = PLAIN) -> State:
    gpus = (Device(DeviceId(f"gpu:{n}"), "", DeviceKind.GPU, "test", size, size) for n, size in enumerate(cards))
    return State(policy=policy, devices=(*gpus, Device(HOST, "", DeviceKind.HOST, "test", host, host)))


def realistic(name: str, context: int = 8192, slots: int = 1) -> Variant:
    return Variant(VariantId(name), name, f"/{name}.gguf", REALISTIC[name], context, slots)


def on(placed: tuple[Placed | None, ...] | None) -> list[str | None]:
    """The devices of each; "" is the CPU, None nowhere."""
    assert placed is not None
    return [None if p is None else ",".join(p.placement.devices) for p in placed]


def fitting(state: State, *variants: Variant) -> set[frozenset[str]]:
    return {frozenset(v.name for v in c.variants) for c in subsets(state, variants) if c.placed is not None}


def maximal(state: State, *variants: Variant) -> list[str]:
    return ["+".join(v.name for v in c.variants) for c in subsets(state, variants) if c.is_maximal]


# --- all together


def test_to_the_byte_they_fit_and_a_byte_more_they_do_not() -> None:
    a, b = variant("a", 6 * GiB), variant("b", 4 * GiB)
    assert on(together(machine(10 * GiB), [a, b])) == ["gpu:0", "gpu:0"]
    assert together(machine(10 * GiB - 1), [a, b]) is None


def test_the_reserve_and_the_limit_count() -> None:
    a, b = variant("a", 6 * GiB), variant("b", 4 * GiB)
    assert together(machine(10 * GiB, policy=replace(PLAIN, vram_reserve=1)), [a, b]) is None
    assert together(machine(20 * GiB, policy=replace(PLAIN, vram_limit="49%")), [a, b]) is None
    assert together(machine(20 * GiB, policy=replace(PLAIN, vram_limit="50%")), [a, b]) is not None
    assert together(machine(20 * GiB, policy=replace(PLAIN, max_loaded=1)), [a, b]) is None


def test_a_models_own_cap_counts() -> None:
    """At most 55 % and 35 % of the card."""
    a, b = replace(variant("a", 11 * GiB), max_vram="55%"), replace(variant("b", 7 * GiB), max_vram="35%")
    assert together(machine(20 * GiB), [a, b]) is not None
    assert together(machine(20 * GiB), [replace(a, max_vram="54%"), b]) is None


def test_so_many_layers_as_the_owner_wants_are_all_of_it() -> None:
    """Two layers of four: half of the card is left, and the other half is on the host."""
    a = variant("a", 8 * GiB, gpu_layers=2)
    placed = together(machine(4 * GiB), [a])
    assert placed is not None
    assert (placed[0].placement.gpu_layers, placed[0].need[DeviceId("gpu:0")]) == (2, 4 * GiB)
    assert together(machine(4 * GiB - 1), [a]) is None


def test_they_go_where_they_would_be_loaded_if_all_find_a_place_so() -> None:
    """To the card with most room left, each in its turn."""
    a, b, c = variant("a", 6 * GiB), variant("b", 6 * GiB), variant("c", GiB)
    assert on(together(machine(8 * GiB, 16 * GiB), [a, b, c])) == ["gpu:1", "gpu:1", "gpu:0"]


def test_a_model_goes_to_the_card_where_the_others_still_fit() -> None:
    """The small one asked for first must not take the large card."""
    small, large = variant("small", 6 * GiB), variant("large", 20 * GiB)
    assert on(together(machine(24 * GiB, 8 * GiB), [small, large])) == ["gpu:1", "gpu:0"]


def test_one_is_divided_where_that_is_the_only_way() -> None:
    """Three of 6 GiB on two cards of 10: two have one each, the third 3 GiB of both."""
    models = [variant(name, 6 * GiB) for name in "abc"]
    assert sorted(map(str, on(together(machine(10 * GiB, 10 * GiB), models)))) == ["gpu:0", "gpu:0,gpu:1", "gpu:1"]


def test_without_a_card_together_means_in_host_memory() -> None:
    a, b = variant("a", 6 * GiB), variant("b", 4 * GiB)
    assert on(together(machine(host=12 * GiB), [a, b])) == ["", ""]
    assert together(machine(host=10 * GiB), [a, b]) is None


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=3),
    st.lists(st.integers(1, 14), min_size=1, max_size=3),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_no_order_and_no_choice_of_single_cards_is_overlooked(cards: list[int], models: list[int]) -> None:
    """Against all ways to give each model one card; what is found beside that divides one."""
    variants = [variant(f"m{n}", size * GiB) for n, size in enumerate(models)]
    state = machine(*(size * GiB for size in cards))
    found = together(state, variants)
    if _fits_singly(cards, models):
        assert found is not None
    if found is not None:
        assert Footprint.total(p.need for p in found).fits(state.room())
        assert all(p.placement.share == 1 for p in found)


def _fits_singly(room: list[int], models: list[int]) -> bool:
    if not models:
        return True
    first, *rest = models
    return any(
        _fits_singly([*room[:card], size - first, *room[card + 1 :]], rest)
        for card, size in enumerate(room)
        if size >= first
    )


def test_more_models_than_can_be_tried_are_still_placed() -> None:
    models = [variant(f"m{n}", (1 + n % 3) * GiB) for n in range(16)]
    assert together(machine(*[8 * GiB] * 4), models) is not None
    assert together(machine(*[7 * GiB] * 4), models) is None


# --- one after another


def test_each_takes_what_the_ones_before_have_left() -> None:
    models = [variant("a", 6 * GiB), variant("b", 8 * GiB), variant("c", 8 * GiB), variant("d", 8 * GiB)]
    placed = one_after_another(machine(10 * GiB, host=13 * GiB), models)
    assert [p and (p.placement.gpu_layers, str(p.placement)) for p in placed] == [
        (4, "100% GPU"),
        (2, "50%/50% GPU/CPU"),
        (0, "100% CPU"),
        None,
    ]


def test_fixed_layers_are_not_made_fewer() -> None:
    models = [variant("a", 6 * GiB), variant("b", 8 * GiB, gpu_layers=4)]
    assert on(one_after_another(machine(10 * GiB), models)) == ["gpu:0", None]


def test_no_more_than_may_be_loaded_at_a_time() -> None:
    models = [variant("a", GiB), variant("b", GiB)]
    assert on(one_after_another(machine(10 * GiB, policy=replace(PLAIN, max_loaded=1)), models)) == ["gpu:0", None]


def test_the_limit_shrinks_with_what_was_taken_of_it() -> None:
    """Half of 20 GiB may be used: after 6 there are 4, however much is free."""
    models = [variant("a", 6 * GiB), variant("b", 5 * GiB, gpu_layers=4), variant("c", 4 * GiB)]
    assert on(one_after_another(machine(20 * GiB, policy=replace(PLAIN, vram_limit="50%")), models)) == [
        "gpu:0",
        None,
        "gpu:0",
    ]


# --- which sets


def test_every_set_is_listed_and_the_largest_are_marked() -> None:
    a, b, c = variant("a", 6 * GiB), variant("b", 4 * GiB), variant("c", 3 * GiB)
    listed = subsets(machine(10 * GiB), [a, b, c])
    assert len(listed) == 7
    assert maximal(machine(10 * GiB), a, b, c) == ["a+b", "a+c", "b+c"]
    assert maximal(machine(13 * GiB), a, b, c) == ["a+b+c"]
    assert maximal(machine(5 * GiB), a, b, c) == ["b", "c"]


def test_of_more_models_than_anybody_reads_no_sets_are_listed() -> None:
    models = [variant(f"m{n}", GiB) for n in range(combine.MAX_LISTED + 1)]
    assert subsets(machine(10 * GiB), models) == ()


# --- realistic models on 24, 32 and 48 GiB


def test_the_table_that_people_write_by_hand() -> None:
    """At four bits with 8k of context: what goes together on which card."""
    models = [realistic(name) for name in REALISTIC]
    assert {size // GiB: maximal(machine(size, policy=Policy()), *models) for size in SIZES} == {
        24: ["27B", "32B", "9B+14B"],
        32: ["9B+14B", "9B+27B", "9B+32B", "14B+27B", "14B+32B"],
        48: ["9B+14B+27B", "9B+14B+32B", "9B+27B+32B"],
    }


@pytest.mark.parametrize("context", [4096, 8192, 32_768])
def test_more_memory_never_fits_less(context: int) -> None:
    models = [realistic(name, context) for name in REALISTIC]
    policy = Policy()
    tables = [fitting(machine(size, policy=policy), *models) for size in SIZES]
    assert tables[0] <= tables[1] <= tables[2]
    divided = fitting(machine(24 * GiB, 24 * GiB, policy=policy), *models)
    assert tables[0] <= divided


def test_less_context_and_fewer_models_never_fit_less() -> None:
    for size in SIZES:
        state = machine(size, policy=Policy())
        long, short = (fitting(state, *(realistic(n, c) for n in REALISTIC)) for c in (32_768, 4096))
        assert long <= short
        assert all(one - {name} in short for one in short for name in one if len(one) > 1)


def test_the_order_asked_changes_nothing_about_whether_all_fit() -> None:
    names = ("9B", "14B", "27B")
    for size in (*SIZES, 16 * GiB):
        state = machine(size, 16 * GiB, policy=Policy())
        answers = {together(state, [realistic(n) for n in order]) is None for order in permutations(names)}
        assert len(answers) == 1


# --- this machine, with those who are there


def desk_of(*names: str, **policy: Any) -> Desk:
    desk = Desk(**policy)
    desk.state = replace(desk.state, unsizable=frozenset(VariantId(name) for name in names))
    return desk


def test_who_is_there_does_not_count_unless_it_is_pinned() -> None:
    desk = desk_of("a")
    desk.idle(variant("a", 6 * GiB))
    b = variant("b", 8 * GiB)
    assert together(emptied(desk.state, [b]), [b]) is not None
    desk.pin("a")
    assert together(emptied(desk.state, [b]), [b]) is None
    a = variant("a", 6 * GiB)
    assert together(emptied(desk.state, [a]), [a]) is not None, "who is asked for makes room for itself"


def test_what_other_programs_hold_and_what_is_lent_to_them_counts() -> None:
    desk = desk_of("a")
    desk.foreign[CARD] = 3 * GiB
    desk.measured()
    a = variant("a", 7 * GiB)
    assert together(emptied(desk.state, [a]), [a]) is not None
    desk.foreign[CARD] += 1
    desk.measured()
    assert together(emptied(desk.state, [a]), [a]) is None


def test_an_empty_machine_has_what_a_measured_one_says_is_free() -> None:
    """Also where the driver lists nobody, so that our own memory looks like other programs'."""
    desk = desk_of("a")
    desk.idle(variant("a", 6 * GiB))
    unlisted = tuple(replace(device, held=()) for device in desk.look().devices)
    state = replace(desk.state, devices=unlisted)
    assert emptied(state, []).room()[CARD] == 10 * GiB


def test_who_would_have_to_leave_is_the_least_recently_used_and_nothing_changes() -> None:
    desk = desk_of("a", "b", "c")
    desk.idle(variant("a", 4 * GiB))
    desk.idle(variant("b", 4 * GiB))
    before = desk.state
    c = variant("c", 4 * GiB)
    assert [(r.variant.name, why[:34]) for r, why in leaving(before, [c])] == [
        ("a", "for c, which needs 4 GiB on cuda:0")
    ]
    assert desk.state is before


def test_those_asked_for_do_not_drive_each_other_out() -> None:
    """A is asked for beside C, so B leaves for C although A was used less recently."""
    desk = desk_of("a", "b", "c")
    a = variant("a", 4 * GiB)
    desk.idle(a)
    desk.idle(variant("b", 4 * GiB))
    assert [r.variant.name for r, _ in leaving(desk.state, [a, variant("c", 4 * GiB)])] == ["b"]


def test_each_that_is_asked_for_takes_room_from_the_next() -> None:
    desk = desk_of("a", "c", "d")
    desk.idle(variant("a", 4 * GiB))
    wanted = [variant("c", 4 * GiB), variant("d", 4 * GiB)]
    assert [(r.variant.name, why.split(",")[0]) for r, why in leaving(desk.state, wanted)] == [("a", "for d")]


def test_nobody_leaves_for_what_could_not_fit_even_then() -> None:
    desk = desk_of("a", "c")
    desk.idle(variant("a", 4 * GiB))
    desk.host = GiB
    desk.measured()
    assert leaving(desk.state, [variant("c", 90 * GiB)]) == ()


def test_one_at_work_would_have_to_leave_once_it_has_finished() -> None:
    desk = desk_of("a", "c", overflow="evict")
    desk.serve(variant("a", 8 * GiB), "1")
    desk.later(5.0)
    desk.tell(desk.look())
    assert [r.variant.name for r, _ in leaving(desk.state, [variant("c", 8 * GiB)])] == ["a"]
