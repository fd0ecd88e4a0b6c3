"""Several answers to one prompt, and prompts told with their own logarithms, from a real daemon."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.conftest import SMOL, Daemon, Start

pytestmark = pytest.mark.e2e

STORY = " ".join(
    f"Guest {i} of the inn asked for {i * 7 % 13} towels and for room number {i * 31 % 97}." for i in range(14)
)
MODEL = f'[models."{SMOL}"]\ncontext = 1024\nslots = 2\n'


def told(daemon: Daemon, path: str, **body: Any) -> Any:
    status, answer = daemon.call(path, {"model": SMOL, "temperature": 0, **body})
    assert status == 200, answer
    return answer


def test_one_prompt_is_evaluated_once_for_all_of_its_answers(start: Start) -> None:
    """Also of those that wait for a slot: there are two."""
    daemon = start(common=MODEL)
    answer = told(daemon, "/v1/completions", prompt=STORY, n=5, max_tokens=4, temperature=1, seed=3)
    prompt = answer["usage"]["prompt_tokens"]
    assert prompt > 200
    assert len(answer["choices"]) == 5
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0, "of the one that found none of it"
    assert answer["timings"]["prompt_n"] == prompt + 4
    assert answer["timings"]["cache_n"] == 4 * (prompt - 1)
    best = told(daemon, "/v1/completions", prompt=STORY, best_of=4, max_tokens=4, temperature=1, seed=3)
    assert best["choices"][0]["text"] in {choice["text"] for choice in answer["choices"]}
    several = told(daemon, "/completion", prompt=STORY, n_cmpl=2, n_predict=2)
    assert [each["timings"]["prompt_n"] for each in several] == [1, 1]


def test_a_text_is_scored_as_lm_evaluation_harness_does_it(start: Start) -> None:
    """Context and continuation in one prompt of tokens, echoed; the logarithms of the continuation are added up."""
    daemon = start(common=MODEL)

    def tokens(text: str) -> list[int]:
        return list(told(daemon, "/tokenize", content=text)["tokens"])

    def score(continuation: str, **body: Any) -> tuple[float, bool]:
        context, asked = tokens("The capital of France is"), tokens(continuation)
        answer = told(daemon, "/v1/completions", prompt=[context + asked], echo=True, logprobs=1, **body)
        given = answer["choices"][0]["logprobs"]
        drawn = body["max_tokens"]
        assert len(given["tokens"]) == len(context) + len(asked) + drawn
        assert given["token_logprobs"][0] is None
        assert given["top_logprobs"][0] is None
        end = len(given["tokens"]) - drawn
        scores, tops = given["token_logprobs"][len(context) : end], given["top_logprobs"][len(context) : end]
        is_greedy = all(score == max(top.values()) for score, top in zip(scores, tops, strict=True))
        return sum(scores), is_greedy

    paris, is_greedy = score(" Paris", max_tokens=0)
    assert is_greedy
    again, _ = score(" Paris", max_tokens=1)
    assert again == pytest.approx(paris, abs=0.05)
    banana, is_greedy = score(" a banana", max_tokens=0)
    assert not is_greedy
    assert paris > banana + 1
