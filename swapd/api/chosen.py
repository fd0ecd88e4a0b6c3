"""Which model is meant where a request names none, as llama-server's clients do: they know of one model only.

Used by the dialects that llama-server has; asks the gateway, decides nothing about loading.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from swapd.api.extras import Extras
from swapd.errors import InvalidRequest, ModelNotFound, ModelUnusable, NotSupported
from swapd.runtime.gateway import Gateway
from swapd.served import Model

CHAT: Final = "chat"
COMPLETION: Final = "completion"
AUTOCOMPLETE: Final = "autocomplete"
EMBEDDING: Final = "embedding"
RERANK: Final = "rerank"

_ROUTES: Final[Mapping[str, tuple[str, ...]]] = {COMPLETION: (COMPLETION, CHAT)}
"""Tasks whose routes are asked, in this order; of any other task its own."""
_RANKS: Final = "rank"
_NEVER: Final = datetime.fromtimestamp(0, UTC)
_MOST_NAMES: Final = 20


async def model_for(gateway: Gateway, given: str | None, task: str) -> str:
    """The name given; else the task's route; else, of the models that could do it, the one used last or the only one.

    Raises InvalidRequest.
    """
    if given:
        return given
    for route in _ROUTES.get(task, (task,)):
        try:
            await gateway.find(route)
        except (ModelNotFound, ModelUnusable):
            continue
        return route
    usable = [model for model in gateway.models() if model.variant is not None and not model.shadowed]
    names = [model.name for model in _able(usable, task)]
    loaded = [resident for resident in gateway.residents() if resident.name in names]
    if loaded:
        return max(loaded, key=lambda resident: resident.last_used or _NEVER).name
    if len(names) == 1:
        return names[0]
    known = ", ".join(names[:_MOST_NAMES]) or "none for it yet"
    raise InvalidRequest(
        f"cannot tell which model is meant: name one in 'model', or set `{task}` under [routes]; there are: {known}",
        "model",
    )


def _able(models: list[Model], task: str) -> list[Model]:
    """Who was made for the task; if nobody was, for vectors: whoever writes, whose vectors are to be had too."""
    poolings = {model.name: "" if model.variant is None else model.variant.pooling for model in models}
    writers = [model for model in models if not poolings[model.name]]
    match task:
        case "rerank":
            return [model for model in models if poolings[model.name] == _RANKS]
        case "embedding":
            return [model for model in models if poolings[model.name] not in ("", _RANKS)] or writers
        case _:
            return writers or models


async def adapters_for(gateway: Gateway, name: str, body: Extras) -> tuple[tuple[str, float], ...] | None:
    """Names of the adapters that a request wants, and how much of each; None: it says nothing of them.

    Raises InvalidRequest.
    """
    if body.scales is None:
        return None
    adapters = [adapter for adapter, _ in (await gateway.find(name)).entry.lora]
    unknown = next((place for place in body.scales if place >= len(adapters)), None)
    if unknown is not None:
        raise InvalidRequest(f"cannot serve 'lora': {name!r} has no adapter {unknown}; it has {len(adapters)}", "lora")
    return tuple((adapters[place], scale) for place, scale in body.scales.items())


async def can_infill(gateway: Gateway, name: str) -> bool:
    return (await gateway.questions.describe(name)).can_infill


async def check_infill(gateway: Gateway, name: str) -> None:
    """Asked before anything is loaded. Raises InvalidRequest where the model cannot fill in the middle."""
    if not await can_infill(gateway, name):
        raise InvalidRequest(_no_infill(name), "model")


async def need_infill(gateway: Gateway, name: str) -> None:
    """The same in llama-server's way, where it is no fault of the request's. Raises NotSupported."""
    if not await can_infill(gateway, name):
        raise NotSupported(_no_infill(name))


def _no_infill(name: str) -> str:
    return f"cannot fill in the middle with {name!r}: its vocabulary has no tokens for it (prefix, suffix, middle)"
