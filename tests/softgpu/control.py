"""The control library of `control.cpp` through ctypes: its functions, and the numbers that `ledger.hpp` gives things.

Used by `gpu.py` alone.
"""

from __future__ import annotations

import ctypes
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any, Final

EVERY_CARD: Final = -1
DRIVER: Final = -1
"""In the place of a card: the driver itself."""


class What(IntEnum):
    """What happens on a card. DIED: a process ended with memory; RETURNED: the lag of what was let go is over."""

    TOOK = 0
    GAVE = 1
    DIED = 2
    RETURNED = 3
    REFUSED = 4
    ABORTED = 5


class Telling(Enum):
    """What NVML tells of processes: all, their names without sizes (WSL), or none (containers)."""

    SIZES = 0
    NO_SIZES = 1
    NOBODY = 2


class Fault(IntEnum):
    ALLOCATION = 1
    COMPUTE = 2


class Knob(IntEnum):
    LAG_LEAST_NS = 0
    LAG_MOST_NS = 1
    SEED = 2
    CONTEXT = 3
    BUS = 4
    THREADS = 5
    TELLING = 6
    DRIVER_ERROR = 7
    DRIVER_ERROR_UNTIL_NS = 8


class EventRow(ctypes.Structure):
    _fields_ = (
        ("at_ns", ctypes.c_int64),
        ("bytes", ctypes.c_int64),
        ("used", ctypes.c_int64),
        ("pid", ctypes.c_int32),
        ("card", ctypes.c_int32),
        ("what", ctypes.c_int32),
        ("is_ordered", ctypes.c_int32),
    )


def bind(path: Path) -> Any:
    """The library, every function with its C signature."""
    library = ctypes.CDLL(str(path))
    handle, number, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
    signatures: dict[str, tuple[Any, ...]] = {
        "make": (number, ctypes.c_char_p, number, ctypes.POINTER(size)),
        "open": (handle, ctypes.c_char_p),
        "close": (None, handle),
        "used": (size, handle, number),
        "peak": (size, handle, number),
        "turn": (None, handle, number, number, size),
        "crowd": (number, handle, number, number, size, number),
        "give": (None, handle, number, number, size),
        "order": (number, handle, number, number, size, size, size, ctypes.POINTER(ctypes.c_int32), number),
        "withdraw_orders": (None, handle),
        "orders_left": (size, handle),
        "holders": (number, handle, number, number, ctypes.POINTER(ctypes.c_int32), ctypes.POINTER(size)),
        "events": (number, handle, ctypes.POINTER(ctypes.c_uint64), number, ctypes.POINTER(EventRow)),
    }
    for name, (result, *arguments) in signatures.items():
        function = getattr(library, f"softgpu_{name}")
        function.restype, function.argtypes = result, arguments
    return library
