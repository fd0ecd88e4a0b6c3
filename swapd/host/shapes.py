"""From GGUF headers to the Shape that the core sizes a model by, or to the reason why there is none.

Called by `catalog.py`; the format itself is read by `gguf.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from swapd.core.model import Shape
from swapd.host import layers as of_layers
from swapd.host.gguf import MAX_LAYERS, Header, UnreadableModel
from swapd.host.layers import number

_POOLINGS: Final = {1: "mean", 2: "cls", 3: "last", 4: "rank"}
"""llama.cpp's numbers; 0 is none: of a model that writes."""
_ENCODERS: Final = frozenset({"bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2", "jina-bert-v3"}) | {
    "modern-bert",
    "eurobert",
    "gemma-embedding",
}


def why_no_model(header: Header) -> str | None:
    """Why a readable file (the first, of a split model) is none that answers; None: it may be one."""
    kind = header.text("general.type")
    if kind == "mmproj" or header.architecture == "clip":
        return "a projector for images or sound (mmproj), not a model"
    if kind not in ("", "model"):
        return f"of type {kind[:40]!r}, not a model"
    if not header.architecture:
        return "its header does not say the architecture"
    if not header.tensors:
        return "it has no tensors, only a vocabulary"
    return None


def is_encoder(header: Header) -> bool:
    """It reads a text as a whole and writes none."""
    return header.values.get(f"{header.architecture}.attention.causal") is False or header.architecture in _ENCODERS


def pooling(header: Header, is_wanted: bool) -> str:
    """How the model makes vectors, as the file says; empty: it writes text. `is_wanted`: vectors are, of any model."""
    said = header.values.get(f"{header.architecture}.pooling_type")
    known = _POOLINGS.get(said) if isinstance(said, int) else None
    if known is not None:
        return known
    if is_encoder(header):
        return "mean"
    return "last" if is_wanted else ""


def why_no_adapter(header: Header, architecture: str) -> str | None:
    """Why a readable file is no LoRA adapter for a model of this architecture; None: it may be one."""
    if header.text("general.type") != "adapter" or header.text("adapter.type") != "lora":
        return "no LoRA adapter"
    if header.architecture != architecture:
        return f"made for {header.architecture[:40] or 'nothing known'!r}, and the model is {architecture!r}"
    return None


def shape(headers: Sequence[Header]) -> Shape:
    """What sizes the model, from all its files in order. Raises UnreadableModel where the header lacks it."""
    first = headers[0]
    if reason := why_no_model(first):
        raise UnreadableModel(reason)
    layers, embedding = number(first, "block_count", least=1), number(first, "embedding_length", least=1)
    if layers > MAX_LAYERS:
        raise UnreadableModel(f"it claims {layers} layers; the limit is {MAX_LAYERS}")
    heads = number(first, "attention.head_count", default=0)
    per_head = embedding // heads if heads else 0
    kv_heads = _kv_heads(first, layers, heads)
    key_length = number(first, "attention.key_length", default=per_head)
    value_length = number(first, "attention.value_length", default=per_head)
    each, experts, output = of_layers.weights(headers, layers)
    full, windowed = of_layers.caches(first, kv_heads, (key_length, value_length))
    if is_encoder(first):
        full = windowed = (0,) * layers
    return Shape(
        architecture=first.architecture,
        layers=layers,
        embedding=embedding,
        heads=heads,
        kv_heads=kv_heads,
        key_length=key_length,
        value_length=value_length,
        vocabulary=number(first, "vocab_size", default=first.lengths.get("tokenizer.ggml.tokens"), least=1),
        trained_context=number(first, "context_length", least=1),
        weights=sum(header.weights for header in headers),
        window=of_layers.window(first),
        expert_layers=sum(1 for size in experts if size),
        feed_forward=of_layers.feed_forward(first, embedding),
        layer_weights=each,
        expert_weights=experts,
        host_weights=of_layers.host_weights(headers, layers),
        full_cache=full,
        window_cache=windowed,
        states=of_layers.states(first, kv_heads, embedding, heads),
        output_weights=output,
    )


def _kv_heads(header: Header, layers: int, heads: int) -> tuple[int, ...]:
    key = f"{header.architecture}.attention.head_count_kv"
    given = header.values.get(key, heads)
    if not isinstance(given, tuple):
        return (number(header, "attention.head_count_kv", default=heads),) * layers
    if len(given) != layers or any(type(count) is not int or not 0 <= count < 2**31 for count in given):
        raise UnreadableModel(f"its header has an impossible {key}")
    return tuple(int(count) for count in given)
