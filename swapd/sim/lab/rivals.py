"""How others decide, re-created after what is published of them, to be run on the lab's card beside the core.

All load models whole, evict only the idle, one load at a time, and wait until the victims' memory is free. Their own
faults (guessed memory, fixed pauses, deadlocks) are left out: only the order of work and the choice of victims count.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Final

from swapd.core.messages import Usage
from swapd.sim.lab.card import Loaded, Mind
from swapd.trace import Call, TraceModel
from swapd.units import Seconds


class _Rival(Mind):
    """What they have in common: residents by model, and one load at a time with its victims."""

    keep_alive: Seconds = math.inf

    def __init__(self) -> None:
        self.used_at: dict[int, Seconds] = {}
        self.queue: dict[str, Call] = {}
        """In order of arrival."""
        self.coming: str | None = None
        """The model that is being loaded, or made room for."""
        self._next_id = 1

    @abstractmethod
    def decide(self) -> None:
        """Grant what can be granted, and begin a load if one is due."""

    def rank(self, loaded: Loaded) -> tuple[float, ...] | tuple[float, str]:
        """Of victims: the smallest goes first."""
        return (self.used_at[loaded.id],)

    # --- facts

    def began(self) -> None:
        pass

    def warmed(self, name: str) -> None:
        pass

    def arrived(self, call: Call) -> None:
        self.queue[call.id] = call
        self.decide()

    def left(self, call: Call) -> None:
        if self.queue.pop(call.id, None) is None:
            self._touch(call.model)
        self.decide()

    def ended(self, call: Call, usage: Usage) -> None:
        self._touch(call.model)
        self.decide()

    def ready(self, resident: int) -> None:
        self.coming = None
        self.used_at[resident] = self.card.now
        self.decide()

    def gone(self, resident: int) -> None:
        self.decide()

    def woken(self) -> None:
        for loaded in self._idle():
            if self.used_at[loaded.id] + self.keep_alive <= self.card.now:
                self.card.stop(loaded.id)
        self.decide()

    def wakes_at(self) -> Seconds | None:
        ends = [self.used_at[loaded.id] + self.keep_alive for loaded in self._idle()]
        soonest = min(ends, default=math.inf)
        return None if math.isinf(soonest) else soonest

    # --- what they do

    def resident(self, model: str) -> Loaded | None:
        there = (r for r in self.card.residents.values() if r.model.name == model and r.is_ready)
        return next(there, None)

    def try_grant(self, call: Call) -> bool:
        loaded = self.resident(call.model)
        if loaded is None or len(loaded.running) >= loaded.model.slots:
            return False
        del self.queue[call.id]
        self.card.grant(call.id, loaded.id)
        self.used_at[loaded.id] = self.card.now
        return True

    def make_room(self, model: TraceModel) -> bool:
        """Load it if there is room; else stop as many of the idle as that takes. False: those at work are in the way.

        Stopped are the first by `rank`, until it is enough.
        """
        free = self.card.trace.card - self.card.used
        if model.size <= free:
            self.card.start(self._next_id, model.name)
            self._next_id += 1
            self.coming = model.name
            return True
        leaving = sum(loaded.card for loaded in self.card.residents.values() if loaded.is_ending)
        if model.size <= free + leaving:
            return True
        lack, victims = model.size - free - leaving, []
        for loaded in sorted(self._idle(), key=self.rank):
            victims.append(loaded)
            lack -= loaded.card
            if lack <= 0:
                break
        if lack > 0:
            return False
        for loaded in victims:
            self.card.stop(loaded.id)
        return True

    def _idle(self) -> list[Loaded]:
        return [r for r in self.card.residents.values() if r.is_ready and not r.running and not r.is_ending]

    def _touch(self, model: str) -> None:
        loaded = self.resident(model)
        if loaded is not None:
            self.used_at[loaded.id] = self.card.now


class Fifo(_Rival):
    """Strictly by arrival: the first of the queue is served or loaded for, and whoever is behind it waits."""

    def decide(self) -> None:
        while self.queue and self.coming is None:
            first = next(iter(self.queue.values()))
            if self.try_grant(first):
                continue
            if self.resident(first.model) is None:
                self.make_room(self.card.models[first.model])
            return


class ResidentFirst(_Rival):
    """Whoever asks for what is there is served at once, for as long as it goes on; victims by last use.

    So do llama-swap and the router of llama-server, told what fits. A model that is asked for all the time never
    leaves.
    """

    def decide(self) -> None:
        for call in tuple(self.queue.values()):
            self.try_grant(call)
        if self.coming is not None:
            return
        tried: set[str] = set()
        for call in tuple(self.queue.values()):
            if call.model in tried or self.resident(call.model) is not None:
                continue
            tried.add(call.model)
            if self.make_room(self.card.models[call.model]):
                return


class KeepAliveFirst(Fifo):
    """By arrival; the idle one with the shortest keep-alive leaves, of equals the first by name: as in Ollama."""

    keep_alive = 300.0

    def rank(self, loaded: Loaded) -> tuple[float, ...] | tuple[float, str]:
        kept = loaded.model.keep_alive
        return (self.keep_alive if kept is None else kept), loaded.model.name


RIVALS: Final[dict[str, type[_Rival]]] = {
    "fifo": Fifo,
    "resident-first": ResidentFirst,
    "keep-alive-first": KeepAliveFirst,
}
