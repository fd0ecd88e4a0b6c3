"""What a dialect asks of a model and what comes back, in no dialect's words.

Built by `api/*`, carried by `wire`, done by `worker`; nobody else looks inside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final, TypeAlias

import msgspec
from msgspec.structs import fields

from swapd.units import Seconds, Tokens

MAX_TOP: Final = 128
"""Alternatives that can be told beside a token."""
MAX_GRAMMAR: Final = 256 * 1024
"""Characters of a grammar."""
SAMPLERS: Final = ("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature")
"""llama-server's, in its own order."""
INFILL_SAMPLER: Final = "infill"
"""llama.cpp's for filling in the middle: a piece that begins like the likelier ones counts with them."""


class Role(StrEnum):
    SYSTEM = "system"
    DEVELOPER = "developer"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the assistant made. `arguments`: a JSON object as text.

    What a model wrote itself is told as it wrote it: a call that broke off, and one that nothing forced, may hold less.
    """

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Image:
    """A picture, as the bytes of its file. It is where the text has its `marker`, which nobody else can know."""

    marker: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Message:
    """`content` is what is said; `thinking`, `calls`, `call_id` (of a tool's result) only where the role has them."""

    role: Role
    content: str
    thinking: str = ""
    calls: tuple[ToolCall, ...] = ()
    call_id: str = ""
    name: str = ""
    """Of the tool whose result this is, or of the speaker."""
    images: tuple[Image, ...] = ()
    """In the order of their markers in `content`."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. `parameters`: the JSON Schema of its arguments, as text."""

    name: str
    description: str = ""
    parameters: str = "{}"


class ToolChoice(StrEnum):
    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"
    """At least one call, of any tool, or of the one that `tool_name` names: a grammar forces it, on every model."""


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the next token is drawn; None: whoever comes next in `over` decides. Names and meanings are llama-server's.

    temperature 0 is greedy; top_k 0, top_p 1, min_p 0, typical_p 1, top_n_sigma -1 and xtc_probability 0 switch those
    filters off, and each leaves at least `min_keep` tokens; a `dynatemp_range` above 0 moves the temperature by so
    much with the entropy. Penalties: `repeat_penalty` multiplies (1 is off), presence and frequency are added (0 is
    off), all over the last `repeat_last_n` tokens (-1: the whole context); DRY is off at a `dry_multiplier` of 0.
    mirostat 1 or 2 stands in for all filters. A seed of None draws a fresh one.
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
    typical_p: float | None = None
    top_n_sigma: float | None = None
    min_keep: int | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    dynatemp_range: float | None = None
    dynatemp_exponent: float | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int | None = None
    dry_sequence_breakers: tuple[str, ...] | None = None

    def over(self, *defaults: Sampling) -> Sampling:
        """These values, and where one is None the first default's that is not."""
        pairs = zip(_said(self), _under(defaults), strict=True)
        return Sampling(*[default if value is None else value for value, default in pairs])


@lru_cache(maxsize=256)
def _under(defaults: tuple[Sampling, ...]) -> Sequence[Any]:
    """The same few for every request."""
    columns = zip(*map(_said, defaults), strict=True)
    return [next((value for value in column if value is not None), None) for column in columns]


_said: Final[Callable[[Sampling], Sequence[Any]]] = attrgetter(*(field.name for field in fields(Sampling)))
"""Its values, in the order in which they are made into one."""

NEUTRAL: Final = Sampling(
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    min_p=0.0,
    repeat_penalty=1.0,
    repeat_last_n=64,
    presence_penalty=0.0,
    frequency_penalty=0.0,
    seed=-1,
    typical_p=1.0,
    top_n_sigma=-1.0,
    min_keep=0,
    xtc_probability=0.0,
    xtc_threshold=0.1,
    dynatemp_range=0.0,
    dynatemp_exponent=1.0,
    mirostat=0,
    mirostat_tau=5.0,
    mirostat_eta=0.1,
    dry_multiplier=0.0,
    dry_base=1.75,
    dry_allowed_length=2,
    dry_penalty_last_n=64,
    dry_sequence_breakers=("\n", ":", '"', "*"),
)
"""What None means in the end: nothing is filtered or penalised, the seed is drawn; strengths are llama-server's."""


class GenerationRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """One answer wanted from one model.

    Either `messages`, which the model's chat template renders, or `prompt`, which the model reads as it
    is: text, or token numbers; with `suffix`, what is between the two is wanted. `max_tokens` None: until the
    model stops or its context is full. Stop strings are not part of the answer. `echo`: the answer starts with
    the prompt's text, and with the logarithms of its tokens where these are asked for.
    """

    id: str
    messages: tuple[Message, ...] = ()
    prompt: str | tuple[int, ...] = ""
    sampling: Sampling = Sampling()
    max_tokens: Tokens | None = None
    stop: tuple[str, ...] = ()
    echo: bool = False
    suffix: str | None = None
    files: tuple[tuple[str, str], ...] = ()
    """(name, text) of other files, told before a prompt with a suffix."""
    ignore_eos: bool = False
    """The end of the turn is never drawn."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token, what is added to its logit); minus infinity bans it."""
    samplers: tuple[str, ...] | None = None
    """Which of SAMPLERS, and INFILL_SAMPLER, draw, in this order; penalties come first. None: all of SAMPLERS.

    A temperature of 0 is greedy also where it is not among them."""
    logprobs: int | None = None
    """How many alternatives to tell beside each token; None: no logarithms at all."""
    after_filters: bool = False
    """The logarithms are of what the filters left to draw from, not of all tokens."""
    tells_tokens: bool = False
    """The numbers of the drawn tokens are told, also where no logarithms are."""
    tells_reading: bool = False
    """How far the prompt is read is told while it is."""
    tells_usage: bool = False
    """What it cost so far is told with each piece."""
    line_limit: Seconds | None = None
    """The answer ends at the first line end that comes after so long."""
    indent: int = 0
    """The answer ends before a line that is indented by fewer blanks; the first line is none of them."""
    grammar: str = ""
    """GBNF that the answer has to follow; one that begins with "%llguidance" is llguidance's Lark."""
    schema: str | None = None
    """JSON Schema (as text) that the answer has to follow: a JSON document and nothing else."""
    triggers: tuple[str, ...] = ()
    """Grammar or schema hold for what follows the first of these that the model writes; empty: for all."""
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice.AUTO
    tool_name: str = ""
    parallel_calls: bool = True
    """False: the answer ends with its first call."""
    thinking: bool | None = None
    """Whether the model is to think first; None: as its template does."""
    thinking_budget: Tokens | None = None
    """At most so many tokens of thoughts, where the template says how they end; None: as many as the model likes."""
    thinking_end: str = ""
    """What is written before the end of thoughts that were cut short."""
    effort: str = ""
    """How much, in the words of models that know degrees: "low", "medium", "high"."""
    template: str = ""
    """A chat template (Jinja2) instead of the model's own."""
    template_values: str = "{}"
    """A JSON object as text: more names for the template."""
    continues: bool = False
    """The last message is the assistant's and unfinished: the answer goes on from there."""
    opens_turn: bool = True
    """The prompt ends with what begins the assistant's turn, unless it `continues`."""
    adapter: str = ""
    """Name of the LoRA adapter to answer with; empty: none."""
    adapters: tuple[tuple[str, float], ...] | None = None
    """(name, how much of it is added) of those to answer with instead; None: as `adapter` says."""
    session: str = ""
    """Whose conversation this is, if the caller says."""
    caches: bool = True
    """What is already evaluated of the prompt may be used again."""
    images: tuple[Image, ...] = ()
    """Of `prompt`; those of messages are theirs."""

    @property
    def pictures(self) -> tuple[Image, ...]:
        """All of them, the messages' too."""
        return (*self.images, *(image for message in self.messages for image in message.images))


class StopReason(StrEnum):
    STOP = "stop"
    """The model ended its turn, or wrote a stop string."""
    LENGTH = "length"
    """`max_tokens` or the end of the context."""
    TOOL_CALLS = "tool_calls"
    """The model called tools and waits for their results. All calls are whole; else the last may be half."""
    CANCELLED = "cancelled"
    """The caller went away."""


class Usage(msgspec.Struct, frozen=True):
    """What an answer cost. `cached` of the `prompt` tokens were already in the slot; the others were evaluated."""

    prompt: Tokens = 0
    cached: Tokens = 0
    completion: Tokens = 0
    prompt_s: Seconds = 0.0
    completion_s: Seconds = 0.0
    drafted: Tokens = 0
    """Tokens that a draft proposed, and how many of them were `accepted`."""
    accepted: Tokens = 0
    restored: Tokens = 0
    """Of the `cached` tokens those that were saved when the slot or the model was last given up."""

    @property
    def evaluated(self) -> Tokens:
        return self.prompt - self.cached


class CallPart(msgspec.Struct, frozen=True):
    """A piece of a tool call: `id` and `name` come whole and once, with the first part; `arguments` grow.

    `index` counts the answer's calls from 0; the parts of one call come in a row. A call without arguments has "{}".
    """

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class Likelihood(msgspec.Struct, frozen=True):
    """Of one token: the natural logarithm of its probability, of all tokens before any filter unless asked otherwise.

    0 where only the token was asked for."""

    token: int
    raw: bytes
    logprob: float


class TokenLogprob(msgspec.Struct, frozen=True):
    """A drawn token, and the likeliest tokens in its place, best first."""

    drawn: Likelihood
    top: tuple[Likelihood, ...] = ()
    is_first: bool = False
    """Of a prompt's tokens: nothing comes before it, and its logarithm says nothing."""


class Chunk(msgspec.Struct, frozen=True):
    """A piece of the answer (whole characters only), and how many tokens went into it.

    `text` is the answer proper; what the model thought and the tools that it calls are kept apart from it.
    """

    text: str
    tokens: Tokens
    thinking: str = ""
    calls: tuple[CallPart, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt: tuple[Tokens, Tokens] | None = None
    """How long it is, and how much of that was there already: with the first chunk that the model itself gave."""
    usage: Usage | None = None
    """What the answer cost up to here, where that is asked for."""
    read: Tokens | None = None
    """The prompt is read up to here; nothing else is told then but `usage`."""

    def then(self, next_one: Chunk) -> Chunk:
        """Both as one. Only where the order of their parts stays that of thinking, text, calls: see `joins`."""
        return Chunk(
            self.text + next_one.text,
            self.tokens + next_one.tokens,
            self.thinking + next_one.thinking,
            self.calls + next_one.calls,
            self.logprobs + next_one.logprobs,
            self.prompt or next_one.prompt,
            next_one.usage or self.usage,
        )

    def joins(self, next_one: Chunk) -> bool:
        """Whether one chunk can say both without changing their order."""
        if self.read is not None or next_one.read is not None:
            return False
        if self.calls:
            return not next_one.text and not next_one.thinking
        return not self.text or not next_one.thinking


class Ending(msgspec.Struct, frozen=True):
    """How an answer ended: the last thing a stream of chunks yields."""

    reason: StopReason
    usage: Usage
    stop: str | None = None
    """The stop string that ended it, if one did."""


News: TypeAlias = tuple[Chunk | Ending, ...]
"""What has come of an answer at one time: at least one item, each a chunk of its own to whoever reads the answer."""
Say: TypeAlias = Callable[[News], bool]
"""Takes it at once, and says whether it can take more."""
