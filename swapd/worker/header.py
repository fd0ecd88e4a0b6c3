"""What a model file's tensors are called and where they lie, read by ggml: for what must be known before a load.

Used by `parameters` and `sizing`. Reads the header only; loads nothing.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final

from swapd.units import Bytes
from swapd.worker import backends

EXPERTS: Final = r"ffn_(up|down|gate|gate_up)_(ch|)exps"
_EXPERTS = re.compile(EXPERTS)
_LAYER = re.compile(r"blk\.([0-9]{1,4})\.")
_INPUT: Final = "token_embd.weight"


class _Init(ctypes.Structure):
    _fields_ = (("no_alloc", ctypes.c_bool), ("context", ctypes.c_void_p))


_bind = partial(backends.bind, "libggml-base.so.0")
_open = _bind("gguf_init_from_file", ctypes.c_void_p, ctypes.c_char_p, _Init)
_free = _bind("gguf_free", None, ctypes.c_void_p)
_count = _bind("gguf_get_n_tensors", ctypes.c_int64, ctypes.c_void_p)
_name = _bind("gguf_get_tensor_name", ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int64)
_offset = _bind("gguf_get_tensor_offset", ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int64)
_size = _bind("gguf_get_tensor_size", ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int64)


@dataclass(frozen=True, slots=True)
class Tensor:
    name: str
    file: int
    """Of a split model: which."""
    start: Bytes
    end: Bytes
    """Within the file's tensor data."""

    @property
    def layer(self) -> int | None:
        """None: before or after the repeating layers."""
        match = _LAYER.match(self.name)
        return int(match[1]) if match else None


@lru_cache(maxsize=4)
def tensors(path: str) -> tuple[Tensor, ...]:
    """Of all files of a model, as they lie there. Files that cannot be read have none."""
    return tuple(tensor for number, file in enumerate(_files(path)) for tensor in _tensors(file, number))


def expert_layers(path: str, gpu_layers: int) -> list[int]:
    """The layers with experts among those that llama.cpp puts on cards: the last ones, one less than `gpu_layers`."""
    known = tensors(path)
    first = first_on_gpu(known, gpu_layers)
    found = {tensor.layer for tensor in known if _EXPERTS.search(tensor.name)}
    return sorted(layer for layer in found if layer is not None and layer >= first)


def first_on_gpu(known: Iterable[Tensor], gpu_layers: int) -> int:
    """The first repeating layer on cards; as many as there are if none is, one more if not even the output."""
    layers = 1 + max((tensor.layer for tensor in known if tensor.layer is not None), default=-1)
    return 0 if gpu_layers < 0 else max(layers + 1 - gpu_layers, 0)


def mapped(path: str, gpu_layers: int, kept: Iterable[int]) -> Bytes:
    """How much of the files stays mapped for what runs on the CPU: in each from the first such tensor to the last.

    `kept`: layers on cards whose experts are on the CPU. An upper bound: at the ends it also counts tensors
    that the CPU uses in a copy of its own order.
    """
    known = tensors(path)
    first = first_on_gpu(known, gpu_layers)
    with_experts = frozenset(kept)
    layers = 1 + max((tensor.layer for tensor in known if tensor.layer is not None), default=-1)
    spans: dict[int, tuple[Bytes, Bytes]] = {}
    for tensor in known:
        layer = tensor.layer
        if layer is None:
            is_host = tensor.name == _INPUT or first > layers
        else:
            is_host = layer < first or (layer in with_experts and _EXPERTS.search(tensor.name) is not None)
        if is_host:
            start, end = spans.get(tensor.file, (tensor.start, tensor.end))
            spans[tensor.file] = min(start, tensor.start), max(end, tensor.end)
    return sum(end - start for start, end in spans.values())


def _files(path: str) -> list[str]:
    """All parts of a split model, in order, by llama.cpp's own rule for their names."""
    match = re.search(r"-(\d{5})-of-(\d{5})\.gguf$", path)
    if match is None:
        return [path]
    count, prefix = int(match[2]), path[: match.start()]
    return [f"{prefix}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]


def _tensors(path: str, number: int) -> list[Tensor]:
    file = _open(path.encode(), _Init(True, None))
    if not file:
        return []
    try:
        return [
            Tensor(_name(file, index).decode("utf-8", "replace"), number, start, start + _size(file, index))
            for index in range(_count(file))
            for start in (_offset(file, index),)
        ]
    finally:
        _free(file)
