"""The words of OpenAI's chat completions and completions: whole answers and streams.

Used by `openai.py`, which has the routes.
"""

from __future__ import annotations

import codecs
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar, Final, assert_never

from msgspec.structs import replace

from swapd import __version__
from swapd.api.answers import Whole, thoughts_of
from swapd.api.calls import encode
from swapd.api.constrained import told_all
from swapd.api.figures import so_far, timings
from swapd.api.inlining import Inlining
from swapd.api.openai_bodies import ChatBody, GenerationBody
from swapd.api.stream import SSE, Framing
from swapd.generation import CallPart, Chunk, Ending, StopReason, TokenLogprob, Usage
from swapd.runtime.asking import Answer

_FINGERPRINT: Final = f"swapd-{__version__}"
_NOTHING: Final[Mapping[str, object]] = MappingProxyType({})
_new_decoder = codecs.getincrementaldecoder("utf-8")


class _Voice(ABC):
    """What chat and plain completions have in common."""

    framing: Framing = SSE
    prefix: ClassVar[str]
    whole_object: ClassVar[str]
    stream_object: ClassVar[str]

    def __init__(self, unique: str, model: str, body: GenerationBody) -> None:
        self._head: dict[str, object] = {
            "id": f"{self.prefix}-{unique}",
            "object": self.stream_object if body.stream else self.whole_object,
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": _FINGERPRINT,
        }
        # Who asks for usage gets the key in every chunk, null until the last.
        self._usage_key: dict[str, object] = {"usage": None} if body.stream and body.wants_usage else {}
        self._choices, self._tries = body.choices, body.tries
        self._tells = body.alternatives is not None
        self._spent: dict[int, Usage] = {}
        self._thought = 0

    def whole(self, wholes: Sequence[Whole]) -> object:
        self._spent = {index: whole.ending.usage for index, whole in enumerate(wholes)}
        self._thought = sum(whole.thought for whole in wholes)
        if self._tries > self._choices:
            prompts = range(0, len(wholes), self._tries)
            wholes = [whole for at in prompts for whole in _best(wholes[at : at + self._tries], self._choices)]
        return {
            **self._head,
            "choices": [
                {
                    **self.content(whole, index),
                    "logprobs": self._told(whole.logprobs, index),
                    "finish_reason": _finish(whole.ending),
                }
                for index, whole in enumerate(wholes)
            ],
            "usage": self._usage(),
            "timings": timings(_total(list(self._spent.values()))),
        }

    def _told(self, logprobs: Sequence[TokenLogprob], index: int) -> object:
        return self.likelihoods(logprobs, index) if self._tells else None

    def _usage(self) -> dict[str, object]:
        """A prompt of several answers counts once: as for the answer that found least of it evaluated."""
        prompts: dict[int, Usage] = {}
        for index, usage in self._spent.items():
            known = prompts.setdefault(index // self._tries, usage)
            if usage.cached < known.cached:
                prompts[index // self._tries] = usage
        first = _total(list(prompts.values()))
        completion = sum(usage.completion for usage in self._spent.values())
        thoughts = {"completion_tokens_details": {"reasoning_tokens": self._thought}} if self._thought else {}
        return _usage(replace(first, completion=completion)) | thoughts

    @abstractmethod
    def likelihoods(self, logprobs: Sequence[TokenLogprob], index: int) -> dict[str, object]:
        """Of the tokens of a piece."""

    @abstractmethod
    def content(self, whole: Whole, index: int) -> dict[str, object]:
        """The choice of a whole answer, but for how it ended."""

    def frame(self, choices: list[dict[str, object]], **more: object) -> bytes:
        return b"data: " + encode({**self._head, "choices": choices, **self._usage_key, **more}) + b"\n\n"

    def closing(self) -> bytes:
        if not self._usage_key:
            return b"data: [DONE]\n\n"
        spent = timings(_total(list(self._spent.values())))  # where llama-server's clients look for it then
        return self.frame([], usage=self._usage(), timings=spent) + b"data: [DONE]\n\n"


class ChatVoice(_Voice):
    prefix = "chatcmpl"
    whole_object = "chat.completion"
    stream_object = "chat.completion.chunk"

    def __init__(self, unique: str, model: str, body: ChatBody) -> None:
        super().__init__(unique, model, body)
        self._inlining = Inlining(body.reasoning_format)

    def content(self, whole: Whole, index: int) -> dict[str, object]:
        text = self._inlining.whole(whole.text, whole.thinking)
        content = None if whole.calls and not text else text
        message: dict[str, object] = {"role": "assistant", "content": content, "refusal": None}
        if whole.thinking and self._inlining.is_apart:
            message["reasoning_content"] = whole.thinking
        if whole.calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in whole.calls
            ]
        return {"index": index, "message": message}

    def opening(self, answer: Answer, index: int) -> bytes:
        return self._delta({"role": "assistant", "content": ""}, index)

    def piece(self, chunk: Chunk, index: int) -> bytes:
        delta: dict[str, object] = {}
        if chunk.read is not None:
            return self._delta(delta, index, more=so_far(chunk))
        text = self._inlining.piece(chunk, index)
        self._thought += thoughts_of(chunk)
        if chunk.thinking and self._inlining.is_apart:
            delta["reasoning_content"] = chunk.thinking
        if text or not (chunk.thinking or chunk.calls):
            delta["content"] = text
        if chunk.calls:
            delta["tool_calls"] = [_call_delta(part) for part in chunk.calls]
        return self._delta(delta, index, logprobs=self._told(chunk.logprobs, index), more=so_far(chunk))

    def ending(self, ending: Ending, index: int) -> bytes:
        self._spent[index] = ending.usage
        return self._delta({}, index, _finish(ending), more={"timings": timings(ending.usage)})

    def likelihoods(self, logprobs: Sequence[TokenLogprob], index: int) -> dict[str, object]:
        return {"content": told_all(logprobs, with_numbers=True), "refusal": None}

    def _delta(
        self,
        delta: dict[str, object],
        index: int,
        finish: str | None = None,
        logprobs: object = None,
        more: Mapping[str, object] = _NOTHING,
    ) -> bytes:
        return self.frame([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}], **more)


class CompletionVoice(_Voice):
    prefix = "cmpl"
    whole_object = "text_completion"
    stream_object = "text_completion"

    def __init__(self, unique: str, model: str, body: GenerationBody) -> None:
        super().__init__(unique, model, body)
        self._read: dict[int, tuple[codecs.IncrementalDecoder, int]] = {}
        """Of each answer: where the characters stand that its tokens have completed."""

    def content(self, whole: Whole, index: int) -> dict[str, object]:
        return {"index": index, "text": whole.text}

    def opening(self, answer: Answer, index: int) -> bytes:
        return b""

    def piece(self, chunk: Chunk, index: int) -> bytes:
        logprobs = None if chunk.read is not None else self._told(chunk.logprobs, index)
        return self._text(chunk.text, index, logprobs=logprobs, more=so_far(chunk))

    def ending(self, ending: Ending, index: int) -> bytes:
        self._spent[index] = ending.usage
        return self._text("", index, _finish(ending), more={"timings": timings(ending.usage)})

    def likelihoods(self, logprobs: Sequence[TokenLogprob], index: int) -> dict[str, object]:
        offsets = []
        for one in logprobs:
            decoder, offset = self._read.get(index) or (_new_decoder("replace"), 0)
            offsets.append(offset)
            self._read[index] = decoder, offset + len(decoder.decode(one.drawn.raw))
        return {
            "tokens": [one.drawn.raw.decode("utf-8", "replace") for one in logprobs],
            "token_logprobs": [None if one.is_first else one.drawn.logprob for one in logprobs],
            "top_logprobs": [None if one.is_first else _alternatives(one) for one in logprobs],
            "text_offset": offsets,
        }

    def _text(
        self,
        text: str,
        index: int,
        finish: str | None = None,
        logprobs: object = None,
        more: Mapping[str, object] = _NOTHING,
    ) -> bytes:
        return self.frame([{"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}], **more)


def _alternatives(one: TokenLogprob) -> dict[str, float]:
    """Of tokens that read alike (parts of characters) the likeliest."""
    return {other.raw.decode("utf-8", "replace"): other.logprob for other in reversed(one.top)}


def _best(wholes: Sequence[Whole], count: int) -> list[Whole]:
    """Those whose tokens were likeliest, in the mean."""

    def mean(whole: Whole) -> float:
        drawn = whole.logprobs[len(whole.logprobs) - whole.ending.usage.completion :]
        return sum(one.drawn.logprob for one in drawn) / len(drawn) if drawn else 0.0

    return sorted(wholes, key=mean, reverse=True)[:count]


def _call_delta(part: CallPart) -> dict[str, object]:
    if not part.id:
        return {"index": part.index, "function": {"arguments": part.arguments}}
    function = {"name": part.name, "arguments": part.arguments}
    return {"index": part.index, "id": part.id, "type": "function", "function": function}


def _finish(ending: Ending) -> str:
    match ending.reason:
        case StopReason.LENGTH:
            return "length"
        case StopReason.TOOL_CALLS:
            return "tool_calls"
        case StopReason.STOP | StopReason.CANCELLED:
            return "stop"
        case _:
            assert_never(ending.reason)


def _total(spent: Sequence[Usage]) -> Usage:
    return Usage(
        prompt=sum(usage.prompt for usage in spent),
        cached=sum(usage.cached for usage in spent),
        completion=sum(usage.completion for usage in spent),
        prompt_s=sum(usage.prompt_s for usage in spent),
        completion_s=sum(usage.completion_s for usage in spent),
        drafted=sum(usage.drafted for usage in spent),
        accepted=sum(usage.accepted for usage in spent),
    )


def _usage(usage: Usage) -> dict[str, object]:
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
    }
