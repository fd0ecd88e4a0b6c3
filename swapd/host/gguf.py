"""Reads the header of a GGUF file, and finds out whether the file is whole.

Called by `shapes.py` and `catalog.py`, in the daemon, on files that nobody vouches for. So it is Python and
not ggml's own parser, which a bad file could crash and the daemon with it; and it reads with `pread` and maps
nothing, since a mapped file that somebody cuts short kills the reader with SIGBUS. The `gguf` package takes
seconds for a large vocabulary; here arrays are stepped over and nothing is decoded that nobody asks for.

Time and memory are bounded whatever the file says: lengths are checked against the file, counts against the
limits below. What the keys mean for a model is told in `shapes.py`.
"""

from __future__ import annotations

import math
import os
import re
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from swapd.host.quants import BLOCKS, FILE_TYPES, GUESSED, REPACKED
from swapd.units import Bytes, MiB, format_bytes

MAX_HEADER: Final[Bytes] = 256 * MiB
MAX_KEYS: Final = 4096
MAX_TENSORS: Final = 65_536
MAX_NAME: Final[Bytes] = 1024
MAX_STRINGS: Final = 4_000_000
"""Of all string arrays together; the largest vocabularies with their merges have well under a million."""
MAX_LAYERS: Final = 1024
KEPT_NUMBERS: Final = MAX_LAYERS
"""Longer arrays are stepped over: per-layer numbers are wanted, vocabularies are not."""
KEPT_TEXT: Final[Bytes] = 1024
"""Longer texts are kept up to here; of a chat template only its presence is asked."""

_WINDOW: Final[Bytes] = MiB
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_NUMBERS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING: Final = 8
_LAYER = re.compile(r"(blk\.[0-9]{1,4})\.")
_EXPERTS = re.compile(r"ffn_(up|down|gate|gate_up)_(ch|)exps")
_PROJECTION: Final = "mm."
_MOST_PROJECTIONS: Final = 64
_ARRAY: Final = 9

Scalar: TypeAlias = int | float | bool | str
Value: TypeAlias = Scalar | tuple[int | float | bool, ...]


class UnreadableModel(Exception):
    """The file cannot be used as a model; the text says why, for people."""


@dataclass(frozen=True, slots=True)
class Part:
    """The tensors of one repeating layer, or one tensor outside of them."""

    weights: Bytes = 0
    experts: Bytes = 0
    """Of these, what belongs to single experts."""
    repacked: Bytes = 0
    """Of these, what the CPU would use in a copy of its own order."""
    start: Bytes = 0
    end: Bytes = 0
    """From the first to the last, in the file's tensor data."""


@dataclass(frozen=True, slots=True)
class Header:
    """One file. `values` has scalars, short arrays of numbers and the beginning of texts; `lengths` all arrays."""

    values: Mapping[str, Value]
    lengths: Mapping[str, int]
    tensors: int
    parameters: int
    weights: Bytes
    """What the tensors take, without the padding between them."""
    parts: Mapping[str, Part]
    """By `blk.0`, `blk.1` and so on, and the full names of other tensors."""
    projections: frozenset[int] = frozenset()
    """Of a projector: the axes of the tensors that lead to its model's width."""

    @property
    def architecture(self) -> str:
        return self.text("general.architecture")

    @property
    def quantization(self) -> str:
        """As people call it (`Q4_K_M`); empty if the file does not say or says something newer than this table."""
        kind = self.values.get("general.file_type")
        return FILE_TYPES.get(kind % GUESSED, "") if type(kind) is int and kind >= 0 else ""

    @property
    def has_template(self) -> bool:
        return bool(self.text("tokenizer.chat_template"))

    @property
    def split_count(self) -> int:
        """How many files the model was split into, by its own word; 1: it was not."""
        count = self.values.get("split.count")
        return count if type(count) is int and count > 0 else 1

    def text(self, key: str) -> str:
        value = self.values.get(key)
        return value if isinstance(value, str) else ""


class _Cursor:
    """Walks forward through a file, a window at a time, and never past its end."""

    def __init__(self, file: int, size: Bytes) -> None:
        self._file, self._end = file, size
        self._start, self._at, self._data = 0, 0, b""
        self._strings = 0

    @property
    def position(self) -> Bytes:
        return self._start + self._at

    def skip(self, length: Bytes) -> None:
        to = self.position + length
        if to > self._end:
            raise UnreadableModel("cut off: its header goes on past the end of the file")
        if to > MAX_HEADER:
            raise UnreadableModel(f"its header is larger than {format_bytes(MAX_HEADER)}")
        self._at += length

    def take(self, length: Bytes) -> bytes:
        """The next `length` bytes, at most a window."""
        begin = self._at
        self.skip(length)
        if self._at > len(self._data):
            self._start += begin
            begin, self._at = 0, length
            self._data = os.pread(self._file, _WINDOW, self._start)
            if len(self._data) < length:
                raise UnreadableModel("cut off while it was read")
        return self._data[begin : begin + length]

    def u32(self) -> int:
        return int(_U32.unpack(self.take(4))[0])

    def u64(self) -> int:
        return int(_U64.unpack(self.take(8))[0])

    def count(self, limit: int, what: str) -> int:
        number = self.u64()
        if number > limit:
            raise UnreadableModel(f"it claims {number} {what}; the limit is {limit}")
        return number

    def name(self) -> str:
        return self.take(self.count(MAX_NAME, "bytes in a name")).decode(errors="replace")

    def text(self) -> str:
        length = self.u64()
        kept = self.take(min(length, KEPT_TEXT))
        self.skip(length - len(kept))
        return kept.decode(errors="replace")

    def skip_texts(self, count: int) -> None:
        """Steps over `count` texts: the hot loop of a large vocabulary, so it works on the bare window."""
        self._strings += count
        if self._strings > MAX_STRINGS:
            raise UnreadableModel(f"its lists have more than {MAX_STRINGS} texts")
        unpack = _U64.unpack_from
        while count:
            self.take(8)  # also brings the window here
            data, at = self._data, self._at - 8
            last = len(data) - 8
            for done in range(count):  # noqa: B007
                if at > last:
                    break
                at += 8 + unpack(data, at)[0]
            else:
                done = count
            self.skip(at - self._at)
            count -= done


def read(path: str | Path) -> Header:
    """The header of one file. Raises UnreadableModel, for whatever reason it cannot be used."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    except (OSError, ValueError) as error:
        raise UnreadableModel(f"cannot open it: {words(error)}") from error
    try:
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode):
            raise UnreadableModel("not a regular file")
        return _header(_Cursor(file, facts.st_size), facts.st_size)
    except OSError as error:
        raise UnreadableModel(f"cannot read it: {words(error)}") from error
    finally:
        os.close(file)


def words(error: Exception) -> str:
    """What the system says, without the number and the path."""
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def _header(cursor: _Cursor, size: Bytes) -> Header:
    if size < 8 or cursor.take(4) != b"GGUF":
        raise UnreadableModel("empty file" if size == 0 else "not a GGUF file")
    version = cursor.u32()
    if version & 0xFFFF == 0 and version:
        raise UnreadableModel("written for big-endian machines")
    if version not in (2, 3):
        raise UnreadableModel(f"GGUF version {version}; versions 2 and 3 can be read")
    tensors, keys = cursor.count(MAX_TENSORS, "tensors"), cursor.count(MAX_KEYS, "keys")
    values: dict[str, Value] = {}
    lengths: dict[str, int] = {}
    for _ in range(keys):
        key = cursor.name()
        if key in values or key in lengths:
            raise UnreadableModel(f"it has the key {key[:80]!r} twice")
        kind = cursor.u32()
        if kind == _ARRAY:
            lengths[key], numbers = _array(cursor)
            if numbers is not None:
                values[key] = numbers
        else:
            values[key] = _scalar(cursor, kind)
    projections: set[int] = set()
    parameters, weights, parts = _tensors(cursor, tensors, _alignment(values), size, projections)
    return Header(values, lengths, tensors, parameters, weights, parts, frozenset(projections))


def _scalar(cursor: _Cursor, kind: int) -> Scalar:
    if kind == _STRING:
        return cursor.text()
    (value,) = _numbers(cursor, kind, 1)
    return value


def _numbers(cursor: _Cursor, kind: int, count: int) -> tuple[int | float | bool, ...]:
    letter = _NUMBERS.get(kind)
    if letter is None:
        raise UnreadableModel(f"it has a value of unknown type {kind}")
    layout = f"<{count}{letter}"
    return struct.unpack(layout, cursor.take(struct.calcsize(layout)))


def _array(cursor: _Cursor) -> tuple[int, tuple[int | float | bool, ...] | None]:
    """Its length, and its numbers if they are few. Arrays of arrays are refused, as llama.cpp does."""
    kind, count = cursor.u32(), cursor.u64()
    if kind == _STRING:
        cursor.skip_texts(count)
        return count, None
    if kind not in _NUMBERS:
        raise UnreadableModel(f"it has an array of unknown type {kind}")
    if count <= KEPT_NUMBERS:
        return count, _numbers(cursor, kind, count)
    cursor.skip(count * struct.calcsize("<" + _NUMBERS[kind]))
    return count, None


def _alignment(values: Mapping[str, Value]) -> int:
    given = values.get("general.alignment", 32)
    if type(given) is not int or not 0 < given <= 2**20 or given & (given - 1):
        raise UnreadableModel(f"its alignment is {given!r}, not a power of two")
    return given


def _tensors(
    cursor: _Cursor, count: int, alignment: int, size: Bytes, projections: set[int]
) -> tuple[int, Bytes, dict[str, Part]]:
    """Parameters and bytes of all tensors, which must lie one after the other and inside the file.

    `projections` gets the axes of a projector's last layers.
    """
    parameters = weights = offset = end = 0
    parts: dict[str, Part] = {}
    for _ in range(count):
        name = cursor.name()
        rank = cursor.u32()
        if rank > 4:
            raise UnreadableModel(f"tensor {name[:80]!r} has {rank} dimensions")
        dims = struct.unpack(f"<{rank}Q", cursor.take(8 * rank))
        if name.startswith(_PROJECTION) and len(projections) < _MOST_PROJECTIONS:
            projections.update(dims)
        kind, given = cursor.u32(), cursor.u64()
        if kind not in BLOCKS:
            raise UnreadableModel(f"tensor {name[:80]!r} has type {kind}, which this llama.cpp does not know")
        elements, (block, block_bytes) = math.prod(dims), BLOCKS[kind]
        if (dims[0] if dims else 1) % block:
            raise UnreadableModel(f"tensor {name[:80]!r} does not fill its blocks")
        if given != offset:
            raise UnreadableModel(f"tensor {name[:80]!r} is not where the one before it ends")
        parameters += elements
        length = elements // block * block_bytes
        weights += length
        end = offset + length
        is_repacked = kind in REPACKED and rank > 1 and dims[1] % 8 == 0
        _add(parts, name, offset, length, length if is_repacked else 0)
        offset = -(-end // alignment) * alignment
    needed = -(-cursor.position // alignment) * alignment + end
    if count and needed > size:
        raise UnreadableModel(f"cut off: its tensors need {needed} bytes and the file has {size}")
    return parameters, weights, parts


def _add(parts: dict[str, Part], name: str, start: Bytes, length: Bytes, repacked: Bytes) -> None:
    layer = _LAYER.match(name)
    key = layer[1] if layer else name
    part = parts.get(key) or Part(start=start)
    parts[key] = Part(
        weights=part.weights + length,
        experts=part.experts + (length if _EXPERTS.search(name) else 0),
        repacked=part.repacked + repacked,
        start=part.start,
        end=start + length,
    )
