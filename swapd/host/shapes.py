"""From GGUF headers to the Shape that the core sizes a model by, or to the reason why there is none.

Called by `catalog.py`; the format itself is read by `gguf.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from swapd.core.model import Shape
from swapd.host.gguf import MAX_LAYERS, Header, UnreadableModel


def why_no_model(header: Header) -> str | None:
    """Why a readable file (the first, of a split model) is none that answers; None: it may be one."""
    kind = header.text("general.type")
    if kind == "mmproj" or header.architecture == "clip":
        return "a projector for images or sound (mmproj), not a model"
    if kind not in ("", "model"):
        return f"of type {kind[:40]!r}, not a model"
    if not header.architecture:
        return "its header does not say the architecture"
    if header.values.get(f"{header.architecture}.attention.causal") is False:
        return "an embedding model: it writes no text"
    if not header.tensors:
        return "it has no tensors, only a vocabulary"
    return None


def shape(headers: Sequence[Header]) -> Shape:
    """What sizes the model, from all its files in order. Raises UnreadableModel where the header lacks it."""
    first = headers[0]
    if reason := why_no_model(first):
        raise UnreadableModel(reason)
    layers, embedding = _number(first, "block_count", least=1), _number(first, "embedding_length", least=1)
    if layers > MAX_LAYERS:
        raise UnreadableModel(f"it claims {layers} layers; the limit is {MAX_LAYERS}")
    heads = _number(first, "attention.head_count", default=0)
    per_head = embedding // heads if heads else 0
    return Shape(
        architecture=first.architecture,
        layers=layers,
        embedding=embedding,
        heads=heads,
        kv_heads=_kv_heads(first, layers, heads),
        key_length=_number(first, "attention.key_length", default=per_head),
        value_length=_number(first, "attention.value_length", default=per_head),
        vocabulary=_number(first, "vocab_size", default=first.lengths.get("tokenizer.ggml.tokens"), least=1),
        trained_context=_number(first, "context_length", least=1),
        weights=sum(header.weights for header in headers),
        window=_number(first, "attention.sliding_window", default=0) or None,
    )


def _number(header: Header, key: str, default: int | None = None, least: int = 0) -> int:
    """Of the architecture's keys; of a per-layer list the largest. Without a default it must be there."""
    full = f"{header.architecture}.{key}"
    given = header.values.get(full, default)
    if given is None:
        raise UnreadableModel(f"its header lacks {full}")
    value = max(given, default=None) if isinstance(given, tuple) else given
    if type(value) is not int or not least <= value < 2**31:
        raise UnreadableModel(f"its header has an impossible {full}: {str(value)[:40]}")
    return value


def _kv_heads(header: Header, layers: int, heads: int) -> tuple[int, ...]:
    key = f"{header.architecture}.attention.head_count_kv"
    given = header.values.get(key, heads)
    if not isinstance(given, tuple):
        return (_number(header, "attention.head_count_kv", default=heads),) * layers
    if len(given) != layers or any(type(count) is not int or not 0 <= count < 2**31 for count in given):
        raise UnreadableModel(f"its header has an impossible {key}")
    return tuple(int(count) for count in given)
