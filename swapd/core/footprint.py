"""Bytes that a placement of a variant takes on each device: header arithmetic, corrected by what was measured.

The lesson of an earlier load of the same variant so placed; before the first load llama.cpp's own sizing, where it
works. The arithmetic is for where it does not, and for the way between two placements that were sized: weights of
single layers and their caches to the byte, compute buffers within a few MiB.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from swapd.core.model import HOST, DeviceId, Footprint, Placement, Shape, Variant, VariantId
from swapd.core.state import State
from swapd.core.sums import sums
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


_KEPT: Final = 8192
_added_up: Final[dict[tuple[VariantId, Placement], tuple[Variant, Footprint]]] = {}
"""What the arithmetic came to: it is asked the same many times in one decision. Of another value of the variant it
is no answer."""


@dataclass(frozen=True, slots=True)
class _Run:
    """Neighbouring layers on one device, counted as llama.cpp does: the output is the last one."""

    device: DeviceId
    start: int
    end: int


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
    return _cells(variant.context, variant.sequences)


@cache
def _cells(context: Tokens, sequences: int) -> Tokens:
    return _padded(_padded(context * sequences) // sequences)


def cache_bytes(variant: Variant, micro_batch: Tokens, start: int, end: int) -> Bytes:
    """KV cache and recurrent state of the layers from `start` to before `end`, of all slots.

    A sliding window is kept with room for one micro-batch more.
    """
    known = sums(variant.shape)
    elements = known.full(start, end) * cells(variant)
    if variant.shape.window_cache:
        elements += known.window(start, end) * _window_cells(variant, micro_batch)
    over, under = _KV_BYTES[variant.kv_type]
    return variant.sequences * (elements * over // under + known.states(start, end))


def weights_and_cache(variant: Variant, placement: Placement) -> Footprint:
    """What a placement keeps as long as it lives. Exact where the header tells single layers, else spread evenly."""
    shape = variant.shape
    first = _first_on_gpu(shape, placement)
    experts = _experts_on_cpu(shape, placement)
    amounts = {HOST: _host_weights(shape, first) + cache_bytes(variant, placement.micro_batch, 0, first)}
    amounts[HOST] += sum(shape.expert_weights[layer] for layer in experts)
    for run in _runs(shape, placement):
        size = _card_weights(shape, run.start, run.end)
        size -= sum(shape.expert_weights[layer] for layer in experts if run.start <= layer < run.end)
        amounts[run.device] = size + cache_bytes(variant, placement.micro_batch, run.start, run.end)
    own = Footprint.of(amounts)
    if variant.projector is not None:
        own += Footprint.of({_of_projector(placement): variant.projector.size})
    draft = variant.draft
    return own if draft is None else own + weights_and_cache(draft, _of_draft(draft, placement))


def adapter_bytes(variant: Variant, placement: Placement) -> Footprint:
    """Adapters lie beside the weights that they change; computing with one takes a little more."""
    shape, size = variant.shape, sum(adapter.size for adapter in variant.adapters)
    if not size:
        return Footprint()
    wider = placement.micro_batch * (shape.feed_forward or 4 * shape.embedding) * _FLOAT
    first = min(_first_on_gpu(shape, placement), shape.layers)
    amounts = {HOST: -(-size * first // shape.layers) + wider if first else 0}
    for run in _runs(shape, placement):
        amounts[run.device] = -(-size * (run.end - run.start) // shape.layers) + wider
    return Footprint.of(amounts)


def compute(variant: Variant, placement: Placement) -> Footprint:
    """Compute buffers: one micro-batch of the widest layer's activations, masks over the cells, rows of logits.

    The counts of activations are those that llama.cpp's allocator comes to for models of the usual kind.
    """
    shape = variant.shape
    first = _first_on_gpu(shape, placement)
    context = _padded(variant.context * variant.sequences)
    tokens = -(-min(context, placement.micro_batch) // variant.sequences) * variant.sequences
    masks, scores = _masks(variant, placement.micro_batch, tokens)
    wide, queries = 3 * (shape.feed_forward or 4 * shape.embedding), shape.heads * shape.key_length
    rows = tokens if variant.pooling else variant.slots + (PROPOSALS if variant.speculates else 0)
    logits = rows * (shape.vocabulary + shape.embedding) * _FLOAT
    amounts = {HOST: logits if variant.pooling else rows * shape.vocabulary * _FLOAT}
    if first:
        busy = max(tokens * (wide + 3 * shape.embedding + queries) * _FLOAT, scores) + masks
        amounts[HOST] += max(busy, logits) if first > shape.layers else busy
    else:
        amounts[HOST] += tokens * 2 * shape.embedding * _FLOAT + masks
    for run in _runs(shape, placement):
        size = logits if run.end > shape.layers else 0
        if run.start < shape.layers:
            inputs = queries if run.start == 0 else 0
            size = max(size, max(tokens * (wide + 2 * shape.embedding + inputs) * _FLOAT, scores) + masks)
            size += _visitors(shape, placement, first)
        amounts[run.device] = size
    own = Footprint.of(amounts)
    if variant.projector is not None:
        own += Footprint.of({_of_projector(placement): variant.projector.compute})
    return own if variant.draft is None else own + compute(variant.draft, _of_draft(variant.draft, placement))


def _of_draft(draft: Variant, placement: Placement) -> Placement:
    """Where the model that drafts is: whole on the first card, or on the CPU beside the other."""
    on_gpu = bool(placement.devices) and placement.gpu_layers > 0
    layers = draft.shape.offloadable
    devices = placement.devices[:1] if on_gpu else ()
    return Placement(devices, layers if on_gpu else 0, layers, placement.micro_batch)


def _of_projector(placement: Placement) -> DeviceId:
    """Where it is: on the first card, or on the CPU beside its model."""
    return placement.devices[0] if placement.devices and placement.gpu_layers > 0 else HOST


def arithmetic(variant: Variant, placement: Placement) -> Footprint:
    """From the header alone, the process included."""
    known = _added_up.get((variant.id, placement))
    if known is not None and known[0] is variant:
        return known[1]
    process = Footprint(((HOST, process_bytes(variant)),))
    parts = [process, weights_and_cache(variant, placement), compute(variant, placement)]
    if variant.adapters:
        parts.append(adapter_bytes(variant, placement))
    size = Footprint.total(parts)
    if len(_added_up) >= _KEPT:
        _added_up.clear()
    _added_up[variant.id, placement] = variant, size
    return size


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


def _visitors(shape: Shape, placement: Placement, first: int) -> Bytes:
    """Room on a card for the largest tensor of the host's layers: large batches are computed with copies of them."""
    layer = max(shape.layer_weights[:first], default=0)
    experts = max(shape.expert_weights, default=0) if placement.experts_on_cpu else 0
    return max(layer, experts) // 3


def _first_on_gpu(shape: Shape, placement: Placement) -> int:
    """llama.cpp fills the cards from the end: the output first, then the last layers."""
    on_gpu = min(placement.gpu_layers, shape.offloadable) if placement.devices else 0
    return shape.offloadable - on_gpu


def _runs(shape: Shape, placement: Placement) -> Iterator[_Run]:
    """Which layers go to which card: in order, by the shares, else evenly."""
    first = _first_on_gpu(shape, placement)
    count = shape.offloadable - first
    if not count:
        return
    shares: Sequence[float] = placement.split or (1.0,) * len(placement.devices)
    total, below, start = sum(shares) or 1.0, 0.0, first
    for device, share in zip(placement.devices, shares, strict=True):
        below += share
        end = shape.offloadable if device == placement.devices[-1] else first - int(-(below / total * count) // 1)
        if end > start:
            yield _Run(device, start, end)
        start = max(start, end)


def _experts_on_cpu(shape: Shape, placement: Placement) -> list[int]:
    """The layers on cards whose experts stay on the CPU: the first ones that have some."""
    if not placement.experts_on_cpu or not placement.devices:
        return []
    first = _first_on_gpu(shape, placement)
    having = [layer for layer, size in enumerate(shape.expert_weights) if size and layer >= first]
    return having[: placement.experts_on_cpu]


def _card_weights(shape: Shape, start: int, end: int) -> Bytes:
    if not shape.layer_weights:
        return shape.weights * (end - start) // shape.offloadable
    return sums(shape).weights(start, end) + (shape.output_weights if end > shape.layers else 0)


def _host_weights(shape: Shape, layers: int) -> Bytes:
    if not shape.host_weights:
        return shape.weights * layers // shape.offloadable
    return shape.host_weights[layers]


class Predictor:
    """What loads of one variant will take, as far as one state knows; for many questions in one decision."""

    def __init__(self, state: State, variant: Variant) -> None:
        self.variant = variant
        self._lessons, self._sizes, self._overheads = state.lessons, state.sizes, state.overheads
        self._sized: list[Placement] | None = None
        self._off: dict[Placement, Mapping[DeviceId, Bytes]] = {}
        self._told: dict[Placement, Footprint] = {}

    def knows_as_much_as(self, state: State) -> bool:
        """Whether it would answer the same from that state."""
        mine, its = (self._lessons, self._sizes, self._overheads), (state.lessons, state.sizes, state.overheads)
        return all(one is other for one, other in zip(mine, its, strict=True))

    def __call__(self, placement: Placement) -> Footprint:
        """What to promise for this load: the lesson of an earlier one; else llama.cpp's own sizing; else the
        arithmetic, corrected by the nearest placement that was sized. To the last two comes what a process
        takes besides.
        """
        told = self._told.get(placement)
        if told is None:
            told = self._told[placement] = self._tell(placement)
        return told

    def _tell(self, placement: Placement) -> Footprint:
        lesson = self._lessons.get((self.variant.id, placement))
        if lesson is not None:
            return lesson
        size = self._said(placement) or self._estimate(placement)
        return size + Footprint.of({device: self._overheads.get(device, 0) for device in placement.devices})

    def _said(self, placement: Placement) -> Footprint | None:
        """As llama.cpp says, and on the host the process itself, which it does not count."""
        said = self._sizes.get((self.variant.id, placement))
        return None if said is None else said + Footprint.of({HOST: process_bytes(self.variant)})

    def _estimate(self, placement: Placement) -> Footprint:
        """Arithmetic, shifted by how far it was off where llama.cpp has sized the same model on the same cards."""
        ours = arithmetic(self.variant, placement)
        count, split = len(placement.devices), placement.split
        if self._sized is None:
            self._sized = _sized_by_variant(self._sizes).get(self.variant.id, [])
        sized = [place for place in self._sized if len(place.devices) == count and place.split == split]
        if not sized:
            return ours
        nearest = min(sized, key=lambda known: _distance(known, placement))
        there = dict(zip(nearest.devices, placement.devices, strict=True))  # the same on other cards
        off = {there.get(device, device): size for device, size in self._error(nearest).items()}
        return Footprint.of({d: ours[d] + off.get(d, 0) for d in {*ours, *off}})

    def _error(self, sized: Placement) -> Mapping[DeviceId, Bytes]:
        """By how much the arithmetic is too low there."""
        if sized not in self._off:
            size, ours = self._said(sized) or Footprint(), arithmetic(self.variant, sized)
            self._off[sized] = {d: size[d] - ours[d] for d in {*size, *ours}}
        return self._off[sized]


_by_variant: Final[list[tuple[object, Mapping[VariantId, list[Placement]]]]] = []
"""The last answer of the next, and what it was about."""


def _sized_by_variant(sizes: Mapping[tuple[VariantId, Placement], Footprint]) -> Mapping[VariantId, list[Placement]]:
    """Of each variant, what was sized; asked of a thousand of them before anything more is."""
    for known, answer in _by_variant[:]:
        if known is sizes:
            return answer
    found: dict[VariantId, list[Placement]] = {}
    for variant, place in sizes:
        found.setdefault(variant, []).append(place)
    _by_variant[:] = [(sizes, found)]
    return found


_PREDICTORS: Final[dict[VariantId, Predictor]] = {}
_MOST_PREDICTORS: Final = 1024


def predictor(state: State, variant: Variant) -> Predictor:
    """One for this state: the last one of this variant, if nothing was learnt since."""
    last = _PREDICTORS.get(variant.id)
    if last is not None and last.variant == variant and last.knows_as_much_as(state):
        return last
    if len(_PREDICTORS) >= _MOST_PREDICTORS:
        _PREDICTORS.clear()
    made = _PREDICTORS[variant.id] = Predictor(state, variant)
    return made


def predict(state: State, variant: Variant, placement: Placement) -> Footprint:
    """One answer of a Predictor."""
    return predictor(state, variant)(placement)


def is_known(state: State, variant: Variant, placement: Placement) -> bool:
    """Whether `predict` is more than an estimate, or can be no more."""
    key = (variant.id, placement)
    return key in state.lessons or key in state.sizes or variant.id in state.unsizable


def _distance(one: Placement, other: Placement) -> tuple[int, int, int]:
    return (
        abs(one.micro_batch - other.micro_batch),
        abs(one.experts_on_cpu - other.experts_on_cpu),
        abs(one.gpu_layers - other.gpu_layers),
    )
