"""Bytes that a placement takes on each device by the header alone: weights of single layers and their caches to the
byte, compute buffers within a few MiB. Used by `footprint`, which corrects it by what was sized and measured.

What all placements of a variant share is made once, so that one of them is a few additions: a decision asks for dozens.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Final, TypeAlias

from swapd.core.model import HOST, DeviceId, Footprint, Placement, Variant, VariantId
from swapd.units import Bytes, MiB, Tokens

PROCESS: Final[Bytes] = 65 * MiB
"""A worker without a model, and what it needs besides to answer: interpreter, bindings, llama.cpp."""

PROPOSALS: Final = 16
"""Rows of logits, beyond one a slot, of a worker that speculates."""

_ENTRY: Final[Bytes] = 128
"""What one entry of the vocabulary takes in llama.cpp's tables."""
_KV_BYTES: Final = {"f32": (4, 1), "f16": (2, 1), "bf16": (2, 1), "q8_0": (34, 32), "q4_0": (18, 32)}
_PAD: Final[Tokens] = 256
_FLOAT: Final[Bytes] = 4

_Run: TypeAlias = tuple[DeviceId, int, int]
"""Neighbouring layers on one card, from the first to before the last, counted as llama.cpp does: the output is the
last one of all."""
_Spread: TypeAlias = tuple[int, list[_Run]]
"""The first layer on a card (as many are on the host), and which are on which."""
_Amounts: TypeAlias = dict[DeviceId, Bytes]


def process_bytes(variant: Variant) -> Bytes:
    """Host memory of a worker that no buffer of llama.cpp's accounts for.

    Each slot keeps one copy of what of its cache cannot be cut back: windows and recurrent states.
    """
    shape = variant.shape
    window = sum(shape.window_cache) * min(cells(variant), shape.window or 0)
    over, under = _KV_BYTES[variant.kv_type]
    copies = variant.slots * (window * over // under + sum(shape.states))
    if variant.draft is not None:
        copies += _ENTRY * variant.draft.shape.vocabulary
    return PROCESS + _ENTRY * shape.vocabulary + copies


def cells(variant: Variant) -> Tokens:
    """What the cache of one slot holds: the context, as llama.cpp rounds it."""
    return _padded(_padded(variant.context * variant.sequences) // variant.sequences)


class Arithmetic:
    """Of one variant with one micro-batch, for placements that have this micro-batch."""

    def __init__(self, variant: Variant, micro_batch: Tokens) -> None:
        shape = variant.shape
        self.variant, self._shape, self._every = variant, shape, shape.offloadable
        self._process = process_bytes(variant)
        self._cache = _cache_up_to(variant, micro_batch)
        self._weights = (*_up_to(shape.layer_weights, shape.layers), sum(shape.layer_weights) + shape.output_weights)
        self._experts = _up_to(shape.expert_weights, self._every)
        self._with_experts = [layer for layer, size in enumerate(shape.expert_weights) if size]
        self._largest_experts = max(shape.expert_weights, default=0)
        self._largest_layer = tuple(accumulate(shape.layer_weights, max, initial=0))
        self._buffers = _Buffers(variant, micro_batch)
        self._adapters = sum(adapter.size for adapter in variant.adapters)
        self._draft = None if variant.draft is None else Arithmetic(variant.draft, micro_batch)
        self._on_one: dict[tuple[int, int], tuple[Bytes, Bytes]] = {}
        """On the host and on the card, by how many layers are there and without their experts."""

    def all(self, placement: Placement) -> _Amounts:
        """The process included. One card is as good as another."""
        if len(placement.devices) != 1:
            return self._all(placement)
        key, (card,) = (placement.gpu_layers, placement.experts_on_cpu), placement.devices
        known = self._on_one.get(key)
        if known is None:
            amounts = self._all(placement)
            known = self._on_one[key] = amounts[HOST], amounts[card]
        return {HOST: known[0], card: known[1]}

    def _all(self, placement: Placement) -> _Amounts:
        amounts, spread = _nothing(placement), self.spread(placement)
        amounts[HOST] = self._process
        self.add_weights_and_cache(amounts, placement, spread)
        self.add_compute(amounts, placement, spread)
        if self._adapters:
            self._add_adapters(amounts, placement, spread)
        return amounts

    def weights_and_cache(self, placement: Placement) -> Footprint:
        """What it keeps as long as it lives. Exact where the header tells single layers, else spread evenly."""
        amounts = _nothing(placement)
        self.add_weights_and_cache(amounts, placement, self.spread(placement))
        return Footprint.of(amounts)

    def compute(self, placement: Placement) -> Footprint:
        """Compute buffers: one micro-batch of the widest layer's activations, masks over the cells, rows of logits."""
        amounts = _nothing(placement)
        self.add_compute(amounts, placement, self.spread(placement))
        return Footprint.of(amounts)

    def adapters(self, placement: Placement) -> Footprint:
        """They lie beside the weights that they change; computing with one takes a little more."""
        amounts = _nothing(placement)
        if self._adapters:
            self._add_adapters(amounts, placement, self.spread(placement))
        return Footprint.of(amounts)

    def cache(self, start: int, end: int) -> Bytes:
        """KV cache and recurrent state of the layers from `start` to before `end`, of all slots."""
        return self._cache[end] - self._cache[start]

    def spread(self, placement: Placement) -> _Spread:
        """llama.cpp fills the cards from the end: the output first, then the last layers. To each card its share of
        those, in order; without shares evenly.
        """
        devices, every = placement.devices, self._every
        first = every - min(placement.gpu_layers, every) if devices else every
        count = every - first
        if len(devices) <= 1 or not count:
            return first, [(device, first, every) for device in devices if count]
        shares: Sequence[float] = placement.split or (1.0,) * len(devices)
        total, below, start = sum(shares) or 1.0, 0.0, first
        runs: list[_Run] = []
        for device, share in zip(devices, shares, strict=True):
            below += share
            end = every if device == devices[-1] else first - int(-(below / total * count) // 1)
            if end > start:
                runs.append((device, start, end))
                start = end
        return first, runs

    def add_weights_and_cache(self, amounts: _Amounts, placement: Placement, spread: _Spread) -> None:
        shape, every, cache, experts = self._shape, self._every, self._cache, self._experts
        first, runs = spread
        amounts[HOST] += shape.host_weights[first] if shape.host_weights else shape.weights * first // every
        amounts[HOST] += cache[first]
        last = self._last_without_experts(placement, first) if placement.experts_on_cpu else first
        amounts[HOST] += experts[last] - experts[first]
        for device, start, end in runs:
            if shape.layer_weights:
                amounts[device] += self._weights[end] - self._weights[start]
            else:
                amounts[device] += shape.weights * (end - start) // every
            amounts[device] += cache[end] - cache[start]
            if start < last:
                amounts[device] -= experts[min(end, last)] - experts[start]
        if self.variant.projector is not None:
            amounts[_beside(placement)] += self.variant.projector.size
        if self._draft is not None:
            whole = self._draft.beside(placement)
            self._draft.add_weights_and_cache(amounts, whole, self._draft.spread(whole))

    def _last_without_experts(self, placement: Placement, first: int) -> int:
        """Of the layers on cards the experts of those before this one are on the CPU: of the first that have some."""
        if not placement.devices:
            return first
        there = [layer for layer in self._with_experts if layer >= first][: placement.experts_on_cpu]
        return there[-1] + 1 if there else first

    def add_compute(self, amounts: _Amounts, placement: Placement, spread: _Spread) -> None:
        buffers, every = self._buffers, self._every
        first, runs = spread
        amounts[HOST] += buffers.on_host(first, every)
        for device, start, end in runs:
            size = buffers.logits if end == every else 0
            if start < every - 1:
                size = max(size, buffers.first if start == 0 else buffers.others)
                # Room for the largest tensor of the host's layers: large batches are computed with copies of them.
                largest = self._largest_layer[first] if self._shape.layer_weights else 0
                size += max(largest, self._largest_experts if placement.experts_on_cpu else 0) // 3
            amounts[device] += size
        if self.variant.projector is not None:
            amounts[_beside(placement)] += self.variant.projector.compute
        if self._draft is not None:
            whole = self._draft.beside(placement)
            self._draft.add_compute(amounts, whole, self._draft.spread(whole))

    def _add_adapters(self, amounts: _Amounts, placement: Placement, spread: _Spread) -> None:
        shape, (first, runs) = self._shape, spread
        wider = placement.micro_batch * (shape.feed_forward or 4 * shape.embedding) * _FLOAT
        if first:
            amounts[HOST] += -(-self._adapters * min(first, shape.layers) // shape.layers) + wider
        for device, start, end in runs:
            amounts[device] += -(-self._adapters * (end - start) // shape.layers) + wider

    def beside(self, placement: Placement) -> Placement:
        """Where one that drafts is: whole on the first card, or on the CPU beside the other."""
        device = _beside(placement)
        devices, layers = () if device == HOST else (device,), self._every
        return Placement(devices, layers if devices else 0, layers, placement.micro_batch)


def _beside(placement: Placement) -> DeviceId:
    """Where what belongs to a model is: on the first card, or on the CPU beside it."""
    return placement.devices[0] if placement.devices and placement.gpu_layers > 0 else HOST


def _nothing(placement: Placement) -> _Amounts:
    return dict.fromkeys((HOST, *placement.devices), 0)


class _Buffers:
    """What llama.cpp's allocator comes to for models of the usual kind, of one variant with one micro-batch."""

    def __init__(self, variant: Variant, micro_batch: Tokens) -> None:
        shape = variant.shape
        context = _padded(variant.context * variant.sequences)
        tokens = -(-min(context, micro_batch) // variant.sequences) * variant.sequences
        masks, scores = _masks(variant, micro_batch, tokens)
        wide, queries = 3 * (shape.feed_forward or 4 * shape.embedding), shape.heads * shape.key_length
        rows = tokens if variant.pooling else variant.slots + (PROPOSALS if variant.speculates else 0)
        self.logits = rows * (shape.vocabulary + shape.embedding) * _FLOAT
        self._answers = self.logits if variant.pooling else rows * shape.vocabulary * _FLOAT
        self._input = tokens * 2 * shape.embedding * _FLOAT + masks
        self._busy = max(tokens * (wide + 3 * shape.embedding + queries) * _FLOAT, scores) + masks
        self.first = max(tokens * (wide + 2 * shape.embedding + queries) * _FLOAT, scores) + masks
        """Of a card with the first layer."""
        self.others = max(tokens * (wide + 2 * shape.embedding) * _FLOAT, scores) + masks

    def on_host(self, layers: int, every: int) -> Bytes:
        """With so many computed there; all of `every`: the output too."""
        if not layers:
            return self._answers + self._input
        return self._answers + (self._busy if layers < every else max(self._busy, self.logits))


_KEPT: Final = 2048
_made: Final[dict[tuple[VariantId, Tokens], Arithmetic]] = {}


def of(variant: Variant, micro_batch: Tokens) -> Arithmetic:
    """The last one of this variant, if it is about the same value."""
    key = variant.id, micro_batch
    known = _made.get(key)
    if known is None or (known.variant is not variant and known.variant != variant):
        if len(_made) >= _KEPT:
            _made.clear()
        known = _made[key] = Arithmetic(variant, micro_batch)
    return known


def arithmetic(variant: Variant, placement: Placement) -> Footprint:
    """From the header alone, the process included."""
    return Footprint.of(amounts(variant, placement))


def amounts(variant: Variant, placement: Placement) -> dict[DeviceId, Bytes]:
    """The same, to go on counting with; the caller's own."""
    return of(variant, placement.micro_batch).all(placement)


def _cache_up_to(variant: Variant, micro_batch: Tokens) -> tuple[Bytes, ...]:
    """Of all slots, for the first none, one, ... of the layers. A window has room for one micro-batch more."""
    shape, (over, under) = variant.shape, _KV_BYTES[variant.kv_type]  # cells come in 256: no layer's is rounded
    full, window = cells(variant), _window_cells(variant, micro_batch)
    heads = [number * (shape.key_length + shape.value_length) for number in shape.kv_heads]
    if not shape.window_cache and not shape.states:  # mostly
        sums = _up_to(shape.full_cache or heads, shape.offloadable)
        return tuple([variant.sequences * (f * full * over // under) for f in sums])
    told = (shape.full_cache or heads, shape.window_cache, shape.states)
    each = zip(*(_up_to(elements, shape.offloadable) for elements in told), strict=True)
    return tuple(variant.sequences * ((f * full + w * window) * over // under + states) for f, w, states in each)


def _up_to(values: Sequence[int], count: int) -> tuple[int, ...]:
    """Sums of the first none, one, ... up to `count`; those that the header does not tell are 0."""
    sums = tuple(accumulate(values[:count], initial=0))
    return sums + sums[-1:] * (count + 1 - len(sums))


def _padded(tokens: Tokens) -> Tokens:
    return -(-tokens // _PAD) * _PAD


def _window_cells(variant: Variant, micro_batch: Tokens) -> Tokens:
    return _padded(min(cells(variant), (variant.shape.window or 0) + micro_batch))


def _masks(variant: Variant, micro_batch: Tokens, tokens: Tokens) -> tuple[Bytes, Bytes]:
    """Who attends to whom: in half floats, or in whole ones without flash attention, and then the scores too."""
    shape = variant.shape
    if not shape.heads or not shape.embedding:
        return 0, 0
    wide = cells(variant) if any(shape.full_cache) or not shape.window_cache else 0
    narrow = _window_cells(variant, micro_batch) if any(shape.window_cache) else 0
    if variant.flash_attention is not False:
        return tokens * 2 * (wide + narrow), 0
    beside = 3 * shape.embedding + 2 * shape.heads * shape.key_length
    scores = tokens * (shape.heads * max(wide, narrow) + beside) * _FLOAT
    return tokens * _FLOAT * (wide + narrow), scores
