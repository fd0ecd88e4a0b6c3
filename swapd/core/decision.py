"""Why something was decided: values for people, made by the core beside its orders and never read by it again.

Kept by the journal, shown by `swapctl explain` and `/swapd/decisions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from swapd.core.model import Footprint, Placement, RequestId, ResidentId, VariantId
from swapd.units import Seconds


class Choice(StrEnum):
    """What was decided of a model."""

    LOAD = "load"
    """Beside the others."""
    EVICT = "evict"
    """Others leave for it."""
    OFFLOAD = "offload"
    """In part on the CPU, beside the others."""
    PREFETCH = "prefetch"
    """Beside the others, before anybody asks."""
    WAIT = "wait"
    """For those at work."""
    REFUSE = "refuse"
    UNLOAD = "unload"
    """A resident was retired; the reason says why."""


@dataclass(frozen=True, slots=True)
class Cost:
    """One part of a price, in seconds of waiting, summed over all requests that it delays."""

    what: str
    seconds: Seconds


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way that was considered."""

    choice: Choice
    placement: Placement | None
    need: Footprint
    leaving: tuple[str, ...]
    """Names of the models that would have to go."""
    costs: tuple[Cost, ...]
    """Empty: not priced, because the policy has an order of its own or it was not possible."""
    is_chosen: bool
    note: str
    """Why not, or what is special about it; may be empty."""

    @property
    def price(self) -> Seconds | None:
        return sum(cost.seconds for cost in self.costs) if self.costs else None


@dataclass(frozen=True, slots=True)
class Decision:
    choice: Choice
    model: str
    variant: VariantId
    reason: str
    requests: tuple[RequestId, ...] = ()
    """For whom, the oldest first; at most a few are named."""
    waiting: int = 0
    """How many waited for it in all."""
    resident: ResidentId | None = None
    candidates: tuple[Candidate, ...] = ()
    avoid: tuple[str, ...] = ()
    """What would have avoided the swap, the waiting or the refusal."""
