"""What the simulated machine is made of and what is written down of it: plain records, no judgement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from swapd.core.arithmetic import PROCESS
from swapd.core.messages import (
    GrantLease,
    MeasureMemory,
    MemoryMeasured,
    PlacementSized,
    RefuseRequest,
    RequestArrived,
    RevokeLease,
    SizePlacement,
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
    def layers(self) -> int | None:
        """Wanted on the GPU by this request; None: any will do."""
        wanted = self.event.gpu_layers
        return None if wanted is None else min(wanted, self.event.variant.shape.offloadable)

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
    """At some time somebody overdue or other programs were right to want its room, or other layers were wanted."""
    leases: set[RequestId] = field(default_factory=set)
    is_guess: bool = False
    """Started though nobody waited for it, and not asked for since; not by a wish of our own."""
    may_be_guess: bool = False
    """Or by one: until it is answered these books cannot tell."""
    cached: float = 0.0
    """Of its file, when it was started."""

    @property
    def stays(self) -> bool:
        return not (self.is_dead or self.is_stopped or self.must_leave)

    @property
    def was_used(self) -> bool:
        return self.is_ready and self.used_at > self.ready_at


@dataclass(slots=True)
class Wish:
    """A resident that left idle while memory was short or there was room for more of it may come back by itself."""

    resident: ResidentId
    keep_least: Seconds
    keep_most: Seconds
    used_at: Seconds
    """Being placed again is no use."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """One memory of the machine."""

    id: DeviceId
    kind: DeviceKind
    total: Bytes
    overhead: Bytes = 0
    """What every process that computes there takes besides."""


@dataclass(frozen=True, slots=True)
class Model:
    """A variant and what it really takes."""

    variant: Variant
    spare: Bytes = 0
    """Its weights take so much less than its header says; negative: so much more than even llama.cpp says."""
    owner_keep_alive: Seconds | None = None
    compute: Bytes = 0
    """For every token of a micro-batch, wherever it computes layers."""
    is_sizable: bool = True

    def need(self, placement: Placement, hardware: Mapping[DeviceId, Hardware]) -> dict[DeviceId, Bytes]:
        """What a process has when all is loaded and touched."""
        amounts = self._kept(placement, self.spare)
        amounts[HOST] += PROCESS
        for card in placement.devices:
            amounts[card] = amounts.get(card, 0) + hardware[card].overhead
        return amounts

    def said(self, placement: Placement) -> dict[DeviceId, Bytes]:
        """What llama.cpp says of it."""
        return self._kept(placement, max(0, self.spare))

    def _kept(self, placement: Placement, spare: Bytes) -> dict[DeviceId, Bytes]:
        shape = self.variant.shape
        count, layers = (placement.gpu_layers if placement.devices else 0), shape.offloadable
        layer, buffer = (shape.weights - spare) // layers, self.compute * placement.micro_batch
        amounts = {HOST: (layers - count) * layer + (buffer if count < layers else 0)}
        shares = placement.split or (1.0,) * len(placement.devices)
        kept_back, busy = placement.experts_on_cpu, set()
        for number in range(count):  # the first card whose shares reach this far takes the layer; the output is last
            reach = [sum(shares[: n + 1]) / sum(shares) > number / count for n in range(len(shares))]
            card = placement.devices[reach.index(True) if True in reach else -1]
            experts = 0
            if number < count - 1:
                busy.add(card)
                if kept_back:
                    kept_back, experts = kept_back - 1, max(shape.expert_weights)
            amounts[card] = amounts.get(card, 0) + layer - experts
            amounts[HOST] += experts
        for card in busy:
            amounts[card] += buffer
        return amounts


def where(placement: Placement) -> str:
    extra = f" split {placement.split}" * bool(placement.split) + f" -{placement.experts_on_cpu} experts"
    extra = extra.removesuffix(" -0 experts")
    cards = "+".join(placement.devices) or "host"
    return f"{placement.gpu_layers}/{placement.layers} on {cards} by {placement.micro_batch}{extra}"


def line_of(line: object) -> str:
    """An event or an order in a line that can be read."""
    if isinstance(line, RequestArrived):
        extra = {"keep_alive": line.keep_alive, "gpu_layers": line.gpu_layers}
        words = "".join(f" {word}={value}" for word, value in extra.items() if value is not None)
        words += f" priority={line.priority}" * bool(line.priority) + " slotless" * line.slotless
        return f"? {line.request} wants {line.variant.id}{words}"
    if isinstance(line, StartWorker):
        return f"! StartWorker {line.resident} {line.variant.id} {where(line.placement)}"
    if isinstance(line, SizePlacement):
        return f"! SizePlacement {line.variant.id} {where(line.placement)}"
    if isinstance(line, PlacementSized):
        size = None if line.size is None else dict(line.size.parts)
        return f"? PlacementSized {line.variant} {where(line.placement)}: {size}"
    if isinstance(line, MemoryMeasured):
        parts = (f"{d.id} free {d.free} held {dict(d.held)}" + " stale" * d.is_stale for d in line.devices)
        return f"? MemoryMeasured {'; '.join(parts)}"
    mark = "!" if isinstance(line, GrantLease | RefuseRequest | RevokeLease | StopWorker | MeasureMemory) else "?"
    return f"{mark} {line}"
