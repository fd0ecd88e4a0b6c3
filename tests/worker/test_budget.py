"""How long a model may think: the end of the thoughts is written for it when its tokens for them are used up."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from swapd.generation import Sampling
from swapd.worker.budget import Budget
from swapd.worker.toolcalls.formats import Thinking
from tests.worker.conftest import Child, ask

THINK = Thinking("<think>", "</think>")
WORDS = {
    1: b"hm ",
    2: b"<think>",
    3: b"</th",
    4: b"ink>",
    5: b"answer",
    6: "\u2603".encode()[:2],
    7: "\u2603".encode()[2:],
}
END = (3, 4)
BEGUN = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}[assistant]<think>\n"
    "{# which ends with </think> #}"
)
"""A template that begins the thoughts for the model."""


def written(budget: Budget, wanted: list[int]) -> list[int]:
    """What is written when the model wants this, one after the other."""
    tokens: list[int] = []
    wishes = iter(wanted)
    while True:
        token = budget.forced
        if token is None and (token := next(wishes, None)) is None:
            return tokens
        tokens.append(token)
        budget.feed(token)


@pytest.mark.parametrize(
    ("tokens", "primer", "wanted", "expected"),
    [
        (2, "<think>\n", [1, 1, 5], [1, 1, 3, 4, 5]),
        (0, "<think>", [5], [3, 4, 5]),
        (3, "<think>", [1, 3, 4, 5], [1, 3, 4, 5]),  # it ends by itself
        (1, "", [5, 5, 2, 1, 5], [5, 5, 2, 1, 3, 4, 5]),
        (1, "", [2, 1, 5, 2, 5], [2, 1, 3, 4, 5, 2, 3, 4, 5]),  # for all thoughts together
        (1, "<think>", [6, 7, 5], [6, 7, 3, 4, 5]),  # no character is cut
        (1, "<think>so</think>", [5, 5], [5, 5]),
    ],
)
def test_thoughts_end_when_their_tokens_are_used_up(
    tokens: int, primer: str, wanted: list[int], expected: list[int]
) -> None:
    assert written(Budget(tokens, THINK, primer, END, WORDS.__getitem__), wanted) == expected


def test_an_end_that_was_not_taken_is_forced_again_from_its_beginning() -> None:
    budget = Budget(0, THINK, "<think>", END, WORDS.__getitem__)
    assert budget.forced == 3
    budget.feed(3)
    assert budget.forced == 4
    budget.feed(1)
    assert budget.forced == 3


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_model_answers_after_as_many_thoughts_as_it_may_have(loaded: Child, temperature: float) -> None:
    asked = ask(name="a", chat="Count to ten.", template=BEGUN, max_tokens=40, ignore_eos=True)
    asked = replace(asked, sampling=Sampling(temperature=temperature, seed=1))
    free, short, none = loaded.generate(
        replace(asked, id="free"),
        replace(asked, id="short", thinking_budget=6, thinking_end=" Enough."),
        replace(asked, id="none", thinking_budget=0),
    )
    assert free.thinking
    assert not free.text
    assert short.thinking.endswith(" Enough.")
    assert short.text
    assert free.thinking.startswith(short.thinking.removesuffix(" Enough."))
    assert not none.thinking
    assert none.text
    assert short.ending.usage.completion == 40
