"""Is there work that could be done, and does it get on? Timed by the engine's clock, fed by `engine.py`.

A daemon that is only busy is well: a load that goes on, answers being given, a queue behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from swapd.core.resident import Phase
from swapd.core.state import State
from swapd.units import Seconds

LIMITS: Final[Mapping[str, Seconds]] = {"measuring memory": 10.0, "ending a worker": 45.0, "sizing a load": 90.0}
"""How long each kind of work may take before something is wrong with the machine."""
STILL: Final[Seconds] = 10.0
"""How long requests may wait with nothing under way at all."""


class Health:
    def __init__(self, clock: Callable[[], Seconds]) -> None:
        self._clock = clock
        self._works: dict[Hashable, tuple[str, Seconds]] = {}
        self._count = 0
        self._moved_at = clock()

    @contextmanager
    def working(self, kind: str) -> Iterator[None]:
        """`kind` is one of LIMITS."""
        self._count += 1
        key = self._count
        self._works[key] = kind, self._clock()
        try:
            yield
        finally:
            del self._works[key]

    def moved(self) -> None:
        """Something was ordered that is not only looking."""
        self._moved_at = self._clock()

    def complaint(self, state: State) -> str | None:
        """What does not get on, for people; None: all is well."""
        now = self._clock()
        for kind, since in self._works.values():
            if now - since > LIMITS[kind]:
                return f"{kind} has taken {now - since:.0f} s"
        is_under_way = any(
            r.phase in (Phase.LOADING, Phase.DRAINING, Phase.UNLOADING) for r in state.residents.values()
        )
        is_asked = any(kind == "sizing a load" for kind, _ in self._works.values())
        if state.waiting and not state.leases and not is_under_way and not is_asked and now - self._moved_at > STILL:
            waited = now - min(group.since for group in state.waiting.values())
            return f"{state.waiting_count()} requests wait, one for {waited:.0f} s, and nothing is done for them"
        return None
