"""Where a variant could be put: exact placements, best first. Reads the state, decides nothing.

Full on one card, or as many layers as the owner fixed; without a card on the CPU.
"""

from __future__ import annotations

from typing import Final

from swapd.core.model import DeviceKind, Placement, Variant
from swapd.core.state import State
from swapd.units import Tokens

MICRO_BATCH: Final[Tokens] = 512


def candidates(state: State, variant: Variant, gpu_layers: int | None) -> tuple[Placement, ...]:
    """At least one. `gpu_layers` None: what the variant's owner said, else all. Cards with most room first."""
    layers = variant.shape.offloadable
    wanted = gpu_layers if gpu_layers is not None else variant.gpu_layers
    on_gpu = layers if wanted is None or wanted < 0 else min(wanted, layers)
    cards = [device for device in state.devices if device.kind is DeviceKind.GPU]
    if not cards or on_gpu == 0:
        return (Placement((), 0, layers, MICRO_BATCH),)
    room = state.room()
    cards.sort(key=lambda card: (-room[card.id], card.id))
    return tuple(Placement((card.id,), on_gpu, layers, MICRO_BATCH) for card in cards)
