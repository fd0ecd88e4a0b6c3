"""What happens, for those who watch: a ring of the last happenings, and readers that never hold anybody up.

Fed by `journal.py`, read by `/swapd/events`. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

KEPT: Final = 1000


@dataclass(frozen=True, slots=True)
class Happening:
    """Ids have no gaps, so that a reader sees what it missed."""

    id: int
    at: datetime
    kind: str
    facts: Mapping[str, object]


class Happenings:
    def __init__(self) -> None:
        self._ring: deque[Happening] = deque(maxlen=KEPT)
        self._last = 0
        self._readers: list[asyncio.Event] = []

    @property
    def last(self) -> int:
        """The id of the last one; 0: none yet."""
        return self._last

    def tell(self, at: datetime, kind: str, facts: Mapping[str, object]) -> None:
        self._last += 1
        self._ring.append(Happening(self._last, at, kind, facts))
        for reader in self._readers:
            reader.set()

    def after(self, id: int) -> tuple[Happening, ...]:  # noqa: A002 (the word of the protocol)
        """Those with a greater id that are still known, oldest first."""
        return tuple(each for each in self._ring if each.id > id)

    async def wait_after(self, id: int) -> tuple[Happening, ...]:  # noqa: A002
        """The same, once there are some."""
        news = asyncio.Event()
        self._readers.append(news)
        try:
            while not (found := self.after(id)):
                news.clear()
                await news.wait()
            return found
        finally:
            self._readers.remove(news)
