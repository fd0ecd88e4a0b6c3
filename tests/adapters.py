"""Random LoRA adapters for SmolLM2-135M, written byte by byte: what they say is nonsense, and not the base's."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

LAYERS, WIDTH = 30, 576
RANK = 8


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def write_adapter(
    path: Path, seed: int, *, scale: float = 1.0, architecture: str = "llama", width: int = WIDTH
) -> Path:
    """Queries and outputs of attention, in all layers: 2.2 MB."""
    chance = np.random.default_rng(seed)
    keys = {"general.architecture": architecture, "general.type": "adapter", "adapter.type": "lora"}
    head = b"GGUF" + struct.pack("<IQQ", 3, LAYERS * 4, len(keys) + 1)
    head += b"".join(_text(key) + struct.pack("<I", 8) + _text(value) for key, value in keys.items())
    head += _text("adapter.lora.alpha") + struct.pack("<If", 6, float(RANK))
    data = b""
    for layer in range(LAYERS):
        for name in ("attn_q", "attn_output"):
            a = chance.normal(0, scale / np.sqrt(width), (RANK, width)).astype(np.float32)
            b = chance.normal(0, scale, (width, RANK)).astype(np.float32)
            for part, values in (("lora_a", a), ("lora_b", b)):
                head += _text(f"blk.{layer}.{name}.weight.{part}")
                head += struct.pack("<IQQIQ", 2, values.shape[1], values.shape[0], 0, len(data))
                data += values.tobytes()
    path.write_bytes(head + bytes(-len(head) % 32) + data)
    return path
