"""Bytes that a placement of a variant takes on each device: header arithmetic, corrected by what was measured.

The lesson of an earlier load of the same variant so placed; before the first load llama.cpp's own sizing, where it
works. The arithmetic is for where it does not, and for the way between two placements that were sized.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from swapd.core.arithmetic import amounts as by_header
from swapd.core.arithmetic import process_bytes
from swapd.core.model import HOST, DeviceId, Footprint, Placement, Variant, VariantId
from swapd.core.state import State
from swapd.units import Bytes

_Sized: TypeAlias = Sequence[tuple[Placement, Footprint]]
"""What llama.cpp has said of one variant."""
_MOST: Final = 256
"""So many variants' answers are kept, and so many of each."""


class Predictor:
    """What loads of one variant will take, as far as one state knows; for many questions in one decision."""

    def __init__(self, state: State, unmeasured: _Unmeasured) -> None:
        self.variant = unmeasured.variant
        self._lessons = state.lessons if self.variant.id in _learnt(state.lessons) else None
        self._unmeasured = unmeasured

    def __call__(self, placement: Placement) -> Footprint:
        """What to promise for this load: the lesson of an earlier one; else llama.cpp's own sizing; else the
        arithmetic, corrected by the nearest placement that was sized. To the last two comes what a process
        takes besides.
        """
        lesson = None if self._lessons is None else self._lessons.get((self.variant.id, placement))
        return self._unmeasured(placement) if lesson is None else lesson


class _Unmeasured:
    """The same without the lessons, each answer made once. Good until more of this variant is sized."""

    def __init__(self, variant: Variant, sized: _Sized, overheads: Mapping[DeviceId, Bytes]) -> None:
        self.variant = variant
        self._sized, self._overheads, self._sizes = sized, overheads, dict(sized)
        self._process = process_bytes(variant) if sized else 0
        self._on: dict[int, list[Placement]] = {}
        self._off: dict[Placement, Mapping[DeviceId, Bytes]] = {}
        self._told: dict[Placement, Footprint] = {}

    def is_good_for(self, variant: Variant, sized: _Sized, overheads: Mapping[DeviceId, Bytes]) -> bool:
        """Whether another one made of these would answer the same."""
        is_same = self.variant is variant or self.variant == variant
        return is_same and self._sized == sized and self._overheads == overheads

    def __call__(self, placement: Placement) -> Footprint:
        told = self._told.get(placement)
        if told is None:
            if len(self._told) >= _MOST:
                self._told.clear()
            told = self._told[placement] = self._tell(placement)
        return told

    def _tell(self, placement: Placement) -> Footprint:
        said = self._sizes.get(placement) if self._sizes else None
        amounts = self._estimate(placement) if said is None else self._with_process(said)
        for device in placement.devices:
            amounts[device] = amounts.get(device, 0) + self._overheads.get(device, 0)
        return Footprint.of(amounts)

    def _with_process(self, said: Footprint) -> dict[DeviceId, Bytes]:
        """As llama.cpp says, and on the host the process itself, which it does not count."""
        amounts = dict(said.parts)
        amounts[HOST] = amounts.get(HOST, 0) + self._process
        return amounts

    def _estimate(self, placement: Placement) -> dict[DeviceId, Bytes]:
        """Arithmetic, shifted by how far it was off where llama.cpp has sized the same model on the same cards."""
        amounts = by_header(self.variant, placement)
        sized = self._sized_like(placement)
        if not sized:
            return amounts
        nearest = sized[0] if len(sized) == 1 else min(sized, key=lambda known: _distance(known, placement))
        there = dict(zip(nearest.devices, placement.devices, strict=True))  # the same on other cards
        for device, size in self._error(nearest).items():
            here = there.get(device, device)
            amounts[here] = max(0, amounts.get(here, 0) + size)
        return amounts

    def _sized_like(self, placement: Placement) -> list[Placement]:
        """What was sized of it on as many cards, with the same shares if there is such a thing."""
        count = len(placement.devices)
        on_as_many = self._on.get(count)
        if on_as_many is None:
            on_as_many = self._on[count] = [place for place in self._sizes if len(place.devices) == count]
        return [place for place in on_as_many if place.split == placement.split] or on_as_many

    def _error(self, sized: Placement) -> Mapping[DeviceId, Bytes]:
        """By how much the arithmetic is too low there."""
        off = self._off.get(sized)
        if off is None:
            size, ours = self._with_process(self._sizes[sized]), by_header(self.variant, sized)
            off = self._off[sized] = {d: size.get(d, 0) - ours.get(d, 0) for d in {*size, *ours}}
        return off


_by_variant: Final[list[tuple[object, Mapping[VariantId, _Sized]]]] = []
"""The last answer of the next, and what it was about."""


def _sized_by_variant(sizes: Mapping[tuple[VariantId, Placement], Footprint]) -> Mapping[VariantId, _Sized]:
    """Asked of a thousand of them before anything more is sized."""
    for known, answer in _by_variant[:]:
        if known is sizes:
            return answer
    found: dict[VariantId, list[tuple[Placement, Footprint]]] = {}
    for (variant, place), size in sizes.items():
        found.setdefault(variant, []).append((place, size))
    _by_variant[:] = [(sizes, found)]
    return found


_by_lessons: Final[list[tuple[object, frozenset[VariantId]]]] = []
"""What `_learnt` answered last, and of which lessons: they rarely change, and every prediction asks."""


def _learnt(lessons: Mapping[tuple[VariantId, Placement], Footprint]) -> frozenset[VariantId]:
    """Of whom there are any: of the others nobody has to look."""
    for known, answer in _by_lessons[:]:
        if known is lessons:
            return answer
    found = frozenset([variant for variant, _ in lessons])
    _by_lessons[:] = [(lessons, found)]
    return found


_UNMEASURED: Final[dict[VariantId, _Unmeasured]] = {}


def predictor(state: State, variant: Variant) -> Predictor:
    """One for this state, with what the last one of this variant has told, if that is still good."""
    sized = _sized_by_variant(state.sizes).get(variant.id, [])
    last = _UNMEASURED.get(variant.id)
    if last is None or not last.is_good_for(variant, sized, state.overheads):
        if len(_UNMEASURED) >= _MOST:
            _UNMEASURED.clear()
        last = _UNMEASURED[variant.id] = _Unmeasured(variant, sized, state.overheads)
    return Predictor(state, last)


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
