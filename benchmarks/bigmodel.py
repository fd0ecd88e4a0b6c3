"""A model file of random weights, so large that a load is mostly about reading them; its vocabulary is a real one.

Written by the measurements into a folder of theirs. What it says is noise, but it takes as long as sense would.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from tests.gguf_models import raw_keys

LAYERS: Final = 31
"""1.5 GiB at these sizes."""
_WIDTH, _FEED, _HEADS, _KV_HEADS = 2048, 5632, 32, 8
_F32, _Q8_0 = 0, 8
_BLOCK: Final = 32
_ALIGN: Final = 32
_KEYS: Final[dict[str, float | str]] = {
    "general.architecture": "llama",
    "general.file_type": 7,
    "llama.context_length": 4096,
    "llama.embedding_length": _WIDTH,
    "llama.feed_forward_length": _FEED,
    "llama.block_count": LAYERS,
    "llama.attention.head_count": _HEADS,
    "llama.attention.head_count_kv": _KV_HEADS,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.dimension_count": _WIDTH // _HEADS,
}


def write(vocabulary: Path, target: Path) -> Path:
    """With the vocabulary and the template of that model. 8-bit weights, the same in each layer."""
    keys = {name: _typed(value) for name, value in _KEYS.items()}
    keys |= {name: raw for name, raw in raw_keys(vocabulary).items() if name.startswith("tokenizer.")}
    (words,) = struct.unpack_from("<Q", keys["tokenizer.ggml.tokens"], 8)
    tensors = list(_tensors(int(words)))
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(keys))
    head += b"".join(_text(name) + raw for name, raw in keys.items())
    offset = 0
    for name, shape in tensors:
        kind = _F32 if len(shape) == 1 else _Q8_0
        head += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), kind, offset)
        offset += _size(shape)
    chance = np.random.default_rng(0)
    known: dict[tuple[int, ...], bytes] = {}
    with target.open("wb") as file:
        file.write(head + bytes(-len(head) % _ALIGN))
        for _, shape in tensors:
            if shape not in known:
                known[shape] = _weights(chance, shape)
            file.write(known[shape])
    return target


def _tensors(words: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes, rows first; whole blocks, so that nothing has to be padded."""
    yield "token_embd.weight", (words, _WIDTH)
    yield "output_norm.weight", (_WIDTH,)
    narrow = _WIDTH * _KV_HEADS // _HEADS
    for layer in range(LAYERS):
        for name, shape in (
            ("attn_norm", (_WIDTH,)),
            ("attn_q", (_WIDTH, _WIDTH)),
            ("attn_k", (narrow, _WIDTH)),
            ("attn_v", (narrow, _WIDTH)),
            ("attn_output", (_WIDTH, _WIDTH)),
            ("ffn_norm", (_WIDTH,)),
            ("ffn_gate", (_FEED, _WIDTH)),
            ("ffn_up", (_FEED, _WIDTH)),
            ("ffn_down", (_WIDTH, _FEED)),
        ):
            yield f"blk.{layer}.{name}.weight", shape


def _size(shape: tuple[int, ...]) -> int:
    count = math.prod(shape)
    return 4 * count if len(shape) == 1 else count // _BLOCK * (2 + _BLOCK)


def _weights(chance: np.random.Generator, shape: tuple[int, ...]) -> bytes:
    if len(shape) == 1:
        return np.ones(shape, np.float32).tobytes()
    blocks = math.prod(shape) // _BLOCK
    made = np.zeros(blocks, np.dtype([("scale", "<f2"), ("values", "i1", _BLOCK)]))
    made["scale"] = 1 / (64 * math.sqrt(shape[1]))
    made["values"] = chance.integers(-127, 128, (blocks, _BLOCK), np.int8)
    return made.tobytes()


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def _typed(value: float | str) -> bytes:
    match value:
        case str():
            return struct.pack("<I", 8) + _text(value)
        case int():
            return struct.pack("<II", 4, value)
        case _:
            return struct.pack("<If", 6, value)
