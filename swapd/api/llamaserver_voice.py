"""The words of llama-server's own completions: one document, or its events.

Used by `llamaserver.py`. There is no closing event: the one with `"stop": true` is the last of its answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec.structs import asdict

from swapd.api.answers import Whole
from swapd.api.calls import encode
from swapd.api.figures import so_far, timings
from swapd.api.llamaserver_bodies import Generated
from swapd.api.openai import DEFAULTS
from swapd.api.stream import SSE, Framing
from swapd.generation import (
    NEUTRAL,
    SAMPLERS,
    Chunk,
    Ending,
    GenerationRequest,
    Likelihood,
    Sampling,
    StopReason,
    TokenLogprob,
)
from swapd.runtime.asking import Answer
from swapd.units import Tokens

_CONSTANT: Final[Mapping[str, object]] = {
    "n_discard": 0,
    "grammar_lazy": False,
    "grammar_triggers": [],
    "preserved_tokens": [],
    "chat_format": "Content-only",
    "reasoning_format": "none",
    "reasoning_in_content": False,
    "generation_prompt": "",
    "speculative.types": "none",
    "backend_sampling": False,
}
"""Told for clients that read all of its settings; on these routes a text goes on, and nothing else is done."""
_LEAST: Final = -1e30
"""For a probability of nothing: JSON has no infinities."""


class CompletionVoice:
    framing: Framing = SSE

    def __init__(
        self, model: str, body: Generated, requests: Sequence[GenerationRequest], ends: Sequence[int] = ()
    ) -> None:
        """`requests`: of the answers, in their order. `ends`: tokens that these may not draw."""
        self._model, self._body, self._requests, self._ends = model, body, requests, ends
        self._settings: dict[str, object] = {}
        self._context: Tokens = 0
        self._prompts = [0] * len(requests)
        self._told = [0] * len(requests)
        self._has_new_line = [False] * len(requests)

    def whole(self, wholes: Sequence[Whole]) -> object:
        documents = [self._last(whole, index) for index, whole in enumerate(wholes)]
        return documents[0] if len(documents) == 1 else documents

    def opening(self, answer: Answer, index: int) -> bytes:
        self._settings = self._settings_of(answer, index)
        self._prompts[index] = answer.prompt[0]
        return b""

    def _may_tell(self, likely: Sequence[TokenLogprob]) -> dict[str, object]:
        if not self._body.n_probs:
            return {}
        after = bool(self._body.post_sampling_probs)
        return {"completion_probabilities": [_probability(each, after) for each in likely]}

    def piece(self, chunk: Chunk, index: int) -> bytes:
        self._told[index] += chunk.tokens
        self._has_new_line[index] |= "\n" in chunk.text
        if chunk.prompt is not None:
            self._prompts[index] = chunk.prompt[0]
        document: dict[str, object] = {
            "index": index,
            "content": chunk.text,
            "tokens": self._tokens(chunk.logprobs),
            "stop": False,
            "id_slot": -1,
            "tokens_predicted": self._told[index],
            "tokens_evaluated": self._prompts[index],
            **so_far(chunk),
            **(self._may_tell(chunk.logprobs) if chunk.read is None else {}),
        }
        return _event(document)

    def ending(self, ending: Ending, index: int) -> bytes:
        document = self._document("", (), ending, index, self._settings, self._has_new_line[index])
        return _event(self._selected(document))

    def closing(self) -> bytes:
        return b""

    def _last(self, whole: Whole, index: int) -> dict[str, object]:
        settings = self._settings_of(whole.answer, index)
        document = self._document(whole.text, whole.logprobs, whole.ending, index, settings, "\n" in whole.text)
        return self._selected(document | self._may_tell(whole.logprobs))

    def _document(
        self,
        text: str,
        likely: Sequence[TokenLogprob],
        ending: Ending,
        index: int,
        settings: Mapping[str, object],
        has_new_line: bool,
    ) -> dict[str, object]:
        usage = ending.usage
        prompt = self._requests[index].prompt
        return {
            "index": index,
            "content": text,
            "tokens": self._tokens(likely),
            "id_slot": -1,
            "stop": True,
            "model": self._model,
            "tokens_predicted": usage.completion,
            "tokens_evaluated": usage.prompt,
            "generation_settings": settings,
            "prompt": prompt if isinstance(prompt, str) else list(prompt),
            "has_new_line": has_new_line,
            "truncated": _stop_type(ending) == "limit" and usage.prompt + usage.completion >= self._context > 0,
            "stop_type": _stop_type(ending),
            "stopping_word": ending.stop or "",
            "tokens_cached": usage.cached,
            "timings": timings(usage),
        }

    def _settings_of(self, answer: Answer, index: int) -> dict[str, object]:
        self._context = 0 if answer.model.variant is None else answer.model.variant.context
        sampling = self._body.sampling.over(answer.model.entry.sampling).over(DEFAULTS)
        lora = [{"id": each.id, "scale": each.scale} for each in self._body.lora or ()]
        return settings_document(sampling, self._requests[index], bool(self._body.stream), self._ends) | {"lora": lora}

    def _tokens(self, likely: Sequence[TokenLogprob]) -> list[int]:
        return [each.drawn.token for each in likely] if self._body.return_tokens or self._body.stream else []

    def _selected(self, document: dict[str, object]) -> dict[str, object]:
        """Only the fields that were asked for: `timings/prompt_n` is one inside another."""
        wanted = self._body.response_fields
        if not wanted:
            return document
        found: dict[str, object] = {}
        for path in wanted:
            value: Any = document
            for key in path.split("/"):
                if not isinstance(value, dict) or key not in value:
                    break
                value = value[key]
            else:
                found[path] = value
        return found


def settings_document(
    sampling: Sampling, request: GenerationRequest, streamed: bool = False, ends: Sequence[int] = ()
) -> dict[str, object]:
    """What a request is answered with, in llama-server's names; a seed of -1 is drawn anew, a bias of null bans.

    `ends`: the tokens that are banned besides.
    """
    banned = [(token, -math.inf) for token in ends]
    return {
        **asdict(sampling.over(NEUTRAL)),
        "seed": -1 if sampling.seed is None else sampling.seed,
        "n_predict": -1 if request.max_tokens is None else request.max_tokens,
        "max_tokens": -1 if request.max_tokens is None else request.max_tokens,
        "stop": list(request.stop),
        "stream": streamed,
        "n_keep": 0,
        "n_probs": request.logprobs or 0,
        "ignore_eos": request.ignore_eos,
        "logit_bias": [
            {"token": token, "bias": None if math.isinf(bias) else bias}
            for token, bias in (*request.logit_bias, *banned)
        ],
        "grammar": request.grammar,
        "samplers": list(SAMPLERS if request.samplers is None else request.samplers),
        "n_indent": request.indent,
        "t_max_predict_ms": -1 if request.line_limit is None else round(request.line_limit * 1000),
        "post_sampling_probs": request.after_filters,
        "timings_per_token": request.tells_usage,
        "lora": [],
        **_CONSTANT,
        "adaptive_target": -1.0,
        "adaptive_decay": 0.9,
    }


def _stop_type(ending: Ending) -> str:
    if ending.stop is not None:
        return "word"
    return "limit" if ending.reason is StopReason.LENGTH else "eos"


def _probability(likely: TokenLogprob, after_filters: bool) -> dict[str, object]:
    """After the filters it is the probability itself that is told."""
    top = [_one(other, after_filters) for other in likely.top]
    return {**_one(likely.drawn, after_filters), "top_probs" if after_filters else "top_logprobs": top}


def _one(likely: Likelihood, after_filters: bool) -> dict[str, object]:
    told = {"prob": math.exp(likely.logprob)} if after_filters else {"logprob": max(likely.logprob, _LEAST)}
    return {
        "id": likely.token,
        "token": likely.raw.decode("utf-8", "replace"),
        "bytes": list(likely.raw),
        **told,
    }


def _event(document: object) -> bytes:
    return b"data: " + encode(document) + b"\n\n"
