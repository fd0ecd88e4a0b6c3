"""The models of a day, how fast they are, and who called when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from swapd.core.messages import Policy
from swapd.units import Bytes, Seconds, Tokens

VECTORS: Final = " (vectors)"
"""How names end of what makes vectors of texts."""


@dataclass(frozen=True, slots=True)
class TraceModel:
    """One variant. Speeds are those with all of it on the card and nothing else computing there."""

    name: str
    size: Bytes
    """On the card, all of it there: weights, cache, buffers, context."""
    layers: int
    """As `gpu_layers` counts them: with the output."""
    slots: int
    load_s: Seconds
    """From process start to ready, the file in page cache, all of it on the card."""
    cold_load_s: Seconds
    """The same from disk."""
    prefill: float
    """Tokens of a prompt a second."""
    decode: float
    """Tokens a second of one sequence alone."""
    priority: int = 0
    pin: bool = False
    keep_alive: Seconds | None = None
    """None: the policy's."""
    context: Tokens = 0
    """Per slot; 0: not told. It is in `size` already."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `cached`: so much of the prompt the model had just computed for this session, if it was kept.

    Recorded with a patience and neither prompt nor output: the client left before anybody knew how many they are.
    """

    id: str
    at: Seconds
    """Since the beginning of the trace."""
    model: str
    prompt: Tokens
    output: Tokens
    session: str = ""
    cached: Tokens = 0
    priority: int = 0
    patience: Seconds | None = None
    """The client goes away when it has waited so long for its first token; None: never."""
    waited_s: Seconds | None = None
    """From arrival to its slot, as it really was; None: made up, or it never had one."""
    took_s: Seconds | None = None
    """From its slot to its end, as it really was."""
    keep_alive: Seconds | None = None
    """As the request itself wants it; None: it says nothing."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Calls in order of arrival, each of one of the models."""

    name: str
    card: Bytes
    """What residents may hold on the card: its size less what is kept free. Of several cards the sum."""
    host: Bytes
    """The same of host RAM."""
    models: tuple[TraceModel, ...]
    calls: tuple[Call, ...]
    cards: int = 1
    """0: there is none, and the host is what `card` tells of."""
    policy: Policy | None = None
    """As it was configured where this was recorded; None: made up."""

    @property
    def duration(self) -> Seconds:
        return self.calls[-1].at if self.calls else 0.0

    def model(self, name: str) -> TraceModel:
        return next(model for model in self.models if model.name == name)


def service_s(model: TraceModel, call: Call) -> Seconds:
    """How long it takes alone, with all of the model on the card and nothing of its prompt kept."""
    return call.prompt / model.prefill + call.output / model.decode


def load(trace: Trace) -> float:
    """The share of the time that the card would compute if everything were there and calls came one by one."""
    models = {model.name: model for model in trace.models}
    work = sum(service_s(models[call.model], call) for call in trace.calls)
    return work / trace.duration if trace.duration else 0.0
