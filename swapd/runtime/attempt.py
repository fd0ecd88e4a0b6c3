"""One try at an answer with one model: a lease, and under it what a worker tells.

Used by `gateway.py`, which owes it an `end`. Keeps the books of the answer as it comes; decides nothing.
"""

from __future__ import annotations

from swapd import generation
from swapd.core.messages import Refusal, Usage
from swapd.core.model import ResidentId
from swapd.errors import Death, ModelUnusable, SwapdError, Unloaded, WorkerCrashed, WorkerFailed
from swapd.generation import Chunk, News
from swapd.runtime.asking import Answer, Ask, Watch
from swapd.runtime.engine import Engine, Record
from swapd.runtime.leases import Leases
from swapd.runtime.ports import Telling, Workers
from swapd.served import Model
from swapd.units import Seconds


class Attempt:
    def __init__(self, engine: Engine, workers: Workers, leases: Leases, ask: Ask, model: Model) -> None:
        """Asks for the lease."""
        self._engine, self._workers, self._leases, self._ask, self._model = engine, workers, leases, ask, model
        self._asked: Seconds = engine.now()
        self._granted: Seconds = self._asked
        self._request, self._granting = leases.ask(
            model,
            ask.request.id,
            keep_alive=ask.keep_alive,
            priority=model.entry.priority if ask.priority is None else ask.priority,
            session=ask.session,
        )
        self._telling: Telling | None = None
        self._record = Record()
        self._has_begun = False
        self._usage: Usage | None = None
        """Of an answer that is complete."""

    async def begin(self, watch: Watch | None) -> Answer:
        """The answer when something of it is there. Raises what a refusal means, and what a worker's failure does."""
        engine, ask, model = self._engine, self._ask, self._model
        resident = await self._leases.wait(model, self._request, self._granting, watch)
        self._granted = engine.now()
        load_s = engine.records[resident].load_s if self._was_loaded_for(resident) else 0.0
        request = model.entry.applied(ask.request, ask.defaults, str(self._request), model.adapter)
        try:
            self._telling = await self._workers.generate(resident, request)
            first = await self._telling.wait_first()
        except WorkerFailed as failure:
            raise self.meaning(failure) from failure
        placement = str(engine.state.residents[resident].placement)
        self._record = engine.records.get(resident, self._record)
        self._record.requests += 1
        return Answer(model, placement, self._granted - self._asked, load_s, first, self._telling, self._count)

    def end(self) -> None:
        """However it went; synchronous, so that no cancellation can lose it."""
        if self._telling is not None:
            self._telling.close()
        self._leases.end(self._request, self._usage)

    def meaning(self, failure: WorkerFailed) -> SwapdError:
        """What a worker's failure means to the caller."""
        revoked = self._engine.revocation(self._request)
        if revoked is not None and revoked.refusal is Refusal.UNLOADED:
            return Unloaded(self._model.name)
        if failure.death is Death.UNUSABLE:  # the adapter: without the model there would be no lease
            return ModelUnusable(self._model.name, failure.reason)
        return WorkerCrashed(self._model.name, failure.reason)

    def _count(self, news: News) -> None:
        for item in news:
            if not self._has_begun and not (isinstance(item, Chunk) and item.read is not None):
                self._has_begun = True  # reading the prompt is not yet answering
                measures, now = self._engine.journal.measures, self._engine.now()
                measures.began(self._granted - self._asked, now - self._asked)
            if isinstance(item, Chunk):
                self._record.tokens += item.tokens
            else:
                self._engine.journal.measures.spent(self._model.name, item.usage)
                self._record.restored += item.usage.restored
                self._usage = _seen(item.usage)

    def _was_loaded_for(self, resident: ResidentId) -> bool:
        loaded_at = self._engine.state.residents[resident].loaded_at
        return loaded_at is not None and loaded_at >= self._asked


def _seen(usage: generation.Usage) -> Usage:
    return Usage(usage.evaluated, usage.cached, usage.completion, usage.prompt_s, usage.completion_s)
