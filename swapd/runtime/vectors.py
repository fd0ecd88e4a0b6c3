"""Vectors and scores under a lease: of a model that is made for them, or of a second load of one that writes.

Used by `api` as `gateway.vectors`. A model that writes text is loaded beside itself, in a shape that makes vectors:
so that its own answers are not disturbed, and what it takes is sized, promised and measured like any other load.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Protocol

from swapd.core.messages import Refusal
from swapd.core.model import RequestId, ResidentId
from swapd.errors import ContextLengthExceeded, InvalidRequest, NotSupported, Unloaded, WorkerCrashed, WorkerFailed
from swapd.questions import Embed, Embedded, Reply, Rerank, Reranked, VectorQuestion
from swapd.runtime.engine import Engine, Record
from swapd.runtime.ports import Workers
from swapd.runtime.routing import Options, Passed, first_served
from swapd.served import Model
from swapd.units import Seconds


@dataclass(frozen=True, slots=True)
class VectorAsk:
    id: str
    model: str
    question: VectorQuestion
    keep_alive: Seconds | None = None
    priority: int | None = None


@dataclass(frozen=True, slots=True)
class VectorAnswer:
    model: Model
    placement: str
    load_s: Seconds
    """0: it was loaded already."""
    reply: Reply
    passed: tuple[Passed, ...] = ()
    """Models that the route names before this one, and why they could not be served."""


class Lease(Protocol):
    """The gateway's."""

    def __call__(
        self, model: Model, label: str, *, keep_alive: Seconds | None, priority: int = 0
    ) -> AbstractAsyncContextManager[tuple[RequestId, ResidentId]]: ...


class Vectors:
    """Raises what `Gateway.generate` raises."""

    def __init__(
        self, engine: Engine, workers: Workers, options: Callable[[str], Awaitable[Options]], lease: Lease
    ) -> None:
        self._engine, self._workers, self._options, self._lease = engine, workers, options, lease

    async def embed(self, ask: VectorAsk) -> tuple[VectorAnswer, Embedded]:
        assert isinstance(ask.question, Embed)
        answer = await self._first_served(ask, _check_embeds)
        assert isinstance(answer.reply, Embedded)
        return answer, answer.reply

    async def rerank(self, ask: VectorAsk) -> tuple[VectorAnswer, Reranked]:
        assert isinstance(ask.question, Rerank)
        answer = await self._first_served(ask, _check_ranks)
        assert isinstance(answer.reply, Reranked)
        return answer, answer.reply

    async def _first_served(self, ask: VectorAsk, check: Callable[[Model], None]) -> VectorAnswer:
        async def attempt(model: Model) -> VectorAnswer:
            check(model)
            return await self._answer(ask, model)

        answer, passed = await first_served(await self._options(ask.model), attempt)
        return replace(answer, passed=passed)

    async def _answer(self, ask: VectorAsk, model: Model) -> VectorAnswer:
        try:
            return await self._attempt(ask, model)
        except WorkerCrashed:  # nothing was sent yet, so once more
            return await self._attempt(ask, model)

    async def _attempt(self, ask: VectorAsk, model: Model) -> VectorAnswer:
        engine, served = self._engine, replace(model, variant=model.vectors)
        asked = engine.now()
        priority = model.entry.priority if ask.priority is None else ask.priority
        async with self._lease(served, ask.id, keep_alive=ask.keep_alive, priority=priority) as (request, resident):
            loaded = engine.state.residents[resident]
            record = engine.records.get(resident, Record())
            record.requests += 1
            granted = engine.now()
            is_new = loaded.loaded_at is not None and loaded.loaded_at >= asked
            load_s = record.load_s if is_new else 0.0
            try:
                reply = await self._workers.ask(resident, ask.question)
            except ContextLengthExceeded as failure:
                if model.embedder is None:
                    raise
                remedy = (
                    "shorten it; a model that writes makes vectors of short texts only, unless it is given to that: "
                    f'`embedding = true` and a `context` under [models."{model.name}"]'
                )
                raise ContextLengthExceeded(failure.prompt, failure.context, remedy) from None
            except WorkerFailed as failure:
                revoked = engine.revocation(request)
                if revoked is not None and revoked.refusal is Refusal.UNLOADED:
                    raise Unloaded(model.name) from failure
                raise WorkerCrashed(model.name, failure.reason) from failure
            tokens = reply.tokens if isinstance(reply, Reranked) else 0
            tokens = sum(reply.tokens) if isinstance(reply, Embedded) else tokens
            engine.journal.measures.embedded(model.name, tokens, granted - asked)
            engine.journal.answered(request, tokens)
            return VectorAnswer(model, str(loaded.placement), load_s, reply)


def _check_embeds(model: Model) -> None:
    assert model.vectors is not None
    if model.vectors.pooling == "rank":
        raise InvalidRequest(f"cannot make vectors with {model.name!r}: it ranks documents, see /rerank", "model")


def _check_ranks(model: Model) -> None:
    assert model.vectors is not None
    if model.vectors.pooling != "rank":
        # llama-server's answer to it: no other request to this model would be answered.
        raise NotSupported(
            f"cannot rerank with {model.name!r}: its file does not say that it scores pairs (pooling rank)"
        )
