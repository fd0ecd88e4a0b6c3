"""A trace under a policy: the core itself, or a rival, deciding on the lab's card. Deterministic.

Called by `report`'s users: the benchmark, `swapctl replay` and the tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from swapd.core.arithmetic import PROCESS
from swapd.core.eviction import next_deadline
from swapd.core.messages import (
    CatalogChanged,
    Command,
    Event,
    FilesSeen,
    FileWarmed,
    GrantLease,
    MeasureMemory,
    MeasurementDue,
    MemoryMeasured,
    Overflow,
    PinsChanged,
    PlacementSized,
    Policy,
    RefuseRequest,
    RequestArrived,
    RequestEnded,
    RevokeLease,
    SizePlacement,
    StartWorker,
    StopWarming,
    StopWorker,
    TimerFired,
    Usage,
    WarmFile,
    WorkerGone,
    WorkerLoaded,
)
from swapd.core.model import HOST, Device, DeviceId, DeviceKind, RequestId, ResidentId, Shape, Variant, VariantId
from swapd.core.scheduler import step
from swapd.core.state import State
from swapd.sim.lab.card import Card, Load, Mind, Served
from swapd.sim.lab.orders import Follower, Order
from swapd.sim.lab.rivals import RIVALS
from swapd.trace import Call, Trace, TraceModel
from swapd.units import Seconds, format_bytes

CORE: Final = ""
"""The name of no rival."""
_CARD: Final = DeviceId("cuda:0")


class Refused(Exception):
    """Under this policy a call of the trace is never served: its model fits nowhere."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a trace went, in order of ending, and every load."""

    served: tuple[Served, ...]
    loads: tuple[Load, ...]
    evictions: int


def run(trace: Trace, policy: Policy | None = None, rival: str = CORE) -> Outcome:
    """The trace under the core with this policy, or under one of RIVALS. Of the policy no reserves: `trace.card` is
    what residents may hold.

    Raises Refused, KeyError for an unknown rival, card.Overcommitted for a bug of whoever decides.
    """
    if rival or not trace.cards:
        _check_wholes(trace)
    mind: Mind = RIVALS[rival]() if rival else _Core(trace, policy or Policy())
    card = Card(trace, mind)
    card.run()
    return Outcome(tuple(card.served), tuple(card.loads), card.evictions)


def follow(trace: Trace, orders: Sequence[Order]) -> Outcome:
    """The trace as it is under just these orders. Raises card.Overcommitted for orders that cannot be carried out."""
    card = Card(trace, Follower(orders))
    card.run()
    return Outcome(tuple(card.served), tuple(card.loads), card.evictions)


def _check_wholes(trace: Trace) -> None:
    called = {call.model for call in trace.calls}
    for model in trace.models:
        if model.name in called and model.size > trace.card:
            room = format_bytes(trace.card)
            raise Refused(f"{model.name} needs {format_bytes(model.size)} of {room}, and can only be loaded whole")


class _Core(Mind):
    """The core as it is, told about the card as the shell tells it about the machine."""

    def __init__(self, trace: Trace, policy: Policy) -> None:
        self.trace = trace
        self.variants: Mapping[str, Variant] = {model.name: _variant(model) for model in trace.models}
        policy = replace(policy, vram_reserve=0, vram_limit="100%", host_reserve=0, max_queue=10**9)
        if not trace.cards:  # what the lab takes for a card is the host, and nothing is beside it
            policy = replace(policy, overflow=Overflow.EVICT)
        self.state = State(policy=policy)
        pins = frozenset(self.variants[model.name].id for model in trace.models if model.pin)
        self.state, _ = step(self.state, PinsChanged(0.0, pins))
        self._cached_before: dict[int, float] = {}
        self._wakes: Seconds | None = None

    def began(self) -> None:
        named = tuple(self.variants.values())
        self._tell(CatalogChanged(self.card.now, frozenset(variant.id for variant in named), named))
        self._tell(MeasurementDue(self.card.now))

    def arrived(self, call: Call) -> None:
        model = self.card.models[call.model]
        self._tell(
            RequestArrived(
                self.card.now,
                RequestId(call.id),
                self.variants[call.model],
                call.keep_alive,
                model.keep_alive,
                max(call.priority, model.priority),
            )
        )

    def left(self, call: Call) -> None:
        self._tell(RequestEnded(self.card.now, RequestId(call.id)))

    def ended(self, call: Call, usage: Usage) -> None:
        self._tell(RequestEnded(self.card.now, RequestId(call.id), usage))

    def ready(self, resident: int) -> None:
        self._tell(WorkerLoaded(self.card.now, ResidentId(resident), self._cached_before.pop(resident)))

    def gone(self, resident: int) -> None:
        self._tell(WorkerGone(self.card.now, ResidentId(resident)))

    def warmed(self, name: str) -> None:
        self._tell(FileWarmed(self.card.now, self.variants[name].id, self.card.cached(name)))

    def woken(self) -> None:
        self._tell(TimerFired(self.card.now))

    def wakes_at(self) -> Seconds | None:
        return self._wakes

    def _tell(self, event: Event) -> None:
        """The event, and what the machine answers at once: measurements and sizes."""
        events = [event]
        for told in events:
            self.state, commands = step(self.state, told)
            for command in commands:
                events += self._perform(command)
        self._wakes = next_deadline(self.state)

    def _perform(self, command: Command) -> Iterator[Event]:
        now = self.card.now
        match command:
            case StartWorker(resident, variant, placement):
                self._cached_before[resident] = self.card.cached(variant.name)
                self.card.start(resident, variant.name, placement.gpu_layers / placement.layers)
            case StopWorker(resident):
                self.card.stop(resident)
            case GrantLease(request, resident):
                self.card.grant(request, resident)
            case MeasureMemory():
                seen = {variant.id: self.card.cached(name) for name, variant in self.variants.items()}
                if seen != self.state.cached:
                    yield FilesSeen(now, tuple(seen.items()))
                yield MemoryMeasured(now, self._devices())
            case SizePlacement(variant, placement):  # the arithmetic is exact for such models
                yield PlacementSized(now, variant.id, placement, None)
            case WarmFile(variant):
                self.card.read_ahead(variant.name)
            case StopWarming():
                self.card.stop_reading()
            case RefuseRequest() | RevokeLease():
                raise Refused(command.reason)
            case _:
                pass

    def _devices(self) -> tuple[Device, ...]:
        """On the host also the processes, which the trace does not count: those there are, and one more. Where the
        host is the card, nothing else can be there, and nobody has to leave for a process.
        """
        residents = tuple(self.card.residents.values())
        card = tuple((ResidentId(r.id), r.card) for r in residents if r.card)
        host = tuple((ResidentId(r.id), r.host + PROCESS) for r in residents)
        beside = self.trace.host if self.trace.cards else len(self.trace.models) * PROCESS
        total = (len(residents) + 1) * PROCESS + beside
        used = sum(size for _, size in host)
        return (
            Device(_CARD, "lab", DeviceKind.GPU, "lab", self.trace.card, self.trace.card - self.card.used, card),
            Device(HOST, "lab", DeviceKind.HOST, "lab", total, total - used, host),
        )


def _variant(model: TraceModel) -> Variant:
    """One for which the core's arithmetic comes to `model.size` with all layers on the card: nothing but weights."""
    layers = model.layers - 1
    shape = Shape("lab", layers, 0, 0, (0,) * layers, 0, 0, 0, 4096, model.size)
    return Variant(VariantId(model.name), model.name, f"/{model.name}.gguf", shape, 4096, model.slots)
