"""Everything the core knows, the read-only questions about it, and what must always be true of it.

A State is a value: `scheduler.step` makes the next one, nobody changes one in place. Sums over residents
are computed afresh each time; nothing is counted up and down.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, fields
from functools import cache, wraps
from operator import attrgetter, is_
from typing import Final, TypeVar

from swapd.core.group import Group, Waiting
from swapd.core.messages import Policy
from swapd.core.model import (
    HOST,
    Device,
    DeviceId,
    DeviceKind,
    Footprint,
    Placement,
    RequestId,
    ResidentId,
    Variant,
    VariantId,
)
from swapd.core.past import Past
from swapd.core.resident import HOLDING, LOADED, STAYING, Phase, Resident
from swapd.core.succession import Succession
from swapd.units import Bytes, Seconds, parse_share

PRESSING: Final = 3.0
"""Of `max_wait`: after so long a group that cannot be helped yet stops those behind it from taking room."""
FRESH: Final[Seconds] = 0.0
"""A measurement older than this is not acted upon: each decision has its own."""


_Answer = TypeVar("_Answer")


def remembered(question: Callable[[State], _Answer]) -> Callable[[State], _Answer]:
    """Answers the same question about the same state once: it is asked many times in one decision.

    No such question may read the fields of ASIDE.
    """
    last: tuple[State, _Answer] | None = None

    def ask(state: State) -> _Answer:
        nonlocal last
        if last is not None and last[0] is state:
            return last[1]
        answer = last[1] if last is not None and _are_alike(last[0], state) else question(state)
        last = state, answer
        return answer

    return ask


def remembered_with(*names: str) -> Callable[[Callable[[State], _Answer]], Callable[[State], _Answer]]:
    """The same for a question that reads these fields of the state alone: good until one of them changes."""
    reads = [attrgetter(name) for name in names]

    def decorate(question: Callable[[State], _Answer]) -> Callable[[State], _Answer]:
        seen: list[object] = [None] * len(reads)
        answers: list[_Answer] = []

        @wraps(question)
        def ask(state: State) -> _Answer:
            for number, read in enumerate(reads):
                if read(state) is not seen[number]:
                    break
            else:
                return answers[0]
            answer = question(state)
            seen[:], answers[:] = [read(state) for read in reads], [answer]
            return answer

        return ask

    return decorate


ASIDE: Final = frozenset({"told", "sizing"})
"""What changes from one decision to the next in the same step, and what none of them rests on."""


def _are_alike(one: State, other: State) -> bool:
    read = _what_counts()
    return all(map(is_, read(one), read(other)))


@cache
def _what_counts() -> attrgetter[tuple[object, ...]]:
    return attrgetter(*(each.name for each in fields(State) if each.name not in ASIDE))


@dataclass(frozen=True, slots=True)
class Yield:
    """Memory lent to other programs on the owner's word."""

    device: DeviceId
    size: Bytes
    until: Seconds
    foreign: Bytes | None
    """What others held there when it was lent; None: not yet seen."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Of a variant so placed, for people: nobody decides by it."""

    predicted: Footprint | None
    """Before the first load; None: not remembered."""
    measured: Footprint
    """Of the last load."""


@dataclass(frozen=True, slots=True)
class State:
    policy: Policy = field(default=Policy())
    now: Seconds = 0.0
    residents: Mapping[ResidentId, Resident] = field(default_factory=dict)
    waiting: Mapping[VariantId, Group] = field(default_factory=dict)
    leases: Mapping[RequestId, ResidentId] = field(default_factory=dict)
    pins: frozenset[VariantId] = frozenset()
    devices: tuple[Device, ...] = ()
    measured_at: Seconds | None = None
    """None: never, or something has changed since that moves memory."""
    is_measuring: bool = False
    is_outdated: bool = False
    """Memory moved after the measurement under way was ordered: its answer will not do."""
    lessons: Mapping[tuple[VariantId, Placement], Footprint] = field(default_factory=dict)
    """What loads of this variant so placed really took."""
    floors: Mapping[tuple[VariantId, Placement], Footprint] = field(default_factory=dict)
    """What running out of memory at work has taught: no lesson falls below it."""
    measurements: Mapping[tuple[VariantId, Placement], Measurement] = field(default_factory=dict)
    """The latest last."""
    sizes: Mapping[tuple[VariantId, Placement], Footprint] = field(default_factory=dict)
    """What llama.cpp says that they take, without what a process takes besides."""
    unsizable: frozenset[VariantId] = frozenset()
    """Of which llama.cpp could not say anything when it was asked last."""
    failed_sizings: Mapping[VariantId, tuple[int, Seconds]] = field(default_factory=dict)
    """Of these: how many in a row, and when the last one failed."""
    sizing: frozenset[tuple[VariantId, Placement]] = frozenset()
    """Asked and not yet answered."""
    overheads: Mapping[DeviceId, Bytes] = field(default_factory=dict)
    """What a process on this device takes besides: learnt from measured less sized."""
    yields: tuple[Yield, ...] = ()
    pasts: Mapping[VariantId, Past] = field(default_factory=dict)
    """Of every variant that was ever asked for."""
    succession: Succession = field(default=Succession())
    """Which model follows which."""
    known: frozenset[VariantId] | None = None
    """What can be asked for; None: not told yet."""
    named: tuple[Variant, ...] = ()
    """Of it, what the owner has named."""
    cached: Mapping[VariantId, float] = field(default_factory=dict)
    """The share of models' files in the page cache, where and as it was seen last."""
    reading: VariantId | None = None
    """Whose file is read ahead now."""
    read_at: Mapping[VariantId, Seconds] = field(default_factory=dict)
    """When files were read ahead to their end."""
    told: Mapping[VariantId, tuple[str, ...]] = field(default_factory=dict)
    """Of groups that wait: the last note about it in short, so that it is not written again and again."""
    left: Mapping[VariantId, Seconds] = field(default_factory=dict)
    """Of residents that are to be placed again and are gone: when they were last used."""
    relieved_at: Seconds = 0.0
    """When memory was last short; nobody is promoted soon after."""
    next_resident: ResidentId = field(default=ResidentId(1))
    is_stopping: bool = False

    # --- residents

    def in_phases(self, phases: Container[Phase]) -> tuple[Resident, ...]:
        found: list[Resident] = []
        for resident in self.residents.values():
            if resident.phase in phases:
                found.append(resident)  # noqa: PERF401 (a comprehension is a call of its own, and this is asked for often)
        return tuple(found)

    def staying(self, variant: VariantId) -> Resident | None:
        """The one resident of this variant that is there to stay."""
        for resident in self.residents.values():
            if resident.variant.id == variant and resident.phase in STAYING:
                return resident
        return None

    @remembered_with("leases")
    def leased(self) -> Mapping[ResidentId, tuple[RequestId, ...]]:
        """Who holds slots of whom; residents without a lease are missing."""
        held: dict[ResidentId, list[RequestId]] = {}
        for request, holder in self.leases.items():
            held.setdefault(holder, []).append(request)
        return {holder: tuple(requests) for holder, requests in held.items()}

    def leases_of(self, resident: ResidentId) -> tuple[RequestId, ...]:
        return self.leased().get(resident, ())

    def is_pinned(self, resident: Resident) -> bool:
        return resident.variant.id in self.pins

    def is_idle(self, resident: Resident) -> bool:
        """Ready, without a lease, and nobody waits for it."""
        return (
            resident.phase is Phase.READY
            and resident.variant.id not in self.waiting
            and resident.id not in self.leased()
        )

    def has_served_its_own(self, resident: Resident) -> bool:
        """Whether everybody who waited when it became ready has had a slot: until then its gate stays open."""
        group = self.waiting.get(resident.variant.id)
        return group is None or resident.loaded_at is None or group.since > resident.loaded_at

    def expires_at(self, resident: Resident) -> Seconds | None:
        """When its keep-alive ends if it stays idle; None: it is not ready, pinned, or has work."""
        if self.is_pinned(resident) or not self.is_idle(resident):
            return None
        return resident.used_at + resident.keep_alive

    # --- requests

    def waiting_count(self) -> int:
        """Clients; our own wishes take nobody's place."""
        return sum([len(group.members) - group.own for group in self.waiting.values()])

    def find_waiting(self, request: RequestId) -> Waiting | None:
        for group in self.waiting.values():
            if (waiting := group.members.get(request)) is not None:
                return waiting
        return None

    def overdue_at(self, group: Group) -> Seconds:
        return group.since + self.policy.max_wait

    def is_overdue(self, group: Group) -> bool:
        """The oldest of the group has waited `max_wait`: its swap is forced."""
        return self.now >= self.overdue_at(group)  # the sum that next_deadline waits for, bit by bit

    def pressing_at(self, group: Group) -> Seconds:
        return group.since + PRESSING * self.policy.max_wait

    def is_pressing(self, group: Group) -> bool:
        """Overdue for so long that nobody passes it by any more: room that comes free is for it."""
        return self.now >= self.pressing_at(group)

    # --- memory

    def is_fresh(self) -> bool:
        return self.measured_at is not None and self.now - self.measured_at <= FRESH

    def has_gpu(self) -> bool:
        return any(device.kind is DeviceKind.GPU for device in self.devices)

    @remembered_with("residents")
    def promised(self) -> Footprint:
        return Footprint.total(r.footprint for r in self.residents.values() if r.phase in STAYING)

    @remembered_with("residents")
    def held(self) -> Footprint:
        return Footprint.total(r.footprint for r in self.residents.values() if r.phase in HOLDING)

    def limit(self, device: Device) -> Bytes:
        """What the owner lets us use of it. Without a GPU the host stands in for one."""
        if device.kind is DeviceKind.GPU or not self.has_gpu():
            return parse_share(self.policy.vram_limit, device.total)
        return device.total

    def configured_reserve(self, device: Device) -> Bytes:
        return self.policy.host_reserve if device.kind is DeviceKind.HOST else self.policy.vram_reserve

    def lent(self, device: Device) -> Bytes:
        """What was yielded there and others have not taken yet."""
        lent = [y for y in self.yields if y.device == device.id and y.until > self.now]
        if not lent:
            return 0
        foreign = self.foreign(device)
        return sum(max(0, y.size - max(0, foreign - (foreign if y.foreign is None else y.foreign))) for y in lent)

    def reserve(self, device: Device) -> Bytes:
        """Kept free of us: as configured, and what is lent."""
        return self.configured_reserve(device) + self.lent(device)

    def obtainable(self, device: Device) -> Bytes:
        """What others do not hold: measured free + ours.

        A worker that is ending may already be off the driver's list while its memory is not yet free, and
        some drivers list nobody: such bytes count as ours until it is gone (`held` counts them too).
        """
        listed = {resident for resident, size in device.held if size}
        unlisted = [r for r in self.residents.values() if r.id not in listed and r.phase in LOADED]
        return device.free + device.ours + sum([r.takes(device.id) for r in unlisted])

    def foreign(self, device: Device) -> Bytes:
        """What others hold, by the same count."""
        return max(0, device.total - self.obtainable(device))

    def most(self, device: Device) -> Bytes:
        """What residents may hold on it at the very most, if nobody else were there."""
        return min(self.limit(device), device.total - self.lent(device)) - self.configured_reserve(device)

    def budget(self, device: Device) -> Bytes:
        """What residents may hold on it now: what others do not hold, less the reserve, within the limit.

        What is lent comes off what can be had, not off the limit: beyond the limit memory is others' anyway.
        """
        seen = self.obtainable(device) - self.lent(device)
        return min(self.limit(device), seen) - self.configured_reserve(device)

    def unlisted(self, device: Device) -> Bytes:
        """What loads under way may have taken that the driver does not name: at most so much more is ours."""
        listed = dict(device.held)
        return sum(r.takes(device.id) for r in self.in_phases([Phase.LOADING]) if not listed.get(r.id))

    def yielding(self) -> Device | None:
        """From where memory is yielded: the card, or without one the host, on which we could hold most."""
        cards = [device for device in self.devices if device.kind is DeviceKind.GPU] or self.devices
        return max(cards, key=lambda device: (self.budget(device), device.id), default=None)

    def own_cap(self, variant: Variant, device: Device) -> Bytes | None:
        """What the variant's own `max_vram` lets it take there; None: it has none."""
        if not variant.max_vram or device.kind is not DeviceKind.GPU:
            return None
        return parse_share(variant.max_vram, device.total)

    def cap(self, variant: Variant) -> Mapping[DeviceId, Bytes]:
        """The most that the variant may take on each device, whoever else is there."""
        mosts = self.mosts()
        if not variant.max_vram:
            return mosts
        own = {device.id: self.own_cap(variant, device) for device in self.devices}
        return {device: most if (cap := own[device]) is None else min(most, cap) for device, most in mosts.items()}

    @remembered_with("residents", "devices", "policy", "yields", "now")
    def mosts(self) -> Mapping[DeviceId, Bytes]:
        return {device.id: self.most(device) for device in self.devices}

    @remembered_with("residents", "devices", "policy", "yields", "now")
    def budgets(self) -> Mapping[DeviceId, Bytes]:
        return {device.id: self.budget(device) for device in self.devices}

    @remembered_with("residents", "devices", "policy", "yields", "now")
    def room(self) -> Mapping[DeviceId, Bytes]:
        """Budget less what is promised to those staying."""
        promised = self.promised()
        return {device: budget - promised[device] for device, budget in self.budgets().items()}


def work_device(placement: Placement) -> tuple[DeviceId, ...]:
    """The devices on which a load is serialised: its cards, or the host."""
    return placement.devices or (HOST,)


def violations(state: State) -> list[str]:
    """What is wrong with this state; empty always, or the core has a bug."""
    wrong: list[str] = []
    staying: set[VariantId] = set()
    for resident in state.residents.values():
        leases = state.leases_of(resident.id)
        name = f"resident {resident.id} ({resident.variant.name}, {resident.phase})"
        if resident.phase is Phase.GONE:
            wrong.append(f"{name} is gone but kept")
        if leases and resident.phase not in (Phase.READY, Phase.DRAINING):
            wrong.append(f"{name} has leases")
        if len(leases) > resident.variant.slots:
            wrong.append(f"{name} has {len(leases)} leases for {resident.variant.slots} slots")
        if resident.phase is Phase.DRAINING and not leases:
            wrong.append(f"{name} has nothing to drain")
        if resident.phase in STAYING:
            if resident.variant.id in staying:
                wrong.append(f"{name} is the second to stay")
            staying.add(resident.variant.id)
        if resident.id >= state.next_resident:
            wrong.append(f"{name} has an id of the future")
    wrong += [
        f"lease {r} of a resident {h} that is not there" for r, h in state.leases.items() if h not in state.residents
    ]
    for variant, group in state.waiting.items():
        wrong += [f"{w.request} waits with a lease" for w in group if w.request in state.leases]
        wrong += [f"{w.request} waits in the wrong group" for w in group if w.variant.id != variant]
    if sum(r.is_foreseen and r.phase in STAYING for r in state.residents.values()) > 1:
        wrong.append("more than one is loaded ahead")
    wrong += [
        f"{r.variant.name} has leases and counts as unused"
        for r in state.residents.values()
        if r.is_foreseen and state.leases_of(r.id)
    ]
    if state.is_stopping and state.waiting:
        wrong.append("requests wait for a daemon that stops")
    return wrong
