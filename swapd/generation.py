"""What a dialect asks of a model and what comes back, in no dialect's words.

Built by `api/*`, carried by `wire`, done by `worker`; nobody else looks inside.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from enum import StrEnum

from swapd.units import Seconds, Tokens


class Role(StrEnum):
    SYSTEM = "system"
    DEVELOPER = "developer"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn; None: whoever comes next in `over` decides.

    temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 switch those filters off; penalties follow
    llama.cpp: `repeat_penalty` multiplies (1 is off), presence and frequency are added (0 is off), all
    over the last `repeat_last_n` tokens (-1: the whole context). A seed of None draws a fresh one.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None

    def over(self, defaults: Sampling) -> Sampling:
        """These values, and where one is None the default's."""
        missing = {f.name: getattr(defaults, f.name) for f in fields(self) if getattr(self, f.name) is None}
        return replace(self, **missing)


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One answer wanted from one model.

    Either `messages`, which the model's chat template renders, or `prompt`, which the model reads as it
    is: text, or token numbers. `max_tokens` None: until the model stops or its context is full. Stop
    strings are not part of the answer. `echo`: the answer starts with the prompt's text.
    """

    id: str
    messages: tuple[Message, ...] = ()
    prompt: str | tuple[int, ...] = ""
    sampling: Sampling = field(default=Sampling())
    max_tokens: Tokens | None = None
    stop: tuple[str, ...] = ()
    echo: bool = False


class StopReason(StrEnum):
    STOP = "stop"
    """The model ended its turn, or wrote a stop string."""
    LENGTH = "length"
    """`max_tokens` or the end of the context."""
    CANCELLED = "cancelled"
    """The caller went away."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer cost. `cached` of the `prompt` tokens were already in the slot; the others were evaluated."""

    prompt: Tokens = 0
    cached: Tokens = 0
    completion: Tokens = 0
    prompt_s: Seconds = 0.0
    completion_s: Seconds = 0.0

    @property
    def evaluated(self) -> Tokens:
        return self.prompt - self.cached


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of the answer's text (whole characters only), and how many tokens went into it."""

    text: str
    tokens: Tokens


@dataclass(frozen=True, slots=True)
class Ending:
    """How an answer ended: the last thing a stream of chunks yields."""

    reason: StopReason
    usage: Usage
    stop: str | None = None
    """The stop string that ended it, if one did."""
