"""ggml around llama.cpp: its backends and devices, and what it logs.

Used by `llama`; knows no model. The Python bindings leave these functions out, so they are bound here, from
the libraries that llama.cpp itself has loaded (another copy of the file would have its own, empty registry).
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections import deque
from collections.abc import Iterable
from typing import Any

import llama_cpp.llama_cpp as C  # noqa: N812

from swapd.units import Bytes, MiB
from swapd.wire import Card

_INFO, _WARN, _ERROR, _CONTINUED = 2, 3, 4, 5
_GPU = 1  # of ggml_backend_dev_type: with memory of its own
_KEPT = 40
_OUT_OF_MEMORY = re.compile(
    r"out of memory|(failed|unable|cannot) to (re)?allocate|cannot allocate|alloc\w* .*failed", re.IGNORECASE
)
_COMPUTE = re.compile(rb"(\S+) compute buffer size = +([\d.]+) MiB")
_FUNCTION = re.compile(r"^(\w+: )+(error loading model: )?(llama_model_loader: )?")
_SAYS_NOTHING = re.compile(r"failed to load model|failed to read header|failed to create context")
_FOR_PEOPLE = (
    (re.compile(r"invalid magic"), "it is no GGUF file"),
    (re.compile(r"not within the file bounds|failed to read|exceeds remaining file size"), "the file is cut off"),
)


class _Props(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("description", ctypes.c_char_p),
        ("memory_free", ctypes.c_size_t),
        ("memory_total", ctypes.c_size_t),
        ("type", ctypes.c_int),
        ("device_id", ctypes.c_char_p),
        ("caps", ctypes.c_bool * 5),
    )


def bind(library: str, name: str, result: Any, *arguments: Any) -> Any:
    """A function of a library that llama.cpp has loaded. Raises AttributeError where it has none of that name."""
    function = getattr(ctypes.CDLL(library), name)
    function.restype, function.argtypes = result, arguments
    return function


_device_count = bind("libggml.so.0", "ggml_backend_dev_count", ctypes.c_size_t)
_device_get = bind("libggml.so.0", "ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
_load_all = bind("libggml.so.0", "ggml_backend_load_all", None)
_device_type = bind("libggml-base.so.0", "ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)
_device_name = bind("libggml-base.so.0", "ggml_backend_dev_name", ctypes.c_char_p, ctypes.c_void_p)
_device_buffers = bind("libggml-base.so.0", "ggml_backend_dev_buffer_type", ctypes.c_void_p, ctypes.c_void_p)
_allocate = bind(
    "libggml-base.so.0", "ggml_backend_buft_alloc_buffer", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t
)
_release = bind("libggml-base.so.0", "ggml_backend_buffer_free", None, ctypes.c_void_p)
_device_props = bind("libggml-base.so.0", "ggml_backend_dev_get_props", None, ctypes.c_void_p, ctypes.POINTER(_Props))


class Log:
    """llama.cpp's warnings and errors: passed on to stderr, the last ones kept to explain a failed load."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=_KEPT)
        self.compute: dict[str, Bytes] = {}
        """By buffer type, what the last context computes in."""
        self._level = 0
        self.callback = C.llama_log_callback(self._heard)  # kept: C calls it as long as the process lives
        C.llama_log_set(self.callback, None)

    def _heard(self, level: int, text: bytes, _data: Any) -> None:
        level = self._level = self._level if level == _CONTINUED else level
        if level == _INFO and (told := _COMPUTE.search(text)):
            self.compute[told[1].decode("utf-8", "replace")] = round(float(told[2]) * MiB)
        if level not in (_WARN, _ERROR) or not text.strip(b".\n "):
            return
        line = text.decode("utf-8", "replace").rstrip()
        sys.stderr.write(f"llama.cpp: {line}\n")
        if level == _ERROR:
            self.lines.append(line)

    def is_out_of_memory(self) -> bool:
        return any(_OUT_OF_MEMORY.search(line) for line in self.lines)

    def reason(self) -> str:
        """One line for people: why the load failed."""
        return explain(self.lines)


def explain(lines: Iterable[str]) -> str:
    """The most telling of llama.cpp's error lines, in front of it what it means where that is known."""
    told = [_FUNCTION.sub("", line) for line in lines]
    telling = [line for line in told if not _SAYS_NOTHING.match(line)] or [
        "llama.cpp cannot load it and does not say why"
    ]
    line = next((line for line in telling if _OUT_OF_MEMORY.search(line)), telling[0])
    meaning = next((meaning for pattern, meaning in _FOR_PEOPLE if pattern.search(line)), None)
    return f"{meaning} ({line})" if meaning else line


def load() -> None:
    """Register every backend, out-of-tree ones too. Makes no context on any card."""
    C.llama_backend_init()
    _load_all()


def devices(wanted: Iterable[str]) -> list[int]:
    """ggml's handles of the cards with these PCI ids or ggml names, in that order. Raises LookupError."""
    handles: list[int] = [_device_get(index) for index in range(_device_count())]
    by_name = {_device_name(handle).decode().lower(): handle for handle in handles}
    return [_device(name, by_name) for name in wanted]


def free(device: int) -> Bytes:
    """Of one of `devices`, on which there is a context already."""
    props = _Props()
    _device_props(device, ctypes.byref(props))
    return int(props.memory_free)


def touch(device: int) -> None:
    """Take a little of one of `devices` and give it back: from now on this process has its context there, if it can."""
    if buffer := _allocate(_device_buffers(device), 1):
        _release(buffer)


def _device(wanted: str, by_name: dict[str, int]) -> int:
    found = by_name.get(wanted.lower()) or by_name.get(_cuda_name(wanted))
    if found is None:
        # Asking a CUDA card for its properties makes a context on it: only cards that nothing cheaper names get here.
        for handle in by_name.values():
            props = _Props()
            _device_props(handle, ctypes.byref(props))
            if props.device_id and pci_id(props.device_id.decode()) == pci_id(wanted):
                return handle
        raise LookupError(f"no device {wanted}; llama.cpp sees {', '.join(sorted(by_name)) or 'none'}")
    return found


def _cuda_name(wanted: str) -> str:
    """ggml's name of the CUDA card at this PCI address, asked of the driver, which needs no context for it; or ""."""
    try:
        ask = ctypes.CDLL("libcuda.so.1").cuDeviceGetByPCIBusId
    except (OSError, AttributeError):
        return ""
    ordinal = ctypes.c_int()
    return f"cuda{ordinal.value}" if ask(ctypes.byref(ordinal), pci_id(wanted).encode()) == 0 else ""


def cards() -> tuple[Card, ...]:
    """The GPUs that no NVIDIA driver tells the daemon of, as the backends measure them now.

    CUDA cards are left out by their names alone, because their answer costs a context (hundreds of MiB) and NVML
    gives it for nothing. Vulkan asks the physical device, without opening it. Integrated GPUs have no memory of
    their own and are left out as well.
    """
    found: list[Card] = []
    for index in range(_device_count()):
        handle = _device_get(index)
        name = _device_name(handle).decode()
        if name.upper().startswith("CUDA") or _device_type(handle) != _GPU:
            continue
        props = _Props()
        _device_props(handle, ctypes.byref(props))
        if props.memory_total:
            texts = (props.description, props.device_id)
            described, address = ((text or b"").decode("utf-8", "replace") for text in texts)
            free = min(props.memory_free, props.memory_total)
            found.append(Card(name, described, address, free, props.memory_total))
    return tuple(found)


def pci_id(address: str) -> str:
    """One spelling of a PCI address: lower case, a domain of four digits (NVML writes eight, some write none)."""
    *domain, bus, device = ["", "", *address.lower().split(":")]
    return f"{domain[-1][-4:]:0>4}:{bus}:{device}"
