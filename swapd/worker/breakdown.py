"""What a context's memory consists of, by llama.cpp's own books: each buffer type's model, context and compute bytes.

Used by `child` after a load and by `sizing` instead of one. The books come as a C++ object (a std::map, returned by
value): libstdc++'s layout of it is read here, and whatever does not look like it in every respect is no answer.
Memory is read through /proc/self/mem, where a wrong pointer is an error and not the end of the process.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from swapd.units import Bytes
from swapd.worker import backends

HOST: Final = "host"

_SYMBOL: Final = "_Z26llama_get_memory_breakdownPK13llama_context"
_MOST_NODES: Final = 256
_LARGEST: Final[Bytes] = 2**50
_NODE = struct.Struct("<I4x7Q")
"""Colour, parent, left, right; key; model, context, compute."""
_PAIR = struct.Struct("<I4x5Q")
"""The same with one number for the key."""


class _Map(ctypes.Structure):
    """libstdc++: a comparator of no size, then the header node (colour, root, leftmost, rightmost) and the count.

    Larger than that, so that another library's map does not write past its end. As a structure too large for
    registers it is returned through a hidden pointer, as the C++ object is, wherever the calling convention has that.
    The nodes (some hundred bytes a call) are never freed: that would need the destructor.
    """

    _fields_ = (("words", ctypes.c_size_t * 16),)


_bind = partial(backends.bind, "libggml-base.so.0")
_device_of = _bind("ggml_backend_buft_get_device", ctypes.c_void_p, ctypes.c_void_p)
_device_type = _bind("ggml_backend_dev_buffer_type", ctypes.c_void_p, ctypes.c_void_p)
_host_type = _bind("ggml_backend_dev_host_buffer_type", ctypes.c_void_p, ctypes.c_void_p)
_cpu_type = _bind("ggml_backend_cpu_buffer_type", ctypes.c_void_p)
_type_name = _bind("ggml_backend_buft_name", ctypes.c_char_p, ctypes.c_void_p)

try:
    _ask = backends.bind("libllama.so.0", _SYMBOL, _Map, ctypes.c_void_p)
except (AttributeError, OSError):
    _ask = None


@dataclass(frozen=True, slots=True)
class Row:
    """One buffer type's bytes."""

    buffer_type: int
    model: Bytes
    context: Bytes
    compute: Bytes

    def place(self, devices: Sequence[int]) -> int | None:
        """Which of the devices (by ggml's handles) it is memory of; None: the host, page-locked memory too."""
        device = _device_of(self.buffer_type)
        if device in devices and self.buffer_type != _host_type(device):
            return devices.index(device)
        return None

    def is_plain_host(self, devices: Sequence[int]) -> bool:
        """Host memory in which weights keep the file's own order: what a load with a mapping maps."""
        return self.buffer_type in {_cpu_type(), *map(_host_type, devices)}


def rows(context: int) -> list[Row] | None:
    """By buffer type; None: this llama.cpp does not tell, or not in a form that we can read."""
    if _ask is None:
        return None
    words = _ask(context).words
    root, count = words[2], words[5]
    if not 0 < count <= _MOST_NODES:
        return None
    try:
        memory = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        found = list(_walk(memory, root, None, count))
    except (OSError, ValueError, OverflowError, struct.error):
        return None
    finally:
        os.close(memory)
    keys = [row.buffer_type for row in found]
    total = sum(row.model + row.context + row.compute for row in found)
    if len(found) != count or keys != sorted(set(keys)) or 0 in keys or not 0 < total < _LARGEST:
        return None
    return found


def single(words: Sequence[int]) -> Bytes:
    """The bytes of a map of one device, of which these are the header's words; 0: it is none."""
    root, count = words[2], words[5]
    if count != 1 or not root or root % 8:
        return 0
    try:
        with open("/proc/self/mem", "rb", buffering=0) as memory:
            _, _, left, right, _, size = _PAIR.unpack(os.pread(memory.fileno(), _PAIR.size, root))
    except (OSError, OverflowError, struct.error):
        return 0
    return int(size) if not left and not right and size < _LARGEST else 0


def _walk(memory: int, node: int, parent: int | None, most: int) -> Iterator[Row]:
    """In the order of the keys. Raises ValueError, OSError where it is no such tree."""
    if not node:
        return
    if most <= 0 or node % 8:
        raise ValueError("not a tree of this size")
    colour, above, left, right, *values = _NODE.unpack(os.pread(memory, _NODE.size, node))
    if colour > 1 or (parent is not None and above != parent):
        raise ValueError("not a node")
    yield from _walk(memory, left, node, most - 1)
    yield Row(*values)
    yield from _walk(memory, right, node, most - 1)


def name(buffer_type: int) -> str:
    return str(_type_name(buffer_type).decode("utf-8", "replace"))


def type_names(devices: Sequence[int]) -> list[str]:
    """What llama.cpp's log calls the memory of these cards."""
    return [name(_device_type(device)) for device in devices]
