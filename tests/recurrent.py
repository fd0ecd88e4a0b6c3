"""A tiny Mamba model with random weights: what it says is nonsense, but its memory is one that cannot be cut back."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

WIDTH, INNER, STATE, CONV, RANK, LAYERS = 64, 128, 16, 4, 4, 2
_UNKNOWN, _CONTROL, _BYTE = 2, 3, 6


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def _typed(value: Any) -> bytes:
    match value:
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + _text(value)
        case [str(), *_]:
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value))
        case [float(), *_]:
            return struct.pack(f"<IIQ{len(value)}f", 9, 6, len(value), *value)
        case [*_]:
            return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)
        case _:
            raise AssertionError(value)


def write_mamba(path: Path, seed: int = 0) -> Path:
    chance = np.random.default_rng(seed)
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    keys: dict[str, Any] = {
        "general.architecture": "mamba",
        "mamba.context_length": 4096,
        "mamba.embedding_length": WIDTH,
        "mamba.feed_forward_length": 0,
        "mamba.attention.head_count": 0,
        "mamba.block_count": LAYERS,
        "mamba.ssm.conv_kernel": CONV,
        "mamba.ssm.inner_size": INNER,
        "mamba.ssm.state_size": STATE,
        "mamba.ssm.time_step_rank": RANK,
        "mamba.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.scores": [0.0] * len(words),
        "tokenizer.ggml.token_type": [_UNKNOWN, _CONTROL, _CONTROL] + [_BYTE] * 256,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }

    def some(*shape: int, scale: float = 1.0) -> npt.NDArray[np.float32]:
        return chance.normal(0, scale / np.sqrt(shape[-1]), shape).astype(np.float32)

    def ones(size: int) -> npt.NDArray[np.float32]:
        return np.ones(size, np.float32)

    tensors = {"token_embd.weight": some(len(words), WIDTH, scale=8.0), "output_norm.weight": ones(WIDTH)}
    for layer in range(LAYERS):
        decay = (-np.tile(np.arange(1, STATE + 1), (INNER, 1)) / STATE).astype(np.float32)
        tensors |= {
            f"blk.{layer}.attn_norm.weight": ones(WIDTH),
            f"blk.{layer}.ssm_in.weight": some(2 * INNER, WIDTH, scale=2.0),
            f"blk.{layer}.ssm_conv1d.weight": some(INNER, CONV, scale=2.0),
            f"blk.{layer}.ssm_conv1d.bias": some(INNER),
            f"blk.{layer}.ssm_x.weight": some(RANK + 2 * STATE, INNER, scale=2.0),
            f"blk.{layer}.ssm_dt.weight": some(INNER, RANK),
            f"blk.{layer}.ssm_dt.bias": some(INNER),
            f"blk.{layer}.ssm_a": decay,
            f"blk.{layer}.ssm_d": ones(INNER),
            f"blk.{layer}.ssm_out.weight": some(WIDTH, INNER, scale=2.0),
        }
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    head += b"".join(_text(key) + _typed(value) for key, value in keys.items())
    data = b""
    for name, values in tensors.items():
        data += bytes(-len(data) % 32)
        head += _text(name) + struct.pack(f"<I{values.ndim}Q", values.ndim, *reversed(values.shape))
        head += struct.pack("<IQ", 0, len(data))
        data += values.astype(np.float32).tobytes()
    path.write_bytes(head + bytes(-len(head) % 32) + data)
    return path
