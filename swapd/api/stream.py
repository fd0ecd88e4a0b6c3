"""Answers as they come: SSE and NDJSON, one write for all that is there.

Headers go out with the first piece, so that whatever fails before has its own status; later failures are
told inside the stream. A caller that goes away ends the handler, and with it the lease. Used by the
dialects through `answers.py`, and by `admin.py`; knows no dialect.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

from aiohttp import HttpVersion11, hdrs, web

from swapd.api.calls import CANCELLED, OUTCOME, REQUEST_ID, encode, wants_progress
from swapd.api.failures import Dialect, Failure, failure_of
from swapd.runtime.asking import Progress, Watch
from swapd.units import Bytes, KiB

_AT_ONCE: Final[Bytes] = 32 * KiB
"""So much a transport that has nothing else to send takes and lets nobody wait: half of what asyncio's do."""


class Framing(Protocol):
    """How one kind of stream looks on the wire."""

    content_type: str

    def progress(self, progress: Progress) -> bytes: ...

    def failure(self, failure: Failure, dialect: Dialect) -> bytes: ...


class Sse:
    content_type = "text/event-stream; charset=utf-8"

    def progress(self, progress: Progress) -> bytes:
        return f": {' '.join(progress.status.split())}\n\n".encode()

    def failure(self, failure: Failure, dialect: Dialect) -> bytes:
        return b"event: error\ndata: " + encode(failure.body(dialect)) + b"\n\n"


class Ndjson:
    content_type = "application/x-ndjson"

    def progress(self, progress: Progress) -> bytes:
        return encode(progress_document(progress)) + b"\n"

    def failure(self, failure: Failure, dialect: Dialect) -> bytes:
        return encode(failure.body(dialect)) + b"\n"


SSE: Final[Framing] = Sse()
NDJSON: Final[Framing] = Ndjson()


def progress_document(progress: Progress) -> dict[str, object]:
    return {"status": progress.status, "position": progress.position, "fraction": progress.fraction}


class _Response(web.StreamResponse):
    """Its headers go out with what is written first: each write wakes the caller."""

    _send_headers_immediately = False


class Stream:
    """One streamed answer: `put` is free, `flush` writes."""

    def __init__(self, request: web.Request, framing: Framing) -> None:
        self._request = request
        self._framing = framing
        self._pending: list[bytes] = []
        self._is_begun = False
        """Whether anything was written."""
        self.response = _Response(
            headers={
                hdrs.CONTENT_TYPE: framing.content_type,
                hdrs.CACHE_CONTROL: "no-cache",
                "X-Accel-Buffering": "no",
            }
        )

    @property
    def is_open(self) -> bool:
        return self.response.prepared

    @property
    def watch(self) -> Watch | None:
        """For callers that asked to be told while they wait; its first word opens the stream."""
        return self._tell if wants_progress(self._request) else None

    async def open(self, headers: Mapping[str, str]) -> None:
        """The headers, to go out with the next `flush`; unless a progress line has sent others already."""
        if not self.is_open:
            self.response.headers.update(headers)
            if self._request.version < HttpVersion11:
                self.response.force_close()  # without chunks, the end of the connection is the end of the answer
            await self.response.prepare(self._request)

    def put(self, data: bytes) -> None:
        self._pending.append(data)

    async def flush(self) -> None:
        if self._pending or not self._is_begun:
            self._is_begun = True
            await self.response.write(self._taken())

    def try_flush(self) -> bool:
        """As `flush`, in no time; False, and nothing written, where the caller does not read as fast: `flush` waits."""
        transport = self._request.transport
        size = sum(map(len, self._pending))
        if transport is None or transport.get_write_buffer_size() or size > _AT_ONCE or not self._is_begun:
            return False
        writing = self.response.write(self._taken())
        try:
            writing.send(None)
        except StopIteration:
            return True
        raise AssertionError("a write waits that its transport has room for")

    async def close(self) -> web.StreamResponse:
        await self.response.write_eof(self._taken())  # with the last piece: a write of its own would wake the caller
        return self.response

    def _taken(self) -> bytes:
        data = b"".join(self._pending)
        self._pending.clear()
        return data

    async def _tell(self, progress: Progress) -> None:
        # A caller that is gone cancels the handler; its waiting must not fail for another reason first.
        with contextlib.suppress(ConnectionResetError):
            await self.open({})
            self.put(self._framing.progress(progress))
            await self.flush()

    async def fail(self, error: Exception) -> web.StreamResponse:
        """Tells inside the stream what went wrong, and ends it."""
        failure = failure_of(error, self._request[REQUEST_ID])
        self._request[OUTCOME] = failure.code
        self.put(self._framing.failure(failure, Dialect.of(self._request)))
        return await self.close()


async def stream(
    request: web.Request, framing: Framing, work: Callable[[Stream], Awaitable[None]]
) -> web.StreamResponse:
    """The answer that `work` streams. What it raises before the stream is open is raised; later it is told inside."""
    answer = Stream(request, framing)
    try:
        try:
            await work(answer)
        except ConnectionResetError:
            raise
        except Exception as error:
            if not answer.is_open:
                raise
            return await answer.fail(error)
        return await answer.close()
    except ConnectionResetError:
        request[OUTCOME] = CANCELLED
        return answer.response  # the caller is gone: nobody is left to be told
