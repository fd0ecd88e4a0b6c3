"""The OpenAI dialect: chat completions, completions.

Bodies are checked in `openai_bodies.py`; this page has the routes and the words of the answers.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Final

from aiohttp import web

from swapd import __version__
from swapd.api.answers import Whole, give
from swapd.api.bodies import read_object
from swapd.api.calls import encode, generation_ids, priority, session
from swapd.api.figures import timings
from swapd.api.openai_bodies import GenerationBody, read_chat, read_completion
from swapd.api.stream import SSE, Framing
from swapd.generation import Chunk, Ending, GenerationRequest, Message, Sampling, StopReason, Usage
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

_FINGERPRINT: Final = f"swapd-{__version__}"


@routes.post("/v1/chat/completions")
async def chat(request: web.Request) -> web.StreamResponse:
    body = read_chat(await read_object(request))
    messages = tuple(message.message for message in body.messages)
    (unique,) = generation_ids(request, 1)
    ask = _ask(request, body, unique, messages=messages)
    return await give(request, [ask], ChatVoice(unique, body), streamed=bool(body.stream))


@routes.post("/v1/completions")
async def complete(request: web.Request) -> web.StreamResponse:
    body = read_completion(await read_object(request))
    asks = [
        _ask(request, body, unique, prompt=prompt, echo=bool(body.echo))
        for unique, prompt in zip(generation_ids(request, len(body.prompt)), body.prompts, strict=True)
    ]
    return await give(request, asks, CompletionVoice(asks[0].request.id, body), streamed=bool(body.stream))


def _ask(
    request: web.Request,
    body: GenerationBody,
    unique: str,
    messages: tuple[Message, ...] = (),
    prompt: str | tuple[int, ...] = "",
    echo: bool = False,
) -> Ask:
    return Ask(
        model=body.model,
        request=GenerationRequest(
            id=unique,
            messages=messages,
            prompt=prompt,
            sampling=body.sampling,
            max_tokens=body.limit,
            stop=tuple(body.stop),
            echo=echo,
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
        self._spent: list[Usage] = []

    def whole(self, wholes: Sequence[Whole]) -> object:
        spent = _total([whole.ending.usage for whole in wholes])
        return {
            **self._head,
            "choices": [
                {**self.content(whole.text, index), "logprobs": None, "finish_reason": _finish(whole.ending)}
                for index, whole in enumerate(wholes)
            ],
            "usage": _usage(spent),
            "timings": timings(spent),
        }

    @abstractmethod
    def content(self, text: str, index: int) -> dict[str, object]:
        """The choice of a whole answer, but for how it ended."""

    def frame(self, choices: list[dict[str, object]], **more: object) -> bytes:
        return b"data: " + encode({**self._head, "choices": choices, **self._usage_key, **more}) + b"\n\n"

    def closing(self) -> bytes:
        usage = self.frame([], usage=_usage(_total(self._spent))) if self._usage_key else b""
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
        return self._delta({"content": chunk.text}, index)

    def ending(self, ending: Ending, index: int) -> bytes:
        self._spent.append(ending.usage)
        return self._delta({}, index, _finish(ending), timings=timings(ending.usage))

    def _delta(self, delta: dict[str, object], index: int, finish: str | None = None, **more: object) -> bytes:
        return self.frame([{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}], **more)


class CompletionVoice(_Voice):
    prefix = "cmpl"
    whole_object = "text_completion"
    stream_object = "text_completion"

    def content(self, text: str, index: int) -> dict[str, object]:
        return {"index": index, "text": text}

    def opening(self, answer: Answer, index: int) -> bytes:
        return b""

    def piece(self, chunk: Chunk, index: int) -> bytes:
        return self._text(chunk.text, index)

    def ending(self, ending: Ending, index: int) -> bytes:
        self._spent.append(ending.usage)
        return self._text("", index, _finish(ending), timings=timings(ending.usage))

    def _text(self, text: str, index: int, finish: str | None = None, **more: object) -> bytes:
        return self.frame([{"index": index, "text": text, "logprobs": None, "finish_reason": finish}], **more)


def _finish(ending: Ending) -> str:
    return "length" if ending.reason is StopReason.LENGTH else "stop"


def _total(spent: Sequence[Usage]) -> Usage:
    return Usage(
        prompt=sum(usage.prompt for usage in spent),
        cached=sum(usage.cached for usage in spent),
        completion=sum(usage.completion for usage in spent),
        prompt_s=sum(usage.prompt_s for usage in spent),
        completion_s=sum(usage.completion_s for usage in spent),
    )


def _usage(usage: Usage) -> dict[str, object]:
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
    }
