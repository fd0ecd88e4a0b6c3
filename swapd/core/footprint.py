"""Bytes that a placement of a variant takes on each device: header arithmetic, corrected by what was measured.

The lesson of an earlier load of the same variant so placed; before the first load llama.cpp's own sizing, where it
works. The arithmetic is for where it does not, and for the way between two placements that were sized.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import is_
from typing import Final

from swapd.core.arithmetic import arithmetic, process_bytes
from swapd.core.model import HOST, DeviceId, Footprint, Placement, Variant, VariantId
from swapd.core.state import State
from swapd.units import Bytes


class Predictor:
    """What loads of one variant will take, as far as one state knows; for many questions in one decision."""

    def __init__(self, state: State, variant: Variant) -> None:
        self.variant = variant
        self._lessons, self._sizes, self._overheads = state.lessons, state.sizes, state.overheads
        self._sized: dict[tuple[int, tuple[float, ...]], list[Placement]] = {}
        self._off: dict[Placement, Mapping[DeviceId, Bytes]] = {}
        self._told: dict[Placement, Footprint] = {}

    def is_about(self, variant: Variant) -> bool:
        return self.variant is variant or self.variant == variant

    def knows_as_much_as(self, state: State) -> bool:
        """Whether it would answer the same from that state."""
        mine, its = (self._lessons, self._sizes, self._overheads), (state.lessons, state.sizes, state.overheads)
        return all(map(is_, mine, its))

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
        key = self.variant.id, placement
        lesson = self._lessons.get(key)
        if lesson is not None:
            return lesson
        said = self._sizes.get(key)
        amounts = self._estimate(placement) if said is None else self._with_process(said)
        for device in placement.devices:
            amounts[device] = amounts.get(device, 0) + self._overheads.get(device, 0)
        return Footprint.of(amounts)

    def _with_process(self, said: Footprint) -> dict[DeviceId, Bytes]:
        """As llama.cpp says, and on the host the process itself, which it does not count."""
        amounts = dict(said.parts)
        amounts[HOST] = amounts.get(HOST, 0) + process_bytes(self.variant)
        return amounts

    def _estimate(self, placement: Placement) -> dict[DeviceId, Bytes]:
        """Arithmetic, shifted by how far it was off where llama.cpp has sized the same model on the same cards."""
        amounts = dict(arithmetic(self.variant, placement).parts)
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
        """What was sized of this variant on as many cards, with the same shares if there is such a thing."""
        kind = len(placement.devices), placement.split
        sized = self._sized.get(kind)
        if sized is None:
            every = _sized_by_variant(self._sizes).get(self.variant.id, ())
            on_as_many = [place for place in every if len(place.devices) == kind[0]]
            alike = [place for place in on_as_many if place.split == kind[1]]
            sized = self._sized[kind] = alike or on_as_many
        return sized

    def _error(self, sized: Placement) -> Mapping[DeviceId, Bytes]:
        """By how much the arithmetic is too low there."""
        off = self._off.get(sized)
        if off is None:
            size, ours = self._with_process(self._sizes[self.variant.id, sized]), arithmetic(self.variant, sized)
            off = self._off[sized] = {d: size.get(d, 0) - ours[d] for d in {*size, *ours}}
        return off


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
    if last is not None and last.is_about(variant) and last.knows_as_much_as(state):
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
