"""What llama-server takes beside OpenAI's parameters, on its own routes and on OpenAI's alike.

Used by `openai_bodies.py` and `llamaserver_bodies.py`; knows no answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

from pydantic import Field

from swapd.api.bodies import is_among, is_empty
from swapd.api.constrained import Samplers
from swapd.api.fields import Body, Sampled, Whole
from swapd.units import Seconds

_MAX_ADAPTERS: Final = 64

UNSERVED_EXTRAS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "image_data": is_empty,
    "grammar_lazy": is_among(False),
    "adaptive_target": lambda value: isinstance(value, (int, float)) and value < 0,
}


class Scaled(Body):
    """An adapter by its place among the model's, and how much of it is added."""

    id: Annotated[Whole, Field(ge=0, lt=_MAX_ADAPTERS)]
    scale: Annotated[float, Field(ge=-100, le=100)]


class Extras(Sampled):
    n_predict: Annotated[Whole, Field(ge=-2, le=2**31 - 1)] | None = None
    cache_prompt: bool | None = None
    ignore_eos: bool | None = None
    samplers: Samplers = None
    post_sampling_probs: bool | None = None
    timings_per_token: bool | None = None
    return_progress: bool | None = None
    t_max_predict_ms: Annotated[Whole, Field(ge=-1, le=2**31 - 1)] | None = None
    n_indent: Annotated[Whole, Field(ge=0, le=2**31 - 1)] | None = None
    lora: Annotated[list[Scaled], Field(max_length=_MAX_ADAPTERS)] | None = None
    id_slot: Whole | None = None

    @property
    def line_limit(self) -> Seconds | None:
        """None: none; as with llama-server, 0 and less are none."""
        return self.t_max_predict_ms / 1000 if self.t_max_predict_ms and self.t_max_predict_ms > 0 else None

    @property
    def scales(self) -> Mapping[int, float] | None:
        """How much of which adapter is added, by their places; None: as the model's name says."""
        return {each.id: each.scale for each in self.lora} if self.lora else None
