"""What the simulated machine is made of and what is written down of it: plain records, no judgement."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from swapd.core.footprint import PROCESS
from swapd.core.messages import (
    GrantLease,
    MeasureMemory,
    MemoryMeasured,
    RefuseRequest,
    RequestArrived,
    RevokeLease,
    StartWorker,
    StopWorker,
)
from swapd.core.model import HOST, DeviceId, DeviceKind, Placement, RequestId, ResidentId, Variant, VariantId
from swapd.units import Bytes, Seconds

NEARLY = 1e-6
"""Seconds that a sum of floats may be off."""


class Broken(Exception):
    """The core broke a promise. `story` has the last facts and orders, oldest first."""

    def __init__(self, what: str, story: Iterable[str]) -> None:
        self.what, self.story = what, tuple(story)
        super().__init__("\n  ".join((what, *self.story)))


class Answer(StrEnum):
    NONE = "none"
    GRANTED = "granted"
    REFUSED = "refused"
    REVOKED = "revoked"


@dataclass(slots=True)
class Ask:
    """One request and what became of it."""

    event: RequestArrived
    hold: Seconds
    answer: Answer = Answer.NONE
    resident: ResidentId | None = None
    failures: int = 0
    """Loads of its variant that failed while it waited."""
    is_over: bool = False

    @property
    def is_waiting(self) -> bool:
        return self.answer is Answer.NONE and not self.is_over


@dataclass(slots=True)
class Process:
    """One worker: what it physically has, and what the core was told of it."""

    resident: ResidentId
    variant: VariantId
    placement: Placement
    slots: int
    need: dict[DeviceId, Bytes]
    """What it has when all is loaded and touched."""
    is_underrated: bool
    keep_least: Seconds
    keep_most: Seconds
    """Its keep-alive; two numbers where the books cannot know which of two settings was in force."""
    progress_at: Seconds
    has: dict[DeviceId, Bytes] = field(default_factory=dict)
    is_alive: bool = True
    progress: float = 0.0
    is_ready: bool = False
    ready_at: Seconds = 0.0
    used_at: Seconds = 0.0
    is_dead: bool = False
    is_stopped: bool = False
    is_gone: bool = False
    must_leave: bool = False
    """Unloaded or replaced: no more grants, stopped when its last lease ends."""
    may_drain: bool = False
    """At some time somebody overdue was right to want its room, or other layers were wanted."""
    leases: set[RequestId] = field(default_factory=set)

    @property
    def stays(self) -> bool:
        return not (self.is_dead or self.is_stopped or self.must_leave)


@dataclass(frozen=True, slots=True)
class Hardware:
    """One memory of the machine."""

    id: DeviceId
    kind: DeviceKind
    total: Bytes


@dataclass(frozen=True, slots=True)
class Model:
    """A variant and what it really takes: so much less than its header says (negative: more)."""

    variant: Variant
    spare: Bytes = 0
    owner_keep_alive: Seconds | None = None

    def need(self, placement: Placement) -> dict[DeviceId, Bytes]:
        weights = self.variant.shape.weights
        if not placement.devices:
            return {HOST: PROCESS + weights - self.spare}
        on_card = weights * placement.gpu_layers // placement.layers
        return {HOST: PROCESS + weights - on_card, placement.devices[0]: on_card - min(self.spare, on_card)}


def line_of(line: object) -> str:
    """An event or an order in a line that can be read."""
    if isinstance(line, RequestArrived):
        extra = {"keep_alive": line.keep_alive, "gpu_layers": line.gpu_layers}
        words = "".join(f" {word}={value}" for word, value in extra.items() if value is not None)
        words += f" priority={line.priority}" * bool(line.priority) + " slotless" * line.slotless
        return f"? {line.request} wants {line.variant.id}{words}"
    if isinstance(line, StartWorker):
        return f"! StartWorker {line.resident} {line.variant.id} on {','.join(line.placement.devices) or 'host'}"
    if isinstance(line, MemoryMeasured):
        parts = (f"{d.id} free {d.free} held {dict(d.held)}" for d in line.devices)
        return f"? MemoryMeasured {'; '.join(parts)}"
    mark = "!" if isinstance(line, GrantLease | RefuseRequest | RevokeLease | StopWorker | MeasureMemory) else "?"
    return f"{mark} {line}"
