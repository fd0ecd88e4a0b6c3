"""Prompts that begin alike and are there at one time: what they have in common is evaluated once.

Used by `slots`. Who comes later follows: it waits until the other has evaluated so much, takes that over and goes on.
So several answers to one prompt cost one evaluation, whatever kind of memory the model has.
"""

from __future__ import annotations

from collections.abc import Sequence

from swapd.units import Tokens
from swapd.worker.answering import Leader, Slot
from swapd.worker.prompts import common_prefix
from swapd.worker.states import Keeper


def leader(slots: Sequence[Slot], prompt: list[int], adapter: str, cached: Tokens, keeper: Keeper) -> Leader | None:
    """Whom a prompt follows of which `cached` tokens are there anyway; None: nobody spares it enough."""
    best: tuple[Tokens, bool, Tokens] | None = None
    found: Leader | None = None
    for slot in slots:
        answer = slot.answer
        if answer is None or slot.adapter != adapter or answer.prompt.pictures:
            continue
        at = min(common_prefix(answer.prompt.tokens, prompt), len(prompt) - 1)
        if len(slot.held) >= at:  # also of what it has said since
            at = keeper.shareable(slot, prompt)
        rank = at, answer.follows is None, len(slot.held)  # of equals who is nearest to it
        if at - cached >= keeper.worth_sharing and (best is None or rank > best):
            best, found = rank, Leader(slot, answer, at)
    return found


def pause(slots: Sequence[Slot], slot: Slot) -> Tokens | None:
    """Where this slot's prompt has to stop for a moment, because others go on from there; None: nowhere."""
    return min((at for follows, at in _followers(slots) if follows is slot and at > len(slot.held)), default=None)


def followed(slots: Sequence[Slot]) -> set[int]:
    """The sequences whose cache others wait for: they must not be given to anybody else."""
    return {slot.sequence for slot, _ in _followers(slots)}


def share(slots: Sequence[Slot], keeper: Keeper) -> None:
    """Have those go on whose leader is there, or is gone. A decode has to come next (`Keeper.share`)."""
    for slot in slots:
        answer = slot.answer
        if answer is None or (follows := answer.follows) is None:
            continue
        if follows.slot.answer is not follows.answer or len(follows.slot.held) >= follows.at:
            answer.follows = None
            answer.cached = keeper.share(follows.slot, slot, answer.prompt.tokens)


def _followers(slots: Sequence[Slot]) -> list[tuple[Slot, Tokens]]:
    return [(slot.answer.follows.slot, slot.answer.follows.at) for slot in slots if slot.answer and slot.answer.follows]
