"""Every (event, commands): a ring of the last ones, one log line a commitment, and the counters.

Fed by `engine.py` after each step; read by the gateway. Decides nothing.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import Final

import structlog

from swapd.core.messages import (
    Command,
    Event,
    GrantLease,
    MeasureMemory,
    Note,
    RefuseRequest,
    RevokeLease,
    SizePlacement,
    StartWorker,
    StopWorker,
    WarmFile,
    WorkerDied,
    WorkerLoaded,
)
from swapd.core.resident import Cause, Resident
from swapd.core.state import State
from swapd.errors import Death

KEPT: Final = 1000

log = structlog.get_logger("swapd")


@dataclass(frozen=True, slots=True)
class Entry:
    """One step that ordered something. `id` counts all steps."""

    id: int
    event: Event
    commands: tuple[Command, ...]


class Journal:
    def __init__(self) -> None:
        self.entries: deque[Entry] = deque(maxlen=KEPT)
        self.counters: Counter[str] = Counter()
        """loads, evictions, partial_offloads, oom_retries, crashes: as `/swapd/status` shows them."""
        self._steps = 0

    def record(self, before: State, event: Event, after: State, commands: tuple[Command, ...]) -> None:
        self._steps += 1
        if commands:
            self.entries.append(Entry(self._steps, event, commands))
        if isinstance(event, WorkerDied) and event.resident in before.residents:
            self._count_death(event, before.residents[event.resident])
        if isinstance(event, WorkerLoaded) and event.resident in after.residents:
            log.info("loaded", event_id=self._steps, model=after.residents[event.resident].variant.name)
        for command in commands:
            self._commit(command, before, after)

    def _count_death(self, event: WorkerDied, resident: Resident) -> None:
        self.counters["oom_retries" if event.death is Death.OUT_OF_MEMORY else "crashes"] += 1
        log.warning("worker died", event_id=self._steps, model=resident.variant.name, reason=event.reason)

    def _commit(self, command: Command, before: State, after: State) -> None:
        step = self._steps
        match command:
            case StartWorker(resident, variant, placement, reason):
                self.counters["loads"] += 1
                self.counters["partial_offloads"] += 0 < placement.gpu_layers < placement.layers
                log.info("load", event_id=step, model=variant.name, resident=resident, on=str(placement), reason=reason)
            case StopWorker(resident, reason):
                retired = after.residents[resident].retired
                self.counters["evictions"] += retired is not None and retired.cause is Cause.EVICTED
                name = after.residents[resident].variant.name
                log.info("unload", event_id=step, model=name, resident=resident, reason=reason)
            case RefuseRequest(request, refusal, reason):
                log.info("refuse", event_id=step, request=request, refusal=str(refusal), reason=reason)
            case RevokeLease(request, refusal, reason):
                log.info("revoke", event_id=step, request=request, refusal=str(refusal), reason=reason)
            case GrantLease(request, resident):
                name = after.residents[resident].variant.name
                log.debug("grant", event_id=step, request=request, model=name)
            case SizePlacement(variant, placement):
                log.debug("size", event_id=step, model=variant.name, on=str(placement))
            case MeasureMemory() | WarmFile() | Note():
                pass
