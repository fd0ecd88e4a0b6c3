"""What sizes a model comes from its header, or the reason why there is no model."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swapd.core.model import Shape
from swapd.host.gguf import UnreadableModel, read
from swapd.host.shapes import pooling, shape

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
        feed_forward=256,
        layer_weights=(144, 0),
        expert_weights=(0, 0),
        host_weights=(384, 528, 528, 564),
        full_cache=(64, 64),
        window_cache=(0, 0),
        states=(0, 0),
        output_weights=20 + 384,
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


def of_architecture(name: str, said: dict[str, Any], layers: int = 6) -> dict[str, Any]:
    """Keys of another architecture: heads of 16, two for keys and values, unless said otherwise."""
    keys = {
        "block_count": layers,
        "context_length": 512,
        "embedding_length": 64,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
    }
    plain: dict[str, Any] = {f"llama.{key}": None for key in keys}
    told = {f"{name}.{key}": value for key, value in (keys | said).items()}
    return {**plain, "general.architecture": name, **told}


@pytest.mark.parametrize(
    ("architecture", "said", "slides"),
    [
        ("gemma3", {"attention.sliding_window": 512}, (True, True, True, True, True, False)),
        ("gemma2", {}, (True, False, True, False, True, False)),
        ("gemma3", {"attention.sliding_window": 512, "attention.sliding_window_pattern": 3}, (True, True, False) * 2),
        ("smallthinker", {}, (False, True, True, True, False, True)),
        (
            "new",
            {"attention.sliding_window": 9, "attention.sliding_window_pattern": [1, 0, 1, 0, 0, 1]},
            (True, False, True, False, False, True),
        ),
        ("new", {"attention.sliding_window": 9}, (False,) * 6),
        ("gemma3", {}, (False,) * 6),
        ("phi3", {"attention.sliding_window": 9}, (False,) * 6),
    ],
)
def test_layers_slide_as_llama_cpp_has_them_slide(
    architecture: str, said: dict[str, Any], slides: tuple[bool, ...], put: Put, gguf: Gguf
) -> None:
    found = shape_of(gguf(of_architecture(architecture, said)), put)
    assert found.full_cache == tuple(0 if slide else 64 for slide in slides)
    assert found.window_cache == tuple(64 if slide else 0 for slide in slides)


def test_latent_attention_keeps_compressed_keys_alone(put: Put, gguf: Gguf) -> None:
    """kv_lora_rank and the rotated part are the key's length."""
    said = {
        "attention.head_count_kv": 1,
        "attention.key_length": 576,
        "attention.value_length": 512,
        "attention.key_length_mla": 192,
        "attention.value_length_mla": 128,
    }
    assert shape_of(gguf(of_architecture("deepseek2", said)), put).full_cache == (576,) * 6


def test_layers_without_a_cache_of_their_own_take_none(put: Put, gguf: Gguf) -> None:
    shared = shape_of(gguf(of_architecture("gemma4", {"attention.shared_kv_layers": 2})), put)
    assert shared.full_cache == (64, 64, 64, 64, 0, 0)
    assert shape_of(gguf(of_architecture("glm4moe", {"nextn_predict_layers": 1})), put).full_cache == (64,) * 5 + (0,)


@pytest.mark.parametrize(
    ("architecture", "said", "states", "cache"),
    [
        ("mamba", {}, (4 * (3 * (128 + 0) + 16 * 128),) * 6, (0,) * 6),
        (
            "jamba",
            {"attention.head_count_kv": [0, 2, 0, 0, 2, 0]},
            (9728, 0, 9728, 9728, 0, 9728),
            (0, 64, 0, 0, 64, 0),
        ),
        ("falcon-h1", {}, (9728,) * 6, (64,) * 6),
        ("qwen3next", {"full_attention_interval": 3}, (9728, 9728, 0) * 2, (0, 0, 64) * 2),
        ("rwkv7", {"wkv.head_size": 64}, (4 * (2 * 64 + 64 * 64),) * 6, (0,) * 6),
        (
            "lfm2",
            {"attention.head_count_kv": [0] * 5 + [2], "shortconv.l_cache": 3},
            (512,) * 5 + (0,),
            (0,) * 5 + (64,),
        ),
    ],
)
def test_recurrent_layers_have_a_state_instead(
    architecture: str, said: dict[str, Any], states: tuple[int, ...], cache: tuple[int, ...], put: Put, gguf: Gguf
) -> None:
    ssm = {"ssm.conv_kernel": 4, "ssm.inner_size": 128, "ssm.state_size": 16}
    found = shape_of(gguf(of_architecture(architecture, ssm | said)), put)
    assert (found.states, found.full_cache) == (states, cache)


def test_experts_are_told_apart_and_the_output_has_weights_of_its_own(put: Put, gguf: Gguf) -> None:
    tensors = (
        ("output.weight", (64, 8), 1),
        ("token_embd.weight", (64, 8), 1),
        ("blk.1.ffn_up_exps.weight", (64, 8, 2), 2),
        ("blk.1.attn_q.weight", (64, 8), 2),
        ("blk.0.attn_q.weight", (64, 8), 0),
        ("blk.00000001.odd", (8,), 0),
    )
    found = shape_of(gguf({"llama.expert_used_count": 2, "llama.feed_forward_length": 100}, tensors=tensors), put)
    assert (found.layer_weights, found.expert_weights, found.expert_layers) == ((2048, 576 + 288), (0, 576), 1)
    assert found.output_weights == 1024
    assert found.feed_forward == 2 * 100 + 2 * 64 // 3
    everything, first_layer = 1024 + 1024 + 576 + 288 + 2048 + 32, 1024 + 576 + 288 + 2048
    assert found.host_weights == (1024, first_layer, first_layer + 864, everything + 864), (
        "and copies in their own order"
    )


def test_weights_of_all_parts_are_summed(put: Put, gguf: Gguf) -> None:
    second = read(put("b.gguf", gguf({"split.no": 1}, only=True)))
    assert shape([read(put("a.gguf")), second]).weights == 2 * 548
    assert shape([read(put("a.gguf")), second]).host_weights == (768, 1056, 1056, 1128)


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
    ],
)
def test_what_is_no_model_says_why(changes: dict[str, Any], words: str, put: Put, gguf: Gguf) -> None:
    with pytest.raises(UnreadableModel, match=words):
        shape_of(gguf(changes), put)


def test_a_vocabulary_alone_is_no_model(put: Put, gguf: Gguf) -> None:
    with pytest.raises(UnreadableModel, match="no tensors"):
        shape_of(gguf(tensors=[]), put)


def test_real_models_have_shapes(real_model: Callable[[str], Path]) -> None:
    smollm = shape([read(real_model("smollm2-135m.gguf"))])
    assert (smollm.layers, smollm.embedding, smollm.heads, smollm.kv_heads) == (30, 576, 9, (3,) * 30)
    assert (smollm.key_length, smollm.vocabulary, smollm.trained_context, smollm.window) == (64, 49152, 8192, None)
    assert (smollm.layer_weights, smollm.output_weights) == ((2_216_448,) * 30, 30_083_328)
    assert (smollm.host_weights[0], smollm.host_weights[31]) == (30_081_024, 96_576_768)
    gemma = shape([read(real_model("gemma3-270m.gguf"))])
    assert [layer for layer in range(18) if gemma.full_cache[layer]] == [5, 11, 17]
    assert (gemma.layers, gemma.key_length, gemma.vocabulary, gemma.window) == (18, 256, 262144, 512)


@pytest.mark.parametrize(
    ("changes", "wanted", "told"),
    [
        ({}, False, ""),
        ({}, True, "last"),
        ({"llama.attention.causal": False}, False, "mean"),
        ({"llama.pooling_type": 3}, False, "last"),
        ({"llama.pooling_type": 0}, False, ""),
        ({"llama.pooling_type": 0}, True, "last"),
        ({"llama.attention.causal": False, "llama.pooling_type": 2}, False, "cls"),
        ({"llama.pooling_type": 4}, False, "rank"),
        ({"llama.pooling_type": 99}, False, ""),
    ],
)
def test_what_makes_vectors_is_told_by_the_file_or_wanted_by_the_owner(
    gguf: Gguf, put: Put, changes: dict[str, object], wanted: bool, told: str
) -> None:
    assert pooling(read(put("m.gguf", gguf(changes))), wanted) == told


def test_a_model_that_reads_texts_as_a_whole_keeps_no_cache(gguf: Gguf, put: Put) -> None:
    header = read(put("m.gguf", gguf({"llama.attention.causal": False})))
    assert set(shape([header]).full_cache) == {0}
