"""Tiny models with random weights: what they say is nonsense, but their memory is one that cannot be cut back.

Mamba has nothing but recurrent states; Jamba is a hybrid, with a layer of attention among them.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

WIDTH, INNER, STATE, CONV, RANK, LAYERS = 64, 128, 16, 4, 4, 2
WORDS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
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


Tensors = dict[str, npt.NDArray[np.float32]]


def write_mamba(path: Path, seed: int = 0) -> Path:
    made = _Made(seed)
    tensors = made.ends()
    for layer in range(LAYERS):
        tensors |= made.mixer(layer)
    return _write(
        path, _keys("mamba", LAYERS) | {"mamba.feed_forward_length": 0, "mamba.attention.head_count": 0}, tensors
    )


def write_jamba(path: Path, seed: int = 0) -> Path:
    """Recurrent, attention, recurrent."""
    made = _Made(seed)
    tensors = made.ends()
    for layer in range(3):
        prefix = f"blk.{layer}"
        if layer == 1:
            tensors |= {
                f"{prefix}.attn_norm.weight": made.ones(WIDTH),
                f"{prefix}.attn_q.weight": made.some(WIDTH, WIDTH, scale=2.0),
                f"{prefix}.attn_k.weight": made.some(WIDTH // 2, WIDTH, scale=2.0),
                f"{prefix}.attn_v.weight": made.some(WIDTH // 2, WIDTH, scale=2.0),
                f"{prefix}.attn_output.weight": made.some(WIDTH, WIDTH, scale=2.0),
            }
        else:
            tensors |= made.mixer(layer) | {
                f"{prefix}.ssm_dt_norm.weight": made.ones(RANK),
                f"{prefix}.ssm_b_norm.weight": made.ones(STATE),
                f"{prefix}.ssm_c_norm.weight": made.ones(STATE),
            }
        tensors |= {
            f"{prefix}.ffn_norm.weight": made.ones(WIDTH),
            f"{prefix}.ffn_gate.weight": made.some(INNER, WIDTH),
            f"{prefix}.ffn_up.weight": made.some(INNER, WIDTH),
            f"{prefix}.ffn_down.weight": made.some(WIDTH, INNER),
        }
    keys = {
        "jamba.feed_forward_length": INNER,
        "jamba.attention.head_count": 4,
        "jamba.attention.head_count_kv": [0, 2, 0],
    }
    return _write(path, _keys("jamba", 3) | keys, tensors)


class _Made:
    """Tensors by chance."""

    def __init__(self, seed: int) -> None:
        self._chance = np.random.default_rng(seed)

    def some(self, *shape: int, scale: float = 1.0) -> npt.NDArray[np.float32]:
        return self._chance.normal(0, scale / np.sqrt(shape[-1]), shape).astype(np.float32)

    def ones(self, size: int) -> npt.NDArray[np.float32]:
        return np.ones(size, np.float32)

    def ends(self) -> Tensors:
        """What comes before the layers and after them."""
        return {"token_embd.weight": self.some(len(WORDS), WIDTH, scale=8.0), "output_norm.weight": self.ones(WIDTH)}

    def mixer(self, layer: int) -> Tensors:
        """A recurrent layer."""
        decay = (-np.tile(np.arange(1, STATE + 1), (INNER, 1)) / STATE).astype(np.float32)
        return {
            f"blk.{layer}.attn_norm.weight": self.ones(WIDTH),
            f"blk.{layer}.ssm_in.weight": self.some(2 * INNER, WIDTH, scale=2.0),
            f"blk.{layer}.ssm_conv1d.weight": self.some(INNER, CONV, scale=2.0),
            f"blk.{layer}.ssm_conv1d.bias": self.some(INNER),
            f"blk.{layer}.ssm_x.weight": self.some(RANK + 2 * STATE, INNER, scale=2.0),
            f"blk.{layer}.ssm_dt.weight": self.some(INNER, RANK),
            f"blk.{layer}.ssm_dt.bias": self.some(INNER),
            f"blk.{layer}.ssm_a": decay,
            f"blk.{layer}.ssm_d": self.ones(INNER),
            f"blk.{layer}.ssm_out.weight": self.some(WIDTH, INNER, scale=2.0),
        }


def _keys(architecture: str, layers: int) -> dict[str, Any]:
    return {
        "general.architecture": architecture,
        f"{architecture}.context_length": 4096,
        f"{architecture}.embedding_length": WIDTH,
        f"{architecture}.block_count": layers,
        f"{architecture}.ssm.conv_kernel": CONV,
        f"{architecture}.ssm.inner_size": INNER,
        f"{architecture}.ssm.state_size": STATE,
        f"{architecture}.ssm.time_step_rank": RANK,
        f"{architecture}.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": WORDS,
        "tokenizer.ggml.scores": [0.0] * len(WORDS),
        "tokenizer.ggml.token_type": [_UNKNOWN, _CONTROL, _CONTROL] + [_BYTE] * 256,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def _write(path: Path, keys: dict[str, Any], tensors: Tensors) -> Path:
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
