"""The replay file: what `swapctl replay` needs to live these days again, and no word of what anybody said.

Told of every step by the journal, on the engine's path: it only notes. A task of its own turns the notes into lines
(`swapd.trace`) and appends them, at most every five seconds; what cannot be written is kept for a while,
and then dropped.
Decides nothing: a lost file costs nobody an answer.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias, assert_never

import structlog

from swapd.core import placement
from swapd.core.messages import (
    Command,
    Event,
    GrantLease,
    Policy,
    RefuseRequest,
    RequestArrived,
    RequestEnded,
    RevokeLease,
    Usage,
    WorkerLoaded,
)
from swapd.core.model import DeviceKind, RequestId, ResidentId, VariantId
from swapd.core.past import blend
from swapd.core.state import State
from swapd.runtime import described
from swapd.runtime.appending import MOST_BYTES, Appending
from swapd.runtime.described import Machine
from swapd.runtime.keeping import PAUSE, Keeping
from swapd.trace import FILES, Call, TraceModel, call_line, head_line, model_line
from swapd.units import Bytes, Seconds, Tokens

OLDER, NAME = FILES
MOST: Final = 20_000
"""Notes kept while nothing can be written."""
DESCRIBE_EVERY: Final[Seconds] = 1.0
"""Each answer changes its model's speeds a little; whether that is news is asked no more often."""

log = structlog.get_logger("swapd.recorder")


@dataclass(slots=True)
class _Open:
    """A request that has not ended."""

    arrived: RequestArrived
    session: str
    granted_at: Seconds | None = None


@dataclass(frozen=True, slots=True)
class _Ended:
    """A request that has, the how manieth; no usage: the client left, or the answer failed."""

    number: int
    request: _Open
    usage: Usage | None
    at: Seconds


_Note: TypeAlias = Machine | TraceModel | _Ended


class Recorder(Keeping):
    """One state folder's replay file. Use as an async context manager, around the engine's life."""

    def __init__(
        self,
        folder: Path,
        clock: Callable[[], Seconds],
        wall: Callable[[], Seconds],
        *,
        pause: Seconds = PAUSE,
        most_bytes: Bytes = MOST_BYTES,
    ) -> None:
        """`clock` is the engine's; `wall` tells seconds since the epoch."""
        super().__init__(folder / NAME, "cannot write the replay file", pause)
        self._began, self._began_wall = clock(), round(wall(), 3)
        self._file = Appending(folder / NAME, folder / OLDER, most_bytes)
        self._notes: deque[_Note] = deque()
        self._dropped = 0
        self._sessions: dict[RequestId, str] = {}
        self._open: dict[RequestId, _Open] = {}
        self._loads: dict[VariantId, tuple[Seconds, Seconds]] = {}
        """The shortest and the longest load of all of it."""
        self._read: dict[RequestId, Tokens] = {}
        """Of requests that are answered without anything written, and have not ended."""
        self._reading: dict[VariantId, float] = {}
        """Tokens a second of such answers."""
        self._head: tuple[Policy, int] | None = None
        """What of the machine was told last."""
        self._models: dict[str, TraceModel] = {}
        """As told last."""
        self._described: dict[VariantId, Seconds] = {}
        """When it was last looked whether a model is as told."""
        self._count = 0

    # --- on the engine's path

    def belongs(self, request: RequestId, session: str | None) -> None:
        """Whose conversation a request about to arrive is: kept as a digest, people put names into it."""
        if session:
            self._sessions[request] = hashlib.blake2b(session.encode(errors="replace"), digest_size=6).hexdigest()

    def answered(self, request: RequestId, tokens: Tokens) -> None:
        """It read so many and is done: vectors, scores. All other answers tell their usage as they end."""
        self._read[request] = tokens

    def record(self, event: Event, after: State, commands: Iterable[Command]) -> None:
        match event:
            case RequestArrived(request=request) if not event.slotless:
                self._open[request] = _Open(event, self._sessions.pop(request, ""))
            case WorkerLoaded(resident=resident):
                self._loaded(after, resident)
            case _:
                pass
        for command in commands:
            match command:
                case GrantLease(request) if request in self._open:
                    self._open[request].granted_at = after.now
                case RefuseRequest(request) | RevokeLease(request):
                    self._open.pop(request, None)  # nothing that another policy would have served
                case _:
                    pass
        if isinstance(event, RequestEnded):
            self._sessions.pop(event.request, None)
            read = self._read.pop(event.request, None)
            over = self._open.pop(event.request, None)
            if over is not None:
                self._ended(over, event.usage or self._vectors(over, read, after.now), after)

    def _loaded(self, state: State, resident_id: ResidentId) -> None:
        resident = state.residents.get(resident_id)
        if resident is None or resident.loaded_at is None or resident.started_at is None:
            return
        whole = placement.wholes(state, resident.variant, None)[0]
        if resident.placement.gpu_layers >= whole.gpu_layers:
            took = resident.loaded_at - resident.started_at
            least, most = self._loads.get(resident.variant.id, (took, took))
            self._loads[resident.variant.id] = min(least, took), max(most, took)

    def _vectors(self, request: _Open, read: Tokens | None, now: Seconds) -> Usage | None:
        if read is None or request.granted_at is None:
            return None
        took, variant = now - request.granted_at, request.arrived.variant.id
        if read and took > 0:
            self._reading[variant] = blend(self._reading.get(variant), read / took)
        return Usage(read, 0, 0, took, 0.0)

    def _ended(self, request: _Open, usage: Usage | None, state: State) -> None:
        arrived = request.arrived
        head = state.policy, sum(device.kind is DeviceKind.GPU for device in state.devices)
        if head != self._head:
            self._head = head
            self._note(described.machine(state))
        looked_at = self._described.get(arrived.variant.id)
        if looked_at is None or state.now - looked_at >= DESCRIBE_EVERY:
            self._describe(arrived, state)
        self._count += 1
        self._note(_Ended(self._count, request, usage, state.now))

    def _describe(self, arrived: RequestArrived, state: State) -> None:
        variant = arrived.variant.id
        self._described[variant] = state.now
        model = described.model(state, arrived, self._loads.get(variant), self._reading.get(variant))
        if described.is_news(self._models.get(model.name), model):
            self._models[model.name] = model
            self._note(model)

    def _note(self, note: _Note) -> None:
        if len(self._notes) >= MOST:  # what follows is told from the beginning
            self._dropped += len(self._notes)
            self._notes.clear()
            self._models.clear()
            self._described.clear()
            self._head = None
            return
        self._notes.append(note)
        self._has_news()

    # --- beside it

    def _put(self) -> None:
        notes: list[_Note] = []
        while self._notes:
            notes.append(self._notes.popleft())
        try:
            for note in notes:
                self._line(note)
            self._file.write()
        except OSError:
            self._file.forget()
            self._notes.extendleft(reversed(notes))
            raise
        if self._dropped:
            log.warning("requests are missing in the replay file", notes=self._dropped)
            self._dropped = 0

    def _line(self, note: _Note) -> None:
        match note:
            case Machine(card, host, cards, policy):
                line = head_line(card, host, name="recorded", cards=cards, policy=policy, began=self._began_wall)
                self._file.fact("", line)
            case TraceModel():
                self._file.fact(note.name, model_line(note))
            case _Ended():
                self._file.add(call_line(self._call(note)))
            case _:
                assert_never(note)

    def _call(self, ended: _Ended) -> Call:
        request, usage = ended.request, ended.usage
        arrived, granted_at = request.arrived, request.granted_at
        return Call(
            id=str(ended.number),
            at=_lasted(self._began, arrived.at),
            model=described.name(arrived.variant),
            prompt=usage.prompt + usage.cached if usage else 0,
            output=usage.output if usage else 0,
            session=request.session,
            cached=usage.cached if usage else 0,
            priority=arrived.priority,
            patience=None if usage else _lasted(arrived.at, ended.at),
            waited_s=None if granted_at is None else _lasted(arrived.at, granted_at),
            took_s=None if granted_at is None else _lasted(granted_at, ended.at),
            keep_alive=arrived.keep_alive,
        )


def _lasted(since: Seconds, until: Seconds) -> Seconds:
    return round(max(0.0, until - since), 3)
