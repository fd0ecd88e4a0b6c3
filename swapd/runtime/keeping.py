"""A file that follows what is learnt: written in a thread, at most once in a while, and at the end.

What `learnt` and `recorder` share, which say what is written. Knows nothing of it.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import structlog

from swapd.units import Seconds

PAUSE: Final[Seconds] = 5.0
"""Between two writes: so much is lost where the machine fails. Each takes as long as half a request."""

log = structlog.get_logger("swapd.keeping")


class Keeping(ABC):
    """Use as an async context manager: leaving it writes what is left. `complaint` is told once for all failures in a
    row.
    """

    def __init__(self, path: Path, complaint: str, pause: Seconds = PAUSE) -> None:
        self._path, self._complaint, self._pause = path, complaint, pause
        self._news = asyncio.Event()
        self._is_behind = False
        """The file lacks something."""
        self._is_failing = False
        self._writing = threading.Lock()
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._keeping = self._tasks.create_task(self._keep(), name=f"write {self._path.name}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._keeping.cancel()
            await self._tasks.__aexit__(kind, error, trace)
        finally:
            self._write()

    @abstractmethod
    def _put(self) -> None:
        """Write what is new, all of it or nothing. Blocks; raises OSError."""

    def _has_news(self) -> None:
        """To be called after every change."""
        self._is_behind = True
        self._news.set()

    async def _keep(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            await asyncio.to_thread(self._write)
            await asyncio.sleep(self._pause)

    def _write(self) -> None:
        """Two at a time take turns. What could not be written is tried again with the next news, and at the end."""
        with self._writing:
            if not self._is_behind:
                return
            self._is_behind = False  # what is new from now on may not be in it
            try:
                self._put()
            except OSError as error:
                self._is_behind = True
                if not self._is_failing:
                    log.warning(self._complaint, path=str(self._path), reason=str(error))
                self._is_failing = True
            else:
                self._is_failing = False
