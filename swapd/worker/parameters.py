"""From an order of the daemon's to llama.cpp's parameters: the same ones for a real load and for its sizing.

Used by `llama`. What C keeps pointers to is kept here as long as the object lives.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import llama_cpp.llama_cpp as C  # noqa: N812
from msgspec.structs import replace

from swapd.units import Tokens
from swapd.wire import Load, Size
from swapd.worker import backends, header
from swapd.worker.drafting import ROWS

ALL_LAYERS: Final = 1_000_000
MIN_BATCH: Final[Tokens] = 512
"""A batch holds at least this much prompt; it is computed in micro-batches of the size asked for."""

_KV_TYPES = {"f16": C.GGML_TYPE_F16, "q8_0": C.GGML_TYPE_Q8_0, "q4_0": C.GGML_TYPE_Q4_0}
_FLASH = {
    None: C.LLAMA_FLASH_ATTN_TYPE_AUTO,
    True: C.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    False: C.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}

VECTORS_AT_A_TIME: Final = 32
"""Inputs in one batch, at most."""

_POOLING: Final = {
    "mean": C.LLAMA_POOLING_TYPE_MEAN,
    "cls": C.LLAMA_POOLING_TYPE_CLS,
    "last": C.LLAMA_POOLING_TYPE_LAST,
    "rank": C.LLAMA_POOLING_TYPE_RANK,
}

Order: TypeAlias = Load | Size


class _Override(ctypes.Structure):
    _fields_ = (("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p))


_cpu_buffer_type = backends.bind("libggml-base.so.0", "ggml_backend_cpu_buffer_type", ctypes.c_void_p)


class ModelParameters:
    """`value` is what `llama_model_load_from_file` takes."""

    def __init__(self, order: Order, progress: Callable[[float], None]) -> None:
        """Raises LookupError where a device is unknown."""
        self.on_gpu = bool(order.devices) and order.gpu_layers != 0
        self.devices: list[int] = backends.devices(order.devices) if self.on_gpu else []
        """ggml's handles, in the order of the names."""
        self._list = (ctypes.c_void_p * (len(self.devices) + 1))(*self.devices, None)
        # Also for one card: without shares llama.cpp makes them from what is free, and of a full card that is 0 of 0.
        shares = order.tensor_split or (1.0,) * len(self.devices)
        self._split = (ctypes.c_float * C.llama_max_devices())(*shares)
        self._overrides = _experts_on_cpu(order) if self.on_gpu else None

        @C.llama_progress_callback  # type: ignore[untyped-decorator]
        def heard(fraction: float, _data: Any) -> bool:
            progress(fraction)
            return True

        self._heard = heard
        params = self.value = C.llama_model_default_params()
        params.devices = ctypes.cast(self._list, ctypes.c_void_p)
        params.n_gpu_layers = order.gpu_layers if self.on_gpu else 0
        params.split_mode = C.LLAMA_SPLIT_MODE_LAYER if len(self.devices) > 1 else C.LLAMA_SPLIT_MODE_NONE
        if self.devices:
            params.tensor_split = self._split
        if self._overrides is not None:
            params.tensor_buft_overrides = ctypes.cast(self._overrides, ctypes.c_void_p)
        params.load_mode = C.LLAMA_LOAD_MODE_MMAP
        params.progress_callback = heard
        if isinstance(order, Size):
            params.no_alloc = True
            params.load_mode = C.LLAMA_LOAD_MODE_NONE  # with a mapping llama.cpp would end the process


def _experts_on_cpu(order: Order) -> Any:
    """The overrides that keep experts on the CPU: of the first layers that are on the cards and have some.

    So the layers with most on the CPU lie side by side. None: nothing to override.
    """
    if order.expert_layers_on_cpu <= 0:
        return None
    layers = header.expert_layers(order.path, order.gpu_layers)[: order.expert_layers_on_cpu]
    if not layers:
        return None
    pattern = rf"blk\.({'|'.join(map(str, layers))})\.{header.EXPERTS}".encode()
    return (_Override * 2)(_Override(pattern, _cpu_buffer_type()), _Override(None, None))


def draft_order(order: Order) -> Order:
    """Of the model that drafts for this one: whole on the first of its cards, or on the CPU beside it."""
    on_gpu = bool(order.devices) and order.gpu_layers > 0
    values: dict[str, Any] = {
        "path": order.draft,
        "draft": "",
        "speculates": False,
        "gpu_layers": ALL_LAYERS if on_gpu else 0,
        "devices": order.devices[:1] if on_gpu else (),
        "tensor_split": (),
        "expert_layers_on_cpu": 0,
    }
    if isinstance(order, Load):
        return replace(order, prompts=None, **values)
    return replace(order, **values)


def rows_of_logits(order: Order) -> int:
    """One a slot, and those that proposals are checked by."""
    return order.slots + (ROWS if order.speculates else 0)


def context_parameters(order: Order, *, offloads: bool) -> Any:
    """What `llama_init_from_model` takes. `offloads`: something of the model is on a card."""
    params = C.llama_context_default_params()
    if order.pooling:
        # A vector is pooled from all tokens of a text: they are computed together. One cache is enough, emptied after.
        params.n_ctx = params.n_batch = params.n_ubatch = order.context
        params.n_seq_max = VECTORS_AT_A_TIME
        params.embeddings = True
        params.pooling_type = _POOLING[order.pooling]
    else:
        params.n_ctx = order.context * order.slots
        params.n_seq_max = order.slots
        params.n_batch = max(order.micro_batch, MIN_BATCH, order.slots)
        params.n_ubatch = order.micro_batch
        params.n_outputs_max = rows_of_logits(order)  # else the compute buffer has one for each token
    if isinstance(order, Load):
        params.n_threads = params.n_threads_batch = order.threads
    params.flash_attn_type = _FLASH[order.flash_attention]
    params.type_k = params.type_v = _KV_TYPES[order.kv_type]
    params.offload_kqv = params.op_offload = offloads
    params.swa_full = False
    params.kv_unified = bool(order.pooling)  # a cache of its own for each slot: no attention over others' cells
    return params
