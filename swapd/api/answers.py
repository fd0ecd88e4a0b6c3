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
from swapd.generation import CallPart, Chunk, Ending, News, TokenLogprob, ToolCall
from swapd.runtime.asking import Answer, Ask, Watch
from swapd.runtime.gateway import Gateway
from swapd.units import Tokens

T = TypeVar("T")

_AHEAD: Final = 64
"""So often may several answers bring something that waits for one slow reader."""


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

    async def work(out: Stream) -> None:
        if len(asks) == 1:
            await _tell_one(gateway, asks[0], voice, out, epilogue)
        else:
            await _tell_several(gateway, asks, voice, out)
        out.put(voice.closing())

    return await stream(request, voice.framing, work)


async def _tell_one(gateway: Gateway, ask: Ask, voice: Voice, out: Stream, epilogue: Epilogue | None) -> None:
    texts: list[str] = []
    ending: Ending | None = None
    async with gateway.generate(ask, out.watch) as answer:
        await out.open(answer_headers(answer))
        out.put(voice.opening(answer, 0))

        def say(news: News) -> bool:
            nonlocal ending
            for item in news:
                if isinstance(item, Chunk):
                    texts.append(item.text)
                    out.put(voice.piece(item, 0))
                else:
                    ending = item
            return ending is not None or out.try_flush()  # the ending goes out with the last words

        while await answer.hear(say):
            await out.flush()
    if epilogue is not None:
        await epilogue("".join(texts))
    assert ending is not None
    out.put(voice.ending(ending, 0))


async def _tell_several(gateway: Gateway, asks: Sequence[Ask], voice: Voice, out: Stream) -> None:
    async with _several(gateway, asks, out.watch) as answers:
        await out.open(answer_headers(answers.first))
        for index in range(len(asks)):
            out.put(voice.opening(answers.first, index))
        async for index, news in answers:
            for item in news:
                out.put(voice.piece(item, index) if isinstance(item, Chunk) else voice.ending(item, index))
            if answers.must_wait:
                await out.flush()


async def _whole(gateway: Gateway, ask: Ask) -> Whole:
    items: list[Chunk | Ending] = []

    def say(news: News) -> bool:
        items.extend(news)
        return True

    async with gateway.generate(ask) as answer:
        await answer.hear(say)
        return _joined(answer, items)


def _joined(answer: Answer, items: Sequence[Chunk | Ending]) -> Whole:
    chunks = [item for item in items if isinstance(item, Chunk)]
    ending = items[-1]
    assert isinstance(ending, Ending)
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
    """Several answers as they come: what one of them brings, with that answer's place."""

    def __init__(self, count: int) -> None:
        self._queue: asyncio.Queue[tuple[int, News | Exception]] = asyncio.Queue(_AHEAD)
        self._left = count
        self._first: asyncio.Future[Answer | Exception] = asyncio.get_running_loop().create_future()
        self.first: Answer

    async def pump(self, gateway: Gateway, index: int, ask: Ask, watch: Watch | None) -> None:
        try:
            async with gateway.generate(ask, watch) as answer:
                self._tell_first(answer)
                async for news in answer:
                    await self._queue.put((index, news))
        except Exception as error:  # raised again by the reader, who has the stream
            self._tell_first(error)
            await self._queue.put((index, error))

    def _tell_first(self, what: Answer | Exception) -> None:
        if not self._first.done():
            self._first.set_result(what)

    async def wait_first(self) -> None:
        """Until one of them answers. Raises what kept the first from answering."""
        what = await self._first
        if isinstance(what, Exception):
            raise what
        self.first = what

    @property
    def must_wait(self) -> bool:
        """More is to come, and nothing of it is there."""
        return self._left > 0 and self._queue.empty()

    def __aiter__(self) -> AsyncIterator[tuple[int, News]]:
        return self

    async def __anext__(self) -> tuple[int, News]:
        if not self._left:
            raise StopAsyncIteration
        index, news = await self._queue.get()
        if isinstance(news, Exception):
            raise news
        self._left -= isinstance(news[-1], Ending)
        return index, news


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
