"""The world's own books: what was asked, answered, started and told; every promise of the core checked on them.

Kept by `world` from the facts that it tells and the orders that it gets, never from the core's state: a
world that reads the core's sets believes the core's mistakes.
"""

from __future__ import annotations

from swapd.core.messages import (
    CatalogChanged,
    Command,
    Event,
    FileWarmed,
    GrantLease,
    LoadProgressed,
    MeasureMemory,
    MemoryMeasured,
    Note,
    PinsChanged,
    PlacementSized,
    PolicyChanged,
    Refusal,
    RefuseRequest,
    RequestArrived,
    RequestEnded,
    RevokeLease,
    SizePlacement,
    StartWorker,
    StopRequested,
    StopWarming,
    StopWorker,
    UnloadRequested,
    WarmFile,
    WorkerDied,
    WorkerGone,
    WorkerLoaded,
    YieldRequested,
)
from swapd.core.model import HOST, DeviceId, RequestId
from swapd.errors import Death
from swapd.sim.guesses import Guesses
from swapd.sim.records import NEARLY, Answer, Ask, Process, Wish
from swapd.units import Bytes

OURS = "swapd/"


class Books(Guesses):
    """Facts are entered before the core hears them, orders as it gives them; then the step is closed."""

    # --- facts

    def enter(self, event: Event, taken: dict[DeviceId, Bytes] | None = None) -> None:
        """`taken`: with MemoryMeasured, what was not ours on each device when it was measured."""
        self.now = self.memory.now = event.at
        self.story.append((event.at, event))
        self.is_clear = False
        match event:
            case RequestArrived():
                self.asked(event)
            case FileWarmed():
                self.has_read(event.variant)
            case CatalogChanged():
                self.named = frozenset(variant.id for variant in event.named)
            case RequestEnded():
                self._ended(event.request)
            case UnloadRequested():
                self._unload(event)
            case PinsChanged():
                self.pinned(event.pins)
            case PolicyChanged():
                self.policy, self.is_bent = event.policy, True
                self.memory.policy = event.policy
                self.keep_alives.append((event.at, event.policy.keep_alive))
            case MemoryMeasured():
                self._measured(event, taken or {})
            case PlacementSized():
                if event.size is None:
                    self.unsizable[event.variant] = (self.unsizable.get(event.variant, (0, 0.0))[0] + 1, event.at)
                    self.asked_sizes.discard((event.variant, event.placement))
                    self.guessed.add(event.variant)
                else:
                    self.unsizable.pop(event.variant, None)
                    self.sized.add((event.variant, event.placement))
            case YieldRequested():
                self.memory.lends(event.size, event.at + event.duration)
            case LoadProgressed():
                p = self.processes.get(event.resident)
                if p is not None and event.fraction > p.progress:
                    p.progress, p.progress_at = event.fraction, event.at
            case WorkerLoaded():
                p = self.processes.get(event.resident)
                if p is not None and not (p.is_stopped or p.is_dead or p.is_ready):
                    p.is_ready, p.ready_at, p.used_at = True, event.at, event.at
                    self._memory_moved()
            case WorkerDied():
                p = self.processes.get(event.resident)
                if p is not None and not p.is_stopped and not p.is_dead:
                    p.is_dead = True
                    self._memory_moved()
                    self.memory.is_exact &= event.death is not Death.OUT_OF_MEMORY
                    if not p.is_ready:
                        self._load_failed(p.variant, event.death)
            case WorkerGone():
                p = self.processes.get(event.resident)
                if p is not None and p.is_stopped and not p.is_gone:
                    p.is_gone = True
                    self._memory_moved()
            case StopRequested():
                self.is_stopping = True
            case _:
                pass
        self._mark_drains()

    def _measured(self, event: MemoryMeasured, taken: dict[DeviceId, Bytes]) -> None:
        is_outdated, self.is_measuring, self.is_outdated = self.is_outdated, False, False
        stale = frozenset(d.id for d in event.devices if d.is_stale)
        is_ending = any(p.is_stopped and not p.is_gone for p in self.processes.values())
        self.memory.measured(taken, stale, is_outdated=is_outdated, is_ending=is_ending)
        self.is_clear = not is_outdated
        self.host_free = next(d.free for d in event.devices if d.id == HOST)
        is_loading = any(not p.is_ready and not p.is_gone for p in self.processes.values())  # or died of it
        is_hidden = not self.memory.names_processes and is_loading
        if is_outdated or is_hidden or any(p.is_underrated for p in self.processes.values()):
            return
        staying = [p for p in self.staying() if not p.may_drain]
        if any(self.memory.is_short(d, staying, surely=True) for d in self.memory.cards):
            self.last_short = event.at

    def _memory_moved(self) -> None:
        """What is being measured no longer tells what is free."""
        self.is_outdated = self.is_measuring

    def _ended(self, request: RequestId) -> None:
        ask = self.open.pop(request, None)
        if ask is None:
            return
        ask.is_over = True
        p = self.processes.get(ask.resident) if ask.resident is not None else None
        if p is not None and request in p.leases:
            p.leases.discard(request)
            p.used_at = self.now

    def changed(self) -> None:
        """Something outside is not as it was: residents may have to be placed anew for it."""
        self.replaced = 0

    def _unload(self, event: UnloadRequested) -> None:
        is_awaited = bool(self.waiting(event.variant)) and not event.force
        self.wishes.pop(event.variant, None)
        if is_awaited:
            self.told_off.add(event.variant)
        for p in self.of(event.variant):
            if not p.is_ready and is_awaited:
                p.keep_least = p.keep_most = 0.0
            else:
                p.must_leave = True

    # --- orders

    def order(self, command: Command, event: Event) -> None:
        """Enter an order that the core gave on this event. Raises Broken."""
        self.story.append((self.now, command))
        match command:
            case GrantLease() if command.request.startswith(OURS):
                self._fulfil(command)
            case GrantLease():
                self._grant(command)
            case RefuseRequest() if command.request.startswith(OURS):
                self._end_wish(command.request)
            case RefuseRequest():
                self._refuse(command, event)
            case RevokeLease():
                ask = self.asks.get(command.request)
                if ask is None or ask.answer is not Answer.GRANTED or ask.is_over or ask.resident is None:
                    raise self.broken(f"revoked {command.request}, which holds no lease")
                ask.answer = Answer.REVOKED
                self.processes[ask.resident].leases.discard(command.request)
            case StopWorker():
                self._stop(command)
            case Note():
                pass
            case WarmFile():
                self.check_reading(command)
            case StopWarming():
                if self.reading is None:
                    raise self.broken("stops reading ahead, and nobody does")
                self.reading = None
            case MeasureMemory():
                if self.is_measuring:
                    raise self.broken("measures twice at once")
                self.is_measuring, self.is_outdated = True, False
            case SizePlacement():
                key = command.variant.id, command.placement
                if key in self.asked_sizes or not self._may_be_sized(command.variant.id):
                    raise self.broken(f"asks again for the size of {command.variant.id}")
                self.asked_sizes.add(key)
            case StartWorker():
                raise AssertionError("entered with its process")

    def _end_wish(self, request: RequestId) -> Wish:
        for variant, wish in tuple(self.wishes.items()):
            if request == f"{OURS}{wish.resident}":
                return self.wishes.pop(variant)
        raise self.broken(f"answered {request}, which is nobody's wish")

    def _fulfil(self, command: GrantLease) -> None:
        wish = self._end_wish(command.request)
        p = self.processes.get(command.resident)
        if p is None or not p.is_ready or not p.stays or self.is_stopping:
            raise self.broken(f"granted {command.request} a resident that is not there")
        p.used_at, p.keep_least, p.keep_most = wish.used_at, wish.keep_least, wish.keep_most
        p.may_be_guess = p.is_guess = False

    def _grant(self, command: GrantLease) -> None:
        ask = self.asks.get(command.request)
        p = self.processes.get(command.resident)
        if ask is None or not ask.is_waiting:
            raise self.broken(f"granted {command.request}, which does not wait")
        if p is None or not p.is_ready or not p.stays or p.variant != ask.event.variant.id or self.is_stopping:
            raise self.broken(f"granted {command.request} a resident that cannot serve it")
        if not self._likes(ask, p.placement, surely=False):
            raise self.broken(f"granted {command.request} other layers than it wants")
        first = min(self.waiting(p.variant), key=lambda a: a.event.at)
        late = self.now - first.event.at >= self.policy.max_wait + NEARLY
        if late and first.event.at < ask.event.at and not ask.event.slotless and first.event.gpu_layers is None:
            raise self.broken(f"granted {command.request} before {first.event.request}, which is overdue")
        ask.answer = Answer.GRANTED
        ask.resident, p.used_at = p.resident, self.now
        if ask.event.keep_alive is not None:
            p.keep_least = p.keep_most = ask.event.keep_alive
        if not ask.event.slotless:
            p.leases.add(command.request)
            if len(p.leases) > p.slots:
                raise self.broken(f"{len(p.leases)} leases on {p.slots} slots of {p.variant}")

    def _refuse(self, command: RefuseRequest, event: Event) -> None:
        ask = self.asks.get(command.request)
        if ask is None or not ask.is_waiting:
            raise self.broken(f"refused {command.request}, which does not wait")
        is_right = False
        match command.refusal:
            case Refusal.OVERLOADED:
                is_right = event is ask.event and len(self.waiting()) > self.policy.max_queue
            case Refusal.STOPPING:
                is_right = self.is_stopping
            case Refusal.UNLOADED:
                is_right = isinstance(event, UnloadRequested) and event.force
                is_right &= isinstance(event, UnloadRequested) and event.variant == ask.event.variant.id
            case Refusal.UNUSABLE:
                is_right = ask.failures >= 99
            case Refusal.CRASHED:
                is_right = ask.failures >= 2
            case Refusal.DOES_NOT_FIT:
                is_right = self._cannot_fit(ask, command)
        if not is_right:
            raise self.broken(f"refused {command.request} as {command.refusal}, which it is not")
        ask.answer = Answer.REFUSED

    def _cannot_fit(self, ask: Ask, command: RefuseRequest) -> bool:
        device, variant = command.device, ask.event.variant.id
        if not device:
            return 0 < self.policy.max_loaded <= len(self.pins - {variant})
        if self.pins - {variant} or any(p.is_underrated for p in self.processes.values()):
            return True  # what underrated residents and pinned reservations were promised is not in these books
        if device != HOST and ask.layers == 0:
            return False
        if self.memory.is_exact and self.memory.could_run(variant, ask.layers, (), surely=True):
            return False
        return not self.memory.is_exact or command.needed > self.memory.most_of(variant, device, surely=False)

    def _stop(self, command: StopWorker) -> None:
        p = self.processes.get(command.resident)
        if p is None or p.is_stopped:
            raise self.broken(f"stopped worker {command.resident}, which is not there to be stopped")
        if not p.is_dead and not self._may_stop(p):
            raise self.broken(f"stopped worker {command.resident} of {p.variant} for nothing")
        if self.is_idle(p) and not p.is_dead and (self._is_pressed(p) or self._may_be_promoted(p)):
            self.wishes[p.variant] = Wish(p.resident, p.keep_least, p.keep_most, p.used_at)
        p.is_stopped = True
        self._memory_moved()

    def start(self, command: StartWorker, new: Process) -> None:
        """Enter a worker just ordered. Raises Broken, also when its memory was not there to promise."""
        self.story.append((self.now, command))
        if command.resident in self.used_ids:
            raise self.broken(f"resident id {command.resident} used again")
        wish = self.wishes.get(new.variant)
        if self.is_stopping:
            raise self.broken(f"started a worker of {new.variant} for a daemon that stops")
        if not self.waiting(new.variant):
            if not wish:
                self.check_guess(new)
            new.may_be_guess, new.is_guess = True, not wish
        if self.memory.stale & set(new.placement.devices):
            raise self.broken("started a worker on a card whose driver does not answer")
        if (new.variant, new.placement) not in self.sized and new.variant not in self.guessed:
            raise self.broken(f"started a worker of {new.variant} without asking what it takes")
        if not self.waiting(new.variant):
            self.replaced += 1
            if self.replaced > 4 * len(self.memory.models):
                raise self.broken("places residents again and again, and nothing changes outside")
        for p in self.of(new.variant):
            if p.stays and not p.leases:
                raise self.broken(f"a second worker of {new.variant} beside {p.resident}")
            p.must_leave = True
        busy = sum(1 for p in self.processes.values() if p.stays and not p.leases and not p.is_gone)
        if 0 < self.policy.max_loaded <= busy and not self.is_bent:
            raise self.broken(f"{busy + 1} residents where {self.policy.max_loaded} may be loaded")
        low = self.group_since.get(new.variant, self.now)
        old = [k for at, k in self.keep_alives if at < low][-1:]
        possible = old + [k for at, k in self.keep_alives if at >= low]
        owned = {a.event.owner_keep_alive for a in self.waiting(new.variant)} - {None}
        owned |= {self.memory.models[new.variant].owner_keep_alive} - {None} if new.may_be_guess else set()
        possible = [k for k in owned if k is not None] or possible
        new.keep_most = max(possible)
        new.keep_least = 0.0 if new.variant in self.told_off else min(possible)
        if wish:
            new.keep_least, new.keep_most = min(new.keep_least, wish.keep_least), max(new.keep_most, wish.keep_most)
        self.told_off.discard(new.variant)
        self.used_ids.add(command.resident)
        self.processes[command.resident] = new
        self._check_memory(new)

    def _check_memory(self, new: Process) -> None:
        """What all our workers will have, what others had when it was measured, and the reserve: is there so much?"""
        for device, size in new.need.items():
            ours = 0
            unlearnt = self.memory.hardware[device].overhead
            for p in self.processes.values():
                if p.is_underrated:
                    return
                if p.is_gone:
                    continue
                if p.is_alive and not p.is_stopped:
                    ours += max(0, p.need.get(device, 0) - unlearnt)
                else:
                    ours += max(0, p.has.get(device, 0) - unlearnt)
            most = self.memory.most(device, surely=True)
            if size and ours > most:
                raise self.broken(f"overcommit: {ours} of ours on {device}, where {most} may be used")

    # --- the end of a step

    def close(self) -> None:
        """What must be so once all orders of a step are in. Raises Broken."""
        for p in self.processes.values():
            if p.is_gone or p.is_stopped:
                if p.leases:
                    raise self.broken(f"stopped worker {p.resident} under {len(p.leases)} leases")
                continue
            if p.is_dead:
                raise self.broken(f"left the dead worker {p.resident} lying")
            if (p.must_leave or self.is_stopping) and not p.leases:
                raise self.broken(f"left worker {p.resident} of {p.variant}, which has to leave")
            is_idle = p.is_ready and not p.leases and not self.waiting(p.variant)
            if is_idle and p.variant not in self.pins and p.used_at + p.keep_most <= self.now:
                raise self.broken(f"worker {p.resident} of {p.variant} outlived its keep-alive")
        self._mark_pressed()
        self.check_guesses()
        self.check_disk()
        for ask in self.waiting():
            if server := self._free_server(ask):
                raise self.broken(f"{ask.event.request} waits though worker {server.resident} has a free slot")
        for p in [p for p in self.processes.values() if p.is_gone and not any(p.has.values())]:
            del self.processes[p.resident]
