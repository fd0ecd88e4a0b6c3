"""The lab's machine: one card in virtual time, on which a trace happens under somebody's decisions.

`run` gives it a trace and a Mind: the core, or one of the `rivals`. The card knows how long things take and how much is
there; who is loaded, granted and stopped is the Mind's alone. Nothing fails here: that is `sim/world`'s business.

What it assumes: residents that compute take turns on the card; sequences of one resident are batched, each a tenth
slower for every other; layers on the CPU cost what DECODE_ON_CPU and PREFILL_ON_CPU say. Loads cost nobody else
anything. The files read last stay in page cache as long as host memory holds them; a Mind may have them read ahead, at
the pace at which a cold load reads.
"""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from swapd.core.messages import Usage
from swapd.core.model import VariantId
from swapd.sim.cache import PageCache
from swapd.trace import Call, Trace, TraceModel
from swapd.units import Bytes, Seconds, Tokens

UNLOAD: Final[Seconds] = 0.3
"""From the order to stop a worker until its memory is seen free."""
START: Final[Seconds] = 0.8
"""Of a load that moves nothing: a process and a context."""
BATCHED: Final = 0.1
"""How much slower each sequence is for every other one of its batch."""
DECODE_ON_CPU: Final = 12.0
PREFILL_ON_CPU: Final = 8.0
"""A layer takes so many times longer on the CPU."""


class Overcommitted(Exception):
    """A Mind loaded more than the card or the host holds, or used what is not there: its bug."""


@dataclass(slots=True)
class Loaded:
    """One resident of the card, from the order to load it until its memory is free."""

    id: int
    model: TraceModel
    share: float
    """Of its layers on the card."""
    card: Bytes
    host: Bytes
    started_at: Seconds
    is_ready: bool = False
    is_ending: bool = False
    kept: OrderedDict[str, None] = field(default_factory=OrderedDict)
    """The sessions whose prompt its slots hold, the one served last at the end."""
    running: dict[str, Running] = field(default_factory=dict)


@dataclass(slots=True)
class Running:
    """A call in a slot. `left`: seconds that remain of the phase, alone on this resident and card."""

    call: Call
    resident: Loaded
    cached: Tokens
    granted_at: Seconds
    left: Seconds
    first_at: Seconds | None = None
    """When its prompt was read; None: not yet."""


@dataclass(frozen=True, slots=True)
class Served:
    """How it went for one call. `first_at` and `end` None: the client left before its first token, at `left_at`."""

    call: Call
    granted_at: Seconds | None
    first_at: Seconds | None
    end: Seconds | None
    left_at: Seconds | None = None
    cached: Tokens = 0
    """Of the prompt, not read again."""


@dataclass(frozen=True, slots=True)
class Load:
    at: Seconds
    end: Seconds
    model: str
    size: Bytes
    """Moved to the card."""
    cached: float
    """So much of its file was in the page cache when it began, from 0 to 1."""
    is_swap: bool
    """Somebody left since the load before it, while somebody waited."""


class Mind(ABC):
    """Whoever decides. Told facts one by one; answers by calling the card's `start`, `stop` and `grant`."""

    card: Card

    @abstractmethod
    def began(self) -> None:
        """Nothing has happened yet, and the models are known."""

    @abstractmethod
    def arrived(self, call: Call) -> None: ...

    @abstractmethod
    def left(self, call: Call) -> None:
        """The client has gone, from the queue or from its slot, before its first token."""

    @abstractmethod
    def ended(self, call: Call, usage: Usage) -> None: ...

    @abstractmethod
    def ready(self, resident: int) -> None: ...

    @abstractmethod
    def gone(self, resident: int) -> None: ...

    @abstractmethod
    def warmed(self, name: str) -> None:
        """A file that was to be read ahead has been."""

    @abstractmethod
    def woken(self) -> None:
        """`wakes_at` has come."""

    @abstractmethod
    def wakes_at(self) -> Seconds | None: ...


class Card:
    """A trace as it happens. `run` it once; then `served` and `loads` tell how it was."""

    def __init__(self, trace: Trace, mind: Mind) -> None:
        self.trace, self.mind = trace, mind
        self.models = {model.name: model for model in trace.models}
        self.now: Seconds = 0.0
        self.residents: dict[int, Loaded] = {}
        self.served: list[Served] = []
        self.loads: list[Load] = []
        self.evictions = 0
        """Residents that were told to leave while somebody waited."""
        self._left_for_next = False
        self.waiting: dict[str, Call] = {}
        self._running: dict[str, Running] = {}
        self._cache = PageCache({VariantId(model.name): model.size for model in trace.models})
        self._reading: tuple[str, Seconds, int] | None = None
        """Whose file is read ahead, since when, and the how manieth that is."""
        self._readings = 0
        self._timers: list[tuple[Seconds, int, str, object]] = []
        self._count = 0
        self._rates: dict[int, float] | None = None
        mind.card = self

    # --- orders

    def start(self, resident: int, name: str, share: float = 1.0) -> None:
        """Load so much of the model on the card, the rest on the host. Raises Overcommitted."""
        model = self.models[name]
        on_card = round(model.size * share)
        loaded = Loaded(resident, model, share, on_card, model.size - on_card, self.now)
        self.residents[resident] = loaded
        if self.used > self.trace.card or self.used_host > self.trace.host:
            raise Overcommitted(f"{name}: {self.used} of {self.trace.card} bytes at {self.now}")
        cached = self.cached(name)
        whole = model.load_s + (1.0 - cached) * (model.cold_load_s - model.load_s)
        end = self.now + min(whole, START + share * max(0.0, whole - START))
        self._cache.read(VariantId(name), model.size, self.trace.host)
        self.loads.append(Load(self.now, end, name, on_card, cached, self._left_for_next))
        self._left_for_next = False
        self._at(end, "ready", loaded)

    def stop(self, resident: int) -> None:
        """Raises Overcommitted for one that is not there or still serves."""
        loaded = self.residents[resident]
        if loaded.is_ending or loaded.running:
            raise Overcommitted(f"resident {resident} cannot be stopped")
        loaded.is_ending, loaded.is_ready = True, False
        self.evictions += bool(self.waiting)
        self._left_for_next |= bool(self.waiting)
        self._at(self.now + UNLOAD, "gone", loaded)

    def grant(self, call_id: str, resident: int) -> None:
        loaded, call = self.residents[resident], self.waiting.pop(call_id)
        if not loaded.is_ready or len(loaded.running) >= loaded.model.slots or loaded.model.name != call.model:
            raise Overcommitted(f"resident {resident} has no slot for {call_id}")
        kept = call.cached if call.session in loaded.kept else 0
        loaded.kept.pop(call.session, None)
        prefill = (call.prompt - kept) / loaded.model.prefill
        running = Running(call, loaded, kept, self.now, prefill)
        loaded.running[call_id] = self._running[call_id] = running
        self._rates = None

    def read_ahead(self, name: str) -> None:
        """What is there of it is read again: its start."""
        self._readings += 1
        model = self.models[name]
        there = self.cached(name) * reading_s(model)
        self._reading = name, self.now - there, self._readings
        self._at(self.now - there + reading_s(model), "read", self._readings)

    def stop_reading(self) -> None:
        if self._reading is not None:
            self._cache.read(VariantId(self._reading[0]), self._has_read(), self.trace.host)
            self._reading = None

    # --- what is there

    @property
    def used(self) -> Bytes:
        return sum(loaded.card for loaded in self.residents.values())

    @property
    def used_host(self) -> Bytes:
        return sum(loaded.host for loaded in self.residents.values())

    def cached(self, name: str) -> float:
        """The share of its file in the page cache now."""
        return self._cache.share(VariantId(name))

    def _has_read(self) -> Bytes:
        """Of the file that is being read ahead, from its start."""
        assert self._reading is not None
        name, since, _ = self._reading
        model = self.models[name]
        return round(model.size * min(1.0, (self.now - since) / reading_s(model)))

    # --- time

    def run(self) -> None:
        """Until every call has ended or left. Raises Overcommitted, also for a Mind that never serves somebody."""
        for call in self.trace.calls:
            self._at(call.at, "arrives", call)
        self.mind.began()
        left = len(self.trace.calls)
        while len(self.served) < left:
            moment = self._next()
            if moment is None:
                raise Overcommitted(f"{len(self.waiting)} calls are never served")
            self._advance(moment)

    def _next(self) -> Seconds | None:
        wakes = self.mind.wakes_at()
        times = [] if wakes is None else [max(self.now, wakes)]
        if self._timers:
            times.append(self._timers[0][0])
        rates = self._speeds()
        times += [self.now + running.left / rates[running.resident.id] for running in self._running.values()]
        return min(times, default=None)

    def _advance(self, moment: Seconds) -> None:
        """All that happens at this moment, one fact after the other."""
        passed, rates = moment - self.now, self._speeds()
        over = []
        for running in self._running.values():
            rate = rates[running.resident.id]
            # By the very sum that `_next` waits for: late in a long trace there is no number just after now.
            is_over = self.now + running.left / rate <= moment
            running.left -= passed * rate
            if is_over or running.left <= 1e-9:
                over.append(running)
        self.now = moment
        for running in over:
            self._phase_over(running)
        while self._timers and self._timers[0][0] <= moment:
            _, _, what, about = heapq.heappop(self._timers)
            self._happen(what, about)
        wakes = self.mind.wakes_at()
        if wakes is not None and wakes <= moment:
            self.mind.woken()

    def _happen(self, what: str, about: object) -> None:
        match what, about:
            case "arrives", Call() as call:
                self.waiting[call.id] = call
                if call.patience is not None:
                    self._at(self.now + call.patience, "loses patience", call)
                self.mind.arrived(call)
            case "loses patience", Call() as call:
                self._leave(call)
            case "ready", Loaded() as loaded if not loaded.is_ending:
                loaded.is_ready = True
                self.mind.ready(loaded.id)
            case "read", int() as number if self._reading is not None and self._reading[2] == number:
                name = self._reading[0]
                self.stop_reading()
                self.mind.warmed(name)
            case "gone", Loaded() as loaded:
                del self.residents[loaded.id]
                self.mind.gone(loaded.id)
            case _:
                pass

    def _leave(self, call: Call) -> None:
        running = self._running.get(call.id)
        if call.id in self.waiting:
            del self.waiting[call.id]
            self.served.append(Served(call, None, None, None, self.now))
        elif running is not None and running.first_at is None:
            self._drop(running)
            self.served.append(Served(call, running.granted_at, None, None, self.now, running.cached))
        else:
            return
        self.mind.left(call)

    def _phase_over(self, running: Running) -> None:
        call, model = running.call, running.resident.model
        if running.first_at is None:
            running.first_at = self.now
            running.left = call.output / model.decode
            self._rates = None
            return
        self._drop(running)
        usage = Usage(
            call.prompt - running.cached,
            running.cached,
            call.output,
            running.first_at - running.granted_at,
            self.now - running.first_at,
        )
        self.served.append(Served(call, running.granted_at, running.first_at, self.now, None, running.cached))
        self.mind.ended(call, usage)

    def _drop(self, running: Running) -> None:
        loaded, call = running.resident, running.call
        del self._running[call.id], loaded.running[call.id]
        loaded.kept[call.session] = None
        if len(loaded.kept) > loaded.model.slots:
            loaded.kept.popitem(last=False)
        self._rates = None

    def _speeds(self) -> dict[int, float]:
        """How fast sequences of each resident run, as a share of alone with all on the card."""
        if self._rates is None:
            self._rates = dict(self._speed_of_each())
        return self._rates

    def _speed_of_each(self) -> Iterator[tuple[int, float]]:
        busy = [loaded for loaded in self.residents.values() if loaded.running]
        slower = {loaded.id: _on_cpu(loaded) for loaded in busy}
        card = max(1.0, sum(r.share / (r.share + slower[r.id] * (1 - r.share)) for r in busy if r.share))
        cpu = max(1, sum(loaded.share < 1 for loaded in busy))
        for loaded in busy:
            takes = loaded.share * card + (1 - loaded.share) * slower[loaded.id] * cpu
            yield loaded.id, 1 / (takes * (1 + BATCHED * (len(loaded.running) - 1)))

    def _at(self, moment: Seconds, what: str, about: object) -> None:
        self._count += 1
        heapq.heappush(self._timers, (moment, self._count, what, about))


def reading_s(model: TraceModel) -> Seconds:
    """Of its whole file from disk."""
    return max(model.cold_load_s - START, 0.001)


def _on_cpu(loaded: Loaded) -> float:
    """How many times longer its layers on the CPU take for what it mostly does now."""
    reading = sum(running.first_at is None for running in loaded.running.values())
    return PREFILL_ON_CPU if 2 * reading > len(loaded.running) else DECODE_ON_CPU
