"""Pictures in requests: from base64 to bytes, and looked at from outside, before anybody decodes them.

Used by the dialects' bodies; raises ValueError with the words that the caller gets. Nothing is fetched: an address in a
request would have the daemon call whom the request names. What the header says of the size is believed only as a
limit; the worker decodes with bounded memory, whatever the file says.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from swapd.generation import Image, Message
from swapd.units import Bytes, MiB, format_bytes

MOST: Final = 32
"""Pictures in one request."""
MOST_BYTES: Final[Bytes] = 24 * MiB
MOST_PIXELS: Final = 50_000_000
MOST_SIDE: Final = 32_768
_KINDS: Final = "PNG, JPEG, GIF and BMP are read"

_MARKS: Final[Mapping[str, Callable[[bytes], bool]]] = {
    "WebP": lambda data: data[:4] == b"RIFF" and data[8:12] == b"WEBP",
    "TIFF": lambda data: data[:4] in (b"II*\0", b"MM\0*"),
    "HEIF or AVIF": lambda data: data[4:8] == b"ftyp",
    "SVG": lambda data: data.lstrip()[:4] in (b"<svg", b"<?xm"),
    "PDF": lambda data: data[:4] == b"%PDF",
}
"""Kinds that people have and llama.cpp cannot decode."""


def from_base64(given: object) -> bytes:
    """The file's bytes; line breaks are passed over, as is the `data:` that some clients leave in front."""
    if not isinstance(given, str):
        raise ValueError("an image should be a string in base64")
    text = given.partition(",")[2] if given.startswith("data:") else given
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("an image is not in base64") from None
    _check(data)
    return data


def from_url(given: object) -> bytes:
    """Of a `data:` URL."""
    if not isinstance(given, str):
        raise ValueError("the address of an image should be a string")
    if not given.startswith("data:"):
        raise ValueError("images are not fetched: send the image itself, as data:image/png;base64,…")
    head, comma, _ = given.partition(",")
    if not comma or not head.endswith(";base64"):
        raise ValueError("an image's data: URL should have its data in base64, as data:image/png;base64,…")
    return from_base64(given)


class Album:
    """The pictures of one request, each with a marker that nobody can foresee: it is no word of anybody's text."""

    def __init__(self) -> None:
        self._images: list[Image] = []

    def add(self, data: bytes) -> str:
        """Its marker."""
        if len(self._images) >= MOST:
            raise ValueError(f"at most {MOST} images are allowed")
        image = Image(f"<image-{secrets.token_hex(16)}>", data)
        self._images.append(image)
        return image.marker

    def is_marker(self, text: str) -> bool:
        return any(image.marker == text for image in self._images)

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(self._images)

    def joined(self, parts: Iterable[str]) -> str:
        """Texts and markers as one: texts on lines of their own, pictures where they are, as llama.cpp has them."""
        told, after_picture = "", True
        for part in parts:
            is_picture = self.is_marker(part)
            told += part if is_picture or after_picture else f"\n{part}"
            after_picture = is_picture
        return told

    def placed(self, turns: Sequence[Message]) -> tuple[Message, ...]:
        """The turns, each with the pictures that its content has markers of."""
        return tuple(self._of(turn) if self._images else turn for turn in turns)

    def _of(self, turn: Message) -> Message:
        return replace(turn, images=tuple(image for image in self._images if image.marker in turn.content))


@dataclass(frozen=True, slots=True)
class Said:
    """What a message says, with markers for the pictures in it."""

    text: str
    images: tuple[Image, ...] = ()


def check_number(messages: Iterable[Sequence[object]]) -> None:
    """Raises ValueError where all together have too many pictures."""
    if sum(map(len, messages)) > MOST:
        raise ValueError(f"at most {MOST} images are allowed in a request")


def _check(data: bytes) -> None:
    if not data:
        raise ValueError("an image is empty")
    if len(data) > MOST_BYTES:
        raise ValueError(f"an image has {format_bytes(len(data))}; at most {format_bytes(MOST_BYTES)} are allowed")
    width, height = _size(data)
    if width < 1 or height < 1:
        raise ValueError("an image is damaged: its header says that it has no pixels")
    if width > MOST_SIDE or height > MOST_SIDE or width * height > MOST_PIXELS:
        raise ValueError(
            f"an image has {width} x {height} pixels; at most {MOST_PIXELS // 1_000_000} million are allowed, "
            f"and {MOST_SIDE} on a side"
        )


def _size(data: bytes) -> tuple[int, int]:
    """Width and height, by the header."""
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            width, height = _unpack(">II", data, 16)
            return width, height
        if data.startswith(b"\xff\xd8\xff"):
            return _size_of_jpeg(data)
        if data.startswith((b"GIF87a", b"GIF89a")):
            width, height = _unpack("<HH", data, 6)
            return width, height
        if data.startswith(b"BM"):
            (length,) = _unpack("<I", data, 14)
            width, height = _unpack("<HH", data, 18) if length == 12 else _unpack("<ii", data, 18)
            return width, abs(height)
    except struct.error:
        raise ValueError("an image is cut off: its header is not whole") from None
    kind = next((name for name, is_one in _MARKS.items() if is_one(data)), None)
    what = f"an image is {kind}" if kind else "an image is of no kind that is known here"
    raise ValueError(f"{what}; {_KINDS}")


def _size_of_jpeg(data: bytes) -> tuple[int, int]:
    """From the first frame header. Raises struct.error where there is none."""
    at = 2
    while True:
        (mark,) = _unpack(">H", data, at)
        if mark == 0xFFFF:  # padding
            at += 1
            continue
        kind = mark & 0xFF
        if mark >> 8 != 0xFF or kind in (0xD9, 0xDA):
            raise struct.error
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            height, width = _unpack(">HH", data, at + 5)
            return width, height
        if 0xD0 <= kind <= 0xD8 or kind == 0x01:
            at += 2
        else:
            at += 2 + _unpack(">H", data, at + 2)[0]


def _unpack(layout: str, data: bytes, at: int) -> tuple[int, ...]:
    return struct.unpack_from(layout, data, at)
