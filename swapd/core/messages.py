"""The whole contract between the core and its shell on one page: facts in, orders out.

An event says what happened and when (`at`, seconds of the engine's clock, never falling). A command is
performed by `runtime/engine.py`; what comes of it returns as an event.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from swapd.core.decision import Decision
from swapd.core.model import Device, DeviceId, Footprint, Placement, RequestId, ResidentId, Tier, Variant, VariantId
from swapd.errors import Death
from swapd.units import Bytes, MiB, Seconds, Tokens

# --- settings of the decisions


class Overflow(StrEnum):
    """What to do with a model that does not fit beside the others."""

    EVICT = "evict"
    """Make room; on the GPU in part only if it would not fit alone."""
    OFFLOAD = "offload"
    """Evict nobody while it can run at all: as many layers on the GPU as fit beside."""
    AUTO = "auto"
    """Evict the idle; in part beside those at work, if that is most of it."""


class Ranking(StrEnum):
    """By what plans, victims and turns are compared."""

    LRU = "lru"
    """Turns by age, victims by last use; nothing is priced."""
    COST = "cost"
    """By seconds of waiting, summed over all whom a plan delays."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the owner configured of the scheduler and of memory. Shares of a total are strings like `"85%"`."""

    keep_alive: Seconds = 300.0
    max_queue: int = 512
    max_loaded: int = 0
    """0: as many as fit."""
    max_wait: Seconds = 30.0
    min_residency: Seconds = 2.0
    load_timeout: Seconds = 300.0
    vram_reserve: Bytes = 512 * MiB
    vram_limit: str = "100%"
    host_reserve: Bytes = 2048 * MiB
    overflow: Overflow = Overflow.AUTO
    ranking: Ranking = Ranking.COST
    """`policy` in the configuration."""
    keeps_prompts: bool = False
    """Conversations are saved when their model leaves."""
    prefetch: bool = True
    """Load ahead, and read ahead, what is likely to be asked for next."""
    warm_cache: Bytes | None = None
    """Of the host's memory, what files read ahead may take; None: half of it; 0: none are."""


# --- facts


@dataclass(frozen=True, slots=True)
class RequestArrived:
    """A call wants a slot of this variant; `slotless` wants it only loaded.

    `keep_alive` None changes nothing. `gpu_layers` None: any placement will do.
    """

    at: Seconds
    request: RequestId
    variant: Variant
    keep_alive: Seconds | None = None
    owner_keep_alive: Seconds | None = None
    """What the model's owner configured; a new resident starts with it. None: the policy's."""
    priority: int = 0
    slotless: bool = False
    gpu_layers: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer took: tokens evaluated, taken over from before, and made; and the time of it."""

    prompt: Tokens
    cached: Tokens
    output: Tokens
    prefill_s: Seconds
    decode_s: Seconds


@dataclass(frozen=True, slots=True)
class RequestEnded:
    """The lease was left, or the caller stopped waiting. Comes once for every request, however it went."""

    at: Seconds
    request: RequestId
    usage: Usage | None = None
    """None: it never answered, or not to the end."""


@dataclass(frozen=True, slots=True)
class UnloadRequested:
    at: Seconds
    variant: VariantId
    force: bool = False
    """End running requests instead of waiting for them."""


@dataclass(frozen=True, slots=True)
class PinsChanged:
    """These variants are never victims and never expire, from now on and no others."""

    at: Seconds
    pins: frozenset[VariantId]


@dataclass(frozen=True, slots=True)
class PolicyChanged:
    at: Seconds
    policy: Policy


@dataclass(frozen=True, slots=True)
class MemoryMeasured:
    """The answer to MeasureMemory: every device of this machine."""

    at: Seconds
    devices: tuple[Device, ...]


@dataclass(frozen=True, slots=True)
class MeasurementDue:
    """Somebody should look at the memory: the watch, or whoever shows what a load has taken."""

    at: Seconds


@dataclass(frozen=True, slots=True)
class PlacementSized:
    """The answer to SizePlacement, without what a process takes besides; None: it cannot be sized."""

    at: Seconds
    variant: VariantId
    placement: Placement
    size: Footprint | None
    beside: tuple[tuple[DeviceId, Bytes], ...] = ()
    """What the process that sized it held on the cards just then: a context, and no model."""


@dataclass(frozen=True, slots=True)
class LessonsRead:
    """What earlier runs of the daemon have learnt."""

    at: Seconds
    lessons: tuple[tuple[VariantId, Placement, Footprint], ...]
    overheads: tuple[tuple[DeviceId, Bytes], ...] = ()
    measurements: tuple[tuple[VariantId, Placement, Footprint | None, Footprint], ...] = ()
    """The latest last: what was predicted before the first load, if that is known, and what the last one took."""
    floors: tuple[tuple[VariantId, Placement, Footprint], ...] = ()
    """What running out of memory at work has taught."""
    loads: tuple[tuple[VariantId, Tier, Seconds], ...] = ()
    """How long loads took, all on the GPU, by where the weights were."""


@dataclass(frozen=True, slots=True)
class FilesSeen:
    """How much of models' files is in the page cache now: shares from 0 to 1."""

    at: Seconds
    files: tuple[tuple[VariantId, float], ...]


@dataclass(frozen=True, slots=True)
class FileWarmed:
    """The end of WarmFile that nobody stopped: so much of the file is in the page cache now; None: not known."""

    at: Seconds
    variant: VariantId
    cached: float | None


@dataclass(frozen=True, slots=True)
class CatalogChanged:
    """These variants can be asked for, and no others: nobody else is expected."""

    at: Seconds
    known: frozenset[VariantId]
    named: tuple[Variant, ...] = ()
    """Of these, those that the owner has named, in that order: they are likely to be asked for some time."""


@dataclass(frozen=True, slots=True)
class YieldRequested:
    """For so long, leave so much to others, beside what they hold, of the card on which we could hold most.

    0 bytes: take back what was left to them before, as any other number does first.
    """

    at: Seconds
    size: Bytes
    duration: Seconds


@dataclass(frozen=True, slots=True)
class LoadProgressed:
    at: Seconds
    resident: ResidentId
    fraction: float


@dataclass(frozen=True, slots=True)
class WorkerLoaded:
    at: Seconds
    resident: ResidentId
    cached: float | None = None
    """Of its files in the page cache when the load began; None: not known."""


@dataclass(frozen=True, slots=True)
class WorkerDied:
    at: Seconds
    resident: ResidentId
    death: Death
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerGone:
    """The process is reaped and its memory seen free (or the settle limit passed)."""

    at: Seconds
    resident: ResidentId


@dataclass(frozen=True, slots=True)
class TimerFired:
    at: Seconds


@dataclass(frozen=True, slots=True)
class StopRequested:
    """The daemon goes down: nothing new, live leases finish."""

    at: Seconds


Event: TypeAlias = (
    RequestArrived
    | RequestEnded
    | UnloadRequested
    | PinsChanged
    | PolicyChanged
    | MemoryMeasured
    | MeasurementDue
    | PlacementSized
    | LessonsRead
    | FilesSeen
    | FileWarmed
    | CatalogChanged
    | YieldRequested
    | LoadProgressed
    | WorkerLoaded
    | WorkerDied
    | WorkerGone
    | TimerFired
    | StopRequested
)

# --- orders


@dataclass(frozen=True, slots=True)
class StartWorker:
    resident: ResidentId
    variant: Variant
    placement: Placement
    reason: str
    inherits: ResidentId | None = None
    """Whose worker becomes its own: that has the weights, and makes another context for them."""


@dataclass(frozen=True, slots=True)
class StopWorker:
    """End the process, reap it, wait until its memory is seen free, then tell WorkerGone. Also after a death."""

    resident: ResidentId
    reason: str


@dataclass(frozen=True, slots=True)
class GrantLease:
    request: RequestId
    resident: ResidentId


class Refusal(StrEnum):
    DOES_NOT_FIT = "does not fit"
    UNUSABLE = "unusable"
    CRASHED = "crashed"
    OVERLOADED = "overloaded"
    STOPPING = "stopping"
    UNLOADED = "unloaded"


@dataclass(frozen=True, slots=True)
class RefuseRequest:
    """The last word to a request that waits. Sizes and pins only with DOES_NOT_FIT."""

    request: RequestId
    refusal: Refusal
    reason: str
    device: DeviceId = field(default=DeviceId(""))
    needed: Bytes = 0
    available: Bytes = 0
    pinned: tuple[str, ...] = ()
    is_capped: bool = False
    """`available` is what the model's own `max_vram` allows, and not what could be made free."""


@dataclass(frozen=True, slots=True)
class RevokeLease:
    """The resident is lost under a live request: CRASHED, or UNLOADED by force."""

    request: RequestId
    refusal: Refusal
    reason: str


@dataclass(frozen=True, slots=True)
class MeasureMemory:
    pass


@dataclass(frozen=True, slots=True)
class SizePlacement:
    """Ask llama.cpp what this load would take."""

    variant: Variant
    placement: Placement


@dataclass(frozen=True, slots=True)
class WarmFile:
    """Read so much of its files into the page cache, at the disk's leisure, then, unless stopped, tell FileWarmed."""

    variant: Variant
    size: Bytes
    reason: str


@dataclass(frozen=True, slots=True)
class StopWarming:
    """Somebody needs the disk, or it is not wanted any more."""


@dataclass(frozen=True, slots=True)
class Note:
    """Nothing to do: why the orders beside it were given, for people."""

    decision: Decision


Command: TypeAlias = (
    StartWorker
    | StopWorker
    | GrantLease
    | RefuseRequest
    | RevokeLease
    | MeasureMemory
    | SizePlacement
    | WarmFile
    | StopWarming
    | Note
)
