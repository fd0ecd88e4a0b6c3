"""What a slot already holds is not evaluated again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swapd.worker.prompts import choose, common_prefix, reusable

tokens = st.lists(st.integers(0, 2), max_size=20)


@given(tokens, tokens)
def test_the_common_prefix_is_the_longest(one: list[int], other: list[int]) -> None:
    length = common_prefix(one, other)
    assert one[:length] == other[:length]
    assert one[: length + 1] != other[: length + 1] or length == min(len(one), len(other))


@pytest.mark.parametrize(
    ("held", "prompt", "trims", "goes_on"),
    [
        ([], [1, 2], 0, 0),
        ([1, 2], [1, 2, 3], 2, 2),
        ([1, 2, 3], [1, 2, 4], 2, 0),
        ([1, 2, 3], [1, 2, 3], 2, 0),
        ([1, 2, 3, 4], [1, 2], 1, 0),
        ([5], [1, 2], 0, 0),
    ],
)
def test_at_least_the_last_token_is_evaluated(held: list[int], prompt: list[int], trims: int, goes_on: int) -> None:
    """A model that cannot trim goes on from all that the slot holds, or begins anew."""
    assert reusable(held, prompt, can_trim=True) == trims
    assert reusable(held, prompt, can_trim=False) == goes_on


def test_the_best_prefix_wins() -> None:
    free = [([1, 2, 9], 1), ([1, 2, 3, 9], 3), ([], 2)]
    assert choose(free, [1, 2, 3, 4], can_trim=True) == (1, 3)


def test_of_equal_prefixes_the_longest_unused_slot_wins() -> None:
    assert choose([([1, 2], 2), ([1, 2], 1)], [1, 2, 3], can_trim=True) == (1, 2)


def test_without_a_prefix_the_longest_unused_slot_wins() -> None:
    assert choose([([7], 3), ([8], 1), ([9], 2)], [1, 2, 3], can_trim=True) == (1, 0)


def test_a_shared_greeting_is_no_reason_to_overwrite_a_conversation() -> None:
    conversation, prompt = [1, *range(100, 200)], [1, *range(200, 300)]
    assert choose([(conversation, 2), ([], 1)], prompt, can_trim=True) == (1, 0)
