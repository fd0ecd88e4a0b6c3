"""Every (event, commands): a ring of the last ones, the last decisions, one log line a commitment, the counters, and
the replay file.

Fed by `engine.py` after each step; read by the gateway. Decides nothing.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import structlog

from swapd.core.decision import Decision
from swapd.core.messages import (
    Command,
    Event,
    GrantLease,
    MeasureMemory,
    Note,
    RefuseRequest,
    RequestArrived,
    RevokeLease,
    SizePlacement,
    StartWorker,
    StopWarming,
    StopWorker,
    WarmFile,
    WorkerDied,
    WorkerGone,
    WorkerLoaded,
)
from swapd.core.model import RequestId
from swapd.core.resident import Cause, Resident
from swapd.core.state import State
from swapd.errors import Death
from swapd.runtime.happenings import Happenings
from swapd.runtime.measures import Measures
from swapd.runtime.recorder import Recorder
from swapd.units import Tokens

KEPT: Final = 1000

log = structlog.get_logger("swapd")


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision, the number of the step that took it, and when."""

    id: int
    at: datetime
    decision: Decision


@dataclass(frozen=True, slots=True)
class Entry:
    """One step that ordered something. `id` counts all steps."""

    id: int
    event: Event
    commands: tuple[Command, ...]


class Journal:
    def __init__(self, recorder: Recorder | None = None) -> None:
        """Without a recorder no replay file is written."""
        self._recorder = recorder
        self.entries: deque[Entry] = deque(maxlen=KEPT)
        self.decisions: deque[Decided] = deque(maxlen=KEPT)
        self.happenings = Happenings()
        self.counters: Counter[str] = Counter()
        """loads, evictions, partial_offloads, oom_retries, crashes, prefetches, prefetch_hits, prefetches_wasted: as
        `/swapd/status` shows them.
        """
        self.measures = Measures()
        self._steps = 0
        self._log = log.bind()
        """What is told of each request goes by it: the other one looks the settings up each time."""

    def belongs(self, request: RequestId, session: str | None) -> None:
        """Whose conversation a request is that is about to arrive; None: nobody said."""
        if self._recorder is not None:
            self._recorder.belongs(request, session)

    def answered(self, request: RequestId, tokens: Tokens) -> None:
        """It has read so many, and there is nothing to write: its end will tell no usage."""
        if self._recorder is not None:
            self._recorder.answered(request, tokens)

    def record(self, before: State, event: Event, after: State, commands: tuple[Command, ...]) -> None:
        self._steps += 1
        if commands:
            self.entries.append(Entry(self._steps, event, commands))
        if isinstance(event, WorkerDied) and event.resident in before.residents:
            self._count_death(event, before.residents[event.resident])
        if isinstance(event, WorkerLoaded) and event.resident in after.residents:
            self._tell_loaded(after.residents[event.resident])
        if isinstance(event, WorkerGone) and event.resident in before.residents:
            self.counters["prefetches_wasted"] += before.residents[event.resident].is_foreseen
            self._tell("gone", model=before.residents[event.resident].variant.name, resident=event.resident)
        if isinstance(event, RequestArrived):
            there = before.staying(event.variant.id)
            self.counters["prefetch_hits"] += there is not None and there.is_foreseen
            self._tell("request", model=event.variant.name, request=event.request)
        for command in commands:
            self._commit(command, before, after)
        if self._recorder is not None:
            self._recorder.record(event, after, commands)

    def _tell_loaded(self, resident: Resident) -> None:
        """From where its weights came, and how long that took: what a metric of loads is made of."""
        began, ended = resident.started_at, resident.loaded_at
        if began is None or ended is None:
            return
        tier = str(resident.tier or "unknown")
        self.measures.loaded(resident.variant.name, tier, ended - began)
        facts = {"model": resident.variant.name, "tier": tier, "seconds": ended - began}
        log.info("loaded", event_id=self._steps, **facts)
        self._tell("loaded", resident=resident.id, **facts)

    def _count_death(self, event: WorkerDied, resident: Resident) -> None:
        self.counters["oom_retries" if event.death is Death.OUT_OF_MEMORY else "crashes"] += 1
        if event.death is not Death.OUT_OF_MEMORY:
            self.measures.crashes.add(resident.variant.name)
        log.warning("worker died", event_id=self._steps, model=resident.variant.name, reason=event.reason)
        self._tell("died", model=resident.variant.name, resident=event.resident, reason=event.reason)

    def _commit(self, command: Command, before: State, after: State) -> None:
        step = self._steps
        match command:
            case StartWorker(resident, variant, placement, reason, inherits):
                self.counters["loads"] += inherits is None
                self.counters["prefetches"] += after.residents[resident].is_foreseen
                self.counters["partial_offloads"] += 0 < placement.gpu_layers < placement.layers
                log.info("load", event_id=step, model=variant.name, resident=resident, on=str(placement), reason=reason)
                self._tell("load", model=variant.name, resident=resident, placement=str(placement), reason=reason)
            case StopWorker(resident, reason):
                retired = after.residents[resident].retired
                self.counters["evictions"] += retired is not None and retired.cause is Cause.EVICTED
                if retired is not None:
                    self.measures.evictions.add(str(retired.cause))
                name = after.residents[resident].variant.name
                log.info("unload", event_id=step, model=name, resident=resident, reason=reason)
                self._tell("unload", model=name, resident=resident, reason=reason)
            case RefuseRequest(request, refusal, reason):
                log.info("refuse", event_id=step, request=request, refusal=str(refusal), reason=reason)
                self._tell("refuse", request=request, refusal=str(refusal), reason=reason)
            case RevokeLease(request, refusal, reason):
                log.info("revoke", event_id=step, request=request, refusal=str(refusal), reason=reason)
                self._tell("revoke", request=request, refusal=str(refusal), reason=reason)
            case GrantLease(request, resident):
                name = after.residents[resident].variant.name
                self._log.debug("grant", event_id=step, request=request, model=name)
                self._tell("grant", model=name, request=request, resident=resident)
            case SizePlacement(variant, placement):
                log.debug("size", event_id=step, model=variant.name, on=str(placement))
            case Note(decision):
                self.decisions.append(Decided(step, datetime.now(UTC), decision))
                self._tell("decision", model=decision.model, choice=str(decision.choice), reason=decision.reason)
            case WarmFile(variant, size, reason):
                log.info("read ahead", event_id=step, model=variant.name, bytes=size, reason=reason)
                self._tell("read ahead", model=variant.name, bytes=size, reason=reason)
            case MeasureMemory() | StopWarming():
                pass

    def _tell(self, kind: str, **facts: object) -> None:
        self.happenings.tell(datetime.now(UTC), kind, facts)
