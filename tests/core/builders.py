"""A core at a desk: facts are told in a line, and what it orders is compared.

The desk measures honestly: what a resident is believed to hold is what it has, unless the test says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from swapd.core import eviction
from swapd.core.arithmetic import PROCESS, arithmetic
from swapd.core.decision import Decision
from swapd.core.messages import (
    Command,
    Event,
    GrantLease,
    LoadProgressed,
    MeasureMemory,
    MeasurementDue,
    MemoryMeasured,
    Note,
    PinsChanged,
    PlacementSized,
    Policy,
    RefuseRequest,
    RequestArrived,
    RequestEnded,
    SizePlacement,
    StartWorker,
    StopRequested,
    StopWorker,
    TimerFired,
    UnloadRequested,
    WorkerDied,
    WorkerGone,
    WorkerLoaded,
    YieldRequested,
)
from swapd.core.model import (
    HOST,
    Device,
    DeviceId,
    DeviceKind,
    Footprint,
    Placement,
    RequestId,
    ResidentId,
    Shape,
    Variant,
    VariantId,
)
from swapd.core.resident import HOLDING, Phase, Resident
from swapd.core.scheduler import step
from swapd.core.state import State, violations
from swapd.errors import Death
from swapd.units import Bytes, GiB

CARD = DeviceId("cuda:0")
OTHER_CARD = DeviceId("cuda:1")
MEASURE = MeasureMemory()


def variant(name: str, size: Bytes = 4 * GiB, *, slots: int = 1, gpu_layers: int | None = None) -> Variant:
    """Takes `size` where its layers are, and a worker's own 96 MiB of host memory."""
    shape = Shape("llama", 3, 0, 1, (), 0, 0, 0, 4096, size)
    return Variant(VariantId(name), name, f"/{name}.gguf", shape, 512, slots, gpu_layers=gpu_layers)


def sized(wanted: Variant, place: Placement) -> Footprint:
    """As llama.cpp would size it if the header told it all: without the process."""
    said = arithmetic(wanted, place)
    return Footprint.of({**dict(said.parts), HOST: said[HOST] - PROCESS})


class Desk:
    """Cards of 10 GiB (none: a host of 10 GiB), nothing kept in reserve, keep-alive for ever unless told."""

    def __init__(
        self,
        *,
        cards: tuple[DeviceId, ...] = (CARD,),
        total: Bytes = 10 * GiB,
        host: Bytes = 64 * GiB,
        **policy: Any,
    ) -> None:
        plain: dict[str, Any] = {"vram_reserve": 0, "host_reserve": 0, "keep_alive": float("inf")}
        self.policy = Policy(**{**plain, **policy})
        self.state = State(policy=self.policy)
        self.cards = dict.fromkeys(cards, total)
        self.host = host if cards else total
        self.foreign: dict[DeviceId, Bytes] = {}
        self.at = 0.0
        self.orders: list[Command] = []
        """Everything ordered so far, but for the notes."""
        self.notes: list[Decision] = []
        self.stale: set[DeviceId] = set()
        self.says: Callable[[Variant, Placement], Footprint | None] | None = sized
        """What is answered at once to SizePlacement; None: the test answers by hand."""

    # --- facts

    def tell(self, event: Event) -> list[Command]:
        self.state, orders = step(self.state, event)
        assert violations(self.state) == []
        self.notes += [order.decision for order in orders if isinstance(order, Note)]
        orders = tuple(order for order in orders if not isinstance(order, Note))
        self.orders += orders
        answers: list[Command] = []
        for order in orders:
            if isinstance(order, SizePlacement) and self.says is not None:
                answers += self.sized(order, self.says(order.variant, order.placement))
        return [o for o in orders if self.says is None or not isinstance(o, SizePlacement)] + answers

    def sized(self, order: SizePlacement, size: Footprint | None) -> list[Command]:
        return self.tell(PlacementSized(self.at, order.variant.id, order.placement, size))

    def watch(self) -> list[Command]:
        """A second passes, and the memory is looked at."""
        orders = self.later(1.0) + self.tell(MeasurementDue(self.at))
        orders += self.measured() if self.state.is_measuring else []
        return [order for order in orders if order != MEASURE]

    def lend(self, size: Bytes, duration: float) -> list[Command]:
        return self.tell(YieldRequested(self.at, size, duration)) + self.measured()

    def wants(self, wanted: Variant, request: str, **more: Any) -> list[Command]:
        return self.tell(RequestArrived(self.at, RequestId(request), wanted, **more))

    def ends(self, request: str) -> list[Command]:
        return self.tell(RequestEnded(self.at, RequestId(request)))

    def measured(self, held: Mapping[tuple[int, DeviceId], Bytes] | None = None) -> list[Command]:
        """The answer to what the core ordered, and to what it orders again because memory had moved.

        `held`: what single residents have on a device, where that is not what the core believes.
        """
        orders = self.tell(self.look(held))
        while self.state.is_measuring:
            orders += self.tell(self.look(held))
        return [order for order in orders if order != MEASURE]

    def look(self, held: Mapping[tuple[int, DeviceId], Bytes] | None = None) -> MemoryMeasured:
        devices = []
        for device, total in {**self.cards, HOST: self.host}.items():
            has = {r.id: r.footprint[device] for r in self.state.in_phases(HOLDING)}
            has = {r: (held or {}).get((r, device), size) for r, size in has.items()}
            free = max(0, total - sum(has.values()) - self.foreign.get(device, 0))
            kind = DeviceKind.HOST if device == HOST else DeviceKind.GPU
            listed = tuple((r, size) for r, size in has.items() if size)
            if device in self.stale:
                free, listed = 0, ()
            devices.append(Device(device, device, kind, "test", total, free, listed, device in self.stale))
        return MemoryMeasured(self.at, tuple(devices))

    def progressed(self, resident: int, fraction: float) -> list[Command]:
        return self.tell(LoadProgressed(self.at, ResidentId(resident), fraction))

    def loaded(self, resident: int) -> list[Command]:
        return self.tell(WorkerLoaded(self.at, ResidentId(resident)))

    def died(self, resident: int, death: Death = Death.CRASHED) -> list[Command]:
        return self.tell(WorkerDied(self.at, ResidentId(resident), death, "for a reason"))

    def gone(self, resident: int) -> list[Command]:
        return self.tell(WorkerGone(self.at, ResidentId(resident)))

    def unload(self, name: str, *, force: bool = False) -> list[Command]:
        return self.tell(UnloadRequested(self.at, VariantId(name), force))

    def pin(self, *names: str) -> list[Command]:
        return self.tell(PinsChanged(self.at, frozenset(VariantId(name) for name in names)))

    def stop(self) -> list[Command]:
        return self.tell(StopRequested(self.at))

    def later(self, seconds: float) -> list[Command]:
        """Time passes; the timer fires whenever it is due. What was ordered meanwhile."""
        until, orders = self.at + seconds, []
        while (due := eviction.next_deadline(self.state)) is not None and due <= until:
            self.at = due
            orders += self.tell(TimerFired(self.at))
        self.at = until
        return orders

    # --- stories in short

    def serve(self, wanted: Variant, request: str, **more: Any) -> ResidentId:
        """The variant is loaded for this request, which then holds a lease."""
        self.wants(wanted, request, **more)
        self.measured()
        resident = self.resident(wanted)
        self.loaded(resident.id)
        assert self.holder(request) == resident.id
        return resident.id

    def idle(self, wanted: Variant, **more: Any) -> ResidentId:
        """The variant is resident and has served somebody one second ago."""
        resident = self.serve(wanted, f"first of {wanted.name}", **more)
        self.ends(f"first of {wanted.name}")
        self.later(1.0)
        return resident

    # --- questions

    def resident(self, of: Variant) -> Resident:
        """The newest of the variant."""
        return max((r for r in self.state.residents.values() if r.variant.id == of.id), key=lambda r: r.id)

    def phase(self, resident: int) -> Phase:
        known = self.state.residents.get(ResidentId(resident))
        return Phase.GONE if known is None else known.phase

    def holder(self, request: str) -> ResidentId | None:
        return self.state.leases.get(RequestId(request))

    def asked(self) -> list[Placement]:
        """What llama.cpp was asked to size, in order."""
        return [order.placement for order in self.orders if isinstance(order, SizePlacement)]

    def loads(self) -> list[str]:
        """What was loaded, in order."""
        return [order.variant.name for order in self.orders if isinstance(order, StartWorker)]


def stopped(orders: list[Command]) -> list[int]:
    return [order.resident for order in orders if isinstance(order, StopWorker)]


def started(orders: list[Command]) -> list[str]:
    return [order.variant.name for order in orders if isinstance(order, StartWorker)]


def granted(orders: list[Command]) -> list[str]:
    return [order.request for order in orders if isinstance(order, GrantLease)]


def refused(orders: list[Command]) -> dict[str, str]:
    return {order.request: order.refusal.value for order in orders if isinstance(order, RefuseRequest)}


__all__ = ["CARD", "HOST", "MEASURE", "OTHER_CARD", "PROCESS", "Death", "Desk", "Phase"]
__all__ += ["granted", "refused", "started", "stopped", "variant"]
