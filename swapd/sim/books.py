"""The world's own books: what was asked, answered, started and told; every promise of the core checked on them.

Kept by `world` from the facts that it tells and the orders that it gets, never from the core's state: a
world that reads the core's sets believes the core's mistakes.
"""

from __future__ import annotations

from collections import deque

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
    Refusal,
    RefuseRequest,
    RequestEnded,
    RevokeLease,
    StartWorker,
    StopRequested,
    StopWorker,
    UnloadRequested,
    WorkerDied,
    WorkerGone,
    WorkerLoaded,
)
from swapd.core.model import DeviceId, DeviceKind, Placement, RequestId, ResidentId, VariantId
from swapd.errors import Death
from swapd.sim.records import NEARLY, Answer, Ask, Broken, Hardware, Process, line_of
from swapd.units import Bytes, Seconds, parse_share


class Books:
    """Facts are entered before the core hears them, orders as it gives them; then the step is closed."""

    def __init__(self, hardware: tuple[Hardware, ...], policy: Policy) -> None:
        self.now: Seconds = 0.0
        self.hardware = {h.id: h for h in hardware}
        self.policy = policy
        self.keep_alives: list[tuple[Seconds, Seconds]] = [(0.0, policy.keep_alive)]
        self.is_bent = False
        """The policy has changed in life: what was reserved under the old one may still come."""
        self.pins: frozenset[VariantId] = frozenset()
        self.open: dict[RequestId, Ask] = {}
        self.asks: dict[RequestId, Ask] = {}
        self.group_since: dict[VariantId, Seconds] = {}
        self.told_off: set[VariantId] = set()
        """Unloaded while it was waited for: its next resident may have to leave at once."""
        self.processes: dict[ResidentId, Process] = {}
        self.used_ids: set[ResidentId] = set()
        self.taken_seen: dict[DeviceId, Bytes] = {}
        """Of each device, what was not ours at the last measurement that was delivered."""
        self.is_measuring = False
        self.is_stopping = False
        self.story: deque[tuple[Seconds, object]] = deque(maxlen=60)

    def broken(self, what: str) -> Broken:
        return Broken(what, (f"{at:.3f} {line_of(line)}" for at, line in self.story))

    def waiting(self, variant: VariantId | None = None) -> list[Ask]:
        return [a for a in self.open.values() if a.is_waiting and (variant is None or a.event.variant.id == variant)]

    def of(self, variant: VariantId) -> list[Process]:
        return [p for p in self.processes.values() if p.variant == variant and not p.is_gone]

    def reserve(self, device: DeviceId) -> Bytes:
        is_host = self.hardware[device].kind is DeviceKind.HOST
        return self.policy.host_reserve if is_host else self.policy.vram_reserve

    def limit(self, device: DeviceId) -> Bytes:
        hardware = self.hardware[device]
        has_gpu = any(h.kind is DeviceKind.GPU for h in self.hardware.values())
        share = "100%" if hardware.kind is DeviceKind.HOST and has_gpu else self.policy.vram_limit
        return parse_share(share, hardware.total)

    # --- facts

    def enter(self, event: Event, taken: dict[DeviceId, Bytes] | None = None) -> None:
        """`taken`: with MemoryMeasured, what was not ours on each device when it was measured."""
        self.now = event.at
        self.story.append((event.at, event))
        match event:
            case RequestEnded():
                self._ended(event.request)
            case UnloadRequested():
                self._unload(event)
            case PinsChanged():
                self.pins = event.pins
            case PolicyChanged():
                self.policy, self.is_bent = event.policy, True
                self.keep_alives.append((event.at, event.policy.keep_alive))
            case MemoryMeasured():
                self.taken_seen, self.is_measuring = taken or {}, False
            case LoadProgressed():
                p = self.processes.get(event.resident)
                if p is not None and event.fraction > p.progress:
                    p.progress, p.progress_at = event.fraction, event.at
            case WorkerLoaded():
                p = self.processes.get(event.resident)
                if p is not None and not (p.is_stopped or p.is_dead or p.is_ready):
                    p.is_ready, p.ready_at, p.used_at = True, event.at, event.at
            case WorkerDied():
                p = self.processes.get(event.resident)
                if p is not None and not p.is_stopped and not p.is_dead:
                    p.is_dead = True
                    if not p.is_ready:
                        self._load_failed(p.variant, event.death)
            case WorkerGone():
                p = self.processes.get(event.resident)
                if p is not None:
                    p.is_gone = p.is_stopped
            case StopRequested():
                self.is_stopping = True
            case _:
                pass
        self._mark_drains()

    def _likes(self, ask: Ask, placement: Placement) -> bool:
        wanted = ask.event.gpu_layers
        has_gpu = any(h.kind is DeviceKind.GPU for h in self.hardware.values())
        return wanted is None or placement.gpu_layers == (min(wanted, placement.layers) if has_gpu else 0)

    def _ended(self, request: RequestId) -> None:
        ask = self.open.pop(request, None)
        if ask is None:
            return
        ask.is_over = True
        p = self.processes.get(ask.resident) if ask.resident is not None else None
        if p is not None and request in p.leases:
            p.leases.discard(request)
            p.used_at = self.now

    def _unload(self, event: UnloadRequested) -> None:
        is_awaited = bool(self.waiting(event.variant)) and not event.force
        if is_awaited:
            self.told_off.add(event.variant)
        for p in self.of(event.variant):
            if not p.is_ready and is_awaited:
                p.keep_least = p.keep_most = 0.0
            else:
                p.must_leave = True

    def _load_failed(self, variant: VariantId, death: Death) -> None:
        for ask in self.waiting(variant):
            ask.failures += 99 if death is Death.UNUSABLE else 1

    def _mark_drains(self) -> None:
        waiting = self.waiting()
        for p in self.processes.values():
            if p.is_gone or not p.is_ready or p.may_drain:
                continue
            for ask in waiting:
                since, variant = ask.event.at, ask.event.variant.id
                if variant == p.variant:
                    p.may_drain |= not self._likes(ask, p.placement)
                elif p.variant not in self.pins:
                    is_overdue = self.now - since >= self.policy.max_wait - NEARLY
                    p.may_drain |= is_overdue and self.now - p.ready_at >= self.policy.min_residency - NEARLY

    # --- orders

    def order(self, command: Command, event: Event) -> None:
        """Enter an order that the core gave on this event. Raises Broken."""
        self.story.append((self.now, command))
        match command:
            case GrantLease():
                self._grant(command)
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
            case MeasureMemory():
                if self.is_measuring:
                    raise self.broken("measures twice at once")
                self.is_measuring = True
            case StartWorker():
                raise AssertionError("entered with its process")

    def _grant(self, command: GrantLease) -> None:
        ask = self.asks.get(command.request)
        p = self.processes.get(command.resident)
        if ask is None or not ask.is_waiting:
            raise self.broken(f"granted {command.request}, which does not wait")
        if p is None or not p.is_ready or not p.stays or p.variant != ask.event.variant.id or self.is_stopping:
            raise self.broken(f"granted {command.request} a resident that cannot serve it")
        if not self._likes(ask, p.placement):
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
        device = command.device
        if not device:
            return 0 < self.policy.max_loaded <= len(self.pins - {ask.event.variant.id})
        if self.hardware[device].kind is DeviceKind.GPU and ask.event.gpu_layers == 0:
            return False
        if self.pins - {ask.event.variant.id} or any(p.is_underrated for p in self.processes.values()):
            return True  # what underrated residents and pinned reservations were promised is not in these books
        most = min(self.limit(device), self.hardware[device].total - self.taken_seen[device]) - self.reserve(device)
        return command.needed > most

    def _stop(self, command: StopWorker) -> None:
        p = self.processes.get(command.resident)
        if p is None or p.is_stopped:
            raise self.broken(f"stopped worker {command.resident}, which is not there to be stopped")
        if not p.is_dead and not self._may_stop(p):
            raise self.broken(f"stopped worker {command.resident} of {p.variant} for nothing")
        p.is_stopped = True

    def _may_stop(self, p: Process) -> bool:
        if self.is_stopping or p.must_leave:
            return True
        if not p.is_ready:
            stalled = self.now - p.progress_at >= self.policy.load_timeout - NEARLY
            if stalled:
                self._load_failed(p.variant, Death.CRASHED)
            return stalled
        if p.may_drain:
            return True
        if p.variant in self.pins:
            return False
        has_expired = p.used_at + p.keep_least <= self.now + NEARLY and not self.waiting(p.variant)
        return has_expired or any(a.event.variant.id != p.variant for a in self.waiting())

    def start(self, command: StartWorker, new: Process) -> None:
        """Enter a worker just ordered. Raises Broken, also when its memory was not there to promise."""
        self.story.append((self.now, command))
        if command.resident in self.used_ids:
            raise self.broken(f"resident id {command.resident} used again")
        if self.is_stopping or not self.waiting(new.variant):
            raise self.broken(f"started a worker of {new.variant} for nobody")
        for p in self.of(new.variant):
            if p.stays and not p.leases:
                raise self.broken(f"a second worker of {new.variant} beside {p.resident}")
            p.must_leave = True
        busy = sum(1 for p in self.processes.values() if p.stays and not p.leases and not p.is_gone)
        if 0 < self.policy.max_loaded <= busy and not self.is_bent:
            raise self.broken(f"{busy + 1} residents where {self.policy.max_loaded} may be loaded")
        low = self.group_since[new.variant]
        old = [k for at, k in self.keep_alives if at < low][-1:]
        possible = old + [k for at, k in self.keep_alives if at >= low]
        owned = {a.event.owner_keep_alive for a in self.waiting(new.variant)} - {None}
        possible = [k for k in owned if k is not None] or possible
        new.keep_most = max(possible)
        new.keep_least = 0.0 if new.variant in self.told_off else min(possible)
        self.told_off.discard(new.variant)
        self.used_ids.add(command.resident)
        self.processes[command.resident] = new
        self._check_memory(new)

    def _check_memory(self, new: Process) -> None:
        """What all our workers will have, what others had when it was measured, and the reserve: is there so much?"""
        for device, size in new.need.items():
            ours = lingering = 0
            for p in self.processes.values():
                if p.is_underrated:
                    return
                if p.is_gone:
                    lingering += p.has.get(device, 0)
                elif p.is_alive and not p.is_stopped:
                    ours += p.need.get(device, 0)
                else:
                    ours += p.has.get(device, 0)
            total, reserve = self.hardware[device].total, self.reserve(device)
            most = min(self.limit(device), total - self.taken_seen[device])
            if size and ours + reserve > most:
                raise self.broken(
                    f"overcommit: {ours} of ours and {reserve} of reserve on {device}, where {most} may be used"
                )

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
        for ask in self.waiting():
            if server := self._free_server(ask):
                raise self.broken(f"{ask.event.request} waits though worker {server.resident} has a free slot")
        for p in [p for p in self.processes.values() if p.is_gone and not any(p.has.values())]:
            del self.processes[p.resident]

    def _free_server(self, ask: Ask) -> Process | None:
        for p in self.of(ask.event.variant.id):
            serves = p.is_ready and p.stays and not p.may_drain and self._likes(ask, p.placement)
            if serves and (ask.event.slotless or len(p.leases) < p.slots):
                return p
        return None
