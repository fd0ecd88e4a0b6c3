"""The Anthropic dialect: messages, and how many tokens they have.

Bodies are checked in `anthropic_bodies.py`; this page has the routes and the words of the answers. Headers that
its clients send (`anthropic-version`, `anthropic-beta`) change nothing here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, assert_never

import msgspec
from aiohttp import web
from msgspec.structs import replace

from swapd.api.answers import Whole, give
from swapd.api.anthropic_bodies import CountBody, read_count, read_messages
from swapd.api.bodies import read_object
from swapd.api.calls import GATEWAY, encode, generation_ids, json_answer, priority, session
from swapd.api.openai import DEFAULTS
from swapd.api.stream import SSE, Framing
from swapd.generation import CallPart, Chunk, Ending, GenerationRequest, StopReason, ToolCall, ToolChoice, Usage
from swapd.runtime.asking import Answer, Ask

routes = web.RouteTableDef()

_SIGNATURE: Final = "swapd"
"""Clients give thoughts back only with a signature; ours vouches for nothing."""


@routes.post("/v1/messages")
async def messages(request: web.Request) -> web.StreamResponse:
    body = read_messages(await read_object(request))
    (unique,) = generation_ids(request, 1)
    ask = Ask(
        model=body.model,
        request=replace(
            _prompt(unique, body),
            sampling=body.sampling,
            max_tokens=body.max_tokens,
            stop=tuple(body.stop_sequences),
        ),
        defaults=DEFAULTS,
        keep_alive=body.keep_alive,
        priority=priority(request),
        session=session(request),
    )
    return await give(request, [ask], MessagesVoice(unique, body.model), streamed=bool(body.stream))


@routes.post("/v1/messages/count_tokens")
async def count_tokens(request: web.Request) -> web.Response:
    """What the prompt would have, by the model's own template and vocabulary; nothing is loaded for it."""
    body = read_count(await read_object(request))
    (unique,) = generation_ids(request, 1)
    rendered = await request.app[GATEWAY].questions.render(body.model, _prompt(unique, body))
    return json_answer({"input_tokens": len(rendered.tokens)})


def _prompt(unique: str, body: CountBody) -> GenerationRequest:
    """All that the prompt depends on, and nothing of how to answer it."""
    chosen = body.tool_choice
    return GenerationRequest(
        id=unique,
        messages=body.turns,
        schema=body.schema_text,
        tools=body.offered_tools,
        tool_choice=ToolChoice.AUTO if chosen is None else chosen.choice,
        tool_name=(chosen.name if chosen is not None else None) or "",
        parallel_calls=chosen is None or not chosen.disable_parallel_tool_use,
        thinking=None if body.thinking is None else body.thinking.wanted,
        thinking_budget=None if body.thinking is None else body.thinking.budget,
        effort=body.effort,
        continues=body.continues,
    )


class MessagesVoice:
    """Blocks one after another: what was thought, what is said, each call; a block ends where the next begins."""

    framing: Framing = SSE

    def __init__(self, unique: str, model: str) -> None:
        self._head: dict[str, object] = {"id": f"msg_{unique}", "type": "message", "role": "assistant", "model": model}
        self._count = 0
        self._open: str | int | None = None
        """What the open block holds: "thinking", "text", or the call of this index."""

    def whole(self, wholes: Sequence[Whole]) -> object:
        (whole,) = wholes
        content: list[dict[str, object]] = []
        if whole.thinking:
            content.append({"type": "thinking", "thinking": whole.thinking, "signature": _SIGNATURE})
        if whole.text:
            content.append({"type": "text", "text": whole.text})
        content += [_call_block(call) for call in whole.calls]
        return {**self._head, "content": content, **_end(whole.ending), "usage": _usage(whole.ending.usage)}

    def opening(self, answer: Answer, index: int) -> bytes:
        prompt, cached = answer.prompt
        usage = _usage(Usage(prompt, cached))
        begun = {**self._head, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
        return _event("message_start", message=begun) + _event("ping")

    def piece(self, chunk: Chunk, index: int) -> bytes:
        said: list[bytes] = []
        if chunk.thinking:
            said += self._block("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            said.append(self._delta({"type": "thinking_delta", "thinking": chunk.thinking}))
        if chunk.text:
            said += self._block("text", {"type": "text", "text": ""})
            said.append(self._delta({"type": "text_delta", "text": chunk.text}))
        for part in chunk.calls:
            said += self._call(part)
        return b"".join(said)

    def ending(self, ending: Ending, index: int) -> bytes:
        return self._close() + _event("message_delta", delta=_end(ending), usage=_usage(ending.usage))

    def closing(self) -> bytes:
        return _event("message_stop")

    def _call(self, part: CallPart) -> list[bytes]:
        said = self._block(part.index, {"type": "tool_use", "id": part.id, "name": part.name, "input": {}})
        if part.arguments:
            said.append(self._delta({"type": "input_json_delta", "partial_json": part.arguments}))
        return said

    def _block(self, holds: str | int, beginning: dict[str, object]) -> list[bytes]:
        """What opens a block that holds this, unless it is open."""
        if self._open == holds:
            return []
        closed = self._close()
        self._open = holds
        return [closed, _event("content_block_start", index=self._count, content_block=beginning)]

    def _delta(self, delta: dict[str, object]) -> bytes:
        return _event("content_block_delta", index=self._count, delta=delta)

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        signed = self._delta({"type": "signature_delta", "signature": _SIGNATURE}) if self._open == "thinking" else b""
        stopped = _event("content_block_stop", index=self._count)
        self._open = None
        self._count += 1
        return signed + stopped


def _event(kind: str, **more: object) -> bytes:
    return f"event: {kind}\ndata: ".encode() + encode({"type": kind, **more}) + b"\n\n"


def _call_block(call: ToolCall) -> dict[str, object]:
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": _arguments(call.arguments)}


def _arguments(text: str) -> dict[str, Any]:
    """Those of a call that the limit of tokens cut off are none."""
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError:
        return {}


def _end(ending: Ending) -> dict[str, object]:
    match ending.reason:
        case StopReason.LENGTH:
            reason = "max_tokens"
        case StopReason.TOOL_CALLS:
            reason = "tool_use"
        case StopReason.STOP | StopReason.CANCELLED:
            reason = "end_turn" if ending.stop is None else "stop_sequence"
        case _:
            assert_never(ending.reason)
    return {"stop_reason": reason, "stop_sequence": ending.stop}


def _usage(usage: Usage) -> dict[str, object]:
    """Anthropic counts as input what was evaluated; what was found in the slot is told beside it."""
    return {
        "input_tokens": usage.evaluated,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.completion,
    }
