"""Penalties are llama.cpp's; impossible numbers are refused before llama.cpp sees them."""

from __future__ import annotations

import ctypes
import math

import llama_cpp.llama_cpp as C  # noqa: N812
import numpy as np
import pytest
from msgspec.structs import replace

from swapd.errors import InvalidRequest
from swapd.generation import Sampling
from swapd.worker import chain
from swapd.worker.penalties import Penalties

VOCABULARY = 300


@pytest.mark.parametrize("last", [1, 4, 64, 500])
def test_penalties_change_logits_as_llama_cpp_does(last: int) -> None:
    chance = np.random.default_rng(last)
    logits = chance.normal(0, 5, VOCABULARY).astype(np.float32)
    ours = Penalties(last, repeat=1.3, presence=0.4, frequency=0.2)
    theirs = C.llama_sampler_init_penalties(VOCABULARY, last, 1.3, 0.2, 0.4)
    for token in chance.integers(0, 80, 200).tolist():
        ours.remember(token)
        C.llama_sampler_accept(theirs, token)
    candidates = (C.llama_token_data * VOCABULARY)(*((i, float(logit), 0.0) for i, logit in enumerate(logits)))
    C.llama_sampler_apply(theirs, ctypes.byref(C.llama_token_data_array(candidates, VOCABULARY, -1, False)))
    C.llama_sampler_free(theirs)
    ours.apply(logits)
    np.testing.assert_allclose(logits, [candidate.logit for candidate in candidates], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": math.nan},
        {"top_p": math.inf},
        {"repeat_penalty": 0.0},
        {"repeat_penalty": -1.0},
        {"presence_penalty": math.nan},
        {"repeat_last_n": -2},
        {"dry_penalty_last_n": -2},
        {"mirostat": 3},
        {"min_keep": -1},
        {"xtc_threshold": math.nan},
    ],
)
def test_impossible_numbers_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(wrong))):
        chain.complete(replace(Sampling(), **wrong))
