"""What loads really took, kept in the state folder from one run of the daemon to the next.

Read at the start by the daemon, fed by the engine with every measured load. Knows nothing of llama.cpp: its build
is a text that sets lessons of one apart from those of another. Decides nothing: a lost file costs one estimate.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Self, TypeAlias

import msgspec
import structlog

from swapd.core.model import Device, DeviceId, DeviceKind, Footprint, Placement, Tier, VariantId
from swapd.core.state import Measurement
from swapd.runtime.keeping import PAUSE, Keeping
from swapd.units import Bytes, MiB, Seconds

VERSION: Final = 1
KIND: Final = "swapd lessons"
MOST: Final = 2000
"""Lessons kept; the one unused for longest goes first."""
_LARGEST: Final = 64 * MiB

Lesson: TypeAlias = tuple[VariantId, Placement, Footprint]
Measured: TypeAlias = tuple[VariantId, Placement, Footprint | None, Footprint]
"""What was predicted before the first load, if that is known, and what the last one took."""
Size: TypeAlias = Annotated[Bytes, msgspec.Meta(ge=0)]

log = structlog.get_logger("swapd.learnt")


class _Beside(msgspec.Struct, omit_defaults=True):
    """What is kept beside a lesson, bytes by device."""

    predicted: dict[str, Size] | None = None
    measured: dict[str, Size] | None = None
    floor: dict[str, Size] = {}


class _File(msgspec.Struct):
    """Files of earlier swapds have only the first four; those swapds pass over the others."""

    kind: str
    version: int
    lessons: dict[str, dict[str, Size]] = {}  # by `key`, bytes by device, least recently used first
    overheads: dict[str, dict[str, Size]] = {}  # by build
    beside: dict[str, _Beside] = {}  # by `key`, where there is a lesson
    cards: dict[str, str] = {}  # by device, what it was when this was learnt
    loads: dict[str, dict[str, float]] = {}  # by variant, seconds by tier, least recently loaded first


class _Head(msgspec.Struct):
    kind: str
    version: int


def key(variant_id: str, placement: Placement, build: str) -> str:
    """One text for one load; the placement is in it without loss.

    Fields at their defaults are left out, so that a Placement with more fields still finds the lessons of today.
    """
    return msgspec.json.encode([variant_id, build, _fields(placement)]).decode()


class Learnt(Keeping):
    """The lessons of one file. Use as an async context manager: it reads the file, and writes what is learnt."""

    def __init__(self, path: Path, *, pause: Seconds = PAUSE) -> None:
        super().__init__(path, "cannot keep what is learnt", pause)
        self._lessons: dict[str, dict[str, Bytes]] = {}
        self._overheads: dict[str, dict[str, Bytes]] = {}
        self._beside: dict[str, _Beside] = {}
        self._cards: dict[str, str] = {}
        self._loads: dict[str, dict[str, Seconds]] = {}

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.read)
        return await super().__aenter__()

    def read(self) -> Mapping[str, Mapping[str, Bytes]]:
        """By `key`, bytes by device. A file that is damaged, foreign or newer than this swapd is as good as none.

        Blocks.
        """
        try:
            file = _parse(self._path)
        except (OSError, ValueError) as error:
            log.warning("cannot use what was learnt before: it is learnt anew", path=str(self._path), reason=str(error))
        else:
            if file is not None:
                self._lessons, self._overheads = file.lessons, file.overheads
                self._beside, self._cards = file.beside, file.cards
                self._loads = file.loads
                self._forget()
        return self._lessons

    def recognise(self, devices: Collection[Device]) -> None:
        """Tell it today's devices before asking it anything: what was learnt on a card in whose place there is another
        one now is forgotten. Of a card that does not answer nothing is known, and nothing forgotten.
        """
        today = {str(d.id): _identity(d) for d in devices if d.kind is DeviceKind.GPU and d.total and not d.is_stale}
        others = {device for device, card in today.items() if self._cards.get(device, card) != card}
        self._cards.update(today)
        if others:
            log.info("other cards than before: what was learnt on them is forgotten", devices=sorted(others))
            self._lessons = {name: sizes for name, sizes in self._lessons.items() if not others & sizes.keys()}
            self._overheads = {
                build: {device: size for device, size in sizes.items() if device not in others}
                for build, sizes in self._overheads.items()
            }
            self._forget()
            self._has_news()

    def lessons(self, variants: Collection[VariantId], build: str) -> tuple[Lesson, ...]:
        """What is known of these variants with this build of llama.cpp."""
        wanted = frozenset(variants)
        return tuple(lesson for lesson in _told(self._lessons, build) if lesson[0] in wanted)

    def measurements(self, variants: Collection[VariantId], build: str) -> tuple[Measured, ...]:
        """The latest last: what was measured, beside what was predicted before the first load, if that is known."""
        known = {name: each for name, each in self._in_order() if each.measured is not None}
        found = _told({name: each.measured or {} for name, each in known.items()}, build)
        first = {(v, place): size for v, place, size in _told(_predictions(known), build)}
        wanted = frozenset(variants)
        return tuple((v, place, first.get((v, place)), size) for v, place, size in found if v in wanted)

    def floors(self, variants: Collection[VariantId], build: str) -> tuple[Lesson, ...]:
        """Below which a lesson must not fall."""
        wanted = frozenset(variants)
        known = {name: each.floor for name, each in self._in_order() if each.floor}
        return tuple(floor for floor in _told(known, build) if floor[0] in wanted)

    def loads(self, variants: Collection[VariantId]) -> tuple[tuple[VariantId, Tier, Seconds], ...]:
        """How long loads took, by where the weights were."""
        tiers = {str(tier): tier for tier in Tier}
        return tuple(
            (variant, tiers[tier], seconds)
            for variant in variants
            for tier, seconds in self._loads.get(variant, {}).items()
            if tier in tiers and 0 < seconds < math.inf
        )

    def learn_loads(self, variant: VariantId, loads: Mapping[Tier, Seconds]) -> None:
        self._loads.pop(variant, None)
        self._loads[variant] = {str(tier): round(seconds, 3) for tier, seconds in loads.items()}
        while len(self._loads) > MOST:
            del self._loads[next(iter(self._loads))]
        self._has_news()

    def overheads(self, build: str) -> Mapping[DeviceId, Bytes]:
        """What a process takes on each device besides."""
        return {DeviceId(device): size for device, size in self._overheads.get(build, {}).items()}

    def learn(
        self,
        variant: VariantId,
        placement: Placement,
        build: str,
        footprint: Footprint,
        measurement: Measurement | None = None,
        floor: Footprint | None = None,
    ) -> None:
        """Tell it of every measured load, known or not: what is told again is kept longest."""
        name = key(variant, placement, build)
        self._lessons.pop(name, None)
        self._lessons[name] = _sizes(footprint)
        predicted = None if measurement is None or measurement.predicted is None else _sizes(measurement.predicted)
        measured = None if measurement is None else _sizes(measurement.measured)
        self._beside[name] = _Beside(predicted, measured, {} if floor is None else _sizes(floor))
        self._forget()
        self._has_news()

    def learn_overheads(self, build: str, overheads: Mapping[DeviceId, Bytes]) -> None:
        now = {str(device): size for device, size in overheads.items()}
        if self._overheads.get(build, {}) != now:
            self._overheads[build] = now
            self._has_news()

    def _forget(self) -> None:
        while len(self._lessons) > MOST:
            del self._lessons[next(iter(self._lessons))]
        for name in self._beside.keys() - self._lessons.keys():
            del self._beside[name]

    def _in_order(self) -> Iterator[tuple[str, _Beside]]:
        """Of the lessons, the least recently used first."""
        return ((name, self._beside[name]) for name in self._lessons if name in self._beside)

    def _put(self) -> None:
        known = dict(self._lessons), dict(self._overheads), dict(self._beside), dict(self._cards)
        _replace(self._path, msgspec.json.encode(_File(KIND, VERSION, *known, dict(self._loads))))


def _identity(card: Device) -> str:
    """What the card is, whatever its number among the others."""
    return f"{card.pci} {card.name} {card.total}"


def _sizes(footprint: Footprint) -> dict[str, Bytes]:
    return {str(device): size for device, size in footprint.parts}


def _predictions(known: Mapping[str, _Beside]) -> dict[str, dict[str, Bytes]]:
    return {name: each.predicted for name, each in known.items() if each.predicted is not None}


def _fields(placement: Placement) -> dict[str, Any]:
    values = {field.name: (getattr(placement, field.name), field.default) for field in dataclasses.fields(placement)}
    return {name: value for name, (value, default) in values.items() if value != default}


def _told(lessons: Mapping[str, Mapping[str, Bytes]], build: str) -> Iterator[Lesson]:
    """Those of this build whose placements this swapd understands."""
    known = {field.name for field in dataclasses.fields(Placement)}
    for name, sizes in lessons.items():
        try:
            variant, made_by, fields = msgspec.json.decode(name, type=tuple[str, str, dict[str, Any]])
            if made_by != build or not fields.keys() <= known:
                continue
            placement = msgspec.convert(fields, Placement)
        except msgspec.MsgspecError:
            continue
        yield VariantId(variant), placement, Footprint.of({DeviceId(device): size for device, size in sizes.items()})


def _parse(path: Path) -> _File | None:
    """None: there is no file. Raises OSError, ValueError."""
    if not path.exists():
        return None
    if not path.is_file() or path.stat().st_size > _LARGEST:
        raise ValueError("it is no file of ours")
    content = path.read_bytes()
    head = msgspec.json.decode(content, type=_Head)
    if head.kind != KIND:
        raise ValueError("it is no file of ours")
    if head.version != VERSION:
        raise ValueError(f"it is of version {head.version}, and this swapd writes {VERSION}")
    return msgspec.json.decode(content, type=_File)


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)  # of a write that was cut off
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
