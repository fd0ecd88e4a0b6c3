"""Values: what a model is, where it can be put, what that takes. Frozen, compared by content.

The bottom of the core; knows nothing of residents, time or events.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NewType

from swapd.core.values import replace
from swapd.units import Bytes, Tokens

VariantId = NewType("VariantId", str)
DeviceId = NewType("DeviceId", str)
ResidentId = NewType("ResidentId", int)
RequestId = NewType("RequestId", str)

HOST: Final = DeviceId("host")


class DeviceKind(StrEnum):
    GPU = "gpu"
    HOST = "host"


class Tier(StrEnum):
    """Where weights are before a load."""

    COLD = "cold"
    """On disk."""
    WARM = "warm"
    """In the page cache."""
    HOST = "host"
    """In the host memory of a worker of the same variant that has just left."""


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
    expert_layers: int = 0
    """Of a mixture of experts: repeating layers that have experts."""
    feed_forward: int = 0
    """Elements that the widest feed-forward makes of one token, in all experts that the token uses."""
    layer_weights: tuple[Bytes, ...] = ()
    """Of each repeating layer on a card; this and the next four empty: not known."""
    expert_weights: tuple[Bytes, ...] = ()
    """Of these, the experts'."""
    host_weights: tuple[Bytes, ...] = ()
    """Resident on the host, by how many layers are there: none (then only the input), one, ..., all, and the output."""
    full_cache: tuple[int, ...] = ()
    """Elements that one token takes in the cache of each layer with full attention; others 0."""
    window_cache: tuple[int, ...] = ()
    """The same of layers with a sliding window."""
    states: tuple[Bytes, ...] = ()
    """Of each recurrent layer, per slot, whatever the context; others 0."""
    output_weights: Bytes = 0
    """Of the output on a card, with its own copy of the embeddings where the model shares them."""

    @property
    def offloadable(self) -> int:
        """What `gpu_layers` can be at most."""
        return self.layers + 1


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter that is loaded with its model. `content` is the same as long as its file is."""

    name: str
    path: str
    content: str
    size: Bytes


@dataclass(frozen=True, slots=True)
class Projector:
    """What turns pictures into what its model reads; loaded with it. `content` is the same as long as its file is."""

    path: str
    content: str
    size: Bytes
    """Of its weights."""
    compute: Bytes
    """What it computes in, estimated."""
    sees_whole: bool = False
    """A picture's tokens see each other, and so are computed together: in one micro-batch of the model's."""


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
    max_vram: str = ""
    """Cap on each card: bytes or a share of its total (`"8589934592"`, `"55%"`); empty: none."""
    adapters: tuple[Adapter, ...] = ()
    content: str = field(default="", compare=False)
    """Of its files alone: what belongs to them can be used by every variant of them. Empty: not known."""
    pooling: str = ""
    """Of a load that makes vectors: how tokens become one ("mean", "cls", "last", "rank"); empty: it writes text."""

    speculates: bool = False
    """Several tokens are tried in one step: proposed by the text itself or, where there is one, the `draft`."""
    draft: Variant | None = None
    """The model that drafts, with this one's context, slots and KV type."""
    projector: Projector | None = None
    """With it the model takes pictures."""

    def has_weights_of(self, other: Variant) -> bool:
        """Whether a worker with the other one's weights could make this one's context on them."""
        if self.draft is not None or self.pooling or self.content != other.content:
            return False
        alike = replace(
            self,
            id=other.id,
            context=other.context,
            slots=other.slots,
            kv_type=other.kv_type,
            flash_attention=other.flash_attention,
        )
        return alike == other

    @property
    def sequences(self) -> int:
        """How many caches of `context` tokens it keeps: one for each slot, or one that all vectors share."""
        return 1 if self.pooling else self.slots


@dataclass(frozen=True, slots=True)
class Placement:
    """Exact numbers of one load. No devices: the CPU alone."""

    devices: tuple[DeviceId, ...]
    gpu_layers: int
    layers: int
    """Of which the model has this many (`Shape.offloadable`)."""
    micro_batch: Tokens
    experts_on_cpu: int = 0
    """Of a mixture of experts: layers on the GPU whose expert tensors stay on the CPU."""
    split: tuple[float, ...] = ()
    """Of several cards: the share of the layers that each gets."""

    @property
    def share(self) -> float:
        """Of the layers on the GPU; a layer without its experts counts a little."""
        return max(0.0, (self.gpu_layers - 0.9 * self.experts_on_cpu) / self.layers)

    def __str__(self) -> str:
        """As `ps` shows it: `100% GPU`, `100% CPU`, `63%/37% GPU/CPU`."""
        if self.gpu_layers <= 0:
            return "100% CPU"
        if self.share >= 1:
            return "100% GPU"
        percent = min(99, max(1, round(100 * self.share)))
        return f"{percent}%/{100 - percent}% GPU/CPU"


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes per device; a device not named takes none."""

    parts: tuple[tuple[DeviceId, Bytes], ...] = ()

    @staticmethod
    def of(amounts: Mapping[DeviceId, Bytes]) -> Footprint:
        return Footprint(tuple(sorted([part for part in amounts.items() if part[1] > 0])))

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
        if self == other:
            return self
        return Footprint.of({device: max(self[device], other[device]) for device in {*self, *other}})

    def fits(self, room: Mapping[DeviceId, Bytes]) -> bool:
        for device, size in self.parts:  # noqa: SIM110 (three times as fast, a hundred times in one decision)
            if size > room.get(device, 0):
                return False
        return True

    def fits_on(self, devices: Iterable[DeviceId], room: Mapping[DeviceId, Bytes]) -> bool:
        """As far as these go."""
        for device in devices:  # noqa: SIM110
            if self[device] > room.get(device, 0):
                return False
        return True

    def shortage(self, room: Mapping[DeviceId, Bytes]) -> tuple[DeviceId, Bytes]:
        """The device that lacks most, and how much (0: nothing)."""
        lacks = [(device, max(0, size - room.get(device, 0))) for device, size in self.parts]
        return max(lacks, key=lambda lack: lack[1], default=(HOST, 0))


@dataclass(frozen=True, slots=True)
class Foreign:
    """A process that is not ours and holds memory of a card. `size` None: the driver does not tell."""

    pid: int
    name: str
    size: Bytes | None


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
    is_stale: bool = False
    """The driver does not answer: nothing is free there, and nothing is known to be short."""
    pci: str = ""
    """How llama.cpp finds the card, by its PCI address or its name in ggml; empty for the host."""
    others: tuple[Foreign, ...] = ()
    """The largest of those who hold `foreign`, largest first; empty where nobody tells. For people."""

    @property
    def ours(self) -> Bytes:
        return sum(size for _, size in self.held)

    @property
    def foreign(self) -> Bytes:
        return max(0, self.total - self.free - self.ours)
