"""The daemon's end of a worker's socket, and what one answer has brought so far.

Used by `worker.py`. Frames go from the socket to whoever waits for them within one turn of the event loop: at
hundreds of tokens a second each task in between would cost as much as all the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from swapd import wire
from swapd.generation import Chunk, Ending, News, Say
from swapd.units import Seconds


class Link(asyncio.Protocol):
    """Both directions of the socket. `closed` is done at the end of it, with what broke it ("": its end)."""

    def __init__(self, take: Callable[[wire.FromWorker], None], pause: Callable[[], None]) -> None:
        """`pause` is called after all that came together was taken."""
        self._loop = asyncio.get_running_loop()
        self._take, self._pause = take, pause
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
        self._pause()

    def connection_lost(self, error: Exception | None) -> None:
        if isinstance(error, ConnectionError):  # its process ended with words of ours unread: an end like any other
            error = None
        if not self.closed.done():
            self.closed.set_result(self._broken or (str(error) if error else ""))


class Stream:
    """What has come of one answer and was not yet told. A chunk stays one: programs count tokens by them.

    It is told in the turn of the loop in which it came, to one who `hear`s: no task has to wake for it.
    """

    __slots__ = ("_failure", "_items", "_say", "_waiter", "close", "is_over")

    def __init__(self, close: Callable[[], None] = lambda: None) -> None:
        """`close` is to be called once, however it went."""
        self.close = close
        self._items: list[Chunk | Ending] = []
        self._failure: Exception | None = None
        self._say: Say | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.is_over = False
        """Nothing more will come."""

    def put(self, item: Chunk | Ending) -> None:
        """To be told with the next `tell`."""
        self._items.append(item)
        self.is_over |= isinstance(item, Ending)

    def fail(self, failure: Exception) -> None:
        """After what has come."""
        self._failure, self.is_over = failure, True

    def tell(self) -> None:
        waiter, goes_on = self._waiter, True
        if waiter is None or waiter.done():
            return
        if self._say is None:
            goes_on = not self._items
        elif self._items:
            try:
                goes_on = self._say(self._taken())
            except Exception as error:
                waiter.set_exception(error)
                return
        if self.is_over or not goes_on:
            waiter.set_result(None)

    async def wait_first(self) -> Chunk | Ending:
        """What will be told first, when it is there. Raises the failure."""
        while not self._items and not self.is_over:
            await self._wait(None)
        self._raise_failure()
        return self._items[0]

    async def hear(self, say: Say) -> bool:
        """As `runtime.ports.Telling.hear`."""
        if self._items or not self.is_over:
            await self._wait(say)
        self._raise_failure()
        return bool(self._items) or not self.is_over

    async def _wait(self, say: Say | None) -> None:
        self._say, self._waiter = say, asyncio.get_running_loop().create_future()
        if self._items:
            self.tell()
        try:
            await self._waiter
        finally:
            self._say = self._waiter = None

    def _raise_failure(self) -> None:
        if self._failure is not None and not self._items:
            raise self._failure

    def _taken(self) -> News:
        news = tuple(self._items)
        self._items.clear()
        return news
