"""From a dialect's asks to its answer: one or several, whole or streamed.

Used by the dialects that generate; a dialect brings its words as a `Voice`. Decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from aiohttp import web

from swapd.api.calls import GATEWAY, MODEL, answer_headers, json_answer
from swapd.api.stream import Framing, Stream, stream
from swapd.generation import CallPart, Chunk, Ending, TokenLogprob, ToolCall
from swapd.runtime.asking import Answer, Ask, Watch
from swapd.runtime.gateway import Gateway
from swapd.units import Tokens

T = TypeVar("T")

_AHEAD: Final = 64
"""Chunks of several answers that may wait for one slow reader."""

Item: TypeAlias = tuple[int, Chunk | Ending]


@dataclass(frozen=True, slots=True)
class Whole:
    """An answer from beginning to end."""

    answer: Answer
    text: str
    ending: Ending
    thinking: str = ""
    calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    thought: Tokens = 0
    """How many of its tokens are thoughts."""


class Voice(Protocol):
    """How a dialect says one response; made for it, and told what happens in order.

    `index` is the answer's place among those of one request.
    """

    framing: Framing

    def whole(self, wholes: Sequence[Whole]) -> object:
        """The document of a response that is not streamed."""

    def opening(self, answer: Answer, index: int) -> bytes: ...

    def piece(self, chunk: Chunk, index: int) -> bytes: ...

    def ending(self, ending: Ending, index: int) -> bytes: ...

    def closing(self) -> bytes:
        """After the last ending."""


Epilogue: TypeAlias = Callable[[str], Awaitable[None]]
"""Awaited with the text of an only answer when it is complete, before the voice says how it ended."""


async def give(
    request: web.Request, asks: Sequence[Ask], voice: Voice, *, streamed: bool, epilogue: Epilogue | None = None
) -> web.StreamResponse:
    """The response to these asks (at least one). Raises what the gateway raises, while nothing has been sent."""
    gateway = request.app[GATEWAY]
    request[MODEL] = asks[0].model
    if not streamed:
        wholes = await _together([_whole(gateway, ask) for ask in asks])
        if epilogue is not None:
            await epilogue(wholes[0].text)
        return json_answer(voice.whole(wholes), headers=answer_headers(wholes[0].answer))

    def say(item: Item) -> bytes:
        index, what = item
        return voice.piece(what, index) if isinstance(what, Chunk) else voice.ending(what, index)

    texts: list[str] = []
    last: list[Ending] = []

    def say_only(what: Chunk | Ending) -> bytes:
        if isinstance(what, Ending):
            last.append(what)
            return b""
        texts.append(what.text)
        return voice.piece(what, 0)

    async def work(out: Stream) -> None:
        if len(asks) == 1:
            async with gateway.generate(asks[0], out.watch) as answer:
                await out.open(answer_headers(answer))
                out.put(voice.opening(answer, 0))
                await out.send_all(answer, say_only)
            if epilogue is not None:
                await epilogue("".join(texts))
            out.put(voice.ending(last[0], 0))
        else:
            async with _several(gateway, asks, out.watch) as answers:
                await out.open(answer_headers(answers.first))
                for index in range(len(asks)):
                    out.put(voice.opening(answers.first, index))
                await out.send_all(answers, say)
        out.put(voice.closing())

    return await stream(request, voice.framing, work)


async def _whole(gateway: Gateway, ask: Ask) -> Whole:
    chunks: list[Chunk] = []
    async with gateway.generate(ask) as answer:
        async for item in answer:
            if isinstance(item, Ending):
                return _joined(answer, chunks, item)
            chunks.append(item)
    raise AssertionError("an answer ended without saying how")


def _joined(answer: Answer, chunks: Sequence[Chunk], ending: Ending) -> Whole:
    return Whole(
        answer,
        "".join(chunk.text for chunk in chunks),
        ending,
        "".join(chunk.thinking for chunk in chunks),
        joined_calls(part for chunk in chunks for part in chunk.calls),
        tuple(likely for chunk in chunks for likely in chunk.logprobs),
        sum(map(thoughts_of, chunks)),
    )


def thoughts_of(chunk: Chunk) -> Tokens:
    """How many of its tokens are thoughts; of a piece in which the answer begins none are counted."""
    return chunk.tokens if chunk.thinking and not chunk.text and not chunk.calls else 0


def joined_calls(parts: Iterable[CallPart]) -> tuple[ToolCall, ...]:
    """The calls that were told in parts, in their order."""
    calls: dict[int, ToolCall] = {}
    for part in parts:
        known = calls.get(part.index, ToolCall("", "", ""))
        calls[part.index] = ToolCall(known.id or part.id, known.name or part.name, known.arguments + part.arguments)
    return tuple(call for _, call in sorted(calls.items()))


async def _together(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results in order; the first error ends the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


class _Several:
    """Chunks and endings of several answers as they come, each with its answer's place."""

    def __init__(self, count: int) -> None:
        self._queue: asyncio.Queue[tuple[int, Chunk | Ending | Answer | Exception]] = asyncio.Queue(_AHEAD)
        self._left = count
        self.first: Answer

    async def pump(self, gateway: Gateway, index: int, ask: Ask, watch: Watch | None) -> None:
        try:
            async with gateway.generate(ask, watch) as answer:
                await self._queue.put((index, answer))
                async for item in answer:
                    await self._queue.put((index, item))
        except Exception as error:  # raised again by the reader, who has the stream
            await self._queue.put((index, error))

    async def wait_first(self) -> None:
        """Until one of them answers. Raises what kept the first from answering."""
        _, what = await self._queue.get()
        if isinstance(what, Exception):
            raise what
        assert isinstance(what, Answer)
        self.first = what

    def __aiter__(self) -> AsyncIterator[Item]:
        return self

    async def __anext__(self) -> Item:
        while self._left:
            index, what = await self._queue.get()
            if isinstance(what, Exception):
                raise what
            if isinstance(what, Answer):
                continue
            if isinstance(what, Ending):
                self._left -= 1
            return index, what
        raise StopAsyncIteration


@asynccontextmanager
async def _several(gateway: Gateway, asks: Sequence[Ask], watch: Watch | None) -> AsyncIterator[_Several]:
    answers = _Several(len(asks))
    try:
        async with asyncio.TaskGroup() as group:
            for index, ask in enumerate(asks):
                # One voice is enough to tell how the waiting goes.
                group.create_task(answers.pump(gateway, index, ask, watch if index == 0 else None))
            await answers.wait_first()
            yield answers
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
