"""Model files for tests that need more than the demo models have: other keys in a copy, tiny ones of random weights."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_ALIGN: Final = 32
_SIZES: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9

Array = NDArray[np.float32]


def infilling(source: Path, target: Path) -> Path:
    """A copy whose vocabulary has tokens for filling in the middle: some of its first ones, which are markers."""
    marks = {"fim_pre": 3, "fim_suf": 4, "fim_mid": 5, "fim_rep": 6, "fim_sep": 7}
    return with_keys(source, target, {f"tokenizer.ggml.{name}_token_id": token for name, token in marks.items()})


def with_keys(source: Path, target: Path, keys: Mapping[str, Any]) -> Path:
    """A copy of the model with these keys besides; none of them may be there already."""
    data = source.read_bytes()
    version, tensors, count = struct.unpack_from("<IQQ", data, 4)
    at = 24
    for _ in range(count):
        at = _after_value(data, _after_string(data, at))
    infos = at
    for _ in range(tensors):
        at = _after_string(data, at)
        (dims,) = struct.unpack_from("<I", data, at)
        at += 4 + 8 * dims + 4 + 8
    head = struct.pack("<4sIQQ", b"GGUF", version, tensors, count + len(keys)) + data[24:infos]
    head += b"".join(_text(key) + _typed(value) for key, value in keys.items()) + data[infos:at]
    target.write_bytes(head + bytes(-len(head) % _ALIGN) + data[at + (-at % _ALIGN) :])
    return target


def write(target: Path, keys: Mapping[str, Any], tensors: Mapping[str, Array]) -> Path:
    """A model file; tensors are kept as 32-bit floats, their axes as numpy has them."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(keys))
    head += b"".join(_text(key) + _typed(value) for key, value in keys.items())
    body = b""
    for name, values in tensors.items():
        body += bytes(-len(body) % _ALIGN)
        axes = tuple(reversed(values.shape))
        head += _text(name) + struct.pack(f"<I{len(axes)}QIQ", len(axes), *axes, 0, len(body))
        body += values.astype("<f4").tobytes()
    target.write_bytes(head + bytes(-len(head) % _ALIGN) + body)
    return target


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def _typed(value: Any) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", _STRING) + _text(value)
        case [str(), *_]:
            return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(map(_text, value))
        case [float(), *_]:
            return struct.pack(f"<IIQ{len(value)}f", _ARRAY, 6, len(value), *value)
        case [*numbers]:
            return struct.pack(f"<IIQ{len(numbers)}i", _ARRAY, 5, len(numbers), *numbers)
        case _:
            raise AssertionError(value)


def _after_string(data: bytes, at: int) -> int:
    (length,) = struct.unpack_from("<Q", data, at)
    return at + 8 + int(length)


def _after_value(data: bytes, at: int) -> int:
    (kind,) = struct.unpack_from("<I", data, at)
    at += 4
    if kind == _STRING:
        return _after_string(data, at)
    if kind != _ARRAY:
        return at + _SIZES[kind]
    inner, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if inner != _STRING:
        return at + int(count) * _SIZES[inner]
    for _ in range(count):
        at = _after_string(data, at)
    return at
