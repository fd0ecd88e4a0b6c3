"""What a placement takes before it is loaded, asked of llama.cpp in a process of its own.

Used by the shell through the composition root. Sizing makes a context on the card, which lasts as long as the
process: so it is never the spare, and it ends when no order has come for a while.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from swapd import wire
from swapd.core import arithmetic
from swapd.core.model import HOST, DeviceId, Footprint, Placement, Variant, VariantId
from swapd.errors import WorkerFailed
from swapd.pool.aside import Aside
from swapd.pool.worker import Worker
from swapd.units import Seconds

IDLE: Final[Seconds] = 5.0
LIMIT: Final[Seconds] = 60.0
"""For one order, the start of a process included."""


class Sizer(Aside):
    """Use as an async context manager: leaving it ends the process. What that holds on a card is ours."""

    def __init__(self, idle: Seconds = IDLE, limit: Seconds = LIMIT) -> None:
        super().__init__("sizer", idle, limit)
        self._known: dict[tuple[VariantId, Placement], Footprint] = {}

    async def size(self, variant: Variant, placement: Placement, pci: tuple[str, ...]) -> Footprint:
        """What llama.cpp counts of it, without the process itself. `pci`: of the placement's devices, in their order.

        Raises WorkerFailed; the next order then gets a process of its own.
        """
        key = (variant.id, placement)
        if key in self._known:
            return self._known[key]
        async with self.asked() as worker:
            if key not in self._known:  # whoever had the turn before may have asked the same
                sized = await self._ask(worker, _order(variant, placement, pci))
                self._known[key] = _footprint(variant, placement, dict(zip(pci, placement.devices, strict=True)), sized)
            return self._known[key]

    async def _ask(self, worker: Worker, order: wire.Size) -> wire.Sized:
        try:
            return await worker.size(order)
        except WorkerFailed:
            raise
        except BaseException:
            self.stop()  # its answer would be taken for the next one's
            raise


def _order(variant: Variant, placement: Placement, pci: tuple[str, ...]) -> wire.Size:
    return wire.Size(
        path=variant.path,
        context=variant.context,
        slots=variant.slots,
        gpu_layers=placement.gpu_layers,
        devices=pci,
        micro_batch=placement.micro_batch,
        kv_type=variant.kv_type,
        flash_attention=variant.flash_attention,
        expert_layers_on_cpu=placement.experts_on_cpu,
        tensor_split=placement.split,
        pooling=variant.pooling,
        speculates=variant.speculates,
        draft=variant.draft.path if variant.draft is not None else "",
        projector=variant.projector.path if variant.projector is not None else "",
    )


def _footprint(variant: Variant, placement: Placement, devices: dict[str, DeviceId], sized: wire.Sized) -> Footprint:
    """What llama.cpp counts; where it told only its compute buffers, the rest is arithmetic."""
    amounts: Counter[DeviceId] = Counter()
    for device, _, size in sized.parts:
        amounts[devices.get(device, HOST)] += size
    ours = arithmetic.of(variant, placement.micro_batch)
    total = Footprint.of(amounts) + ours.adapters(placement)
    is_whole = any(kind == "model" for _, kind, _ in sized.parts)
    return total if is_whole else total + ours.weights_and_cache(placement)
