"""Pictures for a model that can see: llama.cpp's mtmd turns them into embeddings in the model's own width.

Made by `child`, used by `prompts` (which tokens a picture stands for) and `slots` (encoding, positions). Its library is
loaded with the first projector and not before. Files of pictures come from anybody: the API has looked at their
headers, here they are decoded, in a process that holds nothing but its model.
"""

from __future__ import annotations

import ctypes
import hashlib
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import llama_cpp.llama_cpp as C  # noqa: N812
import llama_cpp.mtmd_cpp as M  # noqa: N812
import numpy as np
import numpy.typing as npt

from swapd.errors import InvalidRequest
from swapd.units import Bytes, MiB, Tokens
from swapd.wire import Load
from swapd.worker import backends, breakdown
from swapd.worker.llama import CannotLoad, Model
from swapd.worker.sandbox import bounded_memory

Embeddings: TypeAlias = npt.NDArray[np.float32]
"""(tokens, width of the model)"""
Positions: TypeAlias = npt.NDArray[np.int32]
"""(1 or, of models with positions in a plane, 4; tokens)"""

DECODING: Final[Bytes] = 1024 * MiB
"""What decoding one picture may take; the largest that the API lets through needs a third of it."""
_PLANE: Final = 4
_SYMBOL: Final = "_Z21mtmd_get_memory_usagePKc19mtmd_context_params"

_pixels = ctypes.POINTER(ctypes.c_uint8)
_number = ctypes.POINTER(ctypes.c_int)
_of_mtmd = partial(backends.bind, "libmtmd.so.0")
_stbi_load = _of_mtmd(
    "stbi_load_from_memory", _pixels, ctypes.c_char_p, ctypes.c_int, _number, _number, _number, ctypes.c_int
)
_stbi_free = _of_mtmd("stbi_image_free", None, _pixels)
_stbi_reason = _of_mtmd("stbi_failure_reason", ctypes.c_char_p)


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """What of a picture is encoded at a time, prepared: all of it or, of large ones, one tile."""

    content: bytes
    """The same if picture, projector and place among the tiles are."""
    tokens: Tokens
    positions: int
    is_whole: bool
    """Its tokens see each other in both directions: they are computed together."""
    pointer: Any = field(repr=False)
    owner: Any = field(repr=False)
    """Lives as long as the chunk: the pointer is into it."""


class _Chunks:
    """llama.cpp's list of chunks, freed with the last of them."""

    def __init__(self) -> None:
        self.pointer = M.mtmd_input_chunks_init()
        self._free = weakref.finalize(self, M.mtmd_input_chunks_free, self.pointer)


class Projector:
    """Of one model. Close it before the model."""

    def __init__(self, order: Load, model: Model, log: backends.Log) -> None:
        """On the first of the model's cards, or on the CPU. Raises CannotLoad."""
        log.lines.clear()
        M.mtmd_helper_log_set(log.callback, None)
        device = model.devices[0] if model.devices else None
        self.bytes = memory(order.projector)
        if device is not None and self.bytes > backends.free(device):  # mtmd does not survive a failed allocation
            raise CannotLoad("cannot load the projector: out of memory on its card", out_of_memory=True)
        params = _parameters(device, order)
        self._pointer = M.mtmd_init_from_file(order.projector.encode(errors="surrogateescape"), model.pointer, params)
        if not self._pointer:
            raise CannotLoad(
                f"cannot load the projector {order.projector}: {log.reason()}; "
                'its model can be served without it (projector = "none")',
                log.is_out_of_memory(),
            )
        if not M.mtmd_support_vision(self._pointer):
            self.close()
            raise CannotLoad(f"cannot use the projector {order.projector}: it is none for pictures")
        self._is_plane: bool = M.mtmd_decode_use_mrope(self._pointer)
        self._width: int = C.llama_model_n_embd_inp(model.pointer)
        about = Path(order.projector).stat()
        self._identity = repr((order.projector, about.st_size, about.st_mtime_ns)).encode(errors="surrogateescape")

    def read(self, data: bytes) -> list[list[int] | Chunk]:
        """The picture of this file as the model reads it: tokens around it, and the chunks to encode.

        Raises InvalidRequest where it cannot be decoded.
        """
        bitmap = _decode(data)
        chunks = _Chunks()
        try:
            part = M.mtmd_input_part()
            part.bitmap = bitmap
            parts = (ctypes.POINTER(M.mtmd_input_part) * 1)(ctypes.pointer(part))
            if M.mtmd_tokenize_from_parts(self._pointer, chunks.pointer, parts, 1, False) != 0:
                raise InvalidRequest("cannot read the image: the model's projector takes none of this size")
        finally:
            M.mtmd_bitmap_free(bitmap)
        digest = hashlib.sha256(self._identity + data).digest()
        return [self._part(chunks, index, digest) for index in range(M.mtmd_input_chunks_size(chunks.pointer))]

    def _part(self, chunks: _Chunks, index: int, digest: bytes) -> list[int] | Chunk:
        pointer = M.mtmd_input_chunks_get(chunks.pointer, index)
        if M.mtmd_input_chunk_get_type(pointer) == M.MTMD_INPUT_CHUNK_TYPE_TEXT:
            count = ctypes.c_size_t()
            tokens: Any = M.mtmd_input_chunk_get_tokens_text(pointer, ctypes.byref(count))
            return list(tokens[: count.value])
        return Chunk(
            content=digest + index.to_bytes(4, "little"),
            tokens=M.mtmd_input_chunk_get_n_tokens(pointer),
            positions=M.mtmd_input_chunk_get_n_pos(pointer),
            is_whole=M.mtmd_decode_use_non_causal(self._pointer, pointer),
            pointer=pointer,
            owner=chunks,
        )

    def encode(self, chunk: Chunk) -> Embeddings:
        """Blocks until it is done: milliseconds on a card, up to seconds on a CPU. Raises InvalidRequest."""
        if M.mtmd_encode_chunk(self._pointer, chunk.pointer) != 0:
            raise InvalidRequest("cannot read the image: the model's projector failed on it")
        found: Any = M.mtmd_get_output_embd(self._pointer)
        return np.ctypeslib.as_array(found, (chunk.tokens, self._width)).copy()

    def positions(self, chunk: Chunk, first: int) -> Positions:
        """Of each of its tokens, where `first` is the position that comes next."""
        if not self._is_plane:
            return np.arange(first, first + chunk.tokens, dtype=np.int32).reshape(1, -1)
        places = (M.mtmd_decoder_pos * chunk.tokens)()
        image = M.mtmd_input_chunk_get_tokens_image(chunk.pointer)
        M.mtmd_helper_image_get_decoder_pos(image, first, places)
        table = np.frombuffer(places, np.uint32).reshape(chunk.tokens, _PLANE)  # t, x, y, z
        return np.ascontiguousarray(table[:, [0, 2, 1, 3]].T.astype(np.int32))

    def close(self) -> None:
        M.mtmd_free(self._pointer)


def _decode(data: bytes) -> Any:
    """llama.cpp's bitmap of a file, to be freed. Raises InvalidRequest.

    What a small file unpacks to is bounded here: its header may lie.
    """
    width, height, channels = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    sizes = ctypes.byref(width), ctypes.byref(height), ctypes.byref(channels)
    with bounded_memory(DECODING):
        pixels = _stbi_load(data, len(data), *sizes, 3)
    if not pixels:
        why = (_stbi_reason() or b"").decode("utf-8", "replace")
        raise InvalidRequest(f"cannot read the image: it is damaged or of a kind that cannot be decoded ({why})")
    try:
        return M.mtmd_bitmap_init(width.value, height.value, pixels)
    finally:
        _stbi_free(pixels)


class _Map(ctypes.Structure):
    """As `breakdown` has it: a std::map, here of one device, whose node ends with the key and the bytes."""

    _fields_ = (("words", ctypes.c_size_t * 16),)


def memory(path: str) -> Bytes:
    """What this projector takes, weights and the buffer that it computes in; 0: this llama.cpp does not tell.

    Asked for the CPU, because for a card it would be allocated there; the sums are the same.
    """
    try:
        ask = backends.bind("libmtmd.so.0", _SYMBOL, _Map, ctypes.c_char_p, M.mtmd_context_params)
    except (AttributeError, OSError):
        return 0
    words: Sequence[int] = ask(path.encode(errors="surrogateescape"), _parameters(None, None)).words
    return breakdown.single(words)


def _parameters(device: int | None, order: Load | None) -> Any:
    params = M.mtmd_context_params_default()
    params.use_gpu = device is not None
    params.device = device
    params.print_timings = False
    if order is not None:
        params.n_threads = order.threads
        if order.sees_whole:
            params.image_max_tokens = order.micro_batch
        if order.flash_attention is not None:
            enabled, disabled = C.LLAMA_FLASH_ATTN_TYPE_ENABLED, C.LLAMA_FLASH_ATTN_TYPE_DISABLED
            params.flash_attn_type = enabled if order.flash_attention else disabled
    return params
