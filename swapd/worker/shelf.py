"""The saved conversations of one model that this worker may use: what is in the folder, looked at again as it changes.

Used by `states`. The daemon owns the folder: it seals what workers have written, and removes what is too much. A file
that is gone is none of our business; one that is damaged is removed here, where it is found out.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import sys
import time
from array import array
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from swapd.savedstate import (
    PREFIX,
    SUFFIX,
    UNSEALED,
    DamagedState,
    Head,
    describe,
    packed,
    read_checkpoint,
    read_head,
    verify,
)
from swapd.units import Bytes, Tokens
from swapd.wire import Prompts
from swapd.worker.prompts import common_prefix
from swapd.worker.stretches import Stretch, whole

Copy: TypeAlias = "ctypes.Array[ctypes.c_uint8]"
_AS_GOOD: Final[Tokens] = 8
"""A saved conversation that lacks no more than this is not saved again."""
_SETTLED: Final = 10**8
"""Nanoseconds: a folder that changed just now may change again without a new time."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One saved conversation."""

    path: Path
    adapter: str
    tokens: array[int]
    at: Tokens
    """Where it has a checkpoint; 0: it has none."""
    stretches: tuple[Stretch, ...] = ()
    """Those of the tokens that are no text."""

    def reusable(self, prompt: array[int], can_cut: bool) -> Tokens:
        """How many of the prompt need not be evaluated with it; never its last one."""
        shared = whole(self.stretches, min(common_prefix(self.tokens, prompt), len(prompt) - 1))
        if can_cut or shared == len(self.tokens):
            return shared
        return self.at if 0 < self.at <= shared else 0


class Shelf:
    def __init__(self, order: Prompts, longest: Tokens) -> None:
        """`longest`: conversations with more tokens do not fit the context."""
        self._order, self._longest = order, longest
        self._folder = Path(order.folder)
        self._prefix = order.key[:PREFIX]
        self._entries: dict[str, Entry | None] = {}
        """By file name; None: not for us."""
        self._seen = 0

    def best(self, prompt: list[int], adapter: str, can_cut: bool, least: Tokens) -> tuple[Entry, Tokens] | None:
        """The one that spares most of evaluating the prompt, if that is at least so much; and how much."""
        self._look()
        asked, best = array("i", prompt), None
        for entry in self._live():
            if entry.adapter != adapter or entry.tokens[:least] != asked[:least]:
                continue
            spared = entry.reusable(asked, can_cut)
            if spared >= least:
                best, least = (entry, spared), spared + 1
        return best

    def covers(self, held: list[int], adapter: str, can_cut: bool) -> bool:
        """Whether a conversation that goes on from `held` finds nearly all of it here."""
        self._look()
        going_on = array("i", [*held, 0])
        return any(
            entry.adapter == adapter and entry.reusable(going_on, can_cut) >= len(held) - _AS_GOOD
            for entry in self._live()
        )

    def has_room(self, size: Bytes) -> bool:
        """Whether so much may be saved: within the limit, and without filling the disk."""
        with suppress(OSError):
            return size <= self._order.limit and 2 * size < shutil.disk_usage(self._folder).free
        return False

    def begin(self) -> Path:
        """A new, empty file that only we can read. Raises OSError."""
        path = self._folder / f"{self._prefix}-{secrets.token_hex(8)}{UNSEALED}"
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        return path

    def finish(
        self,
        path: Path,
        held: list[int],
        adapter: str,
        checkpoint: Copy | None,
        at: Tokens,
        stretches: Iterable[Stretch] = (),
    ) -> tuple[str, ...]:
        """After llama.cpp has written its part: the names of those that this one replaces. Raises OSError."""
        state = path.stat().st_size
        if checkpoint is not None:
            with path.open("ab") as file:
                file.write(memoryview(checkpoint))
        length = 0 if checkpoint is None else len(checkpoint)
        places = tuple((each.start, each.tokens, each.positions) for each in stretches)
        describe(path, Head(self._order.key, adapter, packed(held), state, length, at, places))
        tokens = array("i", held)
        return tuple(
            entry.path.name
            for entry in self._live()
            if entry.adapter == adapter and entry.tokens == tokens[: len(entry.tokens)]
        )

    def open(self, entry: Entry) -> tuple[Head, Copy | None] | None:
        """Its head and checkpoint, after every byte was checked; None: it is gone, or was damaged and is removed."""
        try:
            head = verify(entry.path)
            if head.key != self._order.key:
                raise DamagedState("it is another model's")
            checkpoint: Copy | None = None
            if head.checkpoint:
                checkpoint = (ctypes.c_uint8 * head.checkpoint)()
                read_checkpoint(entry.path, head, memoryview(checkpoint).cast("B"))
        except FileNotFoundError:
            self.leave_out(entry)
            return None
        except (OSError, DamagedState) as error:
            self._remove(entry.path, error)
            self.leave_out(entry)
            return None
        with suppress(OSError):
            os.utime(entry.path)  # used just now
        return head, checkpoint

    def leave_out(self, entry: Entry) -> None:
        """It cannot be used here."""
        self._entries[entry.path.name] = None

    def _live(self) -> Iterator[Entry]:
        return (entry for entry in self._entries.values() if entry is not None)

    def _look(self) -> None:
        """Read the heads of new files, if there may be any."""
        try:
            changed = self._folder.stat().st_mtime_ns
            if changed == self._seen:
                return
            names = [name for name in os.listdir(self._folder) if name.startswith(self._prefix)]
        except OSError:
            self._entries.clear()
            return
        self._seen = changed if time.time_ns() - changed > _SETTLED else 0
        self._entries = {name: self._entries.get(name) for name in names if name in self._entries} | {
            name: self._read(self._folder / name)
            for name in names
            if name.endswith(SUFFIX) and name not in self._entries
        }

    def _read(self, path: Path) -> Entry | None:
        try:
            head = read_head(path)
        except FileNotFoundError:
            return None
        except (OSError, DamagedState) as error:
            self._remove(path, error)
            return None
        if head.key != self._order.key or len(head.tokens) // 4 > self._longest:
            return None
        return Entry(path, head.adapter, head.ids, head.at, tuple(Stretch(*place) for place in head.stretches))

    def _remove(self, path: Path, why: Exception) -> None:
        sys.stderr.write(f"swapd: saved prompt state {path.name} is damaged and removed: {why}\n")
        sys.stderr.flush()
        with suppress(OSError):
            path.unlink(missing_ok=True)
