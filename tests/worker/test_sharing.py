"""Prompts that begin alike and are there at one time: what they have in common is evaluated once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from swapd.generation import StopReason
from swapd.wire import Generate, Loaded
from tests.recurrent import write_jamba, write_mamba
from tests.worker.conftest import Answer, Child, a_load, ask

LONG = " ".join(
    f"Guest {i} of the inn asked for {i * 7 % 13} towels and for room number {i * 31 % 97}." for i in range(14)
)
"""More than 250 tokens for every model here."""
END = " Guest 99 of the inn asked for 5 towels and for room"
"""All of these models are sure what comes next, so that the rounding of another batch does not decide it."""
LONGER = "Fourth: " + LONG + LONG.replace("Guest", "Page")


@pytest.fixture(scope="module", params=["smollm", "gemma", "mamba", "jamba"])
def worker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """Of four slots: with full attention, with windows, with recurrent states, with attention and these."""
    write = {"mamba": write_mamba, "jamba": write_jamba}.get(request.param)
    if write is not None:
        path = write(tmp_path_factory.mktemp("models") / "model.gguf")
    else:
        path = request.getfixturevalue(request.param)
    child = Child()
    try:
        child.start()
        assert isinstance(child.load(a_load(path, context=4096, slots=4)), Loaded)
        yield child
    finally:
        child.close()


@pytest.fixture(autouse=True)
def _settled(worker: Child) -> Iterator[None]:
    yield
    worker.settle()


def alone(worker: Child, prompt: str, name: str = "alone") -> Answer:
    """As if nothing of it had ever been evaluated."""
    (answer,) = worker.generate(ask(prompt, name=name, max_tokens=4, caches=False, ignore_eos=True, logprobs=0))
    assert answer.ending.usage.cached == 0
    return answer


def same(one: Answer, other: Answer) -> bool:
    """From the same prompt: as likely, but for the rounding of batches of another shape."""
    first, second = one.logprobs[0].drawn, other.logprobs[0].drawn
    return first.token == second.token and abs(first.logprob - second.logprob) < 0.3


def evaluated(answer: Answer) -> int:
    return answer.ending.usage.evaluated


def test_several_answers_to_one_prompt_evaluate_it_once(worker: Child) -> None:
    prompt = "First: " + LONG + END
    expected = alone(worker, prompt)
    worker.generate(*(ask(f"{i}" * 40, name=f"other {i}", max_tokens=1) for i in range(4)))  # which nobody can use
    answers = worker.generate(*(ask(prompt, name=f"{i}", max_tokens=4, ignore_eos=True, logprobs=0) for i in range(4)))
    *others, leader = sorted(map(evaluated, answers))
    assert others == [1, 1, 1]
    assert leader >= expected.ending.usage.prompt - 1  # a slot may hold the token that begins every text
    assert all(same(answer, expected) for answer in answers)


def test_more_answers_than_slots_evaluate_it_once_too(worker: Child) -> None:
    prompt = "Second: " + LONG + END
    length = alone(worker, prompt).ending.usage.prompt
    worker.generate(*(ask(f"{i}" * 40, name=f"other {i}", max_tokens=1) for i in range(4)))
    answers = worker.generate(*(ask(prompt, name=f"{i}", max_tokens=4, ignore_eos=True, logprobs=0) for i in range(9)))
    assert max(map(evaluated, answers)) >= length - 1
    assert sum(map(evaluated, answers)) <= length + 8 * 8  # a slot whose memory cannot be cut goes back a few tokens
    assert all(same(answer, answers[0]) for answer in answers)


def test_what_different_prompts_begin_with_is_evaluated_once(worker: Child) -> None:
    prompts = ["Third: " + LONG + f" {name}." + END for name in ("Alice", "Berta", "Chris")]
    expected = [alone(worker, prompt) for prompt in prompts]
    worker.generate(*(ask(f"{i}" * 40, name=f"other {i}", max_tokens=1) for i in range(4)))
    asked = [ask(prompt, name=f"{i}", max_tokens=4, ignore_eos=True, logprobs=0) for i, prompt in enumerate(prompts)]
    answers = worker.generate(*asked)
    shared = alone(worker, "Third: " + LONG).ending.usage.prompt
    assert sum(map(evaluated, answers)) < sum(one.ending.usage.prompt for one in expected) - 2 * (shared - 8)
    assert all(map(same, answers, expected))


def test_who_followed_one_that_went_away_goes_on_from_what_it_left(worker: Child) -> None:
    prompts = {"leader": LONGER + " Alice.", "follower": LONGER + " Berta." + END}
    expected = alone(worker, prompts["follower"])
    worker.generate(*(ask(f"{i}" * 40, name=f"other {i}", max_tokens=1) for i in range(4)))
    worker.send(
        *(
            Generate(ask(prompt, name=name, max_tokens=4, ignore_eos=True, logprobs=0))
            for name, prompt in prompts.items()
        )
    )
    worker.stop("leader")
    leader, follower = worker.finish("leader", "follower")
    assert leader.ending.reason is StopReason.CANCELLED
    assert same(follower, expected)
    assert 0 < evaluated(follower) <= expected.ending.usage.prompt


def test_a_prompt_takes_over_what_another_slot_is_just_answering_from(smollm: Path) -> None:
    """Windows that have moved on, and states, cannot be gone back to; all else can."""
    child = Child()
    try:
        child.start()
        assert isinstance(child.load(a_load(smollm, context=2048, slots=2)), Loaded)
        (expected,) = child.generate(ask(LONG + " Fifth." + END, name="alone", max_tokens=4, caches=False, logprobs=0))
        child.send(Generate(ask(LONG, name="running", max_tokens=400, ignore_eos=True)))
        while not child.answers["running"].text:
            child.receive()
        (answer,) = child.generate(ask(LONG + " Fifth." + END, name="late", max_tokens=4, logprobs=0))
        assert child.answers["running"].last is None
        assert evaluated(answer) <= 20  # what differs
        assert same(answer, expected)
    finally:
        child.close()


def test_who_wants_nothing_from_the_cache_shares_nothing(worker: Child) -> None:
    prompt = LONG + " Sixth"
    first, second = worker.generate(
        *(ask(prompt, name=f"{i}", max_tokens=2, caches=False, ignore_eos=True) for i in range(2))
    )
    assert first.ending.usage.cached == second.ending.usage.cached == 0
