"""Bodies of OpenAI's Responses dialect, checked and turned into what dialect-neutral requests need.

Used by `responses.py`; items and tools are read in `responses_items.py`. Nothing is kept from one response to the
next: `store` changes nothing, and what would need it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, model_validator

from swapd.api.bodies import is_among, is_empty, parse, refuse
from swapd.api.constrained import Alternatives
from swapd.api.conversation import settled
from swapd.api.fields import Body, KeepAlive, ModelName, Sampled, Whole
from swapd.api.responses_items import Caller, Toolbox, read_input, read_tools
from swapd.api.tools import as_json
from swapd.errors import InvalidRequest
from swapd.generation import GenerationRequest, Message, Role, ToolChoice

UNSERVED: Final[Mapping[str, Callable[[Any], bool]]] = {
    "background": is_among(False),
    "conversation": is_empty,
    "prompt": is_empty,
}

_LIKELIHOODS: Final = "message.output_text.logprobs"


class Format(Body):
    type: Literal["text", "json_object", "json_schema"]
    form: Annotated[dict[str, Any] | None, Field(alias="schema")] = None

    @model_validator(mode="after")
    def _has_schema(self) -> Format:
        if self.type == "json_schema" and self.form is None:
            raise ValueError("'schema' is required for the type 'json_schema'")
        return self


class Words(Body):
    format: Format | None = None


class Reasoning(Body):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None


class Choice(Body):
    type: Literal["function", "custom", "allowed_tools"]
    name: str | None = None
    mode: Literal["auto", "required"] = "auto"
    tools: list[dict[str, Any]] = Field(default_factory=list)


class ResponsesBody(Sampled):
    model: ModelName = None
    turns: Annotated[
        Any, BeforeValidator(read_input, json_schema_input_type=str | list[dict[str, Any]]), Field(alias="input")
    ]
    instructions: str | None = None
    max_output_tokens: Annotated[Whole, Field(ge=1, le=2**31 - 1)] | None = None
    toolbox: Annotated[
        Any, BeforeValidator(read_tools, json_schema_input_type=list[dict[str, Any]] | None), Field(alias="tools")
    ] = Toolbox()
    tool_choice: Literal["auto", "none", "required"] | Choice = "auto"
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    text: Words | None = None
    metadata: dict[str, Any] | None = None
    stream: bool | None = None
    include: list[str] | None = None
    """Only the likelihoods are served."""
    top_logprobs: Alternatives | None = None
    timings_per_token: bool | None = None
    return_progress: bool | None = None
    keep_alive: KeepAlive = None

    @model_validator(mode="after")
    def _can_choose(self) -> ResponsesBody:
        if self.choice is ToolChoice.REQUIRED and not self.box.tools:
            raise ValueError("'tool_choice' wants a call, and there are no tools")
        if self.tool_name and self.tool_name not in [tool.name for tool in self.box.tools]:
            raise ValueError(f"'tool_choice' names {self.tool_name[:60]!r}, which is not among the tools")
        return self

    @property
    def box(self) -> Toolbox:
        """The tools that the model may call."""
        box: Toolbox = self.toolbox
        chosen = self.tool_choice
        if not isinstance(chosen, Choice) or chosen.type != "allowed_tools":
            return box
        allowed = {Caller(str(tool.get("name")), tool.get("namespace") or "").told for tool in chosen.tools}
        kept = [pair for pair in zip(box.tools, box.callers, strict=True) if pair[0].name in allowed]
        return Toolbox(tuple(tool for tool, _ in kept), tuple(caller for _, caller in kept))

    @property
    def choice(self) -> ToolChoice:
        match self.tool_choice:
            case Choice(type="allowed_tools", mode=mode):
                return ToolChoice(mode)
            case Choice():
                return ToolChoice.REQUIRED
            case word:
                return ToolChoice(word)

    @property
    def tool_name(self) -> str:
        chosen = self.tool_choice
        return (chosen.name or "") if isinstance(chosen, Choice) and chosen.type != "allowed_tools" else ""

    @property
    def messages(self) -> tuple[Message, ...]:
        read: tuple[Message, ...] = self.turns
        return settled((Message(Role.SYSTEM, self.instructions), *read) if self.instructions else read)

    @property
    def schema_text(self) -> str | None:
        form = self.text.format if self.text is not None else None
        if form is None or form.type == "text":
            return None
        return as_json(form.form if form.form is not None else {"type": "object"})

    @property
    def thinking(self) -> bool | None:
        """None: as the model's template does."""
        return False if self.reasoning is not None and self.reasoning.effort == "none" else None

    @property
    def effort(self) -> str:
        effort = (self.reasoning.effort if self.reasoning is not None else None) or "none"
        return {"none": "", "minimal": "low", "xhigh": "high", "max": "high"}.get(effort, effort)

    @property
    def alternatives(self) -> int | None:
        """How many are told beside each token; None: no logarithms."""
        is_wanted = self.top_logprobs or _LIKELIHOODS in (self.include or ())
        return (self.top_logprobs or 0) if is_wanted else None

    def asked(self, unique: str) -> GenerationRequest:
        """What is wanted under this id."""
        return GenerationRequest(
            id=unique,
            messages=self.messages,
            sampling=self.sampling,
            max_tokens=self.max_output_tokens,
            schema=self.schema_text,
            tools=self.box.tools,
            tool_choice=self.choice,
            tool_name=self.tool_name,
            parallel_calls=self.parallel_tool_calls is not False and not self.tool_name,
            thinking=self.thinking,
            effort=self.effort,
            logprobs=self.alternatives,
            tells_reading=bool(self.stream and self.return_progress),
            tells_usage=bool(self.stream and self.timings_per_token),
        )


def read_responses(body: Mapping[str, Any]) -> ResponsesBody:
    """Raises InvalidRequest."""
    refuse(body, UNSERVED)
    if body.get("previous_response_id"):
        raise InvalidRequest(
            "cannot go on from a response: none is kept here; send the whole conversation as 'input'",
            "previous_response_id",
        )
    return parse(ResponsesBody, body)
