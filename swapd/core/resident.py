"""One copy of a variant from reservation to the return of its memory: six phases, no way back.

LEGAL is the whole state machine; the picture in README.md is made from it. Failure is a cause, not a
phase, so memory has one exit. A reload is a new resident.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from swapd.core.model import HOST, DeviceId, Footprint, Placement, ResidentId, Tier, Variant, VariantId
from swapd.core.values import replace
from swapd.units import Bytes, Seconds, Tokens


class Phase(StrEnum):
    RESERVED = "reserved"
    """Promised room; nothing started."""
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    """Retired; live leases finish, none is granted."""
    UNLOADING = "unloading"
    """The worker is ending; its memory is not yet seen free."""
    GONE = "gone"


class Trigger(StrEnum):
    ROOM_MADE = "room made"
    LOADED = "loaded"
    RETIRED = "retired"
    DRAINED = "drained"
    DIED = "died"
    FREED = "freed"
    HANDED_ON = "handed on"
    """Its worker and its weights are another resident's from now on."""


LEGAL: Final = MappingProxyType(
    {
        (Phase.RESERVED, Trigger.ROOM_MADE): Phase.LOADING,
        (Phase.RESERVED, Trigger.RETIRED): Phase.GONE,
        (Phase.LOADING, Trigger.LOADED): Phase.READY,
        (Phase.LOADING, Trigger.RETIRED): Phase.UNLOADING,
        (Phase.LOADING, Trigger.DIED): Phase.UNLOADING,
        (Phase.READY, Trigger.RETIRED): Phase.DRAINING,
        (Phase.READY, Trigger.DIED): Phase.UNLOADING,
        (Phase.READY, Trigger.HANDED_ON): Phase.GONE,
        (Phase.DRAINING, Trigger.DRAINED): Phase.UNLOADING,
        (Phase.DRAINING, Trigger.DIED): Phase.UNLOADING,
        (Phase.UNLOADING, Trigger.FREED): Phase.GONE,
    }
)

STAYING: Final = frozenset({Phase.RESERVED, Phase.LOADING, Phase.READY})
"""Phases whose footprint is promised."""
HOLDING: Final = frozenset({Phase.LOADING, Phase.READY, Phase.DRAINING, Phase.UNLOADING})
"""Phases whose footprint is held: the process may own the memory."""
LOADED: Final = HOLDING - {Phase.LOADING}
"""Of these, those that have all of it."""


class IllegalTransition(Exception):
    """A trigger that its phase does not know: a bug in the core. Nothing was changed."""


class Cause(StrEnum):
    """Why a resident was retired."""

    EXPIRED = "keep-alive ended"
    EVICTED = "evicted"
    REPLACED = "replaced by another placement"
    DEMOTED = "placed smaller: others took memory"
    PROMOTED = "placed better: there is room again"
    OPERATOR = "unloaded on request"
    UNWANTED = "nobody waits for it any more"
    NO_ROOM = "the room promised to it was taken by others"
    FORESEEN = "loaded ahead, and in the way"
    STALLED = "its load made no progress"
    STOPPING = "the daemon is stopping"


@dataclass(frozen=True, slots=True)
class Retirement:
    cause: Cause
    reason: str
    """For people: who needed what."""


@dataclass(frozen=True, slots=True)
class Resident:
    """Times are the engine's clock. `measured` is None until the first measurement after the load."""

    id: ResidentId
    variant: Variant
    placement: Placement
    phase: Phase
    predicted: Footprint
    keep_alive: Seconds
    since: Seconds
    """When it was reserved."""
    asked_at: Seconds
    """When the oldest came of those for whom it was."""
    used_at: Seconds
    """When its last lease ended; until then when it became ready."""
    measured: Footprint | None = None
    loaded_at: Seconds | None = None
    progress: float = 0.0
    progress_at: Seconds = 0.0
    retired: Retirement | None = None
    started_at: Seconds | None = None
    """When its worker was started."""
    kept: Tokens = 0
    """Of its last conversation: what would have to be computed again."""
    wanted_layers: int | None = None
    """On the GPU, as the request or the owner said; the CPU alone is what they get where that does not fit."""
    tier: Tier | None = None
    """Where its weights were when its load began; None: not known."""
    expected_after: VariantId | None = None
    """Loaded ahead because it often comes after this model, and not asked for yet; None: loaded because asked for."""

    @property
    def is_foreseen(self) -> bool:
        """Nobody has asked for it yet: whoever needs its room gets it."""
        return self.expected_after is not None

    @property
    def is_fixed(self) -> bool:
        """Nobody places it better or smaller."""
        return self.wanted_layers is not None

    @property
    def footprint(self) -> Footprint:
        """What it counts for: measured where that is known, else predicted.

        On the host never less than predicted: buffers there become resident only as they are used.
        """
        if self.measured is None:
            return self.predicted
        if self.measured[HOST] >= self.predicted[HOST]:
            return self.measured
        return Footprint.of({**dict(self.measured.parts), HOST: self.predicted[HOST]})

    def takes(self, device: DeviceId) -> Bytes:
        """The footprint's part on one device."""
        if self.measured is None:
            return self.predicted[device]
        return max(self.measured[HOST], self.predicted[HOST]) if device == HOST else self.measured[device]

    def after(self, trigger: Trigger) -> Resident:
        """This resident in the phase that the trigger leads to. Raises IllegalTransition."""
        phase = LEGAL.get((self.phase, trigger))
        if phase is None:
            raise IllegalTransition(
                f"resident {self.id} of {self.variant.name!r} is {self.phase} and cannot take {trigger!r}"
            )
        return replace(self, phase=phase)
