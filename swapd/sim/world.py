"""A machine that is not there: memory, workers, clients and other programs in virtual time, driving the core.

Performs the core's orders as the shell would, but late, twice and out of order where that can happen.
All chance comes in as an argument: `chance(n)` is a number from 0 to n - 1. What the core may do is
checked in `books`, which know nothing of the core's state.
"""

from __future__ import annotations

import heapq
from dataclasses import replace

from swapd.core import eviction, scheduler
from swapd.core.messages import (
    CatalogChanged,
    Command,
    Event,
    GrantLease,
    MeasureMemory,
    Note,
    PinsChanged,
    Policy,
    PolicyChanged,
    RefuseRequest,
    RequestArrived,
    RequestEnded,
    RevokeLease,
    SizePlacement,
    StartWorker,
    StopRequested,
    StopWarming,
    StopWorker,
    TimerFired,
    UnloadRequested,
    Usage,
    WarmFile,
    YieldRequested,
)
from swapd.core.model import DeviceId, RequestId, VariantId
from swapd.core.state import State, violations
from swapd.sim.books import OURS
from swapd.sim.machine import Chance, Machine
from swapd.sim.records import Answer, Ask, Broken, Hardware, Model
from swapd.units import Bytes, Seconds

QUIET: Seconds = 8.0
"""So long nothing must have happened, while memory was looked at, before a machine is at rest."""


class World(Machine):
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
        is_lying: bool = False,
    ) -> None:
        """As Machine's."""
        super().__init__(
            chance, hardware, models, policy, faults=faults, names_processes=names_processes, is_lying=is_lying
        )
        self.state = State(policy=policy)
        self.steps = 0
        self.log: list[tuple[Event, tuple[Command, ...]]] = []
        self._stirred: Seconds = 0.0
        """When something was last done that is not looking at the memory."""
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
        self.books.changed()
        self._tell(event)
        return request

    def end(self, request: RequestId) -> None:
        """The client leaves now, whether it waits, holds a lease, or was told no."""
        if request in self.books.open:
            ask = self.books.asks[request]
            was_granted = ask.answer is Answer.GRANTED and not ask.event.slotless
            usage = Usage(100, 0, 10, ask.hold / 4, ask.hold / 2) if was_granted else None
            self._stirred = max(self._stirred, self.now)  # whoever is idle now may be placed better at the next look
            self._tell(RequestEnded(self.now, request, usage))

    def take(self, device: DeviceId, size: Bytes) -> None:
        """Another program takes memory, as far as there is some; negative: gives it back."""
        free = self.hardware[device].total - self.used(device)
        before = self.foreign[device]
        self.foreign[device] = max(0, before + min(size, free))
        self.cache.squeeze(self._free())
        self._stir()
        if self.foreign[device] > before:
            self.excused.add(device)

    def lend(self, size: Bytes, duration: Seconds) -> None:
        """The owner yields memory to other programs."""
        self._stir()
        self._later(duration, self._stir)
        self._tell(YieldRequested(self.now, size, duration))

    def blind(self, device: DeviceId, *, is_stale: bool) -> None:
        """The driver of a card answers no more, or again."""
        (self.stale.add if is_stale else self.stale.discard)(device)
        self._stir()

    def unload(self, variant: VariantId, *, force: bool = False) -> None:
        self._tell(UnloadRequested(self.now, variant, force))
        if force and self.books.waiting(variant):
            raise self.books.broken(f"{variant} was unloaded by force, and somebody still waits for it")

    def pin(self, variants: frozenset[VariantId]) -> None:
        self._stir()
        self._tell(PinsChanged(self.now, variants))

    def name(self, variants: frozenset[VariantId]) -> None:
        """The owner has written other names into the configuration."""
        self._stir()
        named = tuple(model.variant for name, model in self.models.items() if name in variants)
        self._tell(CatalogChanged(self.now, frozenset(self.models), named))

    def set_policy(self, **changes: object) -> None:
        self._stir()
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
        """Run until nothing is left to happen but that the memory is looked at; then nobody may wait."""
        for _ in range(20_000):
            at = self._next()
            if at is None or (self._is_quiet() and at > self._stirred + QUIET):
                break
            self._happen(at)
        else:
            raise self.books.broken("never comes to rest")
        if waiting := self.books.waiting():
            raise self.books.broken(f"at rest {', '.join(a.event.request for a in waiting)} still wait")
        if self.state.waiting or self.state.sizing:
            raise self.books.broken("at rest a wish of our own still waits")
        if self.books.reading is not None or self.state.reading is not None:
            raise self.books.broken("at rest and reading ahead")
        if self.books.is_measuring or self.state.is_measuring:
            raise self.books.broken("at rest and measuring")
        self.books.check_rest()
        if self.books.is_stopping and (self.books.processes or self.state.residents):
            raise self.books.broken("the daemon has stopped and left workers behind")

    def _stir(self) -> None:
        """Something outside is not as it was."""
        self._stirred = max(self._stirred, self.now)
        self.books.changed()

    def _is_quiet(self) -> bool:
        """Nothing is under way, and nothing becomes due."""
        return len(self._deeds) == self._is_watched and eviction.next_deadline(self.state) is None

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

    # --- the core's side

    def _tell(self, event: Event, taken: dict[DeviceId, Bytes] | None = None) -> None:
        self.steps += 1
        self.books.enter(event, taken)
        self.state, commands = scheduler.step(self.state, event)
        self.log.append((event, commands))
        if any(not isinstance(command, MeasureMemory) for command in commands):
            self._stirred = max(self._stirred, self.now)
        for command in commands:
            if isinstance(command, StartWorker):
                self._start(command)
            else:
                self.books.order(command, event)
                self._perform(command)
        self.books.close()
        self._compare()

    def _compare(self) -> None:
        """What the core believes against what is so."""
        if wrong := violations(self.state):
            raise self.books.broken("; ".join(wrong))
        believed = {w.request for group in self.state.waiting.values() for w in group}
        believed = {request for request in believed if not request.startswith(OURS)}
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
            case GrantLease() | RefuseRequest() if command.request.startswith(OURS):
                pass  # nobody waits for the answer
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
            case Note():
                pass
            case WarmFile():
                self._warm(command)
            case StopWarming():
                self._stop_warming()
            case SizePlacement():
                self._later(20.0 if self._goes_wrong() else self._delay(), lambda: self._size(command))
            case StartWorker():
                raise AssertionError("started with its process")


__all__ = ["Broken", "Chance", "Hardware", "Model", "World"]
