"""Bodies of the Ollama dialect, checked and turned into what dialect-neutral requests need.

Used by `ollama.py`; knows no answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BeforeValidator, Field

from swapd.api.bodies import is_among, is_empty, parse, refuse
from swapd.api.constrained import Alternatives, JsonOrSchema
from swapd.api.fields import MAX_MESSAGES, Absent, Body, KeepAlive, Sampled, Stops, Whole
from swapd.errors import InvalidRequest
from swapd.generation import Message, Role
from swapd.units import Tokens

_UNSERVED: Final[Mapping[str, Callable[[Any], bool]]] = {
    "think": is_among(False),
}
_UNSERVED_GENERATE: Final[Mapping[str, Callable[[Any], bool]]] = {
    **_UNSERVED,
    "images": is_empty,
    "suffix": is_empty,
    "template": is_empty,
    "context": is_empty,
}
_UNSERVED_CHAT: Final[Mapping[str, Callable[[Any], bool]]] = {**_UNSERVED, "tools": is_empty}


def _present(given: Any) -> Any:
    return {} if given is None else given


class Options(Sampled):
    """`options`; those of the load are checked and otherwise ignored: a request never reloads a model."""

    num_predict: Annotated[Whole, Field(ge=-2, le=2**31 - 1)] | None = None
    stop: Stops = Field(default_factory=list)
    num_ctx: Annotated[Whole, Field(ge=0)] | None = None
    num_batch: Whole | None = None
    num_gpu: Whole | None = None
    main_gpu: Whole | None = None
    num_thread: Whole | None = None
    num_keep: Whole | None = None
    use_mmap: bool | None = None

    @property
    def limit(self) -> Tokens | None:
        """None: until the model stops or its context is full (Ollama's -1 and -2)."""
        return None if self.num_predict is None or self.num_predict < 0 else self.num_predict


class NameBody(Body):
    model: Annotated[str, Field(min_length=1, max_length=1024)]


class _Generation(NameBody):
    stream: bool | None = None
    options: Annotated[Options, BeforeValidator(_present)] = Options()
    keep_alive: KeepAlive = None
    format: JsonOrSchema = None
    logprobs: bool | None = None
    top_logprobs: Alternatives | None = None

    @property
    def alternatives(self) -> int | None:
        """How many are told beside each token; None: no logarithms."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def is_streamed(self) -> bool:
        return self.stream is not False


G = TypeVar("G", bound=_Generation)


class GenerateBody(_Generation):
    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None

    @property
    def messages(self) -> tuple[Message, ...]:
        """The turns that the model's chat template gets; none in raw mode."""
        if self.raw:
            return ()
        system = (Message(Role.SYSTEM, self.system),) if self.system else ()
        return (*system, Message(Role.USER, self.prompt or ""))


class ChatMessage(Body):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    images: Absent = None
    tool_calls: Absent = None


class ChatBody(_Generation):
    messages: Annotated[list[ChatMessage], Field(max_length=MAX_MESSAGES)] | None = None

    @property
    def turns(self) -> tuple[Message, ...]:
        return tuple(Message(Role(message.role), message.content or "") for message in self.messages or ())


def read_generate(body: Mapping[str, Any]) -> GenerateBody:
    """Raises InvalidRequest."""
    refuse(body, _UNSERVED_GENERATE)
    generate = _checked(parse(GenerateBody, body))
    if generate.raw and generate.system:
        raise InvalidRequest("cannot serve 'system' in raw mode: the prompt is read as it is", "system")
    return generate


def read_chat(body: Mapping[str, Any]) -> ChatBody:
    """Raises InvalidRequest."""
    refuse(body, _UNSERVED_CHAT)
    return _checked(parse(ChatBody, body))


def _checked(body: G) -> G:
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequest("cannot tell 'top_logprobs' without 'logprobs': true", "top_logprobs")
    return body


def read_name(body: Mapping[str, Any]) -> str:
    """The model that `/api/show` is asked about; older clients say `name`. Raises InvalidRequest."""
    return parse(NameBody, {"model": body.get("model") or body.get("name")}).model
