"""Sums over neighbouring layers of a model, made once and asked for in every decision. Used by `footprint`."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from typing import Final

from swapd.core.model import Shape

_KEPT: Final = 1024
_made: Final[dict[int, tuple[Shape, Sums]]] = {}
"""By identity: to compare two shapes takes longer than what is saved here."""


class Sums:
    """Each attribute answers for the layers from `start` to before `end`; those that the header does not tell are 0."""

    __slots__ = ("full", "states", "weights", "window")

    def __init__(self, shape: Shape) -> None:
        heads = (number * (shape.key_length + shape.value_length) for number in shape.kv_heads)
        self.full = _Sum(shape.full_cache or heads)
        """Elements of the cache of one cell."""
        self.window = _Sum(shape.window_cache)
        self.states = _Sum(shape.states)
        self.weights = _Sum(shape.layer_weights)


class _Sum:
    __slots__ = ("_last", "_up_to")

    def __init__(self, values: Iterable[int]) -> None:
        self._up_to = tuple(accumulate(values, initial=0))
        self._last = len(self._up_to) - 1

    def __call__(self, start: int, end: int) -> int:
        last = self._last
        return self._up_to[end if end < last else last] - self._up_to[start if start < last else last]


def sums(shape: Shape) -> Sums:
    known = _made.get(id(shape))
    if known is not None and known[0] is shape:
        return known[1]
    if len(_made) >= _KEPT:
        _made.clear()
    made = Sums(shape)
    _made[id(shape)] = shape, made
    return made


__all__ = ["Sums", "sums"]
