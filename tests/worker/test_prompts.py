"""What a slot already holds is not evaluated again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swapd.worker.prompts import choose, common_prefix

tokens = st.lists(st.integers(0, 2), max_size=20)


@given(tokens, tokens)
def test_the_common_prefix_is_the_longest(one: list[int], other: list[int]) -> None:
    length = common_prefix(one, other)
    assert one[:length] == other[:length]
    assert one[: length + 1] != other[: length + 1] or length == min(len(one), len(other))


def test_the_best_prefix_wins() -> None:
    assert choose([(2, 1), (3, 3), (0, 2)], 4) == 1


def test_of_equal_prefixes_the_longest_unused_slot_wins() -> None:
    assert choose([(2, 2), (2, 1)], 3) == 1


def test_without_a_prefix_the_longest_unused_slot_wins() -> None:
    assert choose([(0, 3), (0, 1), (0, 2)], 3) == 1


def test_a_shared_greeting_is_no_reason_to_overwrite_a_conversation() -> None:
    assert choose([(1, 2), (0, 1)], 101) == 1
