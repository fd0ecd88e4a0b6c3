"""One request for an answer, and the answer under its lease, as the API sees both.

Made and filled by `gateway.py`; values and an iterator, no decisions.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Self, assert_never

import msgspec

from swapd.core.messages import Refusal, RefuseRequest
from swapd.errors import DoesNotFit, ModelUnusable, Overloaded, Stopping, SwapdError, Unloaded, WorkerCrashed
from swapd.generation import Chunk, Ending, GenerationRequest, News, Sampling, Say
from swapd.runtime.ports import Telling
from swapd.runtime.routing import Passed
from swapd.served import Model
from swapd.units import Seconds, Tokens


class Ask(msgspec.Struct, frozen=True):
    """One request for an answer, as a dialect understood it.

    Sampling values that `request` leaves None come from the model's options, then from `defaults`.
    """

    model: str
    request: GenerationRequest
    defaults: Sampling
    keep_alive: Seconds | None = None
    priority: int | None = None
    session: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """What a waiting caller is told; `fraction` of the load, when one is under way."""

    status: str
    position: int
    fraction: float | None


Watch = Callable[[Progress], Awaitable[None]]


class Answer:
    """An answer under its lease, as it comes: chunks, and an Ending last. The first is there already."""

    def __init__(
        self,
        model: Model,
        placement: str,
        queued_s: Seconds,
        load_s: Seconds,
        first: Chunk | Ending,
        telling: Telling,
        count: Callable[[News], None] = lambda news: None,
    ) -> None:
        """`count` hears all of it before anybody else."""
        self.model, self.placement, self.queued_s, self.load_s = model, placement, queued_s, load_s
        self.passed: tuple[Passed, ...] = ()
        """Models that the route names before this one, and why they could not be served."""
        self._first, self._telling, self._count = first, telling, count

    @property
    def prompt(self) -> tuple[Tokens, Tokens]:
        """How long the prompt is, and how much of it was there already."""
        first = self._first
        if isinstance(first, Ending):
            return first.usage.prompt, first.usage.cached
        return first.prompt or (0, 0)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> News:
        """For those who take it at their own pace."""
        taken: list[News] = []

        def take(news: News) -> bool:
            taken.append(news)
            return False

        await self.hear(take)
        if not taken:
            raise StopAsyncIteration
        return taken[0]

    async def hear(self, say: Say) -> bool:
        """As `Telling.hear`."""

        def tell(news: News) -> bool:
            self._count(news)
            return say(news)

        return await self._telling.hear(tell)


def error_of(model: Model, command: RefuseRequest) -> SwapdError:
    """What a refusal means to the caller."""
    match command.refusal:
        case Refusal.DOES_NOT_FIT:
            sizes = command.needed, command.available
            return DoesNotFit(model.name, command.device, *sizes, command.pinned, command.is_capped)
        case Refusal.UNUSABLE:
            return ModelUnusable(model.name, command.reason)
        case Refusal.CRASHED:
            return WorkerCrashed(model.name, command.reason)
        case Refusal.OVERLOADED:
            return Overloaded(command.reason)
        case Refusal.STOPPING:
            return Stopping()
        case Refusal.UNLOADED:
            return Unloaded(model.name)
        case _:
            assert_never(command.refusal)
