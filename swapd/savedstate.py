"""One saved conversation as a file: llama.cpp's state of a sequence, a checkpoint, what they are, and a checksum.

A worker writes the file but for its checksum (`describe`), the daemon seals it (`seal`) and gives it its name; what a
worker reads it has checked first (`verify`), because llama.cpp trusts what it is handed. The state stands at the
start, as llama.cpp wrote it, and everything else behind it: so it is written and read without a copy in memory.
"""

from __future__ import annotations

import os
import struct
import sys
import zlib
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from swapd.units import Bytes, MiB, Tokens

SUFFIX: Final = ".swapd-prompt"
UNSEALED: Final = ".new"
"""Instead of the suffix, as long as there is no checksum."""
PREFIX: Final = 16
"""With so much of its key the name of a file begins."""

_MAGIC: Final = b"swapdps1"
_FOOT: Final = struct.Struct("<II8s")
"""Length of the head, CRC-32 of all that stands before this, magic."""
_CHUNK: Final[Bytes] = MiB
_MOST_HEAD: Final[Bytes] = 64 * MiB


class DamagedState(Exception):
    """Not as it was sealed, or no file of ours."""


class Head(msgspec.Struct, frozen=True):
    """What a file holds."""

    key: str
    """Of all that has to be the same for its use: model file, build, cache."""
    adapter: str
    tokens: bytes
    """Those in the sequence, as little-endian 32-bit numbers."""
    state: Bytes
    """Length of llama.cpp's own part, at the start of the file."""
    checkpoint: Bytes = 0
    """Length of the checkpoint behind it, and the number of tokens it was made `at`."""
    at: Tokens = 0
    stretches: tuple[tuple[Tokens, Tokens, int], ...] = ()
    """Of the tokens those that are no text: from where on, how many, and how many positions they count."""

    @property
    def ids(self) -> array[int]:
        return _native(array("i", self.tokens))


def packed(tokens: Iterable[int]) -> bytes:
    """As `Head.tokens`."""
    return _native(array("i", tokens)).tobytes()


def describe(path: Path, head: Head) -> None:
    """Append what makes a worker's file whole but for its checksum. Raises OSError."""
    content = msgspec.msgpack.encode(head)
    with path.open("ab") as file:
        file.write(content + _FOOT.pack(len(content), 0, _MAGIC))


def seal(path: Path) -> None:
    """Give the file its checksum. Blocks for a while. Raises OSError, DamagedState."""
    with path.open("r+b", buffering=0) as file:
        end = _end(file.fileno())
        length, _, magic = _foot(file.fileno(), end)
        if magic != _MAGIC:
            raise DamagedState("it was not written to its end")
        foot = _FOOT.pack(length, _checksum(file.fileno(), end), _MAGIC)
        os.pwrite(file.fileno(), foot, end)


def read_head(path: Path) -> Head:
    """Not yet a proof that the rest is sound. Raises OSError, DamagedState."""
    with path.open("rb", buffering=0) as file:
        return _head(file.fileno())


def verify(path: Path) -> Head:
    """The head of a file that is as it was sealed, every byte of it. Raises OSError, DamagedState."""
    with path.open("rb", buffering=0) as file:
        end = _end(file.fileno())
        _, checksum, magic = _foot(file.fileno(), end)
        if magic != _MAGIC or checksum != _checksum(file.fileno(), end):
            raise DamagedState("its checksum is wrong")
        return _head(file.fileno())


def read_checkpoint(path: Path, head: Head, into: memoryview) -> None:
    """Fill `into`, which has the checkpoint's length. Raises OSError, DamagedState."""
    with path.open("rb", buffering=0) as file:
        if os.preadv(file.fileno(), [into], head.state) != head.checkpoint:
            raise DamagedState("it is cut off")


def _head(file: int) -> Head:
    end = _end(file)
    length, _, magic = _foot(file, end)
    if magic != _MAGIC or not 0 < length <= min(end, _MOST_HEAD):
        raise DamagedState("it is no saved prompt state")
    try:
        head = msgspec.msgpack.decode(os.pread(file, length, end - length), type=Head)
    except msgspec.MsgspecError as error:
        raise DamagedState(f"its head cannot be read: {error}") from error
    if min(head.state, head.checkpoint, head.at) < 0 or head.state + head.checkpoint + length != end:
        raise DamagedState("its parts do not make up its length")
    if len(head.tokens) % 4 or head.at > len(head.tokens) // 4:
        raise DamagedState("its tokens are impossible")
    return head


def _end(file: int) -> Bytes:
    """Where the foot begins."""
    size = os.fstat(file).st_size
    if size < _FOOT.size:
        raise DamagedState("it is too short")
    return size - _FOOT.size


def _foot(file: int, end: Bytes) -> tuple[int, int, bytes]:
    length, checksum, magic = _FOOT.unpack(os.pread(file, _FOOT.size, end))
    return length, checksum, magic


def _checksum(file: int, end: Bytes) -> int:
    """Of the first `end` bytes, and of how many they are."""
    buffer, checksum, at = bytearray(_CHUNK), zlib.crc32(struct.pack("<Q", end)), 0
    view = memoryview(buffer)
    while at < end:
        count = os.preadv(file, [view[: min(_CHUNK, end - at)]], at)
        if not count:
            raise DamagedState("it is cut off")
        checksum = zlib.crc32(view[:count], checksum)
        at += count
    return checksum


def _native(tokens: array[int]) -> array[int]:
    """Between this machine's order of bytes and the file's."""
    if sys.byteorder == "big":
        tokens.byteswap()
    return tokens
