"""What a request can ask of the drawing of its tokens, with a real model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from swapd.generation import Likelihood, Sampling, StopReason, TokenLogprob
from swapd.worker.likelihoods import Untold
from tests.worker.conftest import GREEDY, Child, ask

HOT = Sampling(temperature=1.5, seed=7)
COUNT = "1, 2, 3, 4,"


def text(child: Child, sampling: Sampling, **changes: Any) -> str:
    return child.generate(ask(COUNT, sampling=sampling, max_tokens=14, **changes))[0].text


@pytest.mark.parametrize(
    "changes",
    [
        {"typical_p": 0.2},
        {"top_n_sigma": 0.5},
        {"xtc_probability": 1.0, "xtc_threshold": 0.01},
        {"dynatemp_range": 1.4, "dynatemp_exponent": 0.5},
        {"mirostat": 1, "mirostat_tau": 2.0},
        {"mirostat": 2, "mirostat_tau": 2.0},
        {"dry_multiplier": 50.0, "dry_allowed_length": 1},
        {"top_k": 1},
    ],
    ids=lambda changes: str(next(iter(changes))),
)
def test_each_sampler_changes_the_draw_and_repeats_itself(shared: Child, changes: dict[str, Any]) -> None:
    sampling = replace(HOT, **changes)
    assert text(shared, sampling) == text(shared, sampling)
    assert text(shared, sampling) != text(shared, HOT)


def test_dry_ends_repetition_also_when_greedy(shared: Child) -> None:
    prompt = "The red fox ran. The red fox ran. The red fox ran. The red"
    plain, dry = shared.generate(
        ask(prompt, name="plain", max_tokens=6),
        ask(prompt, name="dry", max_tokens=6, sampling=replace(GREEDY, dry_multiplier=20.0, dry_allowed_length=1)),
    )
    assert plain.text.startswith(" fox ran.")
    assert not dry.text.startswith(" fox ran.")


def test_a_bias_pushes_and_bans(shared: Child) -> None:
    plain = shared.generate(ask(COUNT, logprobs=0, max_tokens=3))[0]
    first = plain.logprobs[0].drawn.token
    banned = shared.generate(ask(COUNT, logprobs=0, max_tokens=3, logit_bias=((first, -math.inf),)))[0]
    assert first not in [one.drawn.token for one in banned.logprobs]
    pushed = shared.generate(ask(COUNT, logprobs=0, max_tokens=3, logit_bias=((1000, 100.0),)))[0]
    assert [one.drawn.token for one in pushed.logprobs] == [1000] * 3


@pytest.mark.parametrize("token", [-1, 49152])
def test_a_bias_of_no_token_is_refused(shared: Child, token: int) -> None:
    failure = shared.generate(ask("x", logit_bias=((token, 1.0),)))[0].failure
    assert (failure.code, str(token) in failure.message) == ("invalid_request", True)


def test_an_answer_whose_end_is_banned_runs_into_its_limit(shared: Child) -> None:
    plain = shared.generate(ask(chat="Say hi.", max_tokens=60))[0]
    endless = shared.generate(ask(chat="Say hi.", max_tokens=60, ignore_eos=True))[0]
    assert plain.ending.reason is StopReason.STOP
    assert (endless.ending.reason, endless.tokens) == (StopReason.LENGTH, 60)


def test_logarithms_are_of_probabilities_and_ordered(shared: Child) -> None:
    answer = shared.generate(ask(COUNT, max_tokens=5, logprobs=128))[0]
    assert b"".join(one.drawn.raw for one in answer.logprobs).decode() == answer.text
    for one in answer.logprobs:
        tops = [other.logprob for other in one.top]
        assert one.top[0] == one.drawn  # greedy
        assert len({other.token for other in one.top}) == 128
        assert tops == sorted(tops, reverse=True)
        assert 0.5 < np.exp(tops).sum() < 1.0001


def test_filters_and_penalties_do_not_change_what_is_told(shared: Child) -> None:
    """What is told is what the model thought, whatever was drawn."""
    plain, penalised = (
        shared.generate(ask(COUNT, max_tokens=1, logprobs=5, sampling=s))[0].logprobs[0].top
        for s in (GREEDY, replace(HOT, repeat_penalty=3.0, top_k=2))
    )
    assert [one.token for one in plain] == [one.token for one in penalised]
    assert [one.logprob for one in plain] == pytest.approx([one.logprob for one in penalised], abs=1e-3)


def test_too_many_alternatives_are_refused(shared: Child) -> None:
    assert "128" in shared.generate(ask("x", logprobs=129))[0].failure.message


def test_logarithms_end_where_the_text_ends(shared: Child) -> None:
    """Of a stop string that was held back nothing is told, neither text nor tokens."""
    answer = shared.generate(ask(COUNT, max_tokens=60, stop=(" 9, 10",), logprobs=0))[0]
    assert answer.text == " 5, 6, 7, 8,"
    assert b"".join(one.drawn.raw for one in answer.logprobs).decode() == answer.text


def test_logarithms_come_with_the_text_that_they_are_of() -> None:
    def one(number: int) -> TokenLogprob:
        return TokenLogprob(Likelihood(number, b"", 0.0))

    untold = Untold()
    untold.add(0, 2, one(1))
    untold.add(2, 2, one(2))  # half of a character
    untold.add(2, 3, one(3))
    untold.add(3, 6, one(4))
    assert untold.take(0) == ()
    assert untold.take(1) == (one(1),)
    assert untold.take(3) == (one(2), one(3))
    assert untold.take(4) == (one(4),)
    assert untold.take(9) == ()


def test_likelihoods_after_the_filters_are_of_what_they_left(shared: Child) -> None:
    few = replace(HOT, top_k=3)
    answer = shared.generate(ask(COUNT, sampling=few, logprobs=10, after_filters=True, max_tokens=4))[0]
    for one in answer.logprobs:
        assert len(one.top) == 3
        assert sum(math.exp(other.logprob) for other in one.top) == pytest.approx(1, abs=1e-4)
        assert one.drawn in one.top
    greedy = shared.generate(ask(COUNT, logprobs=2, after_filters=True, max_tokens=2))[0]
    assert [one.top for one in greedy.logprobs] == [(one.drawn,) for one in greedy.logprobs]
    assert {one.drawn.logprob for one in greedy.logprobs} == {0.0}


def test_the_order_of_the_samplers_is_the_requests(shared: Child) -> None:
    """Heat before a filter that looks at probabilities leaves more of them than after it."""
    sampling = replace(HOT, temperature=8.0, min_p=0.2, top_k=0, top_p=1.0)

    def left(*samplers: str) -> int:
        wanted = ask(COUNT, sampling=sampling, samplers=samplers, logprobs=100, after_filters=True, max_tokens=1)
        return len(shared.generate(wanted)[0].logprobs[0].top)

    assert left("temperature", "min_p") > left("min_p", "temperature")
    assert left("temperature") == 100
    assert left("top_k", "min_p", "infill") <= left("top_k", "min_p")


def test_a_sampler_that_there_is_not_is_refused(shared: Child) -> None:
    answer = shared.generate(ask(COUNT, sampling=HOT, samplers=("top_z",)))[0]
    assert "top_z" in answer.failure.message


def test_token_numbers_are_told_without_their_likelihoods(shared: Child) -> None:
    plain = shared.generate(ask(COUNT, max_tokens=4, logprobs=0))[0]
    named = shared.generate(ask(COUNT, max_tokens=4, tells_tokens=True))[0]
    assert [one.drawn.token for one in named.logprobs] == [one.drawn.token for one in plain.logprobs]
    assert {one.drawn.logprob for one in named.logprobs} == {0.0}
