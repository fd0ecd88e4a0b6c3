"""The single writer: facts come in through `post`, one `step` decides, commands become tasks.

Results of tasks return as facts. One timer, armed from the core's next deadline. Nobody else calls `step`.
"""

from __future__ import annotations

import asyncio
import gc
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Final, assert_never

import structlog

from swapd.core import eviction
from swapd.core.messages import (
    Command,
    Event,
    GrantLease,
    LoadProgressed,
    MeasureMemory,
    MeasurementDue,
    MemoryMeasured,
    Note,
    PlacementSized,
    Policy,
    RefuseRequest,
    RequestArrived,
    RevokeLease,
    SizePlacement,
    StartWorker,
    StopWarming,
    StopWorker,
    TimerFired,
    WarmFile,
    WorkerDied,
    WorkerGone,
    WorkerLoaded,
)
from swapd.core.model import Device, DeviceKind, Footprint, Placement, RequestId, ResidentId, Tier
from swapd.core.resident import Phase
from swapd.core.scheduler import step
from swapd.core.state import State
from swapd.errors import WorkerFailed
from swapd.runtime.alarm import Alarm
from swapd.runtime.health import Health
from swapd.runtime.journal import Journal
from swapd.runtime.ports import Clock, Files, Lessons, Memory, Sizes, Workers
from swapd.runtime.settling import Settling
from swapd.runtime.untold import Untold
from swapd.runtime.warmth import Warmth
from swapd.units import Seconds, Tokens

WATCH_EVERY: Final[Seconds] = 1.0
FILES_FIRST: Final[Seconds] = 1.0
FILES_EVERY: Final[Seconds] = 15.0
SETTLE_LIMIT: Final[Seconds] = 5.0
"""How long an ended worker's memory may take to be seen free before the budget is simply smaller."""
SIZER: Final = ResidentId(0)
"""No resident; but what the sizing process holds is ours, and given back before a load."""
SETTLE_EVERY: Final[Seconds] = 0.02
_IDLE: Final = (MeasureMemory, Note)
"""Commands that move nothing on."""

log = structlog.get_logger("swapd.engine")


@dataclass(frozen=True)
class Refused(Exception):
    """The core refused a waiting request."""

    command: RefuseRequest


@dataclass(slots=True)
class Record:
    """What one resident has done: for people, not for decisions."""

    load_s: Seconds = 0.0
    tier: Tier | None = None
    """Where its weights were when it was loaded; None: not known."""
    requests: int = 0
    tokens: Tokens = 0
    restored: Tokens = 0
    """Of the prompts, what came from saved conversations."""


class Engine:
    def __init__(
        self,
        workers: Workers,
        sizes: Sizes,
        memory: Memory,
        lessons: Lessons,
        files: Files,
        clock: Clock,
        policy: Policy,
        journal: Journal,
    ) -> None:
        self.state = State(policy=policy)
        self.journal = journal
        self.records: dict[ResidentId, Record] = {}
        self._workers, self._sizes, self._memory, self._clock = workers, sizes, memory, clock
        self.is_running = False
        self._loop = asyncio.get_running_loop()
        self._lessons = lessons
        self._inbox: deque[Event] = deque()
        self._is_stepping = False
        self._waiters: dict[RequestId, asyncio.Future[ResidentId]] = {}
        self._revoked: dict[RequestId, RevokeLease] = {}
        self._watchers: list[asyncio.Future[None]] = []
        self._alarm = Alarm(clock, lambda: eviction.next_deadline(self.state), self._time_passed)
        self._tasks = asyncio.TaskGroup()
        self._measuring = asyncio.Lock()
        self._health, self._untold = Health(clock), Untold()
        self.warmth = Warmth(files, clock, self.post, self.spawn)
        workers.notify_deaths(self._worker_died)

    async def run(self, started: Callable[[], None]) -> None:
        """Until cancelled. A bug in the core or a port ends it with the exception."""
        try:
            async with self._tasks:
                self.is_running = True
                self._tasks.create_task(self._watch(), name="watch memory")
                self._tasks.create_task(self._watch_files(), name="watch files")
                started()
                await self._loop.create_future()
        finally:
            self.is_running = False
            self.warmth.close()
            self._alarm.close()

    def wedged(self) -> str | None:
        """Why nothing gets on though there is work that could be done; None: all is well."""
        return self._health.complaint(self.state) if self.is_running else "the engine does not run"

    # --- facts

    def now(self) -> Seconds:
        return self._clock()

    def post(self, event: Event) -> None:
        """Take a fact in; what it orders has been begun when this returns.

        Raises what `step` raises, to the poster; the state is then as it was. A fact posted from within
        a step waits its turn.
        """
        self._inbox.append(event)
        if self._is_stepping:
            return
        self._is_stepping = True
        try:
            while self._inbox:
                self._step(self._inbox.popleft())
        finally:
            self._is_stepping = False
            self._alarm.arm()
            self._tell_watchers()

    def ask(self, event: RequestArrived) -> asyncio.Future[ResidentId]:
        """Post a request; the future is the grant, or raises Refused. The poster owes a RequestEnded."""
        future: asyncio.Future[ResidentId] = self._loop.create_future()
        self._waiters[event.request] = future
        try:
            self.post(event)
        except BaseException:
            del self._waiters[event.request]
            raise
        return future

    def forget(self, request: RequestId) -> None:
        """The request is over, however it went."""
        waiter = self._waiters.pop(request, None)
        if waiter is not None:
            waiter.cancel()
        self._revoked.pop(request, None)

    def revocation(self, request: RequestId) -> RevokeLease | None:
        """Why the lease of this request was revoked, if it was."""
        return self._revoked.get(request)

    def next_change(self) -> asyncio.Future[None]:
        """Done after the next step."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._watchers.append(future)
        return future

    def spawn(self, work: Coroutine[object, object, None], name: str) -> None:
        """Run this in the background, owned by the engine."""
        self._tasks.create_task(work, name=name)

    # --- inside

    def _step(self, event: Event) -> None:
        before = self.state
        gc.disable()  # looking for cycles takes milliseconds: it waits until the step is over
        try:
            self.state, commands = step(before, event)
        finally:
            gc.enable()
        self.journal.record(before, event, self.state, commands)
        self._keep_lessons(before)
        self._look_at_file(before, event)
        if isinstance(event, MemoryMeasured) and self.state.measured_at is not None:  # else it shows a load half done
            self._untold.look(self.state)
        if any(not isinstance(command, _IDLE) for command in commands):
            self._health.moved()
        for command in commands:
            self._perform(command)

    def _look_at_file(self, before: State, event: Event) -> None:
        """Of who may be loaded soon, and of who has just left."""
        match event:
            case RequestArrived(variant=variant) if self.state.staying(variant.id) is None:
                self.warmth.look([variant])
            case WorkerGone(resident=resident) if resident in before.residents:
                self.warmth.look([before.residents[resident].variant])
            case _:
                pass

    def _keep_lessons(self, before: State) -> None:
        for variant, past in self.state.pasts.items() if self.state.pasts is not before.pasts else ():
            known = before.pasts.get(variant)
            if past.loads and (known is None or known.loads is not past.loads):
                self._lessons.learn_loads(variant, past.loads)
        build = self._workers.build()
        if build is None:
            return
        for key, lesson in self.state.lessons.items() if self.state.lessons is not before.lessons else ():
            seen, floor = self.state.measurements.get(key), self.state.floors.get(key)
            if (before.lessons.get(key), before.measurements.get(key), before.floors.get(key)) != (lesson, seen, floor):
                self._lessons.learn(*key, build, lesson, seen, floor)
        if self.state.overheads is not before.overheads:
            self._lessons.learn_overheads(build, self.state.overheads)

    def _perform(self, command: Command) -> None:
        match command:
            case StartWorker():
                if command.inherits is not None:
                    self._workers.hand_on(command.inherits, command.resident)
                    self.records.pop(command.inherits, None)
                self._tasks.create_task(self._start(command), name=f"load {command.variant.name}")
            case StopWorker():
                self._tasks.create_task(self._stop(command.resident), name=f"unload {command.resident}")
            case MeasureMemory():
                self._tasks.create_task(self._measure(), name="measure memory")
            case SizePlacement():
                self._tasks.create_task(self._size(command), name=f"size {command.variant.name}")
            case GrantLease(request, resident):
                waiter = self._waiters.pop(request, None)
                if waiter is not None and not waiter.done():
                    waiter.set_result(resident)
            case RefuseRequest(request):
                waiter = self._waiters.pop(request, None)
                if waiter is not None and not waiter.done():
                    waiter.set_exception(Refused(command))
            case RevokeLease(request):
                self._revoked[request] = command
            case WarmFile():
                self.warmth.warm(command)
            case StopWarming():
                self.warmth.stop()
            case Note():
                pass  # the journal keeps notes
            case _:
                assert_never(command)

    async def _start(self, command: StartWorker) -> None:
        resident = command.resident
        began = self._clock()

        def progressed(fraction: float) -> None:
            self.post(LoadProgressed(self._clock(), resident, fraction))

        need = self.state.residents[resident].footprint
        cached = await self.warmth.share_before_load(command.variant)
        if command.placement.devices:
            await self._release_sizer(need)
        meanwhile = self.state.residents.get(resident)
        if meanwhile is None or meanwhile.phase is not Phase.LOADING:
            return  # stopped before there was a process to stop
        try:
            await self._workers.start(
                resident, command.variant, command.placement, self._pci(command.placement), progressed
            )
        except WorkerFailed as failure:
            self._worker_died(resident, failure)
        else:
            record = self.records[resident] = Record(load_s=self._clock() - began)
            self.post(WorkerLoaded(self._clock(), resident, cached))
            record.tier = self.state.residents[resident].tier if resident in self.state.residents else None
            self.post(MeasurementDue(self._clock()))  # what it really took: shown, and promised from now on

    async def _size(self, command: SizePlacement) -> None:
        variant, place = command.variant, command.placement
        size: Footprint | None = None
        try:
            with self._health.working("sizing a load"):
                size = await self._sizes.size(variant, place, self._pci(place))
        except WorkerFailed as failure:
            log.warning("cannot size a load; estimating", model=variant.name, reason=failure.reason)
        beside = [(d.id, dict(d.held).get(SIZER, 0)) for d in await self._read() if d.id in place.devices]
        self.post(PlacementSized(self._clock(), variant.id, place, size, tuple(pair for pair in beside if pair[1])))

    async def _release_sizer(self, need: Footprint) -> None:
        """End the process that sizes: what it holds was promised. Where it is needed, wait until it is seen free."""
        before = await self._read() if self._sizes.pid is not None else ()
        await self._sizes.release()
        if any(device.free < need[device.id] for device in before):
            await self._settle(SIZER, before)

    def _pci(self, place: Placement) -> tuple[str, ...]:
        """How llama.cpp finds the cards, in the placement's order."""
        known = {device.id: device.pci or device.id for device in self.state.devices}
        return tuple(known[device] for device in place.devices)

    async def _stop(self, resident: ResidentId) -> None:
        with self._health.working("ending a worker"):
            # The host shows what it has at once: without a card nobody waits for this either.
            before = await self._read() if any(d.kind is DeviceKind.GPU for d in self.state.devices) else ()
            await self._workers.stop(resident)
            await self._settle(resident, before)
        self.records.pop(resident, None)
        self.post(WorkerGone(self._clock(), resident))

    async def _settle(self, resident: ResidentId, before: tuple[Device, ...]) -> None:
        """Wait until the GPUs show free what the worker held; the host shows it at once."""
        gone = self.state.residents.get(resident)
        settling = Settling.of(resident, gone.footprint if gone is not None else Footprint(), before)
        deadline = self._clock() + SETTLE_LIMIT
        while settling.awaited and not settling.is_over(await self._read()):
            if self._clock() >= deadline:
                log.warning("memory of an ended worker was not seen free", resident=resident, waited_s=SETTLE_LIMIT)
                return
            await asyncio.sleep(SETTLE_EVERY)

    async def _watch(self) -> None:
        """Measure at the start and then every second: other programs come and go, and people look."""
        while True:
            self.post(MeasurementDue(self._clock()))
            await asyncio.sleep(WATCH_EVERY)

    async def _watch_files(self) -> None:
        """Others read files too, and the kernel forgets."""
        await asyncio.sleep(FILES_FIRST)
        while True:
            residents = {resident.variant.id for resident in self.state.residents.values()}
            variants = {variant.id: variant for variant in self.state.named}
            variants |= {variant: habit.variant for variant, habit in self.state.succession.habits.items()}
            self.warmth.look(variant for variant in variants.values() if variant.id not in residents)
            await asyncio.sleep(FILES_EVERY)

    async def _measure(self) -> None:
        devices = await self._read()
        self.post(MemoryMeasured(self._clock(), devices))

    async def _read(self) -> tuple[Device, ...]:
        async with self._measuring:
            with self._health.working("measuring memory"):
                return await self._look()

    async def _look(self) -> tuple[Device, ...]:
        pids = dict(self._workers.pids())
        if self._sizes.pid is not None:
            pids[SIZER] = self._sizes.pid
        return await asyncio.to_thread(self._memory.measure, pids)

    def _worker_died(self, resident: ResidentId, failure: WorkerFailed) -> None:
        self.post(WorkerDied(self._clock(), resident, failure.death, failure.reason))

    def _time_passed(self) -> None:
        """In a task of the engine's: a bug in the core ends it, and not only a callback."""

        async def tell() -> None:
            self.post(TimerFired(self._clock()))

        self.spawn(tell(), "timer")

    def _tell_watchers(self) -> None:
        if not self._watchers:
            return
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            if not watcher.done():
                watcher.set_result(None)
