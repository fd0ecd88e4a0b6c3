"""Values: what a model is, where it can be put, what that takes. Frozen, compared by content.

The bottom of the core; knows nothing of residents, time or events.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NewType

from swapd.units import Bytes, Tokens

VariantId = NewType("VariantId", str)
DeviceId = NewType("DeviceId", str)
ResidentId = NewType("ResidentId", int)
RequestId = NewType("RequestId", str)

HOST: Final = DeviceId("host")


class DeviceKind(StrEnum):
    GPU = "gpu"
    HOST = "host"


@dataclass(frozen=True, slots=True)
class Shape:
    """What a GGUF header says that sizes the model. Lengths are elements per head, counts are per layer."""

    architecture: str
    layers: int
    """Repeating layers; llama.cpp counts one more for the output."""
    embedding: int
    heads: int
    kv_heads: tuple[int, ...]
    """Key/value heads of each layer (0: a layer without attention)."""
    key_length: int
    value_length: int
    vocabulary: int
    trained_context: Tokens
    weights: Bytes
    """All tensors, of all files of a split model."""
    window: Tokens | None = None
    """Sliding window, if some layers use one."""

    @property
    def offloadable(self) -> int:
        """What `gpu_layers` can be at most."""
        return self.layers + 1


@dataclass(frozen=True, slots=True)
class Variant:
    """All that makes two loads not interchangeable. `id` says it in short and is what the core compares."""

    id: VariantId
    name: str = field(compare=False)
    """The model's name, for people."""
    path: str
    shape: Shape
    context: Tokens
    """Per slot."""
    slots: int
    kv_type: str = "f16"
    flash_attention: bool | None = None
    gpu_layers: int | None = None
    """How many the owner wants on the GPU; None: as many as fit."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Exact numbers of one load. No devices: the CPU alone."""

    devices: tuple[DeviceId, ...]
    gpu_layers: int
    layers: int
    """Of which the model has this many (`Shape.offloadable`)."""
    micro_batch: Tokens

    def __str__(self) -> str:
        """As `ps` shows it: `100% GPU`, `100% CPU`, `63%/37% GPU/CPU`."""
        if self.gpu_layers <= 0:
            return "100% CPU"
        if self.gpu_layers >= self.layers:
            return "100% GPU"
        percent = min(99, max(1, round(100 * self.gpu_layers / self.layers)))
        return f"{percent}%/{100 - percent}% GPU/CPU"


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes per device; a device not named takes none."""

    parts: tuple[tuple[DeviceId, Bytes], ...] = ()

    @staticmethod
    def of(amounts: Mapping[DeviceId, Bytes]) -> Footprint:
        return Footprint(tuple(sorted((device, size) for device, size in amounts.items() if size > 0)))

    @staticmethod
    def total(footprints: Iterable[Footprint]) -> Footprint:
        amounts: dict[DeviceId, Bytes] = {}
        for footprint in footprints:
            for device, size in footprint.parts:
                amounts[device] = amounts.get(device, 0) + size
        return Footprint.of(amounts)

    def __getitem__(self, device: DeviceId) -> Bytes:
        for known, size in self.parts:
            if known == device:
                return size
        return 0

    def __iter__(self) -> Iterator[DeviceId]:
        return (device for device, _ in self.parts)

    def __add__(self, other: Footprint) -> Footprint:
        return Footprint.total((self, other))

    def at_least(self, other: Footprint) -> Footprint:
        """Device by device the larger of the two."""
        return Footprint.of({device: max(self[device], other[device]) for device in {*self, *other}})

    def fits(self, room: Mapping[DeviceId, Bytes]) -> bool:
        return all(size <= room.get(device, 0) for device, size in self.parts)

    def shortage(self, room: Mapping[DeviceId, Bytes]) -> tuple[DeviceId, Bytes]:
        """The device that lacks most, and how much (0: nothing)."""
        lacks = [(device, max(0, size - room.get(device, 0))) for device, size in self.parts]
        return max(lacks, key=lambda lack: lack[1], default=(HOST, 0))


@dataclass(frozen=True, slots=True)
class Device:
    """One measurement of one memory. `free` is what the driver or the kernel says others could still take."""

    id: DeviceId
    name: str
    kind: DeviceKind
    source: str
    """Who measured: nvml, ggml or psutil."""
    total: Bytes
    free: Bytes
    held: tuple[tuple[ResidentId, Bytes], ...] = ()
    """What each of our workers holds, by the same measurement."""
    pci: str = ""
    """How llama.cpp finds the card; empty for the host."""

    @property
    def ours(self) -> Bytes:
        return sum(size for _, size in self.held)

    @property
    def foreign(self) -> Bytes:
        return max(0, self.total - self.free - self.ours)
