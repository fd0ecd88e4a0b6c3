"""OpenAI's messages, tools and the choice among them, read as dialect-neutral values.

Used by `openai_bodies.py` and `llamaserver_bodies.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, model_validator

from swapd.api.fields import Absent, Body, Text
from swapd.api.tools import MAX_TOOLS, as_json, as_list, function, offered
from swapd.generation import Message, Role, Tool, ToolCall, ToolChoice

_MAX_CALLS: Final = 1024


def _arguments(given: Any) -> Any:
    """JSON in a string; some clients send the object itself."""
    return as_json(given) if isinstance(given, dict) else given


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
    content: Text = None
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
        content, name = message.content or "", message.name or ""
        match message.role:
            case "assistant":
                calls = message.calls
                names.update((call.id, call.name) for call in calls)
                thinking = message.reasoning_content or message.reasoning or ""
                read.append(Message(Role.ASSISTANT, content, thinking, calls, name=name))
            case "tool":
                call_id = message.tool_call_id or ""
                read.append(Message(Role.TOOL, content, call_id=call_id, name=names.get(call_id, name)))
            case "function":
                read.append(Message(Role.TOOL, content, call_id=_id_of(name), name=name))
            case role:
                read.append(Message(Role(role), content, name=name))
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
