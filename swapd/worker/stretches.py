"""Where pictures lie in a sequence: stretches of it that are no text, are read whole, and may count few positions.

Used by `prompts`, `states` and `slots`; pure. A sequence is a list of tokens. Those of a picture are numbers below 0,
made of its content: so the same picture is the same beginning of a prompt, and another one is not.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from swapd.units import Tokens

_BYTES: Final = 4
_SIGN: Final = -(2**31)


@dataclass(frozen=True, slots=True)
class Stretch:
    """`tokens` of a sequence from `start` on. Models with positions in a plane count fewer `positions` for them."""

    start: Tokens
    tokens: Tokens
    positions: int

    @property
    def end(self) -> Tokens:
        return self.start + self.tokens


def position(stretches: Iterable[Stretch], length: Tokens) -> int:
    """Of what comes after the first `length` tokens, which end inside no stretch."""
    return length - sum(each.tokens - each.positions for each in stretches if each.end <= length)


def whole(stretches: Iterable[Stretch], length: Tokens) -> Tokens:
    """So many of the first `length` tokens that no stretch is cut."""
    return next((each.start for each in stretches if each.start < length < each.end), length)


def numbers(content: bytes, count: Tokens) -> list[int]:
    """What stands for a picture of that content in a list of tokens."""
    drawn = array("i", hashlib.shake_256(content).digest(_BYTES * count))
    return [number | _SIGN for number in drawn]
