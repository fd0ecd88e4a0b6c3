"""The working copy of one step: the verbs that keep the state's books and collect the commands.

Used by `scheduler` alone, which decides; nothing here does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from swapd.core import explain
from swapd.core.group import Group, Waiting
from swapd.core.messages import (
    Command,
    MeasureMemory,
    Note,
    Refusal,
    RefuseRequest,
    RevokeLease,
    SizePlacement,
    StartWorker,
    StopWorker,
)
from swapd.core.model import Footprint, Placement, RequestId, ResidentId, Variant, VariantId
from swapd.core.past import Past
from swapd.core.resident import Cause, Phase, Resident, Retirement, Trigger
from swapd.core.state import State
from swapd.core.values import replace
from swapd.units import Seconds, format_bytes

KEPT: Final[Seconds] = 30.0
"""A keep-alive shorter than this says that the model shall not stay where nobody uses it: nor is it loaded ahead."""


class Turn:
    """One step at work: the state so far and the commands so far. Lives for one call of `step`."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.commands: list[Command] = []

    def say(self, command: Command) -> None:
        self.commands.append(command)

    def put(self, resident: Resident) -> None:
        residents = {**self.state.residents, resident.id: resident}
        if resident.phase is Phase.GONE:
            del residents[resident.id]
        self.state = replace(self.state, residents=residents)

    def reserve(self, waiting: Waiting, place: Placement, need: Footprint, wanted_layers: int | None) -> Resident:
        """Promise the need to a new resident of the variant that the request waits for."""
        now = self.state.now
        new = self.state.next_resident
        keep_alive = self.state.policy.keep_alive if waiting.owner_keep_alive is None else waiting.owner_keep_alive
        resident = Resident(new, waiting.variant, place, Phase.RESERVED, need, keep_alive, now, waiting.since, now)
        resident = replace(resident, wanted_layers=wanted_layers)
        self.put(resident)
        self.state = replace(self.state, next_resident=ResidentId(new + 1))
        return resident

    def begin(self, resident: Resident, reason: str, inherits: ResidentId | None = None) -> None:
        """Start the worker of a reserved one, or have it inherit somebody's: that is no load to learn from."""
        now = self.state.now
        started = now if inherits is None else None
        self.put(replace(resident.after(Trigger.ROOM_MADE), progress_at=now, started_at=started))
        predicted = ", ".join(f"{format_bytes(size)} on {device}" for device, size in resident.predicted.parts)
        reason = f"{reason}; predicted {predicted}"
        self.say(StartWorker(resident.id, resident.variant, resident.placement, reason, inherits))

    def hand_on(self, resident: Resident, waiting: Waiting, need: Footprint) -> None:
        """The weights of one that nobody asks for any more become those of what the request waits for."""
        self.say(Note(explain.retired(resident, f"its weights stay for {waiting.variant.name} with another context")))
        self.put(resident.after(Trigger.HANDED_ON))
        self.memory_moved()
        heir = self.reserve(waiting, resident.placement, need, resident.wanted_layers)
        self.begin(heir, "another context for the weights that are there", inherits=resident.id)

    def retire(self, resident: Resident, cause: Cause, reason: str) -> None:
        resident = self.state.residents.get(resident.id, resident)
        self.say(Note(explain.retired(resident, reason)))
        after = replace(resident.after(Trigger.RETIRED), retired=Retirement(cause, reason))
        self.put(after)
        if cause in (Cause.EXPIRED, Cause.STALLED):
            self.waste(after)
        if cause is Cause.EXPIRED and after.keep_alive < KEPT:
            self.bar(after.variant.id)
        if after.phase is Phase.UNLOADING:
            self.memory_moved()
            self.say(StopWorker(after.id, reason))
        elif after.phase is Phase.DRAINING and not self.state.leases_of(after.id):
            self.unload_now(after)

    def unload_now(self, resident: Resident) -> None:
        self.put(resident.after(Trigger.DRAINED))
        self.memory_moved()
        self.say(StopWorker(resident.id, resident.retired.reason if resident.retired else "drained"))

    def revoke(self, resident: ResidentId, refusal: Refusal, reason: str) -> None:
        requests = self.state.leases_of(resident)
        self.drop_leases(requests)
        for request in requests:
            self.say(RevokeLease(request, refusal, reason))

    def drop_leases(self, requests: Iterable[RequestId]) -> None:
        gone = frozenset(requests)
        self.state = replace(self.state, leases={r: h for r, h in self.state.leases.items() if r not in gone})

    def queue(self, waiting: Waiting) -> None:
        variant, group = waiting.variant.id, self.state.waiting.get(waiting.variant.id)
        grown = Group.of(waiting) if group is None else group.with_(waiting)
        self.state = replace(self.state, waiting={**self.state.waiting, variant: grown})

    def unqueue(self, waiting: Waiting) -> None:
        groups = dict(self.state.waiting)
        rest = groups[waiting.variant.id].without(waiting.request)
        if rest is None:
            del groups[waiting.variant.id]
        else:
            groups[waiting.variant.id] = rest
        self.state = replace(self.state, waiting=groups)

    def refuse(self, waiting: Waiting, refusal: Refusal, reason: str) -> None:
        self.unqueue(waiting)
        self.say(RefuseRequest(waiting.request, refusal, reason))

    def past(self, variant: VariantId) -> Past:
        return self.state.pasts.get(variant) or Past(self.state.now)

    def remember(self, variant: VariantId, past: Past) -> None:
        self.state = replace(self.state, pasts={**self.state.pasts, variant: past})

    def waste(self, resident: Resident) -> None:
        """It goes; if it was loaded ahead, the next guess of that kind is made with less faith."""
        if resident.expected_after is not None:
            succession = self.state.succession.wasted(resident.expected_after, resident.variant.id)
            self.state = replace(self.state, succession=succession)

    def bar(self, variant: VariantId) -> None:
        """Until it is asked for again nobody loads it ahead."""
        succession = self.state.succession
        self.state = replace(self.state, succession=replace(succession, barred=succession.barred | {variant}))

    def learn(self, variant: VariantId, place: Placement, lesson: Footprint) -> None:
        self.state = replace(self.state, lessons={**self.state.lessons, (variant, place): lesson})

    def memory_moved(self) -> None:
        """What was measured until now, or is being measured, no longer tells what is free."""
        self.state = replace(self.state, measured_at=None, is_outdated=self.state.is_measuring)

    def size(self, variant: Variant, place: Placement) -> None:
        key = (variant.id, place)
        if key not in self.state.sizing:
            self.state = replace(self.state, sizing=self.state.sizing | {key})
            self.say(SizePlacement(variant, place))

    def measure(self) -> None:
        if not self.state.is_measuring:
            self.state = replace(self.state, is_measuring=True, is_outdated=False)
            self.say(MeasureMemory())
