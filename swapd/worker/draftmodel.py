"""A small model that drafts for a large one: its own weights and cache, in the same worker, with the same tokens.

Made by `child`, used by `drafting` through `Source`. It always says what it finds likeliest; whether that is right is
not its business. It holds of every slot's text as much as the last proposals needed, and follows from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Final

import llama_cpp.llama_cpp as C  # noqa: N812

from swapd.units import Seconds, Tokens
from swapd.wire import Load
from swapd.worker.backends import Log
from swapd.worker.context import Context
from swapd.worker.llama import CannotLoad, Model
from swapd.worker.parameters import draft_order
from swapd.worker.prompts import common_prefix

_SIZES_APART: Final = 128
"""Vocabularies that are padded otherwise are still the same."""
_LOOKS: Final = 20_000
"""Tokens that are compared, evenly spread."""
_BLEND: Final = 0.3
_CLOSE: Final = 16
"""Tokens behind: with more to read, what it takes says nothing of the next time."""


class Draft:
    """Close it before its model."""

    def __init__(self, model: Model, context: Context) -> None:
        self.model, self.context = model, context
        self._held: dict[int, list[int]] = {}
        self._seconds: Seconds | None = None
        """Of one proposal, with its share of reading what the large model has said since the last ones."""

    def seconds(self, count: int, answers: int) -> Seconds:
        return 0.0 if self._seconds is None else self._seconds * count

    def propose(self, wanted: Sequence[tuple[int, Sequence[int]]], count: int) -> list[list[int]]:
        """Nothing yet for those whose text it has first to read: that goes on at the next call."""
        began, made = perf_counter(), 0
        drafts: list[list[int]] = [[] for _ in wanted]
        is_close = all(len(tokens) - len(self._held.get(sequence, ())) <= _CLOSE for sequence, tokens in wanted)
        ready = [index for index, (sequence, tokens) in enumerate(wanted) if self._follow(sequence, tokens)]
        steps = {index: wanted[index][1][-1] for index in ready}
        for _ in range(count):
            if not steps:
                break
            likeliest = self._step({wanted[index][0]: token for index, token in steps.items()})
            if likeliest is None:
                break
            made += 1
            for index in list(steps):
                token = likeliest[wanted[index][0]]
                if token is None:
                    del steps[index]
                else:
                    drafts[index].append(token)
                    steps[index] = token
        if made and is_close:
            took = (perf_counter() - began) / made
            self._seconds = took if self._seconds is None else self._seconds + _BLEND * (took - self._seconds)
        return drafts

    def close(self) -> None:
        self.context.close()
        self.model.close()

    def _follow(self, sequence: int, tokens: Sequence[int]) -> bool:
        """Hold all but the last of these; False: there is more to read than one batch takes."""
        held = self._held.setdefault(sequence, [])
        goal = list(tokens[:-1])
        shared = common_prefix(held, goal)
        if shared < len(held):
            if not self.context.trim(sequence, shared):
                self.context.trim(sequence, 0)
                shared = 0
            del held[shared:]
        missing = goal[shared : shared + self.context.batch_size]
        if missing:
            self.context.clear()
            self.context.add(sequence, missing, shared, False)
            if self.context.decode() != 0:
                self._forget(sequence)
                return False
            held += missing
        return len(held) == len(goal)

    def _step(self, last: dict[int, int]) -> dict[int, int | None] | None:
        """After each sequence's last token the likeliest one; None for one that ends the answer, or for all."""
        context = self.context
        context.clear()
        rows = {
            sequence: context.add(sequence, (token,), len(self._held[sequence]), True)
            for sequence, token in last.items()
        }
        if context.decode() != 0:
            for sequence in last:
                self._forget(sequence)
            return None
        for sequence, token in last.items():
            self._held[sequence].append(token)
        found = {sequence: int(context.logits(row).argmax()) for sequence, row in rows.items()}
        pieces = self.model.vocabulary.pieces
        return {sequence: None if pieces[token] is None else token for sequence, token in found.items()}

    def _forget(self, sequence: int) -> None:
        self.context.trim(sequence, 0)
        self._held[sequence] = []


def load_draft(order: Load, model: Model, progress: Callable[[float], None], log: Log) -> Draft:
    """The model that drafts for this loaded one. Raises CannotLoad."""
    wanted = draft_order(order)
    assert isinstance(wanted, Load)
    try:
        draft = Model(wanted, progress, log)
        try:
            if draft.is_recurrent:
                raise CannotLoad("its memory cannot be cut back: a recurrent model does not draft")
            check_vocabularies(model, draft)
            return Draft(draft, draft.context(wanted, log))
        except CannotLoad:
            draft.close()
            raise
    except CannotLoad as error:
        raise CannotLoad(f"cannot load the draft model: {error}", error.out_of_memory) from None


def check_vocabularies(model: Model, draft: Model) -> None:
    """Raises CannotLoad where the two do not mean the same by a token."""
    one, other = model.vocabulary, draft.vocabulary
    common: Tokens = min(one.size, other.size)
    if abs(one.size - other.size) > _SIZES_APART:
        raise CannotLoad(
            f"its vocabulary is another one: {other.size} tokens, the model has {one.size}; "
            "one of the same family is needed"
        )
    for token in range(0, common, max(1, common // _LOOKS)):
        if C.llama_vocab_get_text(one.pointer, token) != C.llama_vocab_get_text(other.pointer, token):
            raise CannotLoad(
                f"its vocabulary is another one: token {token} is not the model's; one of the same family is needed"
            )
