"""CPU threads: how many all workers that compute may use together, and who gets how many.

llama.cpp spins at its barriers, and threads without a core of their own make all of them many times slower. Workers
that compute at one time share the threads: that is known here. What other programs take is not: an answer begins
with all threads, and gives some up when they are seen to wait for cores. What the cores do between answers tells
little: whoever asked us now waits for us. Used by `pool.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final, Protocol, Self

from swapd.units import Seconds

CONTENDED: Final = 0.3
"""Of one core: threads that wait for cores so much, all together, are too many. Clients that read a stream, and this
process, make it 0.05 to 0.1; a program that wants a whole core, about 1."""
LEFT: Final = 0.3
"""Of one core: so much of it may others use when one of our threads wants it."""
SUSTAINED: Final = 2
"""Looks in a row."""
FAILED: Final = 8
"""Looks within which a rise must not prove wrong; else the next one takes twice as many looks."""
PATIENCE: Final = 32
"""The most looks it takes."""

SETTLE: Final[Seconds] = 0.01
FIRST: Final[Seconds] = 0.05
CLOSER: Final[Seconds] = 0.12
LOOK_EVERY: Final[Seconds] = 0.5
PAUSE: Final[Seconds] = 0.02
"""Between two answers: no longer, and they are watched as one."""
STARTING: Final[Seconds] = 1.5
"""So long what a starting process of ours takes is no reason to use fewer threads: it is soon over, and with other
threads the long context of an answer is rounded otherwise."""
REMEMBER: Final[Seconds] = 10.0
"""So long after an answer the next one begins with the threads that it ended with."""


class Cores(Protocol):
    def __call__(self, workers: Iterable[int]) -> tuple[float, float | None]:
        """(free, waited) since the last call, in cores.

        `free`: what processes other than this one and `workers` (by pid) left alone; `waited`: what threads of
        `workers` waited for a core, all together; None: the system does not tell.
        """


class Computing(Protocol):
    """A worker, as far as it is dealt threads."""

    def use_threads(self, threads: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Allowance:
    """How many threads all together may compute, and what has been seen since that number was chosen."""

    most: int
    threads: int
    doubts: int = 0
    """Looks in a row that saw them wait."""
    calm: int = 0
    """Looks in a row that saw a core for one more."""
    patience: int = 1
    """So many of these it takes to have one more."""
    age: int = 0
    """Looks since `threads` was raised or `patience` lowered."""

    @classmethod
    def whole(cls, most: int) -> Self:
        return cls(most, most)

    def after(self, free: float, waited: float | None, is_split: bool) -> Allowance:
        """What one more look changes. `is_split`: some worker has more than one thread, and no less than before."""
        age, fitting = self.age + 1, min(self.most, max(1, int(free + LEFT)))
        too_many = fitting < self.threads if waited is None else waited > CONTENDED
        if too_many and is_split and self.threads > 1:
            if self.doubts + 1 < SUSTAINED:
                return replace(self, doubts=self.doubts + 1, calm=0, age=age)
            patience = min(PATIENCE, 2 * self.patience) if age <= FAILED else self.patience
            return Allowance(self.most, min(self.threads - 1, fitting), patience=patience)
        if fitting > self.threads:
            if self.calm + 1 < self.patience:
                return replace(self, doubts=0, calm=self.calm + 1, age=age)
            return Allowance(self.most, fitting, patience=self.patience)
        if age >= PATIENCE:
            return Allowance(self.most, self.threads)
        return replace(self, doubts=0, calm=0, age=age)


class Dealer:
    """Deals them out while anybody computes, and looks at the cores for as long."""

    def __init__(
        self, most: int, cores: Cores, workers: Callable[[], Iterable[int]], is_starting: Callable[[], bool]
    ) -> None:
        """`most`: threads of all workers together; `workers`: the processes that are ours; `is_starting`: whether one
        of ours is being started.
        """
        self._cores, self._workers, self._is_starting = cores, workers, is_starting
        self._starting_since: Seconds | None = None
        self._allowance = Allowance.whole(most)
        self._answering: dict[Computing, int] = {}
        """Those that compute, and how many answers."""
        self._share = most
        """What each of those that compute has."""
        self._is_shrinking = False
        """Somebody was told to use fewer since the last look: in the middle of a step it cannot."""
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._idle_since: Seconds = self._loop.time()

    @property
    def threads(self) -> int:
        """Of all together."""
        return self._allowance.threads

    @contextlib.contextmanager
    def computing(self, worker: Computing) -> Iterator[None]:
        self.begin(worker)
        try:
            yield
        finally:
            self.end(worker)

    def begin(self, worker: Computing) -> None:
        """An answer of its, which is owed an `end`."""
        if not self._answering:
            self._begin()
        self._answering[worker] = self._answering.get(worker, 0) + 1
        self._deal()

    def end(self, worker: Computing) -> None:
        self._answering[worker] -= 1
        if not self._answering[worker]:
            del self._answering[worker]
            self._deal()
        if not self._answering:
            self._idle_since = self._loop.time()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _begin(self) -> None:
        idle = self._loop.time() - self._idle_since
        if idle > REMEMBER:
            self._allowance = Allowance.whole(self._allowance.most)
        if self._timer is not None and idle > PAUSE:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_later(SETTLE, self._open)

    def _deal(self) -> None:
        if self._answering:
            share = max(1, self._allowance.threads // len(self._answering))
            self._is_shrinking |= share < self._share
            self._share = share
            for worker in self._answering:
                worker.use_threads(share)

    def _open(self) -> None:
        """What was before this moment is not about this answer."""
        self._cores(self._workers())
        self._timer = self._loop.call_later(FIRST, self._look)

    def _look(self) -> None:
        self._timer = None
        if not self._answering:
            return
        free, waited = self._cores(self._workers())
        if self._is_excused():
            self._timer = self._loop.call_later(CLOSER, self._look)
            return
        before = self._allowance
        allowance = self._allowance = before.after(free, waited, self._share > 1 and not self._is_shrinking)
        self._is_shrinking = False
        if allowance.threads != before.threads:
            self._deal()
        is_close = allowance.doubts or allowance.threads < allowance.most
        self._timer = self._loop.call_later(CLOSER if is_close else LOOK_EVERY, self._look)

    def _is_excused(self) -> bool:
        if not self._is_starting():
            self._starting_since = None
            return False
        now = self._loop.time()
        self._starting_since = now if self._starting_since is None else self._starting_since
        return now - self._starting_since < STARTING
