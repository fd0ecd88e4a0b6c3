"""One request for an answer, and the answer under its lease, as the API sees both.

Made and filled by `gateway.py`; values and an iterator, no decisions.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Self, assert_never

from swapd.core.messages import Refusal, RefuseRequest
from swapd.errors import DoesNotFit, ModelUnusable, Overloaded, Stopping, SwapdError, Unloaded, WorkerCrashed
from swapd.generation import Ending, GenerationRequest, News, Sampling
from swapd.runtime.routing import Passed
from swapd.served import Model
from swapd.units import Seconds, Tokens


@dataclass(frozen=True, slots=True)
class Ask:
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
Answering = AsyncGenerator[News, None]


class Answer:
    """An answer under its lease, as it comes: chunks, and an Ending last. The first of them are there already."""

    def __init__(
        self, model: Model, placement: str, queued_s: Seconds, load_s: Seconds, first: News, rest: Answering
    ) -> None:
        self.model, self.placement, self.queued_s, self.load_s = model, placement, queued_s, load_s
        self.passed: tuple[Passed, ...] = ()
        """Models that the route names before this one, and why they could not be served."""
        self._first = first
        self._rest = rest

    @property
    def prompt(self) -> tuple[Tokens, Tokens]:
        """How long the prompt is, and how much of it was there already; asked before anything is taken."""
        first = self._first[0]
        if isinstance(first, Ending):
            return first.usage.prompt, first.usage.cached
        return first.prompt or (0, 0)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> News:
        if self._first:
            first, self._first = self._first, ()
            return first
        return await anext(self._rest)


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
