"""Which model is meant where a request names none, as llama-server's clients do: they know of one model only.

Used by `llamaserver.py`, `embeddings.py`, `reranking.py`, and for filling in by `openai.py`; asks the gateway, decides
nothing about loading.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from swapd.errors import InvalidRequest, ModelNotFound, ModelUnusable
from swapd.runtime.gateway import Gateway

_NEVER: Final = datetime.fromtimestamp(0, UTC)
_MOST_NAMES: Final = 20


async def model_for(gateway: Gateway, given: str | None, task: str) -> str:
    """The name given; else the task's route; else the model used last; else the only one. Raises InvalidRequest."""
    if given:
        return given
    try:
        await gateway.find(task)
    except (ModelNotFound, ModelUnusable):
        pass
    else:
        return task
    usable = [model.name for model in gateway.models() if model.variant is not None and not model.shadowed]
    loaded = [resident for resident in gateway.residents() if resident.name in usable]
    if loaded:
        return max(loaded, key=lambda resident: resident.last_used or _NEVER).name
    if len(usable) == 1:
        return usable[0]
    names = ", ".join(usable[:_MOST_NAMES]) or "none yet"
    raise InvalidRequest(
        f"cannot tell which model is meant: name one in 'model', or set `{task}` under [routes]; there are: {names}",
        "model",
    )


async def check_infill(gateway: Gateway, name: str) -> None:
    """Asked before anything is loaded. Raises InvalidRequest where the model cannot fill in the middle."""
    if not (await gateway.questions.describe(name)).can_infill:
        raise InvalidRequest(
            f"cannot fill in the middle with {name!r}: its vocabulary has no tokens for it (prefix, suffix, middle)",
            "model",
        )
