"""A process of its own beside the workers: started when it is first wanted, ended when nobody has asked for a while.

What `sizer` and `clerk` share, which say what it is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import structlog

from swapd.errors import Death, WorkerFailed
from swapd.pool.worker import Worker
from swapd.units import Seconds

log = structlog.get_logger("swapd.pool")


class Aside:
    """Use as an async context manager: leaving it ends the process. `what` names it for people."""

    def __init__(self, what: str, idle: Seconds, limit: Seconds) -> None:
        self._what, self._idle, self._limit = what, idle, limit
        self._worker: Worker | None = None
        self._turn = asyncio.Lock()
        self._end: asyncio.TimerHandle | None = None
        self._tasks = asyncio.TaskGroup()
        self._is_closing = False

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_closing = True
        self.stop()
        await self._tasks.__aexit__(kind, error, trace)

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return None if self._worker is None or self._worker.ended.done() else self._worker.pid

    @asynccontextmanager
    async def asked(self) -> AsyncIterator[Worker]:
        """The process, to be asked something within the limit; one question at a time, the others' is not counted.

        Raises WorkerFailed; over the limit the process is ended too.
        """
        async with self._turn:
            if self._end is not None:
                self._end.cancel()
            try:
                async with asyncio.timeout(self._limit):
                    yield await self._live()
            except TimeoutError:
                self.stop()
                raise WorkerFailed(Death.CRASHED, f"{self._what} took longer than {self._limit:g} s") from None
            finally:
                if not self._is_closing:
                    self._end = asyncio.get_running_loop().call_later(self._idle, self.stop)

    def stop(self) -> None:
        """End the process now; the next question gets a new one."""
        if self._end is not None:
            self._end.cancel()
            self._end = None
        if self._worker is not None:
            self._worker.kill()
            self._worker = None

    async def release(self) -> None:
        """End the process when the question under way is answered; returns when it is reaped."""
        async with self._turn:
            worker = self._worker
            self.stop()
            if worker is not None:
                await worker.ended

    async def _live(self) -> Worker:
        """Raises WorkerFailed."""
        if self._is_closing:
            raise WorkerFailed(Death.CRASHED, f"the {self._what} is closed")
        if self._worker is None or self._worker.ended.done():
            try:
                worker = await Worker.spawn()
            except OSError as error:
                raise WorkerFailed(Death.CRASHED, f"no process can be started: {error}") from error
            self._tasks.create_task(worker.listen(), name=f"{self._what} {worker.pid}")
            self._tasks.create_task(worker.overhear(), name=f"stderr of {self._what} {worker.pid}")
            if self._is_closing:
                worker.kill()
            self._worker = worker
            log.debug("process started", what=self._what, pid=worker.pid)
        return self._worker
