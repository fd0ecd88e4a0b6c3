"""The engine between an order and its fact: what may happen there, with ports of a few lines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest

from swapd.core.messages import Policy, RequestArrived, UnloadRequested
from swapd.core.model import (
    HOST,
    Device,
    DeviceId,
    DeviceKind,
    Footprint,
    Placement,
    RequestId,
    ResidentId,
    Tier,
    Variant,
    VariantId,
)
from swapd.core.state import Measurement
from swapd.errors import WorkerFailed
from swapd.generation import GenerationRequest
from swapd.questions import Question, Reply
from swapd.runtime.engine import SIZER, Engine, Refused
from swapd.runtime.journal import Journal
from swapd.runtime.ports import Telling
from swapd.units import Bytes, GiB, MiB, Seconds
from tests.core.builders import CARD, sized, variant

A = variant("a")


@dataclass
class Ports:
    """A card of `total` with one process on it that sizes, and workers that load at once."""

    total: Bytes = 10 * GiB
    sizer: Bytes = 1 * GiB
    is_sizing: bool = False
    is_late: bool = False
    """What the sizer held is still in use after its end, and listed nowhere."""
    started: list[ResidentId] = field(default_factory=list)
    releasing: asyncio.Event = field(default_factory=asyncio.Event)
    let_go: asyncio.Event = field(default_factory=asyncio.Event)

    # Workers
    async def start(
        self,
        resident: ResidentId,
        variant: Variant,
        placement: Placement,
        pci: tuple[str, ...],
        progressed: Callable[[float], None],
    ) -> None:
        self.started.append(resident)

    def hand_on(self, resident: ResidentId, heir: ResidentId) -> None:
        raise AssertionError("nobody inherits")

    async def stop(self, resident: ResidentId) -> None:
        pass

    async def generate(self, resident: ResidentId, request: GenerationRequest) -> Telling:
        raise AssertionError("nobody asks")

    async def ask(self, resident: ResidentId, question: Question) -> Reply:
        raise AssertionError("nobody asks")

    def build(self) -> str | None:
        return None

    def pids(self) -> Mapping[ResidentId, int]:
        return {}

    def notify_deaths(self, died: Callable[[ResidentId, WorkerFailed], None]) -> None:
        pass

    # Sizes
    async def size(self, variant: Variant, placement: Placement, pci: tuple[str, ...]) -> Footprint:
        self.is_sizing = True
        return sized(variant, placement)

    @property
    def pid(self) -> int | None:
        return 7 if self.is_sizing else None

    async def release(self) -> None:
        self.releasing.set()
        await self.let_go.wait()
        self.is_sizing = False

    # Memory
    def measure(self, workers: Mapping[ResidentId, int]) -> tuple[Device, ...]:
        held = ((SIZER, self.sizer),) if SIZER in workers else ()
        used = self.sizer if held or self.is_late else 0
        return (
            Device(CARD, "card", DeviceKind.GPU, "nvml", self.total, self.total - used, held, pci="0000:01:00.0"),
            Device(HOST, "host", DeviceKind.HOST, "psutil", 64 * GiB, 60 * GiB),
        )

    # Lessons
    def learn(
        self,
        variant: VariantId,
        placement: Placement,
        build: str,
        footprint: Footprint,
        measurement: Measurement | None = None,
        floor: Footprint | None = None,
    ) -> None:
        pass

    def learn_overheads(self, build: str, overheads: Mapping[DeviceId, Bytes]) -> None:
        pass

    def learn_loads(self, variant: VariantId, loads: Mapping[Tier, Seconds]) -> None:
        pass

    # Files
    def share(self, path: str) -> float | None:
        return None

    def read(self, path: str, size: Bytes, is_wanted: Callable[[], bool]) -> None:
        raise AssertionError("nobody asks")


async def begin(tasks: asyncio.TaskGroup, ports: Ports) -> tuple[Engine, asyncio.Task[None]]:
    engine = Engine(ports, ports, ports, ports, ports, asyncio.get_running_loop().time, Policy(), Journal())
    started = asyncio.Event()
    running = tasks.create_task(engine.run(started.set))
    await started.wait()
    return engine, running


def ask(engine: Engine) -> asyncio.Future[ResidentId]:
    return engine.ask(RequestArrived(engine.now(), RequestId("1"), A, None, None, 0, False, None))


async def test_a_load_that_is_given_up_while_the_sizing_process_ends_starts_nothing() -> None:
    ports = Ports()
    async with asyncio.TaskGroup() as tasks:
        engine, running = await begin(tasks, ports)
        granted = ask(engine)
        await ports.releasing.wait()

        engine.post(UnloadRequested(engine.now(), A.id, force=True))
        while engine.state.residents:
            await engine.next_change()
        ports.let_go.set()

        with pytest.raises(Refused):
            await granted
        running.cancel()
    assert ports.started == []


async def test_a_load_that_needs_what_the_sizing_process_held_waits_until_that_is_seen_free() -> None:
    ports = Ports(total=11 * GiB // 2 + 128 * MiB, is_late=True)
    ports.let_go.set()
    async with asyncio.TaskGroup() as tasks:
        engine, running = await begin(tasks, ports)
        granted = ask(engine)
        await ports.releasing.wait()
        for _ in range(3):  # the memory is looked at, and is not there
            await engine.next_change()
        assert ports.started == []

        ports.is_late = False

        await granted
        running.cancel()
    assert len(ports.started) == 1
