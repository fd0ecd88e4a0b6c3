"""Bodies of the OpenAI dialect, checked and turned into dialect-neutral requests.

Used by `openai.py`; knows no answer.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, TypeVar

from pydantic import BeforeValidator, Field

from swapd.api.bodies import is_among, is_empty, parse, refuse
from swapd.api.constrained import Alternatives, GrammarText, LogitBias, ResponseFormat, SchemaText
from swapd.api.extras import UNSERVED_EXTRAS, Extras
from swapd.api.fields import Body, KeepAlive, Limit, ModelName, Stops, Whole
from swapd.api.inlining import ReasoningFormat
from swapd.api.openai_messages import Conversation, check_choice
from swapd.errors import InvalidRequest
from swapd.units import Tokens

MAX_CHOICES: Final = 128
"""Answers to one request: prompts times `n`."""

UNSERVED_CHAT: Final[Mapping[str, Callable[[Any], bool]]] = {
    **UNSERVED_EXTRAS,
    "echo": is_among(False),
    "audio": is_empty,
    "modalities": is_among([], ["text"]),
    "web_search_options": lambda _: False,
}


def _prompts(given: Any) -> Any:
    """One prompt or several, each a string or a list of token numbers."""
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list) or not given:
        raise ValueError("a string, a list of token numbers, or a list of these is expected")
    prompts = [given] if _is_tokens(given) else given
    if len(prompts) > MAX_CHOICES:
        raise ValueError(f"at most {MAX_CHOICES} prompts are allowed")
    if not all(isinstance(prompt, str) or (_is_tokens(prompt) and prompt) for prompt in prompts):
        raise ValueError("a string, a list of token numbers, or a list of these is expected")
    return prompts


def _is_tokens(given: Any) -> bool:
    return isinstance(given, list) and all(type(token) is int and 0 <= token < 2**31 for token in given)


class StreamOptions(Body):
    include_usage: bool | None = None


class GenerationBody(Extras):
    """What chat and plain completions have in common."""

    model: ModelName = None
    max_tokens: Limit | None = None
    stop: Stops = Field(default_factory=list)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    keep_alive: KeepAlive = None
    n: Annotated[Whole, Field(ge=1, le=MAX_CHOICES)] | None = None
    logit_bias: LogitBias = Field(default_factory=list)
    response_format: ResponseFormat = None
    json_schema: SchemaText = None
    grammar: GrammarText | None = None

    @property
    def choices(self) -> int:
        """Answers wanted of each prompt."""
        return self.n or 1

    @property
    def tries(self) -> int:
        """Answers made of each prompt; the best are given."""
        return self.choices

    @property
    @abstractmethod
    def alternatives(self) -> int | None:
        """How many are told beside each token; None: no logarithms."""

    @property
    def schema_text(self) -> str | None:
        return self.response_format if self.json_schema is None else self.json_schema

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def limit(self) -> Tokens | None:
        """None: until the model stops or its context is full."""
        return _limit(self.max_tokens, self.n_predict)


def _limit(*said: Tokens | None) -> Tokens | None:
    """The first that is said; None: no limit."""
    given = next((number for number in said if number is not None), None)
    return None if given is None or given < 0 else given


G = TypeVar("G", bound=GenerationBody)


class ChatBody(GenerationBody, Conversation):
    max_completion_tokens: Limit | None = None
    logprobs: bool | None = None
    top_logprobs: Alternatives | None = None
    reasoning_format: ReasoningFormat | None = None

    @property
    def alternatives(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def limit(self) -> Tokens | None:
        return _limit(self.max_completion_tokens, self.max_tokens, self.n_predict)


class CompletionBody(GenerationBody):
    prompt: Annotated[
        list[str | list[int]],
        BeforeValidator(_prompts, json_schema_input_type=str | list[int] | list[str] | list[list[int]]),
    ]
    echo: bool | None = None
    logprobs: Alternatives | None = None
    best_of: Annotated[Whole, Field(ge=1, le=MAX_CHOICES)] | None = None
    suffix: str | None = None
    """What comes after the answer: it fills in the middle."""

    @property
    def alternatives(self) -> int | None:
        return self.logprobs

    @property
    def tries(self) -> int:
        return self.best_of or self.choices

    @property
    def prompts(self) -> list[str | tuple[int, ...]]:
        return [prompt if isinstance(prompt, str) else tuple(prompt) for prompt in self.prompt]


def read_chat(body: Mapping[str, Any]) -> ChatBody:
    """Raises InvalidRequest."""
    for old, new in (("functions", "tools"), ("function_call", "tool_choice")):
        if body.get(old) not in (None, [], "none", "auto"):
            raise InvalidRequest(f"cannot serve {old!r}: it is deprecated; say the same in {new!r}", old)
    refuse(body, UNSERVED_CHAT)
    chat = check_choice(parse(ChatBody, body))
    if chat.top_logprobs and not chat.logprobs:
        raise InvalidRequest("cannot tell 'top_logprobs' without 'logprobs': true", "top_logprobs")
    return _checked(chat)


def read_completion(body: Mapping[str, Any]) -> CompletionBody:
    """Raises InvalidRequest."""
    refuse(body, UNSERVED_EXTRAS)
    completion = parse(CompletionBody, body)
    choices, tries = completion.choices, completion.tries
    if tries < choices:
        raise InvalidRequest(f"cannot give {choices} answers of {tries}: 'best_of' must be at least 'n'", "best_of")
    if tries > choices and completion.stream:
        raise InvalidRequest("cannot stream with 'best_of' above 'n': the best are known at the end", "best_of")
    if completion.echo and completion.suffix:
        raise InvalidRequest("cannot serve 'echo' with 'suffix': the prompt is not all that comes before", "echo")
    if len(completion.prompt) * tries > MAX_CHOICES:
        raise InvalidRequest(
            f"cannot make more than {MAX_CHOICES} answers at once: prompts times 'n' or 'best_of'",
            "n" if completion.best_of is None else "best_of",
        )
    return _checked(completion)


def _checked(body: G) -> G:
    given = [name for name in ("response_format", "json_schema", "grammar") if getattr(body, name)]
    if len(given) > 1:
        raise InvalidRequest(f"cannot follow both {given[0]!r} and {given[1]!r}: give one of them", given[1])
    return body
