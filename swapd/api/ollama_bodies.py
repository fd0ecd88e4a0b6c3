"""Bodies of the Ollama dialect, checked and turned into what dialect-neutral requests need.

Used by `ollama.py`; knows no answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BeforeValidator, Field, model_validator

from swapd.api.bodies import parse
from swapd.api.constrained import Alternatives, JsonOrSchema
from swapd.api.fields import MAX_MESSAGES, Body, KeepAlive, Sampled, Stops, Whole
from swapd.api.ollama_messages import NO_IMAGES, ChatMessage, Images, turns
from swapd.api.openai_messages import read_tools
from swapd.api.pictures import check_number
from swapd.errors import InvalidRequest
from swapd.generation import Message, Role, Tool
from swapd.units import Tokens


def _present(given: Any) -> Any:
    return {} if given is None else given


def _think(given: Any) -> Any:
    """Newer clients may ask for more than the highest of the three degrees that models know."""
    if given == "max":
        return "high"
    if given is not None and not isinstance(given, bool) and given not in ("low", "medium", "high"):
        raise ValueError('true, false, "low", "medium" or "high" is expected')
    return given


def _template(given: Any) -> Any:
    if isinstance(given, str) and _GO_TEMPLATE.search(given):
        raise ValueError("a Jinja2 template is expected, as model files hold them; this is one of Go's")
    return given


_GO_TEMPLATE: Final = re.compile(r"\{\{-?\s*(?:\.[A-Z]|(?:if|range|end|else|with)\b)")
Context = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], BeforeValidator(lambda given: given or [])]
"""Tokens of a conversation so far, from the answer before."""


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


class PullBody(NameBody):
    stream: bool | None = None


class _Generation(NameBody):
    stream: bool | None = None
    options: Annotated[Options, BeforeValidator(_present)] = Options()
    keep_alive: KeepAlive = None
    format: JsonOrSchema = None
    logprobs: bool | None = None
    top_logprobs: Alternatives | None = None
    think: Annotated[
        bool | Literal["low", "medium", "high"] | None,
        BeforeValidator(_think, json_schema_input_type=bool | Literal["low", "medium", "high", "max"] | None),
    ] = None

    @property
    def thinking(self) -> bool | None:
        """None: as the model's template does."""
        return self.think if self.think is None else self.think is not False

    @property
    def effort(self) -> str:
        return self.think if isinstance(self.think, str) else ""

    @property
    def alternatives(self) -> int | None:
        """How many are told beside each token; None: no logarithms."""
        return (self.top_logprobs or 0) if self.logprobs else None

    truncate: bool | None = None
    """As `shift`, changes nothing: prompts are never cut, and an answer ends where its context does."""
    shift: bool | None = None

    @property
    def is_streamed(self) -> bool:
        return self.stream is not False


G = TypeVar("G", bound=_Generation)


class GenerateBody(_Generation):
    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: Annotated[str | None, BeforeValidator(_template)] = None
    context: Context = Field(default_factory=list)
    raw: bool | None = None
    images: Images = NO_IMAGES

    @model_validator(mode="after")
    def _goes_together(self) -> GenerateBody:
        for name in ("system", "template", "context") if self.is_verbatim else ():
            if getattr(self, name):
                mode = "in raw mode" if self.raw else "with a suffix"
                raise ValueError(f"{name!r} has no place {mode}: the prompt is read as it is")
        if self.images.images and self.suffix:
            raise ValueError("'images' have no place with a suffix")
        if self.images.images and self.context:
            raise ValueError("'images' have no place with 'context', which is tokens; /api/chat takes both")
        return self

    @property
    def is_verbatim(self) -> bool:
        """No template: the prompt is read as it is, or what belongs between it and the suffix is wanted."""
        return bool(self.raw or self.suffix)

    @property
    def messages(self) -> tuple[Message, ...]:
        """The turns that the model's chat template gets; none where there is no template."""
        if self.is_verbatim:
            return ()
        system = (Message(Role.SYSTEM, self.system),) if self.system else ()
        return (*system, Message(Role.USER, self.shown, images=self.images.images))

    @property
    def shown(self) -> str:
        """The prompt, with markers of its pictures before it."""
        return f"{self.images.text}{self.prompt or ''}"


class ChatBody(_Generation):
    messages: Annotated[list[ChatMessage], Field(max_length=MAX_MESSAGES)] | None = None
    tools: Annotated[Any, BeforeValidator(read_tools, json_schema_input_type=list[dict[str, Any]] | None)] = ()

    @model_validator(mode="after")
    def _has_few_pictures(self) -> ChatBody:
        check_number(message.images.images for message in self.messages or ())
        return self

    @property
    def turns(self) -> tuple[Message, ...]:
        return turns(self.messages or ())

    @property
    def offered(self) -> tuple[Tool, ...]:
        tools: tuple[Tool, ...] = self.tools
        return tools

    @property
    def continues(self) -> bool:
        """A last message of the assistant's is a beginning that the answer goes on from."""
        messages = self.messages or ()
        return len(messages) > 0 and messages[-1].role == "assistant" and not messages[-1].tool_calls


def read_generate(body: Mapping[str, Any]) -> GenerateBody:
    """Raises InvalidRequest."""
    return _checked(parse(GenerateBody, body))


def read_chat(body: Mapping[str, Any]) -> ChatBody:
    """Raises InvalidRequest."""
    return _checked(parse(ChatBody, body))


def _checked(body: G) -> G:
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequest("cannot tell 'top_logprobs' without 'logprobs': true", "top_logprobs")
    return body


def read_name(body: Mapping[str, Any]) -> str:
    """The model that `/api/show` is asked about. Raises InvalidRequest."""
    return parse(NameBody, _renamed(body)).model


def read_pull(body: Mapping[str, Any]) -> PullBody:
    """Raises InvalidRequest."""
    return parse(PullBody, _renamed(body))


def _renamed(body: Mapping[str, Any]) -> dict[str, Any]:
    """Older clients say `name`."""
    return {**body, "model": body["name"]} if body.get("name") and not body.get("model") else {**body}
