"""What the slots hold, and how as little as possible of it is evaluated twice.

Used by `slots`: `seat` finds a request the slot that spares most, from what slots hold or from what was saved;
conversations that are overwritten or whose model leaves are saved first. Three kinds of memory:

- full attention: a sequence can be cut back to any prefix;
- sliding windows: to those whose window is still there, which after a long answer the prompt's is not;
- recurrent states: to none.

For the last two what cannot be cut back is copied shortly before the end of each prompt (the checkpoint): there the
next request of the conversation goes on, if it does not go on from all that is held. Template and tokenizer may write
an old answer otherwise than it was generated.
"""

from __future__ import annotations

from collections.abc import Sequence as Listed
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Final, Generic, TypeVar

from swapd.units import Seconds, Tokens
from swapd.wire import Prompts, Saved
from swapd.worker.context import Context
from swapd.worker.llama import Model
from swapd.worker.prompts import choose, common_prefix
from swapd.worker.shelf import Copy, Entry, Shelf
from swapd.worker.stretches import Stretch, position, whole

WORTH_SAVING: Final[Tokens] = 128
"""Shorter conversations are evaluated anew: a file costs more than it spares."""
WORTH_RESTORING: Final[Tokens] = 64
"""What a file must spare beyond what a slot holds anyway."""
WORTH_COPYING: Final[Tokens] = 16
"""What a checkpoint must be ahead of the one before it."""
WORTH_SHARING: Final[Tokens] = 16
"""What must be spared by copying another slot's cache."""
_COPIED_A_TOKEN: Final[Tokens] = 256
"""All of a slot's cache is copied, however little of it is used: so much of it in the time that a token takes."""
TAIL: Final[Tokens] = 8
"""The end of the prompt is left out of the checkpoint: the opening of the answer is not always rendered again."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What cannot be cut back of a sequence, as it was `at` so many tokens."""

    at: Tokens
    copy: Copy
    is_shared: bool = False
    """Another slot has it too: the copy is not to be overwritten."""


@dataclass(slots=True)
class Sequence:
    """One slot's part of the cache."""

    sequence: int
    held: list[int] = field(default_factory=list)
    """The tokens whose keys and values the sequence holds."""
    used: int = 0
    """When a request was last given it, counted in requests."""
    adapter: str = ""
    """With which they were computed."""
    checkpoint: Checkpoint | None = None
    stretches: list[Stretch] = field(default_factory=list)
    """Those of `held` that are no text."""

    @property
    def position(self) -> int:
        """Of the next token."""
        return position(self.stretches, len(self.held)) if self.stretches else len(self.held)


S = TypeVar("S", bound=Sequence)


@dataclass(frozen=True, slots=True)
class Seat(Generic[S]):
    """Where a request goes: `cached` tokens of its prompt are there; `restored` of them come from a file."""

    slot: S
    cached: Tokens
    restored: Tokens


class Keeper:
    """Of one model's context. `saved` is filled with what the daemon has to be told."""

    def __init__(self, model: Model, context: Context, order: Prompts | None) -> None:
        """No `order`: nothing is saved, nothing restored."""
        self._context = context
        self._window, self._is_recurrent = model.window, model.is_recurrent
        self._can_cut = not (model.window or model.is_recurrent)
        self._shelf = None if order is None else Shelf(order, context.length)
        self._requests = 0
        self.worth_sharing = max(WORTH_SHARING, context.length // _COPIED_A_TOKEN)
        self.saved: list[Saved] = []

    def seat(self, free: Listed[S], prompt: list[int], adapter: str = "", caches: bool = True) -> Seat[S]:
        """Choose a free slot for the prompt and make it hold as much of its beginning as can be had."""
        there = [self._reusable(slot, prompt, adapter) if caches else 0 for slot in free]
        slot = free[choose([(tokens, slot.used) for tokens, slot in zip(there, free, strict=True)], len(prompt))]
        reuse = self._reusable(slot, prompt, adapter) if caches else 0
        found = None
        if self._shelf is not None and caches:
            found = self._shelf.best(prompt, adapter, self._can_cut, reuse + WORTH_RESTORING)
        if found is None:
            self._set_aside(slot, reuse)
            restored = 0
        else:
            self._set_aside(slot, 0)
            if not self._restore(slot, found[0]):  # which is left out from now on
                return self.seat(free, prompt, adapter, caches)
            reuse = restored = self._reusable(slot, prompt, adapter)
        goes_on = reuse == len(slot.held)
        cached = self._cut(slot, reuse)
        if goes_on and cached >= whole(slot.stretches, len(prompt) - TAIL):
            self._mark(slot, cached)  # nothing but the prompt's end comes after it
        self._requests += 1
        slot.used, slot.adapter = self._requests, adapter
        return Seat(slot, cached, min(restored, cached))

    def pause(self, slot: Sequence, prompt: Tokens, stretches: Listed[Stretch] = ()) -> Tokens:
        """How far a prompt of this length is to be evaluated before `evaluated` is called."""
        at = whole(stretches, prompt - TAIL)
        return at if len(slot.held) < at and self._is_ahead(slot, at) else prompt

    def evaluated(self, slot: Sequence, prompt: Tokens, stretches: Listed[Stretch] = ()) -> None:
        """A part of the prompt, not its end, has been evaluated."""
        if len(slot.held) == whole(stretches, prompt - TAIL):
            self._mark(slot, len(slot.held))

    def shareable(self, source: Sequence, prompt: list[int]) -> Tokens:
        """How many tokens of the prompt another slot could take over from what this one holds now."""
        shared = _common(source, prompt)
        is_there = shared == len(source.held) or position(source.stretches, shared) >= self._shortest(source)
        return shared if is_there else 0

    def share(self, source: Sequence, slot: Sequence, prompt: list[int]) -> Tokens:
        """Have the slot hold what it can take over, if that is worth it; how many tokens it holds then.

        llama.cpp copies at the next decode: until then neither slot may be saved or restored.
        """
        shared = self.shareable(source, prompt)
        if shared - len(slot.held) < self.worth_sharing:
            return len(slot.held)
        self._context.copy(source.sequence, slot.sequence)
        if source.checkpoint is not None:
            source.checkpoint = replace(source.checkpoint, is_shared=True)
        slot.held, slot.checkpoint = source.held.copy(), source.checkpoint
        slot.stretches = source.stretches.copy()
        return self._cut(slot, shared, may_restore=False)

    def forget(self, slot: Sequence) -> None:
        """Nothing that the sequence holds is of use any more."""
        self._context.trim(slot.sequence, 0)
        slot.held.clear()
        slot.stretches.clear()
        slot.checkpoint = None

    def tidy(self, slot: Sequence) -> None:
        """It was left in the middle of a picture: what of that is in the sequence goes."""
        if self._is_recurrent or not self._context.trim(slot.sequence, slot.position):
            self.forget(slot)

    def save(self, slots: Listed[Sequence], limit: Seconds) -> None:
        """What all slots hold, the last used first; none is begun after the limit."""
        end = perf_counter() + limit
        for slot in sorted(slots, key=lambda slot: -slot.used):
            if perf_counter() < end:
                self._save(slot)

    # --- in memory

    def _is_ahead(self, slot: Sequence, at: Tokens) -> bool:
        """Whether a checkpoint there is worth its copy."""
        return not self._can_cut and at - (slot.checkpoint.at if slot.checkpoint else 0) >= WORTH_COPYING

    def _mark(self, slot: Sequence, at: Tokens) -> None:
        """Copy what cannot be cut back as it is now, if that is worth it."""
        if self._is_ahead(slot, at):
            old, slot.checkpoint = slot.checkpoint, None
            copy = self._context.partial(slot.sequence, None if old is None or old.is_shared else old.copy)
            if copy is not None:
                slot.checkpoint = Checkpoint(at, copy)

    def _reusable(self, slot: Sequence, prompt: list[int], adapter: str) -> Tokens:
        """How many tokens of the prompt need not be evaluated in this slot; never its last one."""
        if slot.adapter != adapter:
            return 0
        there, common = self.shareable(slot, prompt), _common(slot, prompt)
        if slot.checkpoint is None or slot.checkpoint.at > common or common == len(slot.held):
            return there
        # Where it hardly matters the checkpoint is put back even if more is there: who comes back from a file has only
        # that. Cells of a window are a ring: after a cut the next tokens go where some are free, after a return behind
        # all others. Attention sums up in their order, and in another one it rounds otherwise: another greedy answer.
        return slot.checkpoint.at if not there or common - slot.checkpoint.at <= TAIL else there

    def _shortest(self, slot: Sequence) -> Tokens:
        """The first position, above none, that the sequence can be cut back to as it is."""
        if self._is_recurrent:
            return len(slot.held)
        first = self._context.first(slot.sequence) if self._window else 0
        return first + self._window if first > 0 else 0

    def _cut(self, slot: Sequence, length: Tokens, *, may_restore: bool = True) -> Tokens:
        """Make the slot hold its first `length` tokens; none, where llama.cpp cannot. How many it holds."""
        if length < len(slot.held):
            is_cut = length > 0
            checkpoint = slot.checkpoint
            is_marked = may_restore and checkpoint is not None and checkpoint.at == length
            if is_cut and (is_marked or position(slot.stretches, length) < self._shortest(slot)):
                is_cut = checkpoint is not None and self._context.set_partial(slot.sequence, checkpoint.copy)
            is_cut = is_cut and self._context.trim(slot.sequence, position(slot.stretches, length))
            if not is_cut or not self._holds(slot, length):
                self.forget(slot)
            del slot.held[length:]
            slot.stretches = [each for each in slot.stretches if each.end <= length]
        if slot.checkpoint is not None and slot.checkpoint.at > len(slot.held):
            slot.checkpoint = None
        return len(slot.held)

    def _holds(self, slot: Sequence, length: Tokens) -> bool:
        """Whether llama.cpp's sequence ends where so many tokens do. In a plane, a picture ends before its last one."""
        last, end = self._context.last(slot.sequence), position(slot.stretches, length)
        tail = next((each for each in slot.stretches if each.end == length), None)
        return last == end - 1 if tail is None else end - tail.positions <= last < end

    # --- in files

    def _set_aside(self, slot: Sequence, kept: Tokens) -> None:
        """Save what the slot holds, if most of that is about to be overwritten."""
        if len(slot.held) >= max(WORTH_SAVING, 2 * kept):
            self._save(slot)

    def _save(self, slot: Sequence) -> None:
        shelf, held = self._shelf, slot.held
        if shelf is None or len(held) < WORTH_SAVING or shelf.covers(held, slot.adapter, self._can_cut):
            return
        copy, at = (slot.checkpoint.copy, slot.checkpoint.at) if slot.checkpoint else (None, 0)
        if not shelf.has_room(self._context.size(slot.sequence) + (0 if copy is None else len(copy))):
            return
        path: Path | None = None
        try:
            path = shelf.begin()
            if not self._context.save(slot.sequence, str(path)):
                raise OSError(f"cannot write {path}")
            replaced = shelf.finish(path, held, slot.adapter, copy, at, slot.stretches)
        except OSError:  # no room, or no folder any more: the conversation will be evaluated anew
            if path is not None:
                with suppress(OSError):
                    path.unlink(missing_ok=True)
            return
        self.saved.append(Saved(path.name, replaced))

    def _restore(self, slot: Sequence, entry: Entry) -> bool:
        """False: it could not be used and is left out; the slot is then empty."""
        assert self._shelf is not None
        found = self._shelf.open(entry)
        self.forget(slot)
        if found is None:
            return False
        head, copy = found
        tokens = list(head.ids)
        if not self._context.restore(slot.sequence, str(entry.path)):
            self._shelf.leave_out(entry)  # made for a context of another kind
            return False
        slot.stretches = list(entry.stretches)
        if not self._holds(slot, len(tokens)):
            self.forget(slot)
            self._shelf = None  # restoring does not work for this model: nothing more is saved
            return False
        slot.held, slot.adapter = tokens, head.adapter
        if copy is not None:
            slot.checkpoint = Checkpoint(head.at, copy)
        return True


def _common(slot: Sequence, prompt: list[int]) -> Tokens:
    """How many tokens of the prompt, never its last one, are those that the slot holds."""
    return whole(slot.stretches, min(common_prefix(slot.held, prompt), len(prompt) - 1))
