"""Questions about a model that is not loaded, asked of a process that opens vocabularies only.

So nothing is loaded, and nobody has to leave, only to count tokens. Implements `runtime.ports.Clerk`.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, Self

from swapd.pool.aside import Aside
from swapd.questions import Reply, VocabularyQuestion
from swapd.units import Seconds

IDLE: Final[Seconds] = 60.0
LIMIT: Final[Seconds] = 30.0
"""For one question, the start of a process and the opening of a large vocabulary included."""


class Clerk:
    """Use as an async context manager: leaving it ends the process."""

    def __init__(self, idle: Seconds = IDLE, limit: Seconds = LIMIT) -> None:
        self._aside = Aside("clerk", idle, limit)
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self._aside.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._aside.__aexit__(kind, error, trace)

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return self._aside.pid

    async def ask(self, path: str, question: VocabularyQuestion) -> Reply:
        """Raises InvalidRequest, WorkerFailed (unusable: llama.cpp cannot read that file's vocabulary)."""
        async with self._turn, self._aside.asked() as worker:  # one at a time: the limit is not for the others' time
            return await worker.ask(question, path)
