"""Model files for tests that need more than the demo models have: other keys in a copy, tiny ones of random weights."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_ALIGN: Final = 32
_SIZES: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9

Array = NDArray[np.float32]


def infilling(source: Path, target: Path) -> Path:
    """A copy whose vocabulary has tokens for filling in the middle: some of its first ones, which are markers."""
    marks = {"fim_pre": 3, "fim_suf": 4, "fim_mid": 5, "fim_rep": 6, "fim_sep": 7}
    return with_keys(source, target, {f"tokenizer.ggml.{name}_token_id": token for name, token in marks.items()})


def with_keys(source: Path, target: Path, keys: Mapping[str, Any]) -> Path:
    """A copy of the model with these keys besides; none of them may be there already."""
    data = source.read_bytes()
    version, tensors, count = struct.unpack_from("<IQQ", data, 4)
    at = 24
    for _ in range(count):
        at = _after_value(data, _after_string(data, at))
    infos = at
    for _ in range(tensors):
        at = _after_string(data, at)
        (dims,) = struct.unpack_from("<I", data, at)
        at += 4 + 8 * dims + 4 + 8
    head = struct.pack("<4sIQQ", b"GGUF", version, tensors, count + len(keys)) + data[24:infos]
    head += b"".join(_text(key) + _typed(value) for key, value in keys.items()) + data[infos:at]
    target.write_bytes(head + bytes(-len(head) % _ALIGN) + data[at + (-at % _ALIGN) :])
    return target


def write(target: Path, keys: Mapping[str, Any], tensors: Mapping[str, Array]) -> Path:
    """A model file; tensors are kept as 32-bit floats, their axes as numpy has them."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(keys))
    head += b"".join(_text(key) + _typed(value) for key, value in keys.items())
    body = b""
    for name, values in tensors.items():
        body += bytes(-len(body) % _ALIGN)
        axes = tuple(reversed(values.shape))
        head += _text(name) + struct.pack(f"<I{len(axes)}QIQ", len(axes), *axes, 0, len(body))
        body += values.astype("<f4").tobytes()
    target.write_bytes(head + bytes(-len(head) % _ALIGN) + body)
    return target


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def _typed(value: Any) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", _STRING) + _text(value)
        case [str(), *_]:
            return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(map(_text, value))
        case [float(), *_]:
            return struct.pack(f"<IIQ{len(value)}f", _ARRAY, 6, len(value), *value)
        case [*numbers]:
            return struct.pack(f"<IIQ{len(numbers)}i", _ARRAY, 5, len(numbers), *numbers)
        case _:
            raise AssertionError(value)


def raw_keys(source: Path) -> dict[str, bytes]:
    """The header's keys, each value as it stands there, its type before it."""
    data = source.read_bytes()
    (count,) = struct.unpack_from("<Q", data, 16)
    at, keys = 24, {}
    for _ in range(count):
        value = _after_string(data, at)
        end = _after_value(data, value)
        keys[data[at + 8 : value].decode()] = data[value:end]
        at = end
    return keys


def _after_string(data: bytes, at: int) -> int:
    (length,) = struct.unpack_from("<Q", data, at)
    return at + 8 + int(length)


def _after_value(data: bytes, at: int) -> int:
    (kind,) = struct.unpack_from("<I", data, at)
    at += 4
    if kind == _STRING:
        return _after_string(data, at)
    if kind != _ARRAY:
        return at + _SIZES[kind]
    inner, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if inner != _STRING:
        return at + int(count) * _SIZES[inner]
    for _ in range(count):
        at = _after_string(data, at)
    return at


def tiny_bert(target: Path, *, context: int = 64, ranks: bool = False) -> Path:
    """A BERT of random weights with a vocabulary of words; with `ranks`, one that scores pairs."""
    width, feed, layers, heads = 32, 64, 2, 4
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += [f"\u2581{word}" for word in ("cat", "dog", "sat", "on", "the", "mat", "sky", "is", "blue", "red", "a")]
    words += [f"\u2581{letter}" for letter in "bcdefghijklmnopqrstuvwxyz"] + list("abcdefghijklmnopqrstuvwxyz")
    chance = np.random.default_rng(7)

    def some(*shape: int) -> Array:
        return (chance.standard_normal(shape) * 0.2).astype(np.float32)

    def ones(*shape: int) -> Array:
        return np.ones(shape, np.float32)

    tensors: dict[str, Array] = {
        "token_embd.weight": some(len(words), width),
        "token_types.weight": some(2, width),
        "position_embd.weight": some(context, width),
        "token_embd_norm.weight": ones(width),
        "token_embd_norm.bias": some(width),
    }
    for layer in range(layers):
        for name, rows in (("attn_q", width), ("attn_k", width), ("attn_v", width), ("attn_output", width)):
            tensors[f"blk.{layer}.{name}.weight"] = some(rows, width)
            tensors[f"blk.{layer}.{name}.bias"] = some(rows)
        tensors[f"blk.{layer}.ffn_up.weight"], tensors[f"blk.{layer}.ffn_up.bias"] = some(feed, width), some(feed)
        tensors[f"blk.{layer}.ffn_down.weight"], tensors[f"blk.{layer}.ffn_down.bias"] = some(width, feed), some(width)
        for name in ("attn_output_norm", "layer_output_norm"):
            tensors[f"blk.{layer}.{name}.weight"], tensors[f"blk.{layer}.{name}.bias"] = ones(width), some(width)
    if ranks:
        tensors |= {"cls.weight": some(width, width), "cls.bias": some(width)}
        tensors |= {"cls.output.weight": some(1, width), "cls.output.bias": some(1)}
    keys: dict[str, Any] = {
        "general.architecture": "bert",
        "general.file_type": 0,
        "bert.context_length": context,
        "bert.embedding_length": width,
        "bert.feed_forward_length": feed,
        "bert.block_count": layers,
        "bert.attention.head_count": heads,
        "bert.attention.layer_norm_epsilon": 1e-12,
        "bert.attention.causal": False,
        "bert.pooling_type": 4 if ranks else 1,
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.token_type": [3] * 5 + [1] * (len(words) - 5),
        "tokenizer.ggml.scores": [0.0] * len(words),
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.mask_token_id": 4,
    }
    if ranks:
        keys["bert.classifier.output_labels"] = ["relevance"]
    return write(target, keys, tensors)


def tiny_llama(target: Path, *, context: int = 1024) -> Path:
    """A Llama of random weights whose words are single bytes: loaded in no time, and what it says is noise."""
    width, feed, layers, heads = 64, 128, 2, 4
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    chance = np.random.default_rng(11)

    def some(*shape: int) -> Array:
        return (chance.standard_normal(shape) / float(np.sqrt(shape[-1]))).astype(np.float32)

    ones = np.ones(width, np.float32)
    tensors: dict[str, Array] = {"token_embd.weight": some(len(words), width), "output_norm.weight": ones}
    for layer in range(layers):
        for name, rows, columns in (
            *((name, width, width) for name in ("attn_q", "attn_k", "attn_v", "attn_output")),
            *((name, feed, width) for name in ("ffn_gate", "ffn_up")),
            ("ffn_down", width, feed),
        ):
            tensors[f"blk.{layer}.{name}.weight"] = some(rows, columns)
        tensors |= {f"blk.{layer}.{name}.weight": ones for name in ("attn_norm", "ffn_norm")}
    keys: dict[str, Any] = {
        "general.architecture": "llama",
        "general.file_type": 0,
        "llama.context_length": context,
        "llama.embedding_length": width,
        "llama.feed_forward_length": feed,
        "llama.block_count": layers,
        "llama.attention.head_count": heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": width // heads,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.scores": [0.0] * len(words),
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    return write(target, keys, tensors)
