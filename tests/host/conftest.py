"""Tiny GGUF files, written here byte by byte so that they can be wrong in every way."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

LLAMA: Mapping[str, Any] = {
    "general.architecture": "llama",
    "general.file_type": 2,
    "llama.block_count": 2,
    "llama.context_length": 512,
    "llama.embedding_length": 64,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "tokenizer.ggml.tokens": ["a", "bc", "def"],
    "tokenizer.chat_template": "{{ messages }}",
}
TENSORS = (("token_embd.weight", (64, 3), 1), ("blk.0.ffn_up.weight", (64, 4), 2), ("output_norm.weight", (5,), 0))
"""F16, Q4_0 and F32: 384, 144 and 20 bytes; 453 parameters."""

_BYTES = {0: (1, 4), 1: (1, 2), 2: (32, 18)}


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def typed(value: Any) -> bytes:
    """A value with its type before it; bytes are taken as they are."""
    match value:
        case bytes():
            return value
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + text(value)
        case [str(), *_]:
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
        case [*numbers]:
            return struct.pack("<IIQ", 9, 5, len(numbers)) + struct.pack(f"<{len(numbers)}i", *numbers)
        case _:
            raise AssertionError(value)


@dataclass(frozen=True)
class Writer:
    """Called for the bytes of a model file. Keys are changed by `changes`; None leaves one out."""

    llama: Mapping[str, Any]

    def __call__(
        self,
        changes: Mapping[str, Any] | None = None,
        *,
        tensors: Sequence[tuple[str, tuple[int, ...], int]] = TENSORS,
        version: int = 3,
        shift: int = 0,
        only: bool = False,
    ) -> bytes:
        merged = {**({} if only else self.llama), **(changes or {})}
        keys = {key: value for key, value in merged.items() if value is not None}
        head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys))
        head += b"".join(text(key) + typed(value) for key, value in keys.items())
        data = b""
        for name, dims, kind in tensors:
            data += bytes(-len(data) % 32)
            head += text(name) + struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
            head += struct.pack("<IQ", kind, len(data) + shift)
            elements = 1
            for dim in dims:
                elements *= dim
            block, size = _BYTES.get(kind, (1, 1))
            data += bytes(elements // block * size)
        return head + bytes(-len(head) % 32) + data


@pytest.fixture(scope="session")
def gguf() -> Writer:
    return Writer(LLAMA)


@pytest.fixture
def put(tmp_path: Path, gguf: Writer) -> Callable[..., Path]:
    """`put("folder/name.gguf")` writes a small model there; a second argument is what is written instead."""

    def put(name: str, content: bytes | None = None) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gguf() if content is None else content)
        return path

    return put


@pytest.fixture(scope="session")
def real_model() -> Callable[[str], Path]:
    """The demo model of that file name; skips where it is not."""

    def find(name: str) -> Path:
        from swapd.demo import models

        path = Path(os.environ.get("SWAPD_TEST_MODELS") or models.folder()) / name
        if not path.exists():
            pytest.skip(f"no {path}: set SWAPD_TEST_MODELS to a folder that holds it, or run make setup")
        return path

    return find
