"""What sizes a model comes from its header, or the reason why there is no model."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swapd.core.model import Shape
from swapd.host.gguf import UnreadableModel, read
from swapd.host.shapes import shape

Put = Callable[..., Path]
Gguf = Callable[..., bytes]


def shape_of(content: bytes, put: Put) -> Shape:
    return shape([read(put("m.gguf", content))])


def test_a_shape_with_everything_by_default(put: Put, gguf: Gguf) -> None:
    assert shape_of(gguf(), put) == Shape(
        architecture="llama",
        layers=2,
        embedding=64,
        heads=4,
        kv_heads=(2, 2),
        key_length=16,
        value_length=16,
        vocabulary=3,
        trained_context=512,
        weights=548,
    )


def test_a_shape_with_everything_said(put: Put, gguf: Gguf) -> None:
    said = {
        "llama.attention.head_count": [4, 8],
        "llama.attention.head_count_kv": [0, 2],
        "llama.attention.key_length": 128,
        "llama.attention.value_length": 96,
        "llama.attention.sliding_window": 256,
        "llama.vocab_size": 1000,
    }
    found = shape_of(gguf(said), put)
    assert (found.heads, found.kv_heads) == (8, (0, 2))
    assert (found.key_length, found.value_length, found.window, found.vocabulary) == (128, 96, 256, 1000)


def test_a_model_without_attention_has_a_shape(put: Put, gguf: Gguf) -> None:
    found = shape_of(gguf({"llama.attention.head_count": None, "llama.attention.head_count_kv": None}), put)
    assert (found.heads, found.kv_heads, found.key_length) == (0, (0, 0), 0)


def test_weights_of_all_parts_are_summed(put: Put, gguf: Gguf) -> None:
    second = read(put("b.gguf", gguf({"split.no": 1}, only=True)))
    assert shape([read(put("a.gguf")), second]).weights == 2 * 548


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"llama.block_count": None}, "lacks llama.block_count"),
        ({"llama.embedding_length": None}, "lacks llama.embedding_length"),
        ({"llama.context_length": None}, "lacks llama.context_length"),
        ({"tokenizer.ggml.tokens": None}, "lacks llama.vocab_size"),
        ({"llama.block_count": 0}, "impossible llama.block_count: 0"),
        ({"llama.block_count": 5000}, "5000 layers"),
        ({"llama.block_count": "two"}, "impossible llama.block_count: two"),
        ({"llama.block_count": True}, "impossible llama.block_count: True"),
        ({"llama.context_length": 2.0}, "impossible llama.context_length"),
        ({"llama.context_length": struct.pack("<IQ", 10, 2**63)}, "impossible llama.context_length"),
        ({"llama.attention.head_count_kv": [2]}, "impossible llama.attention.head_count_kv"),
        ({"llama.attention.head_count_kv": [2, -2]}, "impossible llama.attention.head_count_kv"),
        ({"llama.attention.sliding_window": []}, "impossible llama.attention.sliding_window"),
        ({"general.architecture": None}, "architecture"),
        ({"general.architecture": "clip"}, "mmproj"),
        ({"general.type": "mmproj"}, "mmproj"),
        ({"general.type": "adapter"}, "'adapter', not a model"),
        ({"llama.attention.causal": False}, "embedding model"),
    ],
)
def test_what_is_no_model_says_why(changes: dict[str, Any], words: str, put: Put, gguf: Gguf) -> None:
    with pytest.raises(UnreadableModel, match=words):
        shape_of(gguf(changes), put)


def test_a_vocabulary_alone_is_no_model(put: Put, gguf: Gguf) -> None:
    with pytest.raises(UnreadableModel, match="no tensors"):
        shape_of(gguf(tensors=[]), put)


def test_real_models_have_shapes(real_model: Callable[[str], Path]) -> None:
    smollm = shape([read(real_model("SmolLM2-135M-Instruct.Q4_1.gguf"))])
    assert (smollm.layers, smollm.embedding, smollm.heads, smollm.kv_heads) == (30, 576, 9, (3,) * 30)
    assert (smollm.key_length, smollm.vocabulary, smollm.trained_context, smollm.window) == (64, 49152, 8192, None)
    gemma = shape([read(real_model("gemma-3-270m-Q4_K_M.gguf"))])
    assert (gemma.layers, gemma.key_length, gemma.vocabulary, gemma.window) == (18, 256, 262144, 512)
