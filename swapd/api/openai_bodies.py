"""Bodies of the OpenAI dialect, checked and turned into dialect-neutral requests.

Used by `openai.py`; knows no answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, model_validator

from swapd.api.bodies import is_among, is_empty, parse, refuse
from swapd.api.fields import MAX_MESSAGES, Absent, Body, KeepAlive, Limit, Sampled, Stops, Text
from swapd.generation import Message, Role
from swapd.units import Tokens

_MAX_PROMPTS: Final = 128

_UNSERVED: Final[Mapping[str, Callable[[Any], bool]]] = {
    "n": is_among(1, 1.0),
    "logprobs": is_among(False),
    "logit_bias": is_empty,
    "response_format": is_among({"type": "text"}),
    "grammar": is_empty,
    "json_schema": is_empty,
}
_UNSERVED_CHAT: Final[Mapping[str, Callable[[Any], bool]]] = {
    **_UNSERVED,
    "tools": is_empty,
    "tool_choice": is_among("none", "auto"),
    "functions": is_empty,
    "function_call": is_among("none", "auto"),
    "top_logprobs": is_among(0),
    "audio": is_empty,
    "modalities": is_among([], ["text"]),
    "web_search_options": lambda _: False,
}
_UNSERVED_COMPLETION: Final[Mapping[str, Callable[[Any], bool]]] = {
    **_UNSERVED,
    "best_of": is_among(1, 1.0),
    "suffix": is_empty,
}


def _prompts(given: Any) -> Any:
    """One prompt or several, each a string or a list of token numbers."""
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list) or not given:
        raise ValueError("a string, a list of token numbers, or a list of these is expected")
    prompts = [given] if _is_tokens(given) else given
    if len(prompts) > _MAX_PROMPTS:
        raise ValueError(f"at most {_MAX_PROMPTS} prompts are allowed")
    if not all(isinstance(prompt, str) or (_is_tokens(prompt) and prompt) for prompt in prompts):
        raise ValueError("a string, a list of token numbers, or a list of these is expected")
    return prompts


def _is_tokens(given: Any) -> bool:
    return isinstance(given, list) and all(type(token) is int and 0 <= token < 2**31 for token in given)


class StreamOptions(Body):
    include_usage: bool | None = None


class ChatMessage(Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text = None
    tool_calls: Absent = None
    function_call: Absent = None
    audio: Absent = None

    @model_validator(mode="after")
    def _has_content(self) -> ChatMessage:
        if self.content is None and self.role != "assistant":
            raise ValueError("'content' is required")
        return self

    @property
    def message(self) -> Message:
        return Message(Role(self.role), self.content or "")


class GenerationBody(Sampled):
    """What chat and plain completions have in common."""

    model: Annotated[str, Field(min_length=1, max_length=1024)]
    max_tokens: Limit | None = None
    stop: Stops = Field(default_factory=list)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    keep_alive: KeepAlive = None

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def limit(self) -> Tokens | None:
        """None: until the model stops or its context is full."""
        return None if self.max_tokens == -1 else self.max_tokens


class ChatBody(GenerationBody):
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Limit | None = None

    @property
    def limit(self) -> Tokens | None:
        given = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        return None if given == -1 else given


class CompletionBody(GenerationBody):
    prompt: Annotated[list[str | list[int]], BeforeValidator(_prompts)]
    echo: bool | None = None

    @property
    def prompts(self) -> list[str | tuple[int, ...]]:
        return [prompt if isinstance(prompt, str) else tuple(prompt) for prompt in self.prompt]


def read_chat(body: Mapping[str, Any]) -> ChatBody:
    """Raises InvalidRequest."""
    refuse(body, _UNSERVED_CHAT)
    return parse(ChatBody, body)


def read_completion(body: Mapping[str, Any]) -> CompletionBody:
    """Raises InvalidRequest."""
    refuse(body, _UNSERVED_COMPLETION)
    return parse(CompletionBody, body)
