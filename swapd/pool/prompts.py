"""The folder of saved conversations: whose they are, that none is used before it is whole, and that they do not grow.

Used by `pool`; the only owner: workers write files and read sealed ones, and here they are sealed, counted and removed.
The folder itself is the index, so that there is no second one to be wrong: what was used last is the file's time.

Nothing waits for the disk. What was saved just now is in the kernel's page cache, which is memory that everybody else
can have back; the disk has it when it must. A file that a power cut left behind incomplete has the wrong checksum.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from swapd import wire
from swapd.core.model import Variant
from swapd.savedstate import PREFIX, SUFFIX, UNSEALED, DamagedState, seal
from swapd.units import Bytes, Seconds, format_bytes

PATIENCE: Final[Seconds] = 2.0
"""So long a request waits for its own conversation to be sealed."""

log = structlog.get_logger("swapd.prompts")


class PromptStore:
    """Of one folder. `prepare` first; without it, or with a limit of 0, nothing is saved."""

    def __init__(self, folder: Path, limit: Bytes) -> None:
        """`limit`: of all files together."""
        self._folder, self._limit = folder, limit
        self._is_usable = False
        self._sealing: dict[str, asyncio.Task[None]] = {}
        """By the name of the file."""
        self._turn = asyncio.Lock()

    @property
    def is_on(self) -> bool:
        return self._is_usable and self._limit > 0

    def prepare(self) -> None:
        """Make the folder, and remove what earlier daemons left unfinished and what is too much. Blocks."""
        try:
            if self._limit > 0:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            about = self._folder.stat()
            if about.st_uid != os.geteuid() or stat.S_IMODE(about.st_mode) & 0o022:
                raise PermissionError(
                    f"others may write there; allowed is a folder of our own (chmod 700 {self._folder})"
                )
            for path in self._folder.glob(f"*{UNSEALED}"):
                path.unlink(missing_ok=True)
            self._trim()
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("cannot keep prompt state: prompts are read anew", path=str(self._folder), reason=str(error))
        else:
            self._is_usable = True

    async def limit(self, size: Bytes) -> None:
        """From now on so much; counts for models that are loaded after it, and what is too much goes at once."""
        async with self._turn:
            self._limit = size
            await asyncio.to_thread(self.prepare)

    def order(self, variant: Variant, build: str) -> wire.Prompts | None:
        """What a worker of this variant is told; None: nothing is saved.

        Two variants of one file share what they save unless llama.cpp would not take it: the context may differ.
        """
        if not self.is_on or not variant.content:
            return None
        what: tuple[object, ...] = (variant.content, build, variant.kv_type, variant.flash_attention, variant.slots)
        if variant.projector is not None:
            what += (variant.projector.content,)
        return wire.Prompts(str(self._folder), hashlib.sha256(repr(what).encode()).hexdigest(), self._limit)

    def sealing(self, saved: wire.Saved, tasks: asyncio.TaskGroup) -> None:
        """A worker has written a file: make it usable."""
        self._sealing[saved.name] = tasks.create_task(self._seal(saved), name=f"seal {saved.name}")

    async def wait_sealed(self, order: wire.Prompts) -> None:
        """Until all that was written by now and is of use to this worker can be used; not for ever."""
        ours = [task for name, task in self._sealing.items() if name.startswith(order.key[:PREFIX])]
        if ours:
            await asyncio.wait(ours, timeout=PATIENCE)

    async def _seal(self, saved: wire.Saved) -> None:
        try:
            async with self._turn:
                await asyncio.to_thread(self._finish, saved)
        finally:
            del self._sealing[saved.name]

    def _finish(self, saved: wire.Saved) -> None:
        path = self._folder / saved.name
        try:
            if path.parent != self._folder or path.suffix != UNSEALED:
                raise DamagedState("no name of ours")
            seal(path)
            path.rename(path.with_suffix(SUFFIX))
            for name in saved.replaces:
                if name.endswith(SUFFIX) and Path(name).name == name:
                    (self._folder / name).unlink(missing_ok=True)
            self._trim()
        except (OSError, DamagedState) as error:
            log.warning("cannot keep prompt state", file=saved.name, reason=str(error))
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def _trim(self) -> None:
        """Remove what was not used for longest, until the rest is within the limit. Raises OSError."""
        files: list[tuple[float, Bytes, str]] = []
        with os.scandir(self._folder) as listing:
            for entry in listing:
                if entry.name.endswith(SUFFIX):
                    with suppress(FileNotFoundError):
                        about = entry.stat(follow_symlinks=False)
                        files.append((about.st_mtime, about.st_size, entry.path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self._limit:
                break
            Path(path).unlink(missing_ok=True)
            log.debug("prompt state removed", file=path, bytes=format_bytes(size))
            total -= size
