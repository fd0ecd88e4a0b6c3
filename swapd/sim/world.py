"""A machine that is not there: memory, workers, clients and other programs in virtual time, driving the core.

Performs the core's orders as the shell would, but late, twice and out of order where that can happen.
All chance comes in as an argument: `chance(n)` is a number from 0 to n - 1. What the core may do is
checked in `books`, which know nothing of the core's state.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from swapd.core import eviction, scheduler
from swapd.core.messages import (
    Command,
    Event,
    GrantLease,
    LoadProgressed,
    MeasureMemory,
    MemoryMeasured,
    PinsChanged,
    Policy,
    PolicyChanged,
    RefuseRequest,
    RequestArrived,
    RequestEnded,
    RevokeLease,
    StartWorker,
    StopRequested,
    StopWorker,
    TimerFired,
    UnloadRequested,
    WorkerDied,
    WorkerGone,
    WorkerLoaded,
)
from swapd.core.model import HOST, Device, DeviceId, DeviceKind, RequestId, ResidentId, VariantId
from swapd.core.state import State, violations
from swapd.errors import Death
from swapd.sim.books import Books
from swapd.sim.records import Ask, Broken, Hardware, Model, Process
from swapd.units import Bytes, Seconds

Chance: TypeAlias = Callable[[int], int]

_DELAYS: tuple[Seconds, ...] = (0.0, 0.01, 0.1, 0.05, 0.3, 0.7, 1.1, 2.0)


class World:
    """The machine, and the core that runs it. Every verb raises Broken as soon as the core breaks a promise."""

    def __init__(
        self,
        chance: Chance,
        hardware: tuple[Hardware, ...],
        models: tuple[Model, ...],
        policy: Policy,
        *,
        faults: int = 0,
        names_processes: bool = True,
    ) -> None:
        """`faults`: how many of 100 loads, ends and facts go wrong. `names_processes`: the driver does."""
        self.chance, self.models, self.faults = chance, {m.variant.id: m for m in models}, faults
        self.names_processes = names_processes
        self.now: Seconds = 0.0
        self.books = Books(hardware, policy)
        self.state = State(policy=policy)
        self.foreign: dict[DeviceId, Bytes] = {h.id: 0 for h in hardware}
        self.excused: set[DeviceId] = set()
        """Devices on which others took memory after a load was started: running out there is not the core's fault."""
        self.steps = 0
        self.log: list[tuple[Event, tuple[Command, ...]]] = []
        self._deeds: list[tuple[Seconds, int, Callable[[], None]]] = []
        self._count = 0
        self._requests = 0

    # --- what the outside does

    def ask(
        self,
        variant: VariantId,
        hold: Seconds = 1.0,
        *,
        keep_alive: Seconds | None = None,
        priority: int = 0,
        slotless: bool = False,
        gpu_layers: int | None = None,
    ) -> RequestId:
        """A client comes; once granted, it ends after `hold`."""
        self._requests += 1
        request = RequestId(f"r{self._requests}")
        model = self.models[variant]
        event = RequestArrived(
            self.now, request, model.variant, keep_alive, model.owner_keep_alive, priority, slotless, gpu_layers
        )
        self.books.asks[request] = ask = Ask(event, hold)
        if not self.books.waiting(variant):
            self.books.group_since[variant] = self.now
        self.books.open[request] = ask
        self._tell(event)
        return request

    def end(self, request: RequestId) -> None:
        """The client leaves now, whether it waits, holds a lease, or was told no."""
        if request in self.books.open:
            self._tell(RequestEnded(self.now, request))

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

    def take(self, device: DeviceId, size: Bytes) -> None:
        """Another program takes memory, as far as there is some; negative: gives it back."""
        free = self.books.hardware[device].total - self.used(device)
        before = self.foreign[device]
        self.foreign[device] = max(0, before + min(size, free))
        if self.foreign[device] > before:
            self.excused.add(device)

    def unload(self, variant: VariantId, *, force: bool = False) -> None:
        self._tell(UnloadRequested(self.now, variant, force))
        if force and self.books.waiting(variant):
            raise self.books.broken(f"{variant} was unloaded by force, and somebody still waits for it")

    def pin(self, variants: frozenset[VariantId]) -> None:
        self._tell(PinsChanged(self.now, variants))

    def set_policy(self, **changes: object) -> None:
        self._tell(PolicyChanged(self.now, replace(self.state.policy, **changes)))  # type: ignore[arg-type]

    def repeat(self, event: Event) -> None:
        """A fact about a worker comes again, late."""
        self._tell(replace(event, at=self.now))

    def stop(self) -> None:
        """The daemon goes down."""
        self._tell(StopRequested(self.now))
        if self.books.waiting():
            raise self.books.broken("somebody waits for a daemon that stops")

    # --- time

    def run(self, duration: Seconds) -> None:
        """Let so much time pass, with all that happens in it."""
        until = self.now + duration
        while (at := self._next()) is not None and at <= until:
            self._happen(at)
        self.now = until

    def jump(self, duration: Seconds) -> None:
        """The machine sleeps: time passes and nothing happens; what was due comes late."""
        self.now += duration

    def rest(self) -> None:
        """Run until nothing is left to happen; then nobody may wait."""
        for _ in range(5000):
            at = self._next()
            if at is None:
                break
            self._happen(at)
        else:
            raise self.books.broken("never comes to rest")
        if waiting := self.books.waiting():
            raise self.books.broken(f"at rest {', '.join(a.event.request for a in waiting)} still wait")
        if self.books.is_measuring or self.state.is_measuring:
            raise self.books.broken("at rest and measuring")
        if self.books.is_stopping and (self.books.processes or self.state.residents):
            raise self.books.broken("the daemon has stopped and left workers behind")

    def used(self, device: DeviceId) -> Bytes:
        return self.foreign[device] + sum(p.has.get(device, 0) for p in self.books.processes.values())

    def _next(self) -> Seconds | None:
        deadline = eviction.next_deadline(self.state)
        times = [self._deeds[0][0]] if self._deeds else []
        times += [deadline] if deadline is not None else []
        return min(times, default=None)

    def _happen(self, at: Seconds) -> None:
        self.now = max(self.now, at)
        if self._deeds and self._deeds[0][0] <= at:
            heapq.heappop(self._deeds)[2]()
        else:
            self._tell(TimerFired(self.now))

    def _later(self, delay: Seconds, deed: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._deeds, (self.now + delay, self._count, deed))

    def _delay(self) -> Seconds:
        return _DELAYS[self.chance(len(_DELAYS))]

    def _goes_wrong(self) -> bool:
        return self.faults > 0 and self.chance(100) < self.faults

    # --- the core's side

    def _tell(self, event: Event, taken: dict[DeviceId, Bytes] | None = None) -> None:
        self.steps += 1
        self.books.enter(event, taken)
        self.state, commands = scheduler.step(self.state, event)
        self.log.append((event, commands))
        for command in commands:
            if isinstance(command, StartWorker):
                self._start(command)
            else:
                self.books.order(command, event)
                self._perform(command)
        self.books.close()
        self._compare()

    def _tell_if_started(self, event: WorkerGone | WorkerDied | WorkerLoaded | LoadProgressed) -> None:
        """Facts about a worker long gone have nothing to be compared with."""
        if event.resident in self.books.processes:
            self._tell(event)

    def _compare(self) -> None:
        """What the core believes against what is so."""
        if wrong := violations(self.state):
            raise self.books.broken("; ".join(wrong))
        believed = {w.request for group in self.state.waiting.values() for w in group}
        if believed != {a.event.request for a in self.books.waiting()}:
            raise self.books.broken("the core's waiting requests are not those that wait")
        leased = {request for p in self.books.processes.values() for request in p.leases}
        if set(self.state.leases) != leased:
            raise self.books.broken("the core's leases are not those that are held")
        gone = [p.resident for p in self.books.processes.values() if not p.is_gone]
        if lost := [r for r in gone if r not in self.state.residents]:
            raise self.books.broken(f"the core has forgotten worker {lost[0]}")

    def _perform(self, command: Command) -> None:
        match command:
            case GrantLease():
                ask = self.books.asks[command.request]
                hold = 0.0 if ask.event.slotless else ask.hold
                self._later(hold, lambda: self.end(command.request))
            case RefuseRequest() | RevokeLease():
                self._later(self._delay() / 10, lambda: self.end(command.request))
            case StopWorker():
                self._stop(self.books.processes[command.resident])
            case MeasureMemory():
                self._later(self._delay() / 10, self._measure)
            case StartWorker():
                raise AssertionError("started with its process")

    def _measure(self) -> None:
        """Look now, tell later."""
        devices, taken = [], {}
        for hardware in self.books.hardware.values():
            held = {p.resident: p.has.get(hardware.id, 0) for p in self.books.processes.values() if p.is_alive}
            is_host = hardware.kind is DeviceKind.HOST
            listed = tuple((r, size) for r, size in held.items() if size) if self.names_processes or is_host else ()
            free = hardware.total - self.used(hardware.id)
            source = "psutil" if is_host else "nvml"
            devices.append(Device(hardware.id, hardware.id, hardware.kind, source, hardware.total, free, listed))
            lingering = sum(p.has.get(hardware.id, 0) for p in self.books.processes.values() if p.is_gone)
            taken[hardware.id] = self.foreign[hardware.id] + lingering
        self._later(self._delay() / 10, lambda: self._tell(MemoryMeasured(self.now, tuple(devices)), taken))

    # --- workers

    def _start(self, command: StartWorker) -> None:
        model = self.models[command.variant.id]
        process = Process(
            command.resident,
            command.variant.id,
            command.placement,
            command.variant.slots,
            model.need(command.placement),
            model.spare < 0,
            0.0,
            0.0,
            self.now,
        )
        seen = self.books.taken_seen
        self.excused = {d for d, size in self.foreign.items() if size > seen.get(d, 0)} | {
            d for d in self.excused if any(not p.is_ready and d in p.need for p in self.books.processes.values())
        }
        self.books.start(command, process)
        parts = 1 + self.chance(4)
        self._later(self._delay(), lambda: self._load(process, 1, parts))

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
        self._tell_if_started(WorkerLoaded(self.now, process.resident))
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
        if self.used(device) - process.has.get(device, 0) + size <= self.books.hardware[device].total:
            process.has[device] = size
            return True
        if device not in self.excused and not any(p.is_underrated for p in self.books.processes.values()):
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


__all__ = ["Broken", "Chance", "Hardware", "Model", "World"]
