"""The lab's card from one moment to the next, as something that can be copied and gone on with in several ways.

Called by `hindsight`, which tries what could be decided. The same rules of time as `card`, models loaded whole. Knows
no rule about who may be loaded or served when.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from swapd.sim.lab.card import BATCHED, UNLOAD
from swapd.sim.lab.orders import Deed, Order
from swapd.trace import Call, Trace, TraceModel
from swapd.units import Bytes, Seconds

_NOTHING: Final = 1e-9
"""Seconds that are none, as in `card`."""


_Trail: TypeAlias = tuple["_Trail | None", Order]
"""The last order and those before it."""


@dataclass(slots=True)
class Active:
    """A call in a slot. `left`: seconds that remain, alone on the card; `reading`: of these the prompt's."""

    call: int
    left: Seconds
    reading: Seconds


@dataclass(slots=True)
class Resident:
    """A model from the load's beginning until it is told to leave."""

    model: TraceModel
    ready_at: Seconds
    is_ready: bool = False
    has_served: bool = False
    is_gated: bool = False
    """Nobody gets a slot until the next load begins."""
    kept: tuple[str, ...] = ()
    """The sessions whose prompt its slots hold, the one served last at the end."""
    active: tuple[Active, ...] = ()

    def copy(self) -> Resident:
        active = tuple(Active(one.call, one.left, one.reading) for one in self.active)
        return Resident(self.model, self.ready_at, self.is_ready, self.has_served, self.is_gated, self.kept, active)

    @property
    def rate(self) -> float:
        """Of each of its sequences, with the card to itself."""
        return 1 / (1 + BATCHED * (len(self.active) - 1))


class Moment:
    """What is there now. `come`: so many calls have; who waits is told by the calls' numbers, by model."""

    __slots__ = ("cached", "calls", "come", "leaving", "now", "residents", "trace", "trail", "waiting")

    def __init__(self, trace: Trace) -> None:
        self.trace: Trace = trace
        self.calls: Sequence[Call] = trace.calls
        self.now: Seconds = 0.0
        self.come = 0
        self.residents: dict[str, Resident] = {}
        self.leaving: tuple[tuple[Seconds, Bytes], ...] = ()
        """When which room will be seen free."""
        self.waiting: dict[str, tuple[int, ...]] = {}
        self.cached: tuple[tuple[str, Bytes], ...] = ()
        """Of which file how much is in page cache, the one read last at the end."""
        self.trail: _Trail | None = None

    def copy(self) -> Moment:
        other = Moment.__new__(Moment)
        other.trace, other.calls, other.now, other.come = self.trace, self.calls, self.now, self.come
        other.residents = {name: resident.copy() for name, resident in self.residents.items()}
        other.leaving, other.waiting = self.leaving, dict(self.waiting)
        other.cached, other.trail = self.cached, self.trail
        return other

    # --- what is there

    @property
    def free(self) -> Bytes:
        return self.trace.card - sum(r.model.size for r in self.residents.values()) - self.room_coming

    @property
    def room_coming(self) -> Bytes:
        return sum(size for _, size in self.leaving)

    @property
    def is_idle(self) -> bool:
        """The card does nothing."""
        return not self.leaving and all(r.is_ready and not r.active for r in self.residents.values())

    def load_s(self, model: TraceModel) -> Seconds:
        there = next((size for name, size in self.cached if name == model.name), 0)
        return model.load_s + (1.0 - there / model.size) * (model.cold_load_s - model.load_s)

    def orders(self) -> tuple[Order, ...]:
        """All that was decided until now."""
        orders: list[Order] = []
        trail = self.trail
        while trail is not None:
            trail, order = trail
            orders.append(order)
        return tuple(orders[::-1])

    # --- decisions

    def load(self, model: TraceModel) -> None:
        """The caller sees to it that there is room. All gates open."""
        self.residents[model.name] = Resident(model, self.now + self.load_s(model))
        cached = [one for one in self.cached if one[0] != model.name] + [(model.name, model.size)]
        over = sum(size for _, size in cached) - self.trace.host
        while over > 0:
            name, size = cached[0]
            cached[:1] = [(name, size - over)] if size > over else []
            over -= min(over, size)
        self.cached = tuple(cached)
        self.open_gates()
        self._note(Deed.LOAD, model.name)

    def open_gates(self) -> None:
        for resident in self.residents.values():
            resident.is_gated = False

    def stop(self, name: str) -> None:
        self.leaving = (*self.leaving, (self.now + UNLOAD, self.residents.pop(name).model.size))
        self._note(Deed.STOP, name)

    def grant(self, name: str, count: int) -> None:
        """To the first so many that wait for this model."""
        resident, waiting = self.residents[name], self.waiting.pop(name)
        for number in waiting[:count]:
            call, model = self.calls[number], resident.model
            is_kept = call.session in resident.kept
            reading = (call.prompt - (call.cached if is_kept else 0)) / model.prefill
            resident.kept = tuple(session for session in resident.kept if session != call.session)
            resident.active = (*resident.active, Active(number, reading + call.output / model.decode, reading))
            resident.has_served = True
            self._note(Deed.GRANT, call.id)
        if waiting[count:]:
            self.waiting[name] = waiting[count:]

    def _note(self, deed: Deed, what: str) -> None:
        self.trail = self.trail, Order(self.now, deed, what)

    # --- time

    def advance(self) -> bool:
        """To the next moment at which something happens, and all that happens then. False: nothing will any more."""
        busy = [resident for resident in self.residents.values() if resident.active]
        moment = self._next(busy)
        if math.isinf(moment):
            return False
        for resident in busy:
            self._compute(resident, (moment - self.now) * resident.rate / len(busy), moment)
        self.now = moment
        while self.come < len(self.calls) and self.calls[self.come].at <= moment:
            name = self.calls[self.come].model
            self.waiting[name] = (*self.waiting.get(name, ()), self.come)
            self.come += 1
        for resident in self.residents.values():
            resident.is_ready = resident.is_ready or resident.ready_at <= moment
        if self.leaving:
            self.leaving = tuple(one for one in self.leaving if one[0] > moment)
        for name, numbers in tuple(self.waiting.items()):
            if any(self._leaves_at(number) <= moment for number in numbers):
                self.waiting[name] = tuple(number for number in numbers if self._leaves_at(number) > moment)
                if not self.waiting[name]:
                    del self.waiting[name]
        return True

    def _next(self, busy: Sequence[Resident]) -> Seconds:
        moment = self.calls[self.come].at if self.come < len(self.calls) else math.inf
        for resident in busy:
            slowness = len(busy) / resident.rate
            for one in resident.active:
                moment = min(moment, self.now + one.left * slowness)
                if one.reading > 0 and self._leaves_at(one.call) > self.now:
                    moment = min(moment, self._leaves_at(one.call))
        for resident in self.residents.values():
            if not resident.is_ready:
                moment = min(moment, resident.ready_at)
        for numbers in self.waiting.values():
            moment = min(moment, *map(self._leaves_at, numbers))
        return min(moment, min(self.leaving)[0]) if self.leaving else moment

    def _leaves_at(self, number: int) -> Seconds:
        """When its client goes, if it has no token then."""
        call = self.calls[number]
        return math.inf if call.patience is None else call.at + call.patience

    def _compute(self, resident: Resident, done: Seconds, moment: Seconds) -> None:
        """So many seconds of each of its calls. Whoever has ended, or left, leaves its prompt in the slot."""
        over = []
        for one in resident.active:
            one.left -= done
            one.reading -= done
            if one.left <= _NOTHING or (one.reading > _NOTHING and self._leaves_at(one.call) <= moment):
                over.append(one)
        for one in over:
            session = self.calls[one.call].session
            kept = (*(each for each in resident.kept if each != session), session)
            resident.kept = kept[-resident.model.slots :]
        if over:
            resident.active = tuple(one for one in resident.active if one not in over)
