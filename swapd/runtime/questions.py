"""What is asked of a model besides answers: of its worker if it is loaded, else of a process that has its vocabulary.

Used by `api` as `gateway.questions`. Nothing is loaded for a question that a vocabulary is enough for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from swapd.core.model import ResidentId
from swapd.core.resident import Phase
from swapd.errors import Death, InvalidRequest, ModelUnusable, WorkerCrashed, WorkerFailed
from swapd.generation import GenerationRequest, Sampling
from swapd.questions import (
    Describe,
    Described,
    Detokenize,
    Detokenized,
    Render,
    Rendered,
    Reply,
    Tokenize,
    Tokenized,
    VocabularyQuestion,
)
from swapd.runtime.engine import Engine
from swapd.runtime.ports import Clerk, Workers
from swapd.runtime.vectors import Lease
from swapd.served import Model


def check_sight(model: Model) -> None:
    """Raises InvalidRequest where the model takes no pictures."""
    if not model.sees:
        raise InvalidRequest(
            f"cannot read images with {model.name!r}: it has no projector (an mmproj file beside the model, or "
            f'`projector` under [models."{model.name}"])',
            "messages",
        )


class Questions:
    """Every method raises ModelNotFound, ModelUnusable, InvalidRequest, WorkerCrashed."""

    def __init__(
        self,
        engine: Engine,
        workers: Workers,
        clerk: Clerk,
        find: Callable[[str], Awaitable[Model]],
        lease: Lease,
    ) -> None:
        self._engine, self._workers, self._clerk, self._find, self._lease = engine, workers, clerk, find, lease

    async def render(self, name: str, request: GenerationRequest) -> Rendered:
        """The prompt that this request would give, in text and tokens, however long it is.

        What pictures come to only the projector knows: for them the model is loaded, and everything may be raised that
        `Gateway.generate` raises.
        """
        model = await self._find(name)
        question = Render(model.entry.applied(request, Sampling()))
        if request.pictures:
            check_sight(model)
            async with self._lease(model, "render", keep_alive=None, priority=model.entry.priority) as (_, resident):
                try:
                    reply = await self._workers.ask(resident, question)
                except WorkerFailed as failure:
                    raise WorkerCrashed(model.name, failure.reason) from failure
        else:
            reply = await self._ask(name, question)
        assert isinstance(reply, Rendered)
        return reply

    async def tokenize(
        self, name: str, parts: Sequence[str | int], *, add_special: bool = False, parse_special: bool = True
    ) -> Tokenized:
        """Texts and token numbers as one sequence of tokens."""
        reply = await self._ask(name, Tokenize(tuple(parts), add_special, parse_special))
        assert isinstance(reply, Tokenized)
        return reply

    async def detokenize(self, name: str, tokens: Sequence[int]) -> str:
        reply = await self._ask(name, Detokenize(tuple(tokens)))
        assert isinstance(reply, Detokenized)
        return reply.text

    async def describe(self, name: str, *, with_ends: bool = False) -> Described:
        reply = await self._ask(name, Describe(with_ends))
        assert isinstance(reply, Described)
        return reply

    async def _ask(self, name: str, question: VocabularyQuestion) -> Reply:
        model = await self._find(name)
        assert model.variant is not None
        try:
            if (resident := self._ready(model)) is not None:
                try:
                    return await self._workers.ask(resident, question)
                except WorkerFailed:  # it has left meanwhile; a vocabulary is enough
                    pass
            return await self._clerk.ask(model.variant.path, question)
        except WorkerFailed as failure:
            if failure.death is Death.UNUSABLE:
                raise ModelUnusable(model.name, failure.reason) from failure
            raise WorkerCrashed(model.name, failure.reason) from failure

    def _ready(self, model: Model) -> ResidentId | None:
        assert model.variant is not None
        residents = self._engine.state.residents.values()
        return next((r.id for r in residents if r.variant.id == model.variant.id and r.phase is Phase.READY), None)
