"""OpenAI's Responses dialect, without a memory: the caller sends the whole conversation.

Bodies are checked in `responses_bodies.py`, items grow in `responses_output.py`; this page has the route and the
response around them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiohttp import web

from swapd.api.answers import Whole, give, thoughts_of
from swapd.api.bodies import read_object
from swapd.api.calls import GATEWAY, encode, generation_ids, priority, session
from swapd.api.chosen import CHAT, model_for
from swapd.api.failures import Dialect, Failure
from swapd.api.figures import so_far, timings
from swapd.api.openai import DEFAULTS
from swapd.api.responses_bodies import ResponsesBody, read_responses
from swapd.api.responses_output import COMPLETED, IN_PROGRESS, INCOMPLETE, Output
from swapd.api.stream import SSE, Framing
from swapd.generation import CallPart, Chunk, Ending, StopReason, Usage
from swapd.runtime.asking import Answer, Ask, Progress
from swapd.units import Tokens

routes = web.RouteTableDef()

_ECHOED: Final[Mapping[str, object]] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "reasoning": None,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "user": None,
}
"""What a response repeats of its request, and what it says where the request said nothing."""


@routes.post("/responses")
@routes.post("/v1/responses")
async def respond(request: web.Request) -> web.StreamResponse:
    raw = await read_object(request)
    body = read_responses(raw)
    name = await model_for(request.app[GATEWAY], body.model, CHAT)
    (unique,) = generation_ids(request, 1)
    ask = Ask(
        model=name,
        request=body.asked(unique),
        defaults=DEFAULTS,
        keep_alive=body.keep_alive,
        priority=priority(request),
        session=session(request),
    )
    return await give(request, [ask], ResponsesVoice(unique, name, body, raw), streamed=bool(body.stream))


class ResponsesVoice:
    def __init__(self, unique: str, model: str, body: ResponsesBody, raw: Mapping[str, Any]) -> None:
        self.framing: Framing = _Framing(self)
        self._output = Output(unique, body.box, tells=body.alternatives is not None)
        self._thought = 0
        self._sequence = 0
        said = {name: default if raw.get(name) is None else raw[name] for name, default in _ECHOED.items()}
        self._head: dict[str, object] = {
            "id": f"resp_{unique}",
            "object": "response",
            "created_at": int(time.time()),
            "model": model,
            **said,
            "background": False,
            "previous_response_id": None,
            "store": False,
            "truncation": "disabled",
        }

    def whole(self, wholes: Sequence[Whole]) -> object:
        (whole,) = wholes
        self._thought = whole.thought
        calls = tuple(CallPart(i, call.id, call.name, call.arguments) for i, call in enumerate(whole.calls))
        for _ in self._output.tell(Chunk(whole.text, 0, whole.thinking, calls, whole.logprobs)):
            pass  # whoever does not stream is told the result only
        for _ in self._output.close(_status(whole.ending)):
            pass
        return self._response(_status(whole.ending), whole.ending)

    def opening(self, answer: Answer, index: int) -> bytes:
        begun = self._response(IN_PROGRESS)
        return self.event("response.created", response=begun) + self.event("response.in_progress", response=begun)

    def piece(self, chunk: Chunk, index: int) -> bytes:
        if chunk.read is not None:
            return self.event("response.in_progress", response=self._response(IN_PROGRESS), **so_far(chunk))
        self._thought += thoughts_of(chunk)
        return b"".join(self.event(kind, **fields, **so_far(chunk)) for kind, fields in self._output.tell(chunk))

    def ending(self, ending: Ending, index: int) -> bytes:
        status = _status(ending)
        last = b"".join(self.event(kind, **fields) for kind, fields in self._output.close(status))
        return last + self.event(
            f"response.{status}", response=self._response(status, ending), timings=timings(ending.usage)
        )

    def closing(self) -> bytes:
        return b""

    def failure(self, failure: Failure) -> bytes:
        """Some clients look for the response that failed, others for an error event."""
        error = {"code": failure.code, "message": failure.message}
        words = failure.body(Dialect.OPENAI)
        failed = {**self._response("failed"), "error": error}
        told = {**error, "param": failure.param, **words}
        return self.event("response.failed", response=failed) + self.event("error", **told)

    def event(self, kind: str, **fields: object) -> bytes:
        data = encode({"type": kind, "sequence_number": self._sequence, **fields})
        self._sequence += 1
        return f"event: {kind}\ndata: ".encode() + data + b"\n\n"

    def _response(self, status: str, ending: Ending | None = None) -> dict[str, object]:
        return {
            **self._head,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == INCOMPLETE else None,
            "output": list(self._output.done),
            "usage": None if ending is None else _usage(ending.usage, self._thought),
            "completed_at": int(time.time()) if status == COMPLETED else None,
        }


class _Framing:
    """Errors inside the stream are events of the response, and numbered like the others."""

    content_type = SSE.content_type

    def __init__(self, voice: ResponsesVoice) -> None:
        self._voice = voice

    def progress(self, progress: Progress) -> bytes:
        return SSE.progress(progress)

    def failure(self, failure: Failure, dialect: Dialect) -> bytes:
        return self._voice.failure(failure)


def _status(ending: Ending) -> str:
    return INCOMPLETE if ending.reason is StopReason.LENGTH else COMPLETED


def _usage(usage: Usage, thought: Tokens) -> dict[str, object]:
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": usage.prompt + usage.completion,
    }
