"""Bodies of the Anthropic dialect, checked and turned into what dialect-neutral requests need.

Used by `anthropic.py`; content blocks are read in `anthropic_content.py`. What only Anthropic's servers can act
on (`metadata`, `cache_control`, `service_tier`, betas) is ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, model_validator

from swapd.api.anthropic_content import read_turns, system_text
from swapd.api.bodies import is_empty, parse, refuse
from swapd.api.conversation import settled
from swapd.api.fields import Body, KeepAlive, Sampled, Stops, Whole
from swapd.api.tools import MAX_TOOLS, as_json, as_list, function, offered
from swapd.generation import Message, Role, Tool, ToolChoice
from swapd.units import Tokens


def _tools(given: Any) -> tuple[Tool, ...]:
    ours: list[Tool] = []
    theirs: list[str] = []
    for tool in as_list(given, "tools", MAX_TOOLS):
        kind = tool.get("type") or "custom"
        if kind == "custom":
            ours.append(function(tool.get("name"), tool.get("description"), tool.get("input_schema")))
        else:
            theirs.append(str(kind))
    return offered(ours, theirs)


class Choice(Body):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None

    @model_validator(mode="after")
    def _names_its_tool(self) -> Choice:
        if (self.type == "tool") != bool(self.name):
            raise ValueError("'name' belongs to the type 'tool', and only to it")
        return self

    @property
    def choice(self) -> ToolChoice:
        match self.type:
            case "auto":
                return ToolChoice.AUTO
            case "none":
                return ToolChoice.NONE
            case "any" | "tool":
                return ToolChoice.REQUIRED


class Thinking(Body):
    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: Annotated[Whole, Field(ge=0)] | None = None

    @property
    def wanted(self) -> bool | None:
        """None: as the model's template does."""
        return {"enabled": True, "disabled": False}.get(self.type)

    @property
    def budget(self) -> Tokens | None:
        return self.budget_tokens if self.type == "enabled" else None


class Format(Body):
    type: Literal["json_schema"]
    form: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(Body):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: Format | None = None


class CountBody(Body):
    """What `count_tokens` and `messages` have in common: all that the prompt is made of."""

    model: Annotated[str, Field(min_length=1, max_length=1024)]
    messages: Annotated[Any, BeforeValidator(read_turns, json_schema_input_type=list[dict[str, Any]])]
    system: Annotated[
        str | None, BeforeValidator(system_text, json_schema_input_type=str | list[dict[str, Any]] | None)
    ] = None
    tools: Annotated[Any, BeforeValidator(_tools, json_schema_input_type=list[dict[str, Any]] | None)] = ()
    tool_choice: Choice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: Format | None = None
    keep_alive: KeepAlive = None

    @model_validator(mode="after")
    def _can_choose(self) -> CountBody:
        chosen = self.tool_choice
        if chosen is not None and chosen.choice is ToolChoice.REQUIRED:
            names = [tool.name for tool in self.offered_tools]
            if chosen.name is not None and chosen.name not in names:
                raise ValueError(f"'tool_choice' names {chosen.name[:60]!r}, which is not among the tools")
            if not names:
                raise ValueError("'tool_choice' wants a call, and there are no tools")
        return self

    @property
    def turns(self) -> tuple[Message, ...]:
        """The whole conversation; the system prompt, told beside it, comes first."""
        read: tuple[Message, ...] = self.messages
        return settled((Message(Role.SYSTEM, self.system), *read) if self.system else read)

    @property
    def offered_tools(self) -> tuple[Tool, ...]:
        tools: tuple[Tool, ...] = self.tools
        return tools

    @property
    def continues(self) -> bool:
        """A last message of the assistant's is a beginning that the answer goes on from."""
        last = self.turns[-1]
        return last.role is Role.ASSISTANT and not last.calls

    @property
    def schema_text(self) -> str | None:
        form = self.output_format or (self.output_config.format if self.output_config is not None else None)
        return None if form is None else as_json(form.form)

    @property
    def effort(self) -> str:
        effort = (self.output_config.effort if self.output_config is not None else None) or ""
        return "high" if effort in ("xhigh", "max") else effort


class MessagesBody(CountBody, Sampled):
    max_tokens: Annotated[Whole, Field(ge=1, le=2**31 - 1)] | None = None
    stop_sequences: Stops = Field(default_factory=list)
    stream: bool | None = None


UNSERVED: Final[Mapping[str, Callable[[Any], bool]]] = {"mcp_servers": is_empty}
"""Its tools would be missing, and the model would not know."""


def read_messages(body: Mapping[str, Any]) -> MessagesBody:
    """Raises InvalidRequest."""
    refuse(body, UNSERVED)
    return parse(MessagesBody, body)


def read_count(body: Mapping[str, Any]) -> CountBody:
    """Raises InvalidRequest."""
    return parse(CountBody, body)
