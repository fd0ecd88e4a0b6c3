"""OpenAI's messages, tools and the choice among them, read as dialect-neutral values.

Used by `openai_bodies.py` and `llamaserver_bodies.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeVar

from msgspec.structs import replace
from pydantic import BeforeValidator, Field, model_validator

from swapd.api.fields import MAX_MESSAGES, Absent, Body, Whole
from swapd.api.pictures import Album, Said, check_number, from_url
from swapd.api.tools import MAX_TOOLS, as_json, as_list, function, offered
from swapd.errors import InvalidRequest
from swapd.generation import GenerationRequest, Message, Role, Tool, ToolCall, ToolChoice
from swapd.units import Tokens

_MAX_CALLS: Final = 1024
EFFORTS: Final[Mapping[str, str]] = {
    "none": "",
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}
"""In the words of models that know degrees."""


def _arguments(given: Any) -> Any:
    """JSON in a string; some clients send the object itself."""
    return as_json(given) if isinstance(given, dict) else given


def _said(given: Any) -> Said | None:
    """Of a string or of a list of parts. Raises ValueError."""
    if given is None or isinstance(given, str):
        return None if given is None else Said(given)
    if not isinstance(given, list):
        raise ValueError("a string or a list of parts is expected")
    album = Album()
    return Said(album.joined([_part(part, album) for part in given]), album.images)


def _part(part: Any, album: Album) -> str:
    if not isinstance(part, dict):
        raise ValueError('each part should be an object like {"type": "text", "text": "…"}')
    kind = part.get("type")
    match kind:
        case "image_url" | "input_image" | "image":
            return album.add(_picture(part.get("image_url", part.get("url"))))
        case "text" | "refusal" if isinstance(part.get(kind), str):
            return str(part[kind])
        case "text" | "refusal":
            raise ValueError(f"a part of the type {kind!r} needs a string {kind!r}")
        case _:
            raise ValueError(
                f"parts of the type {str(kind)[:40]!r} are not served; only those of the types 'text' and "
                "'image_url' are"
            )


def _picture(given: Any) -> bytes:
    """`image_url` as OpenAI has it, an object with a `url`, or the URL alone."""
    return from_url(given.get("url") if isinstance(given, dict) else given)


class Called(Body):
    name: Annotated[str, Field(min_length=1)]
    arguments: Annotated[str | None, BeforeValidator(_arguments)] = None

    def call(self, call_id: str | None) -> ToolCall:
        return ToolCall(call_id or _id_of(self.name), self.name, self.arguments or "{}")


class MadeCall(Body):
    id: str | None = None
    type: Literal["function"] | None = None
    function: Called


class ChatMessage(Body):
    """`function` and `function_call` are what results and calls were before there were tools."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[Any, BeforeValidator(_said, json_schema_input_type=str | list[dict[str, Any]] | None)] = None
    name: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: Annotated[list[MadeCall], Field(max_length=_MAX_CALLS)] | None = None
    function_call: Called | None = None
    tool_call_id: str | None = None
    audio: Absent = None

    @model_validator(mode="after")
    def _has_content(self) -> ChatMessage:
        if self.content is None and self.role != "assistant":
            raise ValueError("'content' is required")
        return self

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        calls = [made.function.call(made.id) for made in self.tool_calls or ()]
        if self.function_call is not None:
            calls.append(self.function_call.call(None))
        return tuple(calls)


def turns(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """In order; a result is told the name of the tool that it came from."""
    read: list[Message] = []
    names: dict[str, str] = {}
    for message in messages:
        said: Said = message.content or Said("")
        content, images, name = said.text, said.images, message.name or ""
        match message.role:
            case "assistant":
                calls = message.calls
                names.update((call.id, call.name) for call in calls)
                thinking = message.reasoning_content or message.reasoning or ""
                read.append(Message(Role.ASSISTANT, content, thinking, calls, name=name, images=images))
            case "tool":
                call_id = message.tool_call_id or ""
                name = names.get(call_id, name)
                read.append(Message(Role.TOOL, content, call_id=call_id, name=name, images=images))
            case "function":
                read.append(Message(Role.TOOL, content, call_id=_id_of(name), name=name, images=images))
            case role:
                read.append(Message(Role(role), content, name=name, images=images))
    return tuple(read)


def _id_of(name: str) -> str:
    """Where calls have no ids, one that a result can be told by."""
    return f"call_{name}"


def read_tools(given: Any) -> tuple[Tool, ...]:
    """Raises ValueError."""
    ours: list[Tool] = []
    theirs: list[str] = []
    for tool in as_list(given, "tools", MAX_TOOLS):
        told = tool.get("function")
        if isinstance(told, dict):
            ours.append(function(told.get("name"), told.get("description"), told.get("parameters")))
        else:
            theirs.append(str(tool.get("type")))
    return offered(ours, theirs)


@dataclass(frozen=True, slots=True)
class Choice:
    """`name`: of the tool that must be called; `among`: the tools that may be, if not all."""

    choice: ToolChoice
    name: str = ""
    among: tuple[str, ...] | None = None


def read_choice(given: Any) -> Choice | None:
    """Raises ValueError."""
    match given:
        case None:
            return None
        case "auto" | "none" | "required":
            return Choice(ToolChoice(given))
        case {"type": "function", "function": {"name": str(name)}} | {"type": "function", "name": str(name)}:
            return Choice(ToolChoice.REQUIRED, name)
        case {"type": "allowed_tools", "allowed_tools": {"mode": "auto" | "required" as mode, "tools": list(tools)}}:
            return Choice(ToolChoice(mode), among=tuple(_allowed(tool) for tool in tools))
        case _:
            pass
    raise ValueError(
        '"auto", "none", "required" or an object like {"type": "function", "function": {"name": "…"}} is expected'
    )


def _allowed(tool: Any) -> str:
    match tool:
        case {"type": "function", "function": {"name": str(name)}} | {"type": "function", "name": str(name)}:
            return name
        case _:
            pass
    raise ValueError('each of the allowed tools should be an object like {"type": "function", "function": {"name": …}}')


class Conversation(Body):
    """What a chat's prompt is made of, and how its answer may call tools."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    tools: Annotated[Any, BeforeValidator(read_tools, json_schema_input_type=list[dict[str, Any]] | None)] = ()
    tool_choice: Annotated[
        Any,
        BeforeValidator(
            read_choice, json_schema_input_type=Literal["auto", "none", "required"] | dict[str, Any] | None
        ),
    ] = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    enable_thinking: bool | None = None
    reasoning_budget_tokens: Annotated[Whole, Field(ge=-1, le=2**31 - 1)] | None = None
    thinking_budget_tokens: Annotated[Whole, Field(ge=-1, le=2**31 - 1)] | None = None
    """The same, in another of llama-server's words; -1: no limit."""
    reasoning_budget_message: Annotated[str, Field(max_length=4096)] | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None

    @model_validator(mode="after")
    def _has_few_pictures(self) -> Conversation:
        check_number(turn.content.images for turn in self.messages if turn.content is not None)
        return self

    @property
    def choice(self) -> Choice:
        chosen: Choice | None = self.tool_choice
        return chosen or Choice(ToolChoice.AUTO)

    @property
    def offered(self) -> tuple[Tool, ...]:
        """The tools that may be called."""
        tools: tuple[Tool, ...] = self.tools
        among = self.choice.among
        return tools if among is None else tuple(tool for tool in tools if tool.name in among)

    @property
    def turns(self) -> tuple[Message, ...]:
        return turns(self.messages)

    @property
    def continues(self) -> bool:
        """A last message of the assistant's is a beginning that the answer goes on from, as with llama-server."""
        last = self.messages[-1]
        return last.role == "assistant" and not last.calls and self.continue_final_message is not False

    @property
    def thinking(self) -> bool | None:
        """None: as the model's template does."""
        if self.enable_thinking is not None:
            return self.enable_thinking
        return None if self.reasoning_effort is None else self.reasoning_effort != "none"

    @property
    def thinking_budget(self) -> Tokens | None:
        said = (self.reasoning_budget_tokens, self.thinking_budget_tokens)
        return next((given for given in said if given is not None and given >= 0), None)

    @property
    def effort(self) -> str:
        return EFFORTS[self.reasoning_effort or "none"]

    def asked_in(self, request: GenerationRequest) -> GenerationRequest:
        """The request with all of this in it."""
        return replace(
            request,
            messages=self.turns,
            tools=self.offered,
            tool_choice=self.choice.choice,
            tool_name=self.choice.name,
            # A tool that is named is called exactly once, as OpenAI has it: small models that may go on do.
            parallel_calls=self.parallel_tool_calls is not False and not self.choice.name,
            thinking=self.thinking,
            thinking_budget=self.thinking_budget,
            thinking_end=self.reasoning_budget_message or "",
            effort=self.effort,
            template=self.chat_template or "",
            template_values=as_json(self.chat_template_kwargs or {}),
            continues=self.continues,
            opens_turn=self.add_generation_prompt is not False,
        )


C = TypeVar("C", bound=Conversation)


def check_choice(chat: C) -> C:
    """Raises InvalidRequest where the choice among tools is none of theirs."""
    if chat.add_generation_prompt and chat.continue_final_message:
        raise InvalidRequest(
            "cannot both go on from the last message ('continue_final_message') and begin another "
            "('add_generation_prompt')",
            "continue_final_message",
        )
    chosen, names = chat.choice, [tool.name for tool in chat.tools]
    wanted = [*([chosen.name] if chosen.name else []), *(chosen.among or ())]
    unknown = next((name for name in wanted if name not in names), None)
    if unknown is not None:
        raise InvalidRequest(f"cannot choose {unknown[:60]!r}: it is not among the tools", "tool_choice")
    if chosen.choice is ToolChoice.REQUIRED and not chat.offered:
        raise InvalidRequest("cannot call a tool, as 'tool_choice' wants: there are none", "tool_choice")
    return chat
