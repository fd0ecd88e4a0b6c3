"""The daemon's end of a worker's socket, and what one answer has brought so far.

Used by `worker.py`. Frames go from the socket to whoever waits for them within one turn of the event loop: at
hundreds of tokens a second each task in between would cost as much as all the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from swapd import wire
from swapd.generation import Chunk, Ending, News
from swapd.units import Seconds


class Link(asyncio.Protocol):
    """Both directions of the socket. `closed` is done at the end of it, with what broke it ("": its end)."""

    def __init__(self, take: Callable[[wire.FromWorker], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._take = take
        self._frames = wire.Frames()
        self._transport: asyncio.Transport | None = None
        self._broken = ""
        self.closed: asyncio.Future[str] = self._loop.create_future()
        self.heard_at: Seconds = self._loop.time()
        """When something came last."""

    def send(self, message: wire.ToWorker) -> None:
        """Into a closed socket: nothing happens."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(wire.encode(message))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._loop.time()
        try:
            for body in self._frames.feed(data):
                self._take(wire.decode_from_worker(body))
        except wire.WireError as error:
            self._broken = str(error)
            assert self._transport is not None
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        if isinstance(error, ConnectionError):  # its process ended with words of ours unread: an end like any other
            error = None
        if not self.closed.done():
            self.closed.set_result(self._broken or (str(error) if error else ""))


class Stream:
    """What has come of one answer and was not yet taken. A chunk stays one: programs count tokens by them."""

    __slots__ = ("_failure", "_items", "_waiter", "is_over")

    def __init__(self) -> None:
        self._items: list[Chunk | Ending] = []
        self._failure: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.is_over = False
        """Nothing more will come."""

    def put(self, item: Chunk | Ending) -> None:
        self._items.append(item)
        self.is_over |= isinstance(item, Ending)
        self._wake()

    def fail(self, failure: Exception) -> None:
        self._failure, self.is_over = failure, True
        self._wake()

    async def get(self) -> News:
        """All of it, when there is something; () when it is over. Raises the failure after all else. For one reader."""
        while not self._items and not self.is_over:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if not self._items and self._failure is not None:
            raise self._failure
        news = tuple(self._items)
        self._items.clear()
        return news

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
