"""Model files for tests that need more than the demo models have: other keys in a copy, tiny ones of random weights."""

from __future__ import annotations

import struct
import zlib
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


def tiny_projector(
    target: Path, *, width: int = 576, kind: str = "mlp", side: int = 56, inner: int = 32, seed: int = 11
) -> Path:
    """A projector of random weights for a model of this width (SmolLM2's): a picture becomes 16 tokens.

    `kind` "mlp" is LLaVA's; "gemma3" has its tokens see each other, 16 of them with a `side` of 224; "qwen2vl_merger"
    counts positions in a plane, for a model that does.
    """
    patch, layers = 14, 2
    chance = np.random.default_rng(seed)

    def some(*shape: int, scale: float = 0.2) -> Array:
        return (chance.standard_normal(shape) * scale).astype(np.float32)

    def ones(*shape: int) -> Array:
        return np.ones(shape, np.float32)

    tensors: dict[str, Array] = {
        "v.patch_embd.weight": some(inner, 3, patch, patch),
        "v.position_embd.weight": some((side // patch) ** 2, inner),
        "v.pre_ln.weight": ones(inner),
        "v.pre_ln.bias": some(inner),
        "v.post_ln.weight": ones(inner),
        "v.post_ln.bias": some(inner),
    }
    for layer in range(layers):
        block = f"v.blk.{layer}"
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            tensors[f"{block}.{name}.weight"], tensors[f"{block}.{name}.bias"] = some(inner, inner), some(inner)
        tensors[f"{block}.ffn_up.weight"], tensors[f"{block}.ffn_up.bias"] = some(2 * inner, inner), some(2 * inner)
        tensors[f"{block}.ffn_down.weight"], tensors[f"{block}.ffn_down.bias"] = some(inner, 2 * inner), some(inner)
        for name in ("ln1", "ln2"):
            tensors[f"{block}.{name}.weight"], tensors[f"{block}.{name}.bias"] = ones(inner), some(inner)
    if kind == "gemma3":
        tensors["mm.soft_emb_norm.weight"] = ones(inner)
        tensors["mm.input_projection.weight"] = some(inner, width)
    elif kind == "qwen2vl_merger":
        tensors["v.patch_embd.weight.1"] = some(inner, 3, patch, patch)
        tensors["mm.0.weight"], tensors["mm.0.bias"] = some(4 * inner, 4 * inner, scale=0.1), some(4 * inner)
        tensors["mm.2.weight"], tensors["mm.2.bias"] = some(width, 4 * inner, scale=0.1), some(width, scale=0.1)
    else:
        tensors["mm.0.weight"], tensors["mm.0.bias"] = some(48, inner), some(48)
        tensors["mm.2.weight"], tensors["mm.2.bias"] = some(width, 48, scale=0.1), some(width, scale=0.1)
    keys: dict[str, Any] = {
        "general.architecture": "clip",
        "general.type": "mmproj",
        "clip.has_vision_encoder": True,
        "clip.projector_type": kind,
        "clip.use_gelu": True,
        "clip.vision.image_size": side,
        "clip.vision.patch_size": patch,
        "clip.vision.embedding_length": inner,
        "clip.vision.feed_forward_length": 2 * inner,
        "clip.vision.block_count": layers,
        "clip.vision.projection_dim": width,
        "clip.vision.attention.head_count": 4,
        "clip.vision.attention.layer_norm_epsilon": 1e-5,
        "clip.vision.image_mean": [0.5, 0.5, 0.5],
        "clip.vision.image_std": [0.5, 0.5, 0.5],
    }
    return write(target, keys, tensors)


def picture(colour: tuple[int, int, int], width: int = 40, height: int = 30) -> bytes:
    """A PNG file of one colour with a white corner."""
    line = bytes(colour) * width
    first = b"\xff" * 3 * (width // 2) + line[: 3 * (width - width // 2)]
    rows = b"".join(b"\0" + (first if row < height // 2 else line) for row in range(height))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiny_qwen(target: Path, *, width: int = 64, context: int = 1024) -> Path:
    """A Qwen2-VL of random weights, which counts the positions of a picture in a plane. Its vocabulary is bytes."""
    layers, heads, feed = 2, 4, 128
    chance = np.random.default_rng(5)

    def some(*shape: int) -> Array:
        return (chance.standard_normal(shape) * 0.2).astype(np.float32)

    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]  # GPT-2's letters for bytes
    rest = [byte for byte in range(256) if byte not in shown]
    letters = {byte: chr(byte) for byte in shown} | {byte: chr(256 + index) for index, byte in enumerate(rest)}
    marks = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
    words = [*(letters[byte] for byte in range(256)), "th", *marks]
    tensors: dict[str, Array] = {
        "token_embd.weight": some(len(words), width),
        "output_norm.weight": np.ones(width, np.float32),
        "output.weight": some(len(words), width),
    }
    for layer in range(layers):
        block = f"blk.{layer}"
        for name in ("attn_norm", "ffn_norm"):
            tensors[f"{block}.{name}.weight"] = np.ones(width, np.float32)
        for name in ("attn_q", "attn_k", "attn_v"):
            tensors[f"{block}.{name}.weight"], tensors[f"{block}.{name}.bias"] = some(width, width), some(width)
        tensors[f"{block}.attn_output.weight"] = some(width, width)
        tensors[f"{block}.ffn_gate.weight"], tensors[f"{block}.ffn_up.weight"] = some(feed, width), some(feed, width)
        tensors[f"{block}.ffn_down.weight"] = some(width, feed)
    keys: dict[str, Any] = {
        "general.architecture": "qwen2vl",
        "general.file_type": 0,
        "qwen2vl.context_length": context,
        "qwen2vl.embedding_length": width,
        "qwen2vl.feed_forward_length": feed,
        "qwen2vl.block_count": layers,
        "qwen2vl.attention.head_count": heads,
        "qwen2vl.attention.head_count_kv": heads,
        "qwen2vl.attention.layer_norm_rms_epsilon": 1e-6,
        "qwen2vl.rope.freq_base": 10000.0,
        "qwen2vl.rope.dimension_sections": [2, 3, 3, 0],
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.token_type": [1] * 257 + [3] * len(marks),
        "tokenizer.ggml.merges": ["t h"],
        "tokenizer.ggml.eos_token_id": words.index("<|im_end|>"),
        "tokenizer.ggml.padding_token_id": words.index("<|im_end|>"),
        "tokenizer.ggml.add_bos_token": False,
    }
    return write(target, keys, tensors)
