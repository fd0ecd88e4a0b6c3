"""Model files in the page cache: looked at and read ahead in threads, told to the core as facts.

Owned by `engine.py`, which performs the core's orders with it. Decides nothing.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeAlias

import structlog

from swapd.core.messages import Event, FilesSeen, FileWarmed, WarmFile
from swapd.core.model import Variant, VariantId
from swapd.runtime.ports import Clock, Files
from swapd.units import Seconds

LOOK_AGAIN: Final[Seconds] = 2.0
"""So long what was seen of a file is good enough for whoever asks."""

Spawn: TypeAlias = Callable[[Coroutine[object, object, None], str], None]

log = structlog.get_logger("swapd.engine")


class Warmth:
    def __init__(self, files: Files, clock: Clock, post: Callable[[Event], None], spawn: Spawn) -> None:
        self._files, self._clock, self._post, self._spawn = files, clock, post, spawn
        self._reader = ThreadPoolExecutor(1, "read ahead")  # a thread of its own: it is given a low priority
        self._wanted = threading.Event()
        self._seen: dict[VariantId, tuple[Seconds, float | None]] = {}
        self._told: set[VariantId] = set()
        """Of those last seen, the ones whose share the core knows."""

    def close(self) -> None:
        self.stop()
        self._reader.shutdown(wait=False)

    def warm(self, command: WarmFile) -> None:
        self.stop()
        wanted = self._wanted = threading.Event()
        wanted.set()
        self._spawn(self._warm(command, wanted), f"read {command.variant.name} ahead")

    def stop(self) -> None:
        self._wanted.clear()

    async def _warm(self, command: WarmFile, wanted: threading.Event) -> None:
        variant = command.variant
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._reader, self._files.read, variant.path, command.size, wanted.is_set)
        except OSError as error:
            log.info("cannot read a file ahead", model=variant.name, reason=str(error))
        except BaseException:
            wanted.clear()  # so that the thread ends
            raise
        cached = (await self._look_at([variant]))[variant.id]
        if wanted.is_set():
            self._post(FileWarmed(self._clock(), variant.id, cached))

    def look(self, variants: Iterable[Variant]) -> None:
        """The core is told what is found, or was just now for others, unless it has been told that already."""
        unheard = [variant for variant in variants if not self._is_fresh(variant) or variant.id not in self._told]
        if unheard:
            self._spawn(self._tell(unheard), "look at files")

    async def _tell(self, variants: Iterable[Variant]) -> None:
        seen = await self.shares(variants)
        self._told |= set(seen)
        if seen:
            self._post(FilesSeen(self._clock(), tuple(seen.items())))

    async def shares(self, variants: Iterable[Variant]) -> Mapping[VariantId, float]:
        """Of those of whom the kernel tells: how much of their files is in the page cache, or was just now."""
        wanted = {variant.id: variant for variant in variants}
        known = {v: self._seen[v][1] for v, variant in wanted.items() if self._is_fresh(variant)}
        shares = {**known, **await self._look_at([each for v, each in wanted.items() if v not in known])}
        return {variant: share for variant, share in shares.items() if share is not None}

    async def share_before_load(self, variant: Variant) -> float | None:
        """Seen just now, and soon no longer so; None: not known."""
        if not self._is_fresh(variant):
            await self._look_at([variant])
        return self._seen.pop(variant.id)[1]

    async def _look_at(self, variants: Collection[Variant]) -> Mapping[VariantId, float | None]:
        if not variants:
            return {}
        found = await asyncio.to_thread(lambda: {v.id: self._files.share(v.path) for v in variants})
        now = self._clock()
        self._told -= set(found)
        kept = {variant: seen for variant, seen in self._seen.items() if now - seen[0] < LOOK_AGAIN}
        self._seen = {**kept, **{variant: (now, share) for variant, share in found.items()}}
        return found

    def _is_fresh(self, variant: Variant) -> bool:
        return variant.id in self._seen and self._clock() - self._seen[variant.id][0] < LOOK_AGAIN
