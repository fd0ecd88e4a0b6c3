"""Which models may answer a request: the one that is named, or those of a task's route, the first that can be served.

Used by `gateway.py` and `vectors.py`. Asks the catalog; knows nothing of memory: whether a model fits is seen when
it is tried.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from swapd.errors import DoesNotFit, ModelNotFound, ModelUnusable
from swapd.runtime.ports import Catalog
from swapd.served import Model

Served = TypeVar("Served")


@dataclass(frozen=True, slots=True)
class Passed:
    """A model of a route that could not be served, and why."""

    model: str
    reason: str

    def __str__(self) -> str:
        return f"{self.model}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Options:
    """`models`: usable ones, at least one, the first choice first; `passed`: better choices that cannot be used."""

    models: tuple[Model, ...]
    passed: tuple[Passed, ...] = ()


async def options(catalog: Catalog, name: str, refresh: Callable[[], Awaitable[None]]) -> Options:
    """Looks at the folders again for what is unknown. Raises ModelNotFound, ModelUnusable: there is none."""
    try:
        return _known(catalog, name)
    except (ModelNotFound, ModelUnusable):
        await refresh()
        return _known(catalog, name)


async def first_served(
    options: Options, attempt: Callable[[Model], Awaitable[Served]]
) -> tuple[Served, tuple[Passed, ...]]:
    """What the first model that can be served answers, and which were passed over. Raises what the last one raises."""
    passed = list(options.passed)
    for model in options.models[:-1]:
        try:
            return await attempt(model), tuple(passed)
        except (DoesNotFit, ModelUnusable) as failure:
            passed.append(Passed(model.name, failure.message))
    return await attempt(options.models[-1]), tuple(passed)


def _known(catalog: Catalog, name: str) -> Options:
    targets = catalog.route(name) or (name,)
    models: list[Model] = []
    failures: list[ModelNotFound | ModelUnusable] = []
    passed: list[Passed] = []
    for target in targets:
        try:
            models.append(catalog.resolve(target))
        except (ModelNotFound, ModelUnusable) as failure:
            failures.append(failure)
            if not models:
                passed.append(Passed(target, failure.message))
    if not models:
        raise failures[0]
    return Options(tuple(models), tuple(passed))
