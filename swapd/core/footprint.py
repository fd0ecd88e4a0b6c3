"""Bytes that a placement of a variant takes on each device: header arithmetic, corrected by what was measured.

An upper bound before the first load; the lesson of an earlier load of the same variant so placed after it.
Sources: llama.cpp's buffers are weights, KV cache and compute; the last is dominated by the logits of one
micro-batch (micro_batch x vocabulary x 4 bytes).
"""

from __future__ import annotations

from typing import Final

from swapd.core.model import HOST, Footprint, Placement, Shape, Variant
from swapd.core.state import State
from swapd.units import Bytes, MiB, Tokens

PROCESS: Final[Bytes] = 96 * MiB
"""A worker without a model: interpreter, bindings, llama.cpp."""

_KV_BYTES: Final = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}


def kv_bytes(shape: Shape, tokens: Tokens, kv_type: str) -> Bytes:
    """KV cache of all layers for so many tokens, every layer taken as full attention."""
    elements = sum(heads * (shape.key_length + shape.value_length) for heads in shape.kv_heads)
    return int(elements * tokens * _KV_BYTES[kv_type])


def compute_bytes(shape: Shape, micro_batch: Tokens) -> Bytes:
    """Compute buffer of one backend: the logits, and a dozen activations wide as the model."""
    return micro_batch * (shape.vocabulary + 12 * shape.embedding) * 4


def arithmetic(variant: Variant, placement: Placement) -> Footprint:
    """From the header alone. `gpu_layers` of the layers put their weights and KV on the cards, evenly."""
    shape = variant.shape
    kv = kv_bytes(shape, variant.context * variant.slots, variant.kv_type)
    compute = compute_bytes(shape, placement.micro_batch)
    on_gpu = min(placement.gpu_layers, placement.layers) / placement.layers if placement.devices else 0.0
    parts = {HOST: PROCESS + int((1 - on_gpu) * (shape.weights + kv)) + (compute if on_gpu < 1 else 0)}
    for device in placement.devices:
        parts[device] = int(on_gpu * (shape.weights + kv) / len(placement.devices)) + compute
    return Footprint.of(parts)


def predict(state: State, variant: Variant, placement: Placement) -> Footprint:
    """What to promise for this load: the lesson where there is one, else the arithmetic."""
    return state.lessons.get((variant.id, placement)) or arithmetic(variant, placement)
