"""Leases: asked of the engine, waited for, and given back however it went.

Used by `gateway.py`, and through it by `questions.py` and `vectors.py`. Decides nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from typing import Any, Final

from swapd.core import queueing
from swapd.core.messages import RequestArrived, RequestEnded, Usage
from swapd.core.model import RequestId, ResidentId
from swapd.runtime.asking import Progress, Watch, error_of
from swapd.runtime.engine import Engine, Refused
from swapd.served import Model
from swapd.units import Seconds

TELL_EVERY: Final[Seconds] = 5.0
"""A waiting caller is told its place at least so often."""


class Leases:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._ids = itertools.count(1)

    @contextlib.asynccontextmanager
    async def held(
        self,
        model: Model,
        label: str,
        *,
        keep_alive: Seconds | None,
        priority: int = 0,
        slotless: bool = False,
        gpu_layers: int | None = None,
        session: str | None = None,
        watch: Watch | None = None,
    ) -> AsyncIterator[tuple[RequestId, ResidentId]]:
        """The right to one slot (or, slotless, the wish to have it loaded) for as long as the block runs."""
        request, granting = self.ask(
            model,
            label,
            keep_alive=keep_alive,
            priority=priority,
            slotless=slotless,
            gpu_layers=gpu_layers,
            session=session,
        )
        try:
            yield request, await self.wait(model, request, granting, watch)
        finally:
            self.end(request, None)

    def ask(
        self,
        model: Model,
        label: str,
        *,
        keep_alive: Seconds | None,
        priority: int,
        slotless: bool = False,
        gpu_layers: int | None = None,
        session: str | None = None,
    ) -> tuple[RequestId, asyncio.Future[ResidentId]]:
        """A lease asked for: its name, and what tells that it is granted. The caller owes an `end`."""
        assert model.variant is not None
        request = RequestId(f"{label}/{next(self._ids)}")  # a retry, or a caller's own id said twice, is another lease
        engine = self._engine
        engine.journal.belongs(request, session)
        return request, engine.ask(
            RequestArrived(
                engine.now(),
                request,
                model.variant,
                keep_alive,
                model.entry.keep_alive,
                priority,
                slotless,
                gpu_layers,
            )
        )

    def end(self, request: RequestId, usage: Usage | None) -> None:
        """Synchronous, so that no cancellation can lose it."""
        self._engine.forget(request)
        self._engine.post(RequestEnded(self._engine.now(), request, usage))

    async def wait(
        self, model: Model, request: RequestId, granting: asyncio.Future[ResidentId], watch: Watch | None
    ) -> ResidentId:
        """Raises what a refusal means."""
        engine = self._engine
        told, told_at = None, -TELL_EVERY
        while watch is not None and not granting.done():
            place = queueing.place(engine.state, request)
            if place is not None and (place != told or engine.now() - told_at >= TELL_EVERY):
                told, told_at = place, engine.now()
                await watch(Progress(place.reason, place.position, place.fraction))
            news: list[asyncio.Future[Any]] = [granting, engine.next_change()]
            await asyncio.wait(news, timeout=TELL_EVERY, return_when=asyncio.FIRST_COMPLETED)
        try:
            return await granting
        except Refused as refused:
            raise error_of(model, refused.command) from None
