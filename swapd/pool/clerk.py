"""Questions about a model that is not loaded, asked of a process that opens vocabularies only.

So nothing is loaded, and nobody has to leave, only to count tokens. Implements `runtime.ports.Clerk`.
"""

from __future__ import annotations

from typing import Final

from swapd.pool.aside import Aside
from swapd.questions import Reply, VocabularyQuestion
from swapd.units import Seconds

IDLE: Final[Seconds] = 60.0
LIMIT: Final[Seconds] = 30.0
"""For one question, the start of a process and the opening of a large vocabulary included."""


class Clerk(Aside):
    """Use as an async context manager: leaving it ends the process."""

    def __init__(self, idle: Seconds = IDLE, limit: Seconds = LIMIT) -> None:
        super().__init__("clerk", idle, limit)

    async def ask(self, path: str, question: VocabularyQuestion) -> Reply:
        """Raises InvalidRequest, WorkerFailed (unusable: llama.cpp cannot read that file's vocabulary)."""
        async with self.asked() as worker:
            return await worker.ask(question, path)
