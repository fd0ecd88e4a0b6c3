"""The OpenAI dialect: chat completions, completions.

Bodies are checked in `openai_bodies.py`; this page has the routes and the words of the answers.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Final

from aiohttp import web

from swapd import __version__
from swapd.api.answers import Whole, give
from swapd.api.bodies import read_object
from swapd.api.calls import encode, generation_ids, priority, session
from swapd.api.constrained import told_all
from swapd.api.figures import timings
from swapd.api.openai_bodies import GenerationBody, read_chat, read_completion
from swapd.api.stream import SSE, Framing
from swapd.generation import Chunk, Ending, GenerationRequest, Message, Sampling, StopReason, TokenLogprob, Usage
from swapd.runtime.gateway import Answer, Ask

routes = web.RouteTableDef()

DEFAULTS: Final = Sampling(
    temperature=0.8,
    top_k=40,
    top_p=0.95,
    min_p=0.05,
    repeat_penalty=1.0,
    repeat_last_n=64,
    presence_penalty=0.0,
    frequency_penalty=0.0,
)
"""llama-server's: what its users get where neither request nor model says."""

_SEEDS: Final = 2**32 - 1
_FINGERPRINT: Final = f"swapd-{__version__}"


@routes.post("/v1/chat/completions")
async def chat(request: web.Request) -> web.StreamResponse:
    body = read_chat(await read_object(request))
    messages = tuple(message.message for message in body.messages)
    asks = [
        _ask(request, body, unique, index, messages=messages)
        for index, unique in enumerate(generation_ids(request, body.choices))
    ]
    return await give(request, asks, ChatVoice(asks[0].request.id, body), streamed=bool(body.stream))


@routes.post("/v1/completions")
async def complete(request: web.Request) -> web.StreamResponse:
    body = read_completion(await read_object(request))
    ids = generation_ids(request, len(body.prompt) * body.choices)
    asks = [
        _ask(request, body, ids.pop(0), index, prompt=prompt, echo=bool(body.echo))
        for prompt in body.prompts
        for index in range(body.choices)
    ]
    return await give(request, asks, CompletionVoice(asks[0].request.id, body), streamed=bool(body.stream))


def _ask(
    request: web.Request,
    body: GenerationBody,
    unique: str,
    index: int,
    messages: tuple[Message, ...] = (),
    prompt: str | tuple[int, ...] = "",
    echo: bool = False,
) -> Ask:
    """`index`: which of a prompt's answers; each of a seeded request draws otherwise, and the same again."""
    sampling = body.sampling
    if sampling.seed is not None:
        sampling = replace(sampling, seed=(sampling.seed + index) % _SEEDS)
    return Ask(
        model=body.model,
        request=GenerationRequest(
            id=unique,
            messages=messages,
            prompt=prompt,
            sampling=sampling,
            max_tokens=body.limit,
            stop=tuple(body.stop),
            echo=echo,
            ignore_eos=bool(body.ignore_eos),
            logit_bias=tuple(body.logit_bias),
            logprobs=body.alternatives,
            grammar=body.grammar or "",
            schema=body.schema_text,
        ),
        defaults=DEFAULTS,
        keep_alive=body.keep_alive,
        priority=priority(request),
        session=session(request),
    )


class _Voice(ABC):
    """What chat and plain completions have in common."""

    framing: Framing = SSE
    prefix: ClassVar[str]
    whole_object: ClassVar[str]
    stream_object: ClassVar[str]

    def __init__(self, unique: str, body: GenerationBody) -> None:
        self._head: dict[str, object] = {
            "id": f"{self.prefix}-{unique}",
            "object": self.stream_object if body.stream else self.whole_object,
            "created": int(time.time()),
            "model": body.model,
            "system_fingerprint": _FINGERPRINT,
        }
        # Who asks for usage gets the key in every chunk, null until the last.
        self._usage_key: dict[str, object] = {"usage": None} if body.stream and body.wants_usage else {}
        self._choices = body.choices
        self._tells = body.alternatives is not None
        self._spent: dict[int, Usage] = {}

    def whole(self, wholes: Sequence[Whole]) -> object:
        self._spent = {index: whole.ending.usage for index, whole in enumerate(wholes)}
        return {
            **self._head,
            "choices": [
                {
                    **self.content(whole.text, index),
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
        """A prompt of several answers counts once."""
        first = _total([usage for index, usage in self._spent.items() if index % self._choices == 0])
        completion = sum(usage.completion for usage in self._spent.values())
        return _usage(replace(first, completion=completion))

    @abstractmethod
    def likelihoods(self, logprobs: Sequence[TokenLogprob], index: int) -> dict[str, object]:
        """Of the tokens of a piece."""

    @abstractmethod
    def content(self, text: str, index: int) -> dict[str, object]:
        """The choice of a whole answer, but for how it ended."""

    def frame(self, choices: list[dict[str, object]], **more: object) -> bytes:
        return b"data: " + encode({**self._head, "choices": choices, **self._usage_key, **more}) + b"\n\n"

    def closing(self) -> bytes:
        usage = self.frame([], usage=self._usage()) if self._usage_key else b""
        return usage + b"data: [DONE]\n\n"


class ChatVoice(_Voice):
    prefix = "chatcmpl"
    whole_object = "chat.completion"
    stream_object = "chat.completion.chunk"

    def content(self, text: str, index: int) -> dict[str, object]:
        return {"index": index, "message": {"role": "assistant", "content": text, "refusal": None}}

    def opening(self, answer: Answer, index: int) -> bytes:
        return self._delta({"role": "assistant", "content": ""}, index)

    def piece(self, chunk: Chunk, index: int) -> bytes:
        return self._delta({"content": chunk.text}, index, logprobs=self._told(chunk.logprobs, index))

    def ending(self, ending: Ending, index: int) -> bytes:
        self._spent[index] = ending.usage
        return self._delta({}, index, _finish(ending), timings=timings(ending.usage))

    def likelihoods(self, logprobs: Sequence[TokenLogprob], index: int) -> dict[str, object]:
        return {"content": told_all(logprobs), "refusal": None}

    def _delta(
        self,
        delta: dict[str, object],
        index: int,
        finish: str | None = None,
        logprobs: object = None,
        **more: object,
    ) -> bytes:
        return self.frame([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}], **more)


class CompletionVoice(_Voice):
    prefix = "cmpl"
    whole_object = "text_completion"
    stream_object = "text_completion"

    def __init__(self, unique: str, body: GenerationBody) -> None:
        super().__init__(unique, body)
        self._offsets: defaultdict[int, int] = defaultdict(int)

    def content(self, text: str, index: int) -> dict[str, object]:
        return {"index": index, "text": text}

    def opening(self, answer: Answer, index: int) -> bytes:
        return b""

    def piece(self, chunk: Chunk, index: int) -> bytes:
        return self._text(chunk.text, index, logprobs=self._told(chunk.logprobs, index))

    def ending(self, ending: Ending, index: int) -> bytes:
        self._spent[index] = ending.usage
        return self._text("", index, _finish(ending), timings=timings(ending.usage))

    def likelihoods(self, logprobs: Sequence[TokenLogprob], index: int) -> dict[str, object]:
        tokens = [one.drawn.raw.decode("utf-8", "replace") for one in logprobs]
        offsets = []
        for token in tokens:
            offsets.append(self._offsets[index])
            self._offsets[index] += len(token)
        return {
            "tokens": tokens,
            "token_logprobs": [one.drawn.logprob for one in logprobs],
            "top_logprobs": [
                {other.raw.decode("utf-8", "replace"): other.logprob for other in one.top} for one in logprobs
            ],
            "text_offset": offsets,
        }

    def _text(self, text: str, index: int, finish: str | None = None, logprobs: object = None, **more: object) -> bytes:
        return self.frame([{"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}], **more)


def _finish(ending: Ending) -> str:
    return "length" if ending.reason is StopReason.LENGTH else "stop"


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
