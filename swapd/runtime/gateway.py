"""What the API calls: answers under a lease, loading and unloading by name, and what to show.

Resolves names, posts requests to the engine and owes it their end; holds no policy. Errors leave here
as `swapd.errors`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Final

import structlog

from swapd.core.messages import (
    CatalogChanged,
    PinsChanged,
    UnloadRequested,
)
from swapd.core.model import Variant, VariantId
from swapd.core.values import replace
from swapd.errors import (
    InvalidRequest,
    ModelNotFound,
    ModelUnusable,
    SwapdError,
    WorkerCrashed,
    WorkerFailed,
)
from swapd.runtime import explain, foresight, lending, plan, routing
from swapd.runtime.asking import Answer, Ask, Watch
from swapd.runtime.attempt import Attempt
from swapd.runtime.engine import Engine
from swapd.runtime.happenings import Happenings
from swapd.runtime.leases import Leases
from swapd.runtime.measures import Measures
from swapd.runtime.ports import Catalog, Clerk, Workers
from swapd.runtime.questions import Questions, check_sight
from swapd.runtime.status import ResidentStatus, Show
from swapd.runtime.vectors import Vectors
from swapd.served import Model
from swapd.units import Bytes, Seconds, Tokens

FIRST_LOOK: Final[Seconds] = 2.0
"""How long a status waits for the first measurement."""
RESCAN_AFTER: Final[Seconds] = 2.0
"""The folders are looked at again for a list or an unknown name, but not more often than this."""

log = structlog.get_logger("swapd")


class Gateway:
    def __init__(
        self,
        engine: Engine,
        workers: Workers,
        clerk: Clerk,
        catalog: Catalog,
        reload: Callable[[], Awaitable[None]],
    ) -> None:
        self.reload = reload
        """Re-read the configuration. Raises InvalidConfig."""
        self._leases = Leases(engine)
        self.questions = Questions(engine, workers, clerk, self.find, self._leases.held)
        self.vectors = Vectors(engine, workers, self._options, self._leases.held)
        self._engine, self._workers, self._catalog = engine, workers, catalog
        self._pins: dict[str, bool] = {}
        self._show = Show(engine, workers)
        self._scanned_at = engine.now()
        self._tell_pins()

    # --- answers

    @contextlib.asynccontextmanager
    async def generate(self, ask: Ask, watch: Watch | None = None) -> AsyncIterator[Answer]:
        """Hold a lease and answer under it; leaving early frees the slot at once.

        Entered when something of it is there, so that whatever goes wrong before anything could be sent
        raises here: ModelNotFound, ModelUnusable, DoesNotFit, Overloaded, Stopping, ContextLengthExceeded,
        InvalidRequest, WorkerCrashed (after one retry). Later errors raise from the iteration.
        """
        options = await self._options(ask.model)
        (attempt, answer), passed = await routing.first_served(options, lambda model: self._begun(ask, model, watch))
        try:
            answer.passed = passed
            yield answer
        except WorkerFailed as failure:
            raise attempt.meaning(failure) from failure
        finally:
            attempt.end()

    async def _begun(self, ask: Ask, model: Model, watch: Watch | None) -> tuple[Attempt, Answer]:
        if model.variant is not None and model.variant.pooling:
            raise InvalidRequest(f"cannot answer with {model.name!r}: it makes vectors, no text", "model")
        if ask.request.pictures:
            check_sight(model)
        try:
            return await self._once(ask, model, watch)
        except WorkerCrashed:  # nothing was sent yet, so once more
            return await self._once(ask, model, watch)

    async def _once(self, ask: Ask, model: Model, watch: Watch | None) -> tuple[Attempt, Answer]:
        attempt = Attempt(self._engine, self._workers, self._leases, ask, model)
        try:
            return attempt, await attempt.begin(watch)
        except BaseException:
            attempt.end()
            raise

    # --- names

    def models(self) -> tuple[Model, ...]:
        return self._catalog.models()

    async def find(self, name: str) -> Model:
        """The usable model of that name, looking at the folders again if it is unknown."""
        try:
            model = self._catalog.resolve(name)
        except (ModelNotFound, ModelUnusable):
            await self.refresh()
            model = self._catalog.resolve(name)
        assert model.variant is not None
        return model

    async def _options(self, name: str) -> routing.Options:
        return await routing.options(self._catalog, name, self.refresh)

    async def refresh(self) -> None:
        """Look at the folders again, unless that was done just now."""
        if self._engine.now() - self._scanned_at >= RESCAN_AFTER:
            await self.rescan()

    async def rescan(self) -> None:
        self._scanned_at = self._engine.now()
        await asyncio.to_thread(self._catalog.scan)
        self._tell_pins()

    # --- by hand

    async def load(
        self, name: str, keep_alive: Seconds | None = None, gpu_layers: int | None = None, watch: Watch | None = None
    ) -> ResidentStatus:
        """Returns when it is ready."""
        model = await self.find(name)
        lease = self._leases.held(
            model, "load", keep_alive=keep_alive, slotless=True, gpu_layers=gpu_layers, watch=watch
        )
        async with lease as (_, resident):
            return self._show.resident(self._engine.state.residents[resident])

    def load_soon(
        self, name: str, keep_alive: Seconds | None = None, gpu_layers: int | None = None, *, why: str = "asked"
    ) -> None:
        """As `load`, without waiting; a refusal is only logged."""

        async def load() -> None:
            try:
                await self.load(name, keep_alive, gpu_layers)
            except SwapdError as error:
                log.warning("cannot load", model=name, why=why, reason=error.message)

        self._engine.spawn(load(), f"load {name}")

    def preload(self) -> None:
        """Begin to load what the configuration wants loaded from the start."""
        for model in self.models():
            if model.entry.preload and model.variant is not None:
                self.load_soon(model.name, why="preload")

    async def unload(self, name: str, force: bool = False, wait: bool = True) -> bool:
        """False: it was not loaded. `wait`: until its memory is free."""
        model = await self.find(name)
        engine, variants = self._engine, {variant.id for variant in model.variants}
        leaving = {r.id for r in engine.state.residents.values() if r.variant.id in variants}
        for variant in variants:
            engine.post(UnloadRequested(engine.now(), variant, force))
        while wait and leaving & engine.state.residents.keys():
            await engine.next_change()
        return bool(leaving)

    async def pin(self, name: str) -> None:
        self._pins[(await self.find(name)).name] = True
        self._tell_pins()

    async def unpin(self, name: str) -> None:
        self._pins[(await self.find(name)).name] = False
        self._tell_pins()

    def is_pinned(self, model: Model) -> bool:
        """As said by hand, else as configured."""
        return self._pins.get(model.name, model.entry.pin)

    def _tell_pins(self) -> None:
        pins = {m.variant.id for m in self._catalog.models() if m.variant is not None and self.is_pinned(m)}
        self._engine.post(PinsChanged(self._engine.now(), frozenset(pins)))
        known = {m.variant.id: m.variant for m in self._catalog.models() if m.variant is not None}
        named = {m.variant.id: m.variant for m in self._catalog.models() if m.variant is not None and m.is_named}
        self._engine.post(CatalogChanged(self._engine.now(), frozenset(known), tuple(named.values())))

    # --- memory

    async def plan(
        self,
        names: Sequence[str],
        cards: tuple[Bytes, ...] | None = None,
        context: Tokens | None = None,
        slots: int | None = None,
    ) -> dict[str, object]:
        """The document of POST /swapd/plan; nothing is loaded, nobody leaves. Raises ModelNotFound, ModelUnusable."""
        asked: dict[VariantId, Variant] = {}
        for name in names:
            variant = (await self.find(name)).variant
            assert variant is not None
            asked.setdefault(variant.id, replace(variant, name=name))
        await lending.wait_measured(self._engine)
        question = plan.Question(tuple(asked.values()), cards, context, slots)
        return await asyncio.to_thread(plan.document, self._engine.state, question)

    async def yield_memory(self, size: Bytes, duration: Seconds) -> dict[str, object]:
        """The document of POST /swapd/yield; 0 bytes take it back. Raises InvalidRequest."""
        began = self._engine.now()
        device = await lending.lend(self._engine, size, duration)
        return self._show.lent(device, size, began + duration)

    async def footprint(self, name: str) -> dict[str, object]:
        """The document of GET /swapd/models/{name}/footprint. Raises ModelNotFound, ModelUnusable."""
        return await foresight.wait_document(self._engine, await self.find(name))

    # --- to show

    async def cached(self) -> Mapping[str, float]:
        """Of which models how much of the files is in the page cache, by name, from 0 to 1; others: not known."""
        usable = {model.name: model.variant for model in self.models() if model.variant is not None}
        shares = await self._engine.warmth.shares(usable.values())
        return {name: shares[variant.id] for name, variant in usable.items() if variant.id in shares}

    def residents(self) -> tuple[ResidentStatus, ...]:
        return tuple(self._show.resident(resident) for resident in self._engine.state.residents.values())

    def status(self) -> dict[str, object]:
        """The document of GET /swapd/status."""
        return self._show.document()

    async def measured_status(self) -> dict[str, object]:
        """The same, not before memory was looked at, which is soon after the start; where that hangs, without it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_LOOK):
                await lending.wait_measured(self._engine)
        return self.status()

    def queue(self) -> dict[str, object]:
        """The document of GET /swapd/queue."""
        return {"queue": self._show.queue()}

    async def decisions(self, name: str | None, request: str | None, limit: int) -> dict[str, object]:
        """The document of GET /swapd/decisions. Raises ModelNotFound, ModelUnusable."""
        variant = None if name is None else (await self.find(name)).variant
        found = explain.decisions(
            self._engine.journal.decisions, None if variant is None else variant.id, request, limit
        )
        return {"decisions": found}

    @property
    def measures(self) -> Measures:
        return self._engine.journal.measures

    def canonical(self, name: str) -> str | None:
        """The name of the catalog's model that this stands for; None: of none."""
        try:
            return self._catalog.resolve(name).name
        except ModelUnusable as unusable:
            return unusable.name
        except ModelNotFound:
            return None

    @property
    def happenings(self) -> Happenings:
        return self._engine.journal.happenings

    def unhealthy(self) -> str | None:
        """Why nothing gets on though there is work that could be done; None: all is well."""
        return self._engine.wedged()
