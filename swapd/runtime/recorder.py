"""The replay file: what `swapctl replay` needs to live these days again, and no word of what anybody said.

Told of every step by the journal, on the engine's path: it only notes. A task of its own turns the notes into lines
(`swapd.trace`) and appends them, at most once a second; what cannot be written is kept for a while and then dropped.
Decides nothing: a lost file costs nobody an answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeAlias

import structlog

from swapd.core import costs, footprint, placement
from swapd.core.messages import (
    Command,
    Event,
    GrantLease,
    Policy,
    RefuseRequest,
    RequestArrived,
    RequestEnded,
    RevokeLease,
    WorkerLoaded,
)
from swapd.core.model import HOST, DeviceKind, Placement, RequestId, ResidentId, Variant, VariantId
from swapd.core.state import State
from swapd.runtime.appending import MOST_BYTES, Appending
from swapd.trace import FILES, Call, TraceModel, call_line, head_line, model_line
from swapd.units import Bytes, Seconds

OLDER, NAME = FILES
MOST: Final = 20_000
"""Notes kept while nothing can be written."""
PAUSE: Final[Seconds] = 1.0
"""Between two writes."""
DECODE: Final = 30.0
"""Tokens a second of a model that has not answered yet."""
_NEWS: Final = 0.2
"""A speed that has changed by less is not told again."""

log = structlog.get_logger("swapd.recorder")


@dataclass(frozen=True, slots=True)
class _Head:
    card: Bytes
    host: Bytes
    cards: int
    policy: Policy


@dataclass(frozen=True, slots=True)
class _Open:
    """A request that has not ended."""

    arrived: RequestArrived
    session: str
    granted_at: Seconds | None = None


_Note: TypeAlias = _Head | TraceModel | Call


class Recorder:
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
        self._began, self._began_wall, self._pause = clock(), round(wall(), 3), pause
        self._file = Appending(folder / NAME, folder / OLDER, most_bytes)
        self._notes: deque[_Note] = deque()
        self._news = asyncio.Event()
        self._writing = threading.Lock()
        self._dropped = 0
        self._is_failing = False
        self._tasks = asyncio.TaskGroup()
        self._sessions: dict[RequestId, str] = {}
        self._open: dict[RequestId, _Open] = {}
        self._loads: dict[VariantId, tuple[Seconds, Seconds]] = {}
        """The shortest and the longest load of all of it."""
        self._head: tuple[Policy, int] | None = None
        """What of the machine was told last."""
        self._models: dict[str, TraceModel] = {}
        """As told last."""
        self._count = 0

    # --- on the engine's path

    def belongs(self, request: RequestId, session: str | None) -> None:
        """Whose conversation a request about to arrive is: kept as a digest, people put names into it."""
        if session:
            self._sessions[request] = hashlib.blake2b(session.encode(errors="replace"), digest_size=6).hexdigest()

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
                    self._open[request] = replace(self._open[request], granted_at=after.now)
                case RefuseRequest(request) | RevokeLease(request):
                    self._open.pop(request, None)  # nothing that another policy would have served
                case _:
                    pass
        if isinstance(event, RequestEnded):
            self._sessions.pop(event.request, None)
            request_open = self._open.pop(event.request, None)
            if request_open is not None:
                self._ended(event, request_open, after)

    def _loaded(self, state: State, resident_id: ResidentId) -> None:
        resident = state.residents.get(resident_id)
        if resident is None or resident.loaded_at is None or resident.started_at is None:
            return
        whole = placement.wholes(state, resident.variant, None)[0]
        if resident.placement.gpu_layers >= whole.gpu_layers:
            took = resident.loaded_at - resident.started_at
            least, most = self._loads.get(resident.variant.id, (took, took))
            self._loads[resident.variant.id] = min(least, took), max(most, took)

    def _ended(self, event: RequestEnded, request: _Open, state: State) -> None:
        arrived, usage = request.arrived, event.usage
        head = state.policy, sum(device.kind is DeviceKind.GPU for device in state.devices)
        if head != self._head:
            self._head = head
            self._note(_machine(state))
        model = self._model(state, arrived)
        if _is_news(self._models.get(model.name), model):
            self._models[model.name] = model
            self._note(model)
        self._count += 1
        self._note(
            Call(
                id=str(self._count),
                at=self._since(arrived.at),
                model=arrived.variant.name,
                prompt=usage.prompt + usage.cached if usage else 0,
                output=usage.output if usage else 0,
                session=request.session,
                cached=usage.cached if usage else 0,
                priority=arrived.priority,
                patience=None if usage else _lasted(arrived.at, state.now),
                waited_s=None if request.granted_at is None else _lasted(arrived.at, request.granted_at),
                took_s=None if request.granted_at is None else _lasted(request.granted_at, state.now),
                keep_alive=arrived.keep_alive,
            )
        )

    def _since(self, moment: Seconds) -> Seconds:
        return _lasted(self._began, moment)

    def _model(self, state: State, asked: RequestArrived) -> TraceModel:
        variant = asked.variant
        whole = placement.wholes(state, variant, None)[0]
        prefill, decode = _speeds(state, variant, whole)
        known = costs.load(state, variant)
        least, most = self._loads.get(variant.id, (known, known))
        return TraceModel(
            name=variant.name,
            size=_size(state, variant, whole),
            layers=variant.shape.offloadable,
            slots=variant.slots,
            load_s=round(least, 3),
            cold_load_s=round(most, 3),
            prefill=prefill,
            decode=decode,
            pin=variant.id in state.pins,
            keep_alive=asked.owner_keep_alive,
            context=variant.context,
        )

    def _note(self, note: _Note) -> None:
        if len(self._notes) >= MOST:  # what follows is told from the beginning
            self._dropped += len(self._notes)
            self._notes.clear()
            self._models.clear()
            self._head = None
            return
        self._notes.append(note)
        self._news.set()

    # --- beside it

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._keeping = self._tasks.create_task(self._keep(), name="write the replay file")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._keeping.cancel()
            await self._tasks.__aexit__(kind, error, trace)
        finally:
            self._write()

    async def _keep(self) -> None:
        """Write at most once a `pause`; what is left at the end is written there."""
        while True:
            await self._news.wait()
            self._news.clear()
            await asyncio.to_thread(self._write)
            await asyncio.sleep(self._pause)

    def _write(self) -> None:
        """All notes, or none of them: those stay for the next time. Two at a time take turns."""
        with self._writing:
            notes: list[_Note] = []
            while self._notes:
                notes.append(self._notes.popleft())
            if not notes:
                return
            try:
                for note in notes:
                    self._line(note)
                self._file.write()
            except OSError as error:
                self._file.forget()
                self._notes.extendleft(reversed(notes))
                if not self._is_failing:
                    log.warning("cannot write the replay file", path=str(self._file.path), reason=str(error))
                self._is_failing = True
            else:
                if self._dropped:
                    log.warning("requests are missing in the replay file", notes=self._dropped)
                self._is_failing, self._dropped = False, 0

    def _line(self, note: _Note) -> None:
        match note:
            case _Head(card, host, cards, policy):
                line = head_line(card, host, name="recorded", cards=cards, policy=policy, began=self._began_wall)
                self._file.fact("", line)
            case TraceModel():
                self._file.fact(note.name, model_line(note))
            case Call():
                self._file.add(call_line(note))


def _lasted(since: Seconds, until: Seconds) -> Seconds:
    return round(max(0.0, until - since), 3)


def _machine(state: State) -> _Head:
    """What residents may hold: of the cards together, and of the host, which stands in where there is no card."""
    budgets = state.budgets()
    cards = [device for device in state.devices if device.kind is DeviceKind.GPU and not device.is_stale]
    host = max(0, budgets.get(HOST, 0))
    card = sum(max(0, budgets[device.id]) for device in cards) if cards else host
    return _Head(card, host, len(cards), state.policy)


def _size(state: State, variant: Variant, whole: Placement) -> Bytes:
    """On the cards, all of it there. One that its owner keeps on the CPU takes no room from the others."""
    need = footprint.predict(state, variant, whole)
    devices = whole.devices if state.has_gpu() else (HOST,)
    return max(1, sum(need[device] for device in devices))


def _speeds(state: State, variant: Variant, whole: Placement) -> tuple[float, float]:
    """Tokens a second, read and written, with all of it where it belongs."""
    past = costs.past(state, variant)
    decode = DECODE
    for gpu_layers, token in past.token.items():
        there = replace(whole, gpu_layers=gpu_layers)
        slower = costs.slowdown(state, variant, there) if whole.devices else 1.0
        decode = slower / token
        if gpu_layers == whole.gpu_layers:
            break
    return _speed(past.prefill or costs.PREFILL), _speed(decode)


def _speed(tokens: float) -> float:
    return round(min(1e9, max(0.01, tokens)), 3)


def _is_news(told: TraceModel | None, now: TraceModel) -> bool:
    if told is None:
        return True
    pairs = ((told.load_s, now.load_s), (told.prefill, now.prefill), (told.decode, now.decode), (told.size, now.size))
    same = replace(
        now, load_s=told.load_s, cold_load_s=told.cold_load_s, prefill=told.prefill, decode=told.decode, size=told.size
    )
    return same != told or any(abs(new - old) > _NEWS * max(new, old) for old, new in pairs)
