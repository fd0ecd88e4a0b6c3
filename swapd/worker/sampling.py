"""How a slot's next token is drawn. The only place that makes and frees sampler chains.

Used by `slots`, one sampler a request. llama.cpp's chain draws; greedy and the penalties are done here on the row of
logits itself, because the chain copies and searches the whole vocabulary for them: measured for 262k tokens, 0.4 ms
instead of 0.03 and 0.9 ms instead of 0.02.
"""

from __future__ import annotations

import ctypes
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Final

import llama_cpp.llama_cpp as C  # noqa: N812
import numpy as np
import numpy.typing as npt

from swapd.errors import InvalidRequest
from swapd.generation import Sampling
from swapd.units import Tokens

NEUTRAL: Final = Sampling(
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    min_p=0.0,
    repeat_penalty=1.0,
    repeat_last_n=64,
    presence_penalty=0.0,
    frequency_penalty=0.0,
    seed=-1,
)
"""What None means: nothing is filtered or penalised, and llama.cpp draws the seed."""

_SEED_BITS = 0xFFFFFFFF
_Logits = npt.NDArray[np.float32]


class Penalties:
    """llama.cpp's repetition, presence and frequency penalties over the last tokens."""

    def __init__(self, last: Tokens, repeat: float, presence: float, frequency: float) -> None:
        self._window: deque[int] = deque(maxlen=last)
        self._counts: dict[int, int] = {}
        self._repeat, self._presence, self._frequency = repeat, presence, frequency

    def remember(self, token: int) -> None:
        counts, window = self._counts, self._window
        if len(window) == window.maxlen:
            oldest = window[0]
            counts[oldest] -= 1
            if not counts[oldest]:
                del counts[oldest]
        window.append(token)
        counts[token] = counts.get(token, 0) + 1

    def apply(self, logits: _Logits) -> None:
        if not self._counts:
            return
        tokens = np.fromiter(self._counts, np.intp, len(self._counts))
        times = np.fromiter(self._counts.values(), np.float32, len(self._counts))
        values = logits[tokens]
        factors = np.where(values <= 0, np.float32(self._repeat), np.float32(1 / self._repeat))
        logits[tokens] = values * factors - (times * self._frequency + self._presence)


class Sampler:
    """Draws tokens as `sampling` says; what it draws, and the end of the prompt, count for the penalties."""

    def __init__(self, sampling: Sampling, vocabulary: int, context: Tokens, prompt: Sequence[int]) -> None:
        """Raises InvalidRequest on numbers that no draw can be made with."""
        use = sampling.over(NEUTRAL)
        _check(use)
        self._row = ctypes.c_float * vocabulary
        self._penalties = _penalties(use, context, prompt)
        self._chain = _chain(use)

    def draw(self, context: Any, row: int) -> int:
        """The next token, of the logits in this row of the batch just decoded. Once a row: penalties change it."""
        chain, penalties = self._chain, self._penalties
        if chain is not None and penalties is None:
            return int(C.llama_sampler_sample(chain, context, row))
        address = ctypes.addressof(C.llama_get_logits_ith(context, row).contents)
        logits: _Logits = np.ctypeslib.as_array(self._row.from_address(address))
        if penalties is not None:
            penalties.apply(logits)
        token = int(logits.argmax()) if chain is None else int(C.llama_sampler_sample(chain, context, row))
        if penalties is not None:
            penalties.remember(token)
        return token

    def close(self) -> None:
        if self._chain is not None:
            C.llama_sampler_free(self._chain)


def _chain(use: Sampling) -> Any:
    """llama.cpp's chain, to be freed; None: greedy needs none."""
    assert use.temperature is not None
    assert use.top_k is not None
    assert use.seed is not None
    if use.temperature <= 0:
        return None
    parts = []
    if use.top_k > 0:
        parts.append(C.llama_sampler_init_top_k(use.top_k))
    if use.top_p != 1:
        parts.append(C.llama_sampler_init_top_p(use.top_p, 1))
    if use.min_p != 0:
        parts.append(C.llama_sampler_init_min_p(use.min_p, 1))
    if use.temperature != 1:
        parts.append(C.llama_sampler_init_temp(use.temperature))
    parts.append(C.llama_sampler_init_dist(use.seed & _SEED_BITS))
    chain = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
    for part in parts:
        C.llama_sampler_chain_add(chain, part)  # which owns it now
    return chain


def _penalties(use: Sampling, context: Tokens, prompt: Sequence[int]) -> Penalties | None:
    assert use.repeat_penalty is not None
    assert use.presence_penalty is not None
    assert use.frequency_penalty is not None
    assert use.repeat_last_n is not None
    if (use.repeat_penalty, use.presence_penalty, use.frequency_penalty) == (1, 0, 0) or use.repeat_last_n == 0:
        return None
    last = context if use.repeat_last_n == -1 else use.repeat_last_n
    penalties = Penalties(last, use.repeat_penalty, use.presence_penalty, use.frequency_penalty)
    for token in prompt[-last:]:
        penalties.remember(token)
    return penalties


def _check(use: Sampling) -> None:
    for field in fields(use):
        if not math.isfinite(getattr(use, field.name)):
            raise InvalidRequest(f"cannot sample: {field.name} is not a finite number", field.name)
    assert use.repeat_penalty is not None
    if use.repeat_penalty <= 0:
        raise InvalidRequest("cannot sample: repeat_penalty must be above 0", "repeat_penalty")
    assert use.repeat_last_n is not None
    if use.repeat_last_n < -1:
        raise InvalidRequest("cannot sample: repeat_last_n must be -1 or more", "repeat_last_n")
