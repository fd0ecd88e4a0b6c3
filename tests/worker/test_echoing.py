"""Prompts told with the logarithms of their own tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from swapd.errors import InvalidRequest
from swapd.generation import StopReason, TokenLogprob
from swapd.wire import Generate, Loaded
from swapd.worker.echoing import Echo
from swapd.worker.llama import Vocabulary
from swapd.worker.prompts import Prompt
from tests.worker.conftest import Child, a_load, ask

TEXT = "The capital of France is Paris. The capital of Italy is Rome; naïve, but true. " * 3


@pytest.fixture(scope="module", params=["smollm", "gemma"])
def worker(request: pytest.FixtureRequest) -> Iterator[Child]:
    path: Path = request.getfixturevalue(request.param)
    child = Child()
    try:
        child.start()
        assert isinstance(child.load(a_load(path, context=1024, slots=2)), Loaded)
        yield child
    finally:
        child.close()


@pytest.fixture(autouse=True)
def _settled(worker: Child) -> Iterator[None]:
    yield
    worker.settle()


def numbers(told: list[TokenLogprob]) -> tuple[int, ...]:
    return tuple(one.drawn.token for one in told)


def test_every_token_of_a_text_is_told_with_its_part_of_it(worker: Child) -> None:
    (answer,) = worker.generate(ask(TEXT, echo=True, logprobs=2, max_tokens=0))
    assert answer.text == TEXT
    assert b"".join(one.drawn.raw for one in answer.logprobs).decode() == TEXT
    assert len(answer.logprobs) == answer.ending.usage.prompt
    assert [one.is_first for one in answer.logprobs] == [True] + [False] * (len(answer.logprobs) - 1)
    assert all(one.drawn.logprob <= one.top[0].logprob <= 0 and len(one.top) == 2 for one in answer.logprobs[1:])
    assert (answer.ending.reason, answer.ending.usage.completion) == (StopReason.LENGTH, 0)
    best = max(answer.logprobs[1:], key=lambda one: one.drawn.logprob)
    assert best.drawn.token == best.top[0].token, "what is likeliest is the best of its place"


def test_a_prompt_s_logarithms_are_those_of_the_answer_that_it_was(worker: Child) -> None:
    (prompt,) = worker.generate(ask(TEXT, name="prompt", echo=True, logprobs=0, max_tokens=0))
    (answer,) = worker.generate(ask(TEXT, name="answer", logprobs=1, max_tokens=12, ignore_eos=True))
    whole = numbers(prompt.logprobs) + numbers(answer.logprobs)
    (told,) = worker.generate(ask(whole, name="told", echo=True, logprobs=1, max_tokens=1))
    assert numbers(told.logprobs)[:-1] == whole
    for drawn, echoed in zip(answer.logprobs, told.logprobs[len(prompt.logprobs) : -1], strict=True):
        # One by one or all at a time, and where a window's cells lie: each sums up in another order.
        assert echoed.drawn.logprob == pytest.approx(drawn.drawn.logprob, abs=0.1)
        assert echoed.top[0].logprob == pytest.approx(drawn.top[0].logprob, abs=0.1)


def test_it_is_told_the_same_beside_others_and_again(worker: Child) -> None:
    """All of the prompt is evaluated again: what is in the cache tells no logarithms."""
    (first,) = worker.generate(ask(TEXT, name="first", echo=True, logprobs=0, max_tokens=0))
    worker.send(Generate(ask("Once upon a time", name="running", max_tokens=300, ignore_eos=True)))
    while not worker.answers["running"].text:
        worker.receive()
    (again,) = worker.generate(ask(TEXT, name="again", echo=True, logprobs=0, max_tokens=0))
    assert worker.answers["running"].last is None
    assert again.ending.usage.cached == 0
    for one, other in zip(first.logprobs, again.logprobs, strict=True):
        assert other.drawn.token == one.drawn.token
        assert other.drawn.logprob == pytest.approx(one.drawn.logprob, abs=0.02)


def test_more_logarithms_than_can_be_told_are_refused() -> None:
    class Unread(Vocabulary):
        def __init__(self) -> None:
            pass

    prompt = Prompt([100] * 4000, "", ())
    with pytest.raises(InvalidRequest, match=r"128 alternatives beside each of the prompt's 4000 tokens"):
        Echo(ask((100,) * 4000, logprobs=128), prompt, Unread())
