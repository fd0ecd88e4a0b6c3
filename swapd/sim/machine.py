"""The machine of the simulation: memory, other programs, workers that load, die and end; some things go wrong.

`world` drives it with the core's orders, and passes on what it tells.
"""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

from swapd.core.messages import (
    Event,
    FilesSeen,
    FileWarmed,
    LoadProgressed,
    MeasurementDue,
    MemoryMeasured,
    PlacementSized,
    Policy,
    SizePlacement,
    StartWorker,
    WarmFile,
    WorkerDied,
    WorkerGone,
    WorkerLoaded,
)
from swapd.core.model import HOST, Device, DeviceId, DeviceKind, Footprint, ResidentId, VariantId
from swapd.errors import Death
from swapd.sim.books import Books
from swapd.sim.cache import PageCache
from swapd.sim.memory import Memory
from swapd.sim.records import Hardware, Model, Process
from swapd.units import Bytes, Seconds

Chance: TypeAlias = Callable[[int], int]

WATCH_EVERY: Seconds = 1.0
_DELAYS: tuple[Seconds, ...] = (0.0, 0.01, 0.1, 0.05, 0.3, 0.7, 1.1, 2.0)


class Machine(ABC):
    """What is so, whatever the core believes of it."""

    def __init__(
        self,
        chance: Chance,
        hardware: tuple[Hardware, ...],
        models: tuple[Model, ...],
        policy: Policy,
        *,
        faults: int = 0,
        names_processes: bool = True,
        is_lying: bool = False,
    ) -> None:
        """`faults`: how many of 100 loads, ends and facts go wrong. `names_processes`: the driver does.
        `is_lying`: sizings are a little off; then nothing is said of memory.
        """
        self.chance, self.models, self.faults = chance, {m.variant.id: m for m in models}, faults
        self.names_processes, self.is_lying = names_processes, is_lying
        self.now: Seconds = 0.0
        memory = Memory(hardware, models, policy, names_processes=names_processes)
        memory.is_exact &= not is_lying and all(m.is_sizable for m in models)
        self.books = Books(memory, policy)
        self.hardware = memory.hardware
        self.cache = PageCache({m.variant.id: m.variant.shape.weights for m in models})
        self._reading = 0
        """Which order to read ahead is the last one that nobody stopped."""
        self.foreign: dict[DeviceId, Bytes] = {h.id: 0 for h in hardware}
        self.stale: set[DeviceId] = set()
        """Cards whose driver does not answer."""
        self.excused: set[DeviceId] = set()
        """Devices on which others took memory after a load was started: running out there is not the core's fault."""
        self._deeds: list[tuple[Seconds, int, Callable[[], None]]] = []
        self._count = 0
        self._is_watched = False

    @abstractmethod
    def _tell(self, event: Event, taken: dict[DeviceId, Bytes] | None = None) -> None:
        """The core is told. Raises Broken."""

    def _keep_watch(self) -> None:
        if not self._is_watched:
            self._is_watched = True
            self._later(WATCH_EVERY, self._watch)

    def _watch(self) -> None:
        """As long as there are workers, memory is looked at every second."""
        self._is_watched = False
        if self.books.processes:
            self._tell(MeasurementDue(self.now))
            if self.chance(3) == 0:
                self._tell(FilesSeen(self.now, tuple((name, self.cache.share(name)) for name in self.models)))
            self._keep_watch()

    def drop_files(self, variant: VariantId) -> None:
        """Its file is in the page cache no more."""
        self.cache.drop(variant)

    def _free(self) -> Bytes:
        return self.hardware[HOST].total - self.used(HOST)

    def _warm(self, command: WarmFile) -> None:
        self._reading += 1
        number, parts = self._reading, 1 + self.chance(3)
        self._later(self._delay(), lambda: self._read(command, number, 1, parts))

    def _read(self, command: WarmFile, number: int, part: int, parts: int) -> None:
        if number != self._reading:
            return
        variant = command.variant.id
        self.cache.read(variant, command.size * part // parts, self._free())
        if part < parts:
            self._later(self._delay(), lambda: self._read(command, number, part + 1, parts))
        else:
            self._tell(FileWarmed(self.now, variant, None if self._goes_wrong() else self.cache.share(variant)))

    def _stop_warming(self) -> None:
        self._reading += 1

    def used(self, device: DeviceId) -> Bytes:
        return self.foreign[device] + sum(p.has.get(device, 0) for p in self.books.processes.values())

    def crash(self, resident: ResidentId, death: Death = Death.CRASHED) -> None:
        """The process dies now; the core hears of it a little later."""
        process = self.books.processes.get(resident)
        if process is None or not process.is_alive:
            return
        process.is_alive = False
        self._later(self._delay(), lambda: self._release(process))
        if self._goes_wrong():  # reaped before anybody noticed the death
            self._later(0.0, lambda: self._tell_if_started(WorkerGone(self.now, resident)))
        self._later(self._delay(), lambda: self._tell_if_started(WorkerDied(self.now, resident, death, str(death))))

    def _later(self, delay: Seconds, deed: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._deeds, (self.now + delay, self._count, deed))

    def _delay(self) -> Seconds:
        return _DELAYS[self.chance(len(_DELAYS))]

    def _goes_wrong(self) -> bool:
        return self.faults > 0 and self.chance(100) < self.faults

    def _size(self, command: SizePlacement) -> None:
        model, size = self.models[command.variant.id], None
        if model.is_sizable and not (self._goes_wrong() and self.chance(4) == 0):
            off = 100 + (self.chance(5) - 2) * self.is_lying
            said = model.said(command.placement)
            size = Footprint.of({device: amount * off // 100 for device, amount in said.items()})
        else:
            self.books.memory.is_exact = False
        self._tell(PlacementSized(self.now, command.variant.id, command.placement, size))

    def _measure(self) -> None:
        """Look now, tell later."""
        devices, taken = [], {}
        for hardware in self.hardware.values():
            held = {p.resident: p.has.get(hardware.id, 0) for p in self.books.processes.values() if p.is_alive}
            is_host = hardware.kind is DeviceKind.HOST
            listed = tuple((r, size) for r, size in held.items() if size) if self.names_processes or is_host else ()
            free = hardware.total - self.used(hardware.id)
            source = "psutil" if is_host else "nvml"
            is_stale = hardware.id in self.stale
            free, listed = (0, ()) if is_stale else (free, listed)
            here = hardware.id
            devices.append(Device(here, here, hardware.kind, source, hardware.total, free, listed, is_stale))
            lingering = sum(p.has.get(hardware.id, 0) for p in self.books.processes.values() if p.is_gone)
            taken[hardware.id] = self.foreign[hardware.id] + lingering
        self._later(self._delay() / 10, lambda: self._tell(MemoryMeasured(self.now, tuple(devices)), taken))

    def _start(self, command: StartWorker) -> None:
        model = self.models[command.variant.id]
        process = Process(
            command.resident,
            command.variant.id,
            command.placement,
            command.variant.slots,
            model.need(command.placement, self.hardware),
            self._is_underrated(command),
            0.0,
            0.0,
            self.now,
        )
        seen = self.books.memory.taken
        self.excused = {d for d, size in self.foreign.items() if size > seen.get(d, 0)} | {
            d for d in self.excused if any(not p.is_ready and d in p.need for p in self.books.processes.values())
        }
        self._keep_watch()
        process.cached = self.cache.share(process.variant)
        self.books.start(command, process)
        parts = 1 + self.chance(4)
        self._later(self._delay() + 1.0 - process.cached, lambda: self._load(process, 1, parts))

    def _is_underrated(self, command: StartWorker) -> bool:
        """Whether the core could not know what it takes: less was said, or it had to guess between two sizes."""
        model, key = self.models[command.variant.id], (command.variant.id, command.placement)
        guesses = key not in self.books.sized and any(v == key[0] for v, _ in self.books.sized)
        return model.spare < 0 or self.is_lying or guesses

    def _load(self, process: Process, part: int, parts: int) -> None:
        if not process.is_alive:
            return
        resident = process.resident
        if process.is_stopped:
            if part >= parts and self._goes_wrong():  # it was done when it was told to stop
                self._tell_if_started(WorkerLoaded(self.now, resident))
            return
        if self._goes_wrong():
            match self.chance(8):
                case 0 | 1 | 2:
                    self.crash(resident, (Death.UNUSABLE, Death.OUT_OF_MEMORY, Death.CRASHED)[self.chance(3)])
                case 3 | 4:
                    self._later(100.0, lambda: self._load(process, part, parts))  # a disk that stands still
                case 5:
                    self._later(5.0, lambda: self._tell_if_started(LoadProgressed(self.now, resident, 0.5)))
                case _:
                    self._later(1.0, lambda: self._load(process, part, parts))
            return
        for device, need in process.need.items():
            # Pages of the host become ours as they are used: the last part of them only in use.
            size = need * part // (parts + 1 if device == HOST and parts > 1 else parts)
            if not self._allocate(process, device, size):
                self.crash(resident, Death.OUT_OF_MEMORY)
                return
        if part < parts:
            self._tell(LoadProgressed(self.now, resident, part / parts))
            self._later(self._delay(), lambda: self._load(process, part + 1, parts))
        else:
            self._later(self._delay() / 10, lambda: self._loaded(process))

    def _loaded(self, process: Process) -> None:
        if not process.is_alive or (process.is_stopped and not self._goes_wrong()):
            return
        self.cache.read(process.variant, self.models[process.variant].variant.shape.weights, self._free())
        cached = None if self._goes_wrong() else process.cached
        self._tell_if_started(WorkerLoaded(self.now, process.resident, cached))
        self._later(self._delay(), lambda: self._touch(process))
        if self._goes_wrong():
            self._later(self._delay(), lambda: self._tell_if_started(WorkerLoaded(self.now, process.resident)))
        if self._goes_wrong():
            self._later(self._delay(), lambda: self._tell_if_started(LoadProgressed(self.now, process.resident, 0.9)))
        if self._goes_wrong():
            self._later(self._delay() * 3, lambda: self.crash(process.resident))

    def _touch(self, process: Process) -> None:
        if process.is_alive and not process.is_stopped and not self._allocate(process, HOST, process.need[HOST]):
            self.crash(process.resident, Death.OUT_OF_MEMORY)

    def _allocate(self, process: Process, device: DeviceId, size: Bytes) -> bool:
        """The process has so much from now on; False: there is not enough, and nothing changed. Raises Broken."""
        if self.used(device) - process.has.get(device, 0) + size <= self.hardware[device].total:
            process.has[device] = size
            self.cache.squeeze(self._free())
            return True
        if (
            device not in self.excused
            and not self.hardware[device].overhead
            and not any(p.is_underrated for p in self.books.processes.values())
        ):
            raise self.books.broken(f"worker {process.resident} ran out of memory on {device}, and no other took it")
        return False

    def _stop(self, process: Process) -> None:
        if process.is_alive:
            self._later(self._delay(), lambda: self._exit(process))
        else:
            self._later(self._delay(), lambda: self._gone(process))

    def _exit(self, process: Process) -> None:
        if not process.is_alive:  # it died by itself in the meantime
            self._later(self._delay(), lambda: self._gone(process))
            return
        process.is_alive = False
        if self._goes_wrong():
            self._later(0.0, lambda: self._tell_if_started(WorkerDied(self.now, process.resident, Death.CRASHED, "?")))
        if self._goes_wrong():  # the settle limit passes, the memory comes back later
            self._later(0.1, lambda: self._tell_if_started(WorkerGone(self.now, process.resident)))
            self._later(3.0, lambda: self._release(process))
            return
        self._later(self._delay(), lambda: self._release(process))
        self._gone(process)

    def _release(self, process: Process) -> None:
        process.has.clear()
        if process.is_gone:
            self.books.processes.pop(process.resident, None)

    def _gone(self, process: Process) -> None:
        """Tell that it is gone, once its memory is seen free."""
        if any(process.has.values()):
            self._later(0.05, lambda: self._gone(process))
            return
        resident = process.resident
        self._tell_if_started(WorkerGone(self.now, resident))
        if self._goes_wrong():
            self._later(self._delay(), lambda: self._tell(WorkerGone(self.now, resident)))

    def _tell_if_started(self, event: WorkerGone | WorkerDied | WorkerLoaded | LoadProgressed) -> None:
        """Facts about a worker long gone have nothing to be compared with."""
        if event.resident in self.books.processes:
            self._tell(event)
