"""From sampling values to llama.cpp's sampler chain, in llama-server's order, and the draw from it.

Used by `sampling`. The only place that makes and frees sampler chains.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, TypeAlias

import llama_cpp.llama_cpp as C  # noqa: N812
import numpy as np
import numpy.typing as npt
from msgspec.structs import asdict

from swapd.errors import InvalidRequest
from swapd.generation import NEUTRAL, SAMPLERS, Sampling
from swapd.units import Tokens
from swapd.worker.penalties import Logits

_LEAST: Final = {"repeat_last_n": -1, "dry_penalty_last_n": -1, "dry_allowed_length": 0, "min_keep": 0, "mirostat": 0}
_SEED_BITS: Final = 0xFFFFFFFF
_MIROSTAT_CANDIDATES: Final = 100
_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
Candidates: TypeAlias = npt.NDArray[np.int64]
"""Token numbers."""


def complete(sampling: Sampling) -> Sampling:
    """Without any None. Raises InvalidRequest on numbers that no draw can be made with."""
    use = sampling.over(NEUTRAL)
    for name, value in asdict(use).items():
        if isinstance(value, tuple):
            continue
        if not math.isfinite(value):
            raise InvalidRequest(f"cannot sample: {name} is not a finite number", name)
        if value < _LEAST.get(name, value):
            raise InvalidRequest(f"cannot sample: {name} must be {_LEAST[name]} or more", name)
    assert use.repeat_penalty is not None
    if use.repeat_penalty <= 0:
        raise InvalidRequest("cannot sample: repeat_penalty must be above 0", "repeat_penalty")
    if use.mirostat not in (0, 1, 2):
        raise InvalidRequest("cannot sample: mirostat must be 0 (off), 1 or 2", "mirostat")
    return use


class Chain:
    """A sampler chain of llama.cpp's; `close` frees it."""

    def __init__(self, parts: Sequence[Any], is_greedy: bool) -> None:
        self.is_greedy = is_greedy
        self._chain = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
        for part in parts:
            C.llama_sampler_chain_add(self._chain, part)  # which owns it now
        self._room: npt.NDArray[Any] = np.empty(0, _CANDIDATE)
        self._all: npt.NDArray[np.int32] = np.empty(0, np.int32)
        self._left: Any = None

    def draw(self, logits: Logits, candidates: Candidates | None) -> int:
        """One of the candidates (None: of all tokens). The caller `accept`s what it takes."""
        if candidates is None:
            if len(self._all) != len(logits):
                self._all = np.arange(len(logits), dtype=np.int32)
            count, ids, values = len(logits), self._all, logits
        else:
            count, ids, values = len(candidates), candidates.astype(np.int32), logits[candidates]
        if len(self._room) < count:
            self._room = np.empty(count, _CANDIDATE)
        room = self._room
        room["id"][:count] = ids  # filters have left them in another order
        room["logit"][:count] = values
        array = C.llama_token_data_array(ctypes.cast(room.ctypes.data, C.llama_token_data_p), count, -1, False)
        C.llama_sampler_apply(self._chain, ctypes.byref(array))
        if self.is_greedy:  # penalties only: the best of what they left
            return int(room["id"][int(room["logit"][: array.size].argmax())])
        self._left = array
        return int(array.data[array.selected].id)

    def left(self) -> tuple[npt.NDArray[np.int64], Logits]:
        """Tokens that the filters left at the last draw, and their logits: at least the drawn one."""
        array = self._left
        if array is None:
            raise AssertionError("a greedy chain leaves one token, which is the drawn one")
        found = np.frombuffer(ctypes.string_at(array.data, int(array.size) * _CANDIDATE.itemsize), _CANDIDATE)
        return found["id"].astype(np.int64), found["logit"].copy()

    def accept(self, token: int) -> None:
        C.llama_sampler_accept(self._chain, token)

    def close(self) -> None:
        C.llama_sampler_free(self._chain)


def make(
    use: Sampling,
    vocab: Any,
    vocabulary: int,
    context: Tokens,
    prompt: Sequence[int],
    samplers: Sequence[str] = SAMPLERS,
) -> Chain | None:
    """The chain for complete values; None: greedy, without any penalty that needs one."""
    assert use.temperature is not None
    is_greedy = use.temperature <= 0
    dry = _dry(use, vocab, context, prompt) if "dry" in samplers else None
    parts = [] if dry is None else [dry]
    if not is_greedy:
        parts += _draws(use, vocab, vocabulary, samplers)
    return Chain(parts, is_greedy) if parts else None


def _draws(use: Sampling, vocab: Any, vocabulary: int, samplers: Sequence[str]) -> list[Any]:
    seed = int(use.seed or 0) & _SEED_BITS
    match use.mirostat:
        case 1:
            args = seed, use.mirostat_tau, use.mirostat_eta, _MIROSTAT_CANDIDATES
            return [_heat(use), C.llama_sampler_init_mirostat(vocabulary, *args)]
        case 2:
            return [_heat(use), C.llama_sampler_init_mirostat_v2(seed, use.mirostat_tau, use.mirostat_eta)]
        case _:
            filters = [_filter(name, use, vocab, seed) for name in samplers]
            return [*(part for part in filters if part is not None), C.llama_sampler_init_dist(seed)]


def _heat(use: Sampling) -> Any:
    return C.llama_sampler_init_temp_ext(use.temperature, use.dynatemp_range, use.dynatemp_exponent)


def _filter(name: str, use: Sampling, vocab: Any, seed: int) -> Any:
    """None: its values switch it off, or it is a penalty, which comes before all filters."""
    assert use.top_k is not None
    assert use.top_n_sigma is not None
    assert use.xtc_probability is not None
    least = max(1, use.min_keep or 0)
    match name:
        case "top_n_sigma" if use.top_n_sigma >= 0:
            return C.llama_sampler_init_top_n_sigma(use.top_n_sigma)
        case "top_k" if use.top_k > 0:
            return C.llama_sampler_init_top_k(use.top_k)
        case "typ_p" if use.typical_p != 1:
            return C.llama_sampler_init_typical(use.typical_p, least)
        case "top_p" if use.top_p != 1:
            return C.llama_sampler_init_top_p(use.top_p, least)
        case "min_p" if use.min_p != 0:
            return C.llama_sampler_init_min_p(use.min_p, least)
        case "xtc" if use.xtc_probability > 0:
            return C.llama_sampler_init_xtc(use.xtc_probability, use.xtc_threshold, least, seed)
        case "temperature":
            return _heat(use)
        case "infill":
            return C.llama_sampler_init_infill(vocab)
        case _:
            return None


def _dry(use: Sampling, vocab: Any, context: Tokens, prompt: Sequence[int]) -> Any:
    """None: off."""
    assert use.dry_penalty_last_n is not None
    assert use.dry_sequence_breakers is not None
    last = context if use.dry_penalty_last_n == -1 else min(context, use.dry_penalty_last_n)
    if not use.dry_multiplier or not last:
        return None
    values = use.dry_multiplier, use.dry_base, use.dry_allowed_length, last
    sampler = C.llama_sampler_clone(_dry_pattern(vocab, values, use.dry_sequence_breakers).sampler)
    for token in prompt[-last:]:
        C.llama_sampler_accept(sampler, token)
    return sampler


class _Dry:
    def __init__(self, vocab: Any, values: tuple[Any, ...], breakers: tuple[str, ...]) -> None:
        texts = [breaker.encode() for breaker in breakers if breaker]
        array = (ctypes.c_char_p * max(1, len(texts)))(*texts)
        self.sampler = C.llama_sampler_init_dry(vocab, *values, array, len(texts))

    def __del__(self) -> None:
        C.llama_sampler_free(self.sampler)


@lru_cache(maxsize=2)
def _dry_pattern(vocab: Any, values: tuple[Any, ...], breakers: tuple[str, ...]) -> _Dry:
    """To be cloned: making one looks for the breakers in every token, 9 ms for 49k of them and 50 for 262k."""
    return _Dry(vocab, values, breakers)
