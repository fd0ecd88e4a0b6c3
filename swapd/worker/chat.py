"""Chat templates: from a request's messages and tools to the prompt, in the model's own words where it has them.

Used by `prompts`. What a template does not know is told in words that it does: tools in a system message, results
as the user's, a system message with the first of the user's.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

from swapd.errors import InvalidRequest
from swapd.generation import GenerationRequest, Message, Role, Tool, ToolChoice
from swapd.worker.abilities import Abilities, Told, call_document, probe, tool_document
from swapd.worker.sandbox import Broken, Refused, Template
from swapd.worker.toolcalls import harmony
from swapd.worker.toolcalls.formats import GENERIC, HARMONY, Format, Thinking, format_of, thinking_of
from swapd.worker.turns import after_system, merged, without_system

OUTPUT_FACTOR: Final = 4
OUTPUT_SLACK: Final = 2**20
_MAX_TEMPLATES: Final = 8
"""Templates of requests that are kept compiled."""
_MISTRAL_ID: Final = 9

CHATML_END: Final = "<|im_end|>"
CHATML: Final = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_EXPLAINED: Final = (
    "You can call these tools, of which each has a name, what it does, and a JSON Schema of its arguments:\n"
    "{tools}\n\n"
    "To call a tool, answer with nothing but this, with its name and a JSON object of its arguments:\n"
    "{form}\n"
    "{several} You are told the result in the next message. If no tool helps, answer in plain words."
)
_SEVERAL: Final = "To call more than one, write one such call after the other."
_ONE: Final = "Call one tool at a time."


@dataclass(frozen=True, slots=True)
class Turn:
    """A prompt, ending where the assistant's turn goes on, and how the rest of that turn is to be read."""

    text: str
    form: Format
    thinking: Thinking | None
    primer: str
    """What of the turn is in the prompt already, as far as it matters to a parser."""


class ChatTemplate:
    """A model's templates. `source`: "model", or "chatml" where the file has none."""

    def __init__(self, template: str | None, bos: str, eos: str, tool_use: str | None = None) -> None:
        """`tool_use`: some files have a second template, for requests with tools."""
        self.source = "model" if template else "chatml"
        self._bos, self._eos = bos, eos
        self._own = _Compiled(template or CHATML, bos, eos)
        self._tool_use = _Compiled(tool_use, bos, eos) if tool_use else None
        self._given: OrderedDict[str, _Compiled] = OrderedDict()

    def render(self, request: GenerationRequest) -> Turn:
        """Raises InvalidRequest."""
        offered = () if request.tool_choice is ToolChoice.NONE else request.tools
        if request.template:
            compiled = self._compiled(request.template)
        elif self._tool_use is not None and offered:
            compiled = self._tool_use
        else:
            compiled = self._own
        try:
            return _Renderer(compiled, request, offered).render()
        except Refused as error:
            raise InvalidRequest(f"the model's chat template refuses these messages: {error}", "messages") from error
        except Broken as error:
            raise InvalidRequest(f"cannot use the model's chat template: {error}", "messages") from error

    def _compiled(self, template: str) -> _Compiled:
        compiled = self._given.pop(template, None) or _Compiled(template, self._bos, self._eos)
        self._given[template] = compiled
        if len(self._given) > _MAX_TEMPLATES:
            self._given.popitem(last=False)
        return compiled


class _Compiled:
    """One template, and what is known of it."""

    def __init__(self, source: str, bos: str, eos: str) -> None:
        self._names: Mapping[str, Any] = {
            "bos_token": bos,
            "eos_token": eos,
            "add_generation_prompt": True,
            "tools": None,
            "documents": None,
        }
        self._source = source
        self.thinking = thinking_of(source)

    @cached_property
    def _template(self) -> Template:
        """Compiled when it is first wanted: a load does not wait for it."""
        return Template(self._source)

    @cached_property
    def abilities(self) -> Abilities:
        return probe(lambda messages, names: self.render(messages, names, OUTPUT_SLACK))

    @cached_property
    def form(self) -> Format:
        return format_of(self._source)

    @property
    def has_short_ids(self) -> bool:
        """Mistral's templates refuse ids of another length than nine."""
        return f"length != {_MISTRAL_ID}" in self._source

    def render(self, messages: Sequence[Told], names: Mapping[str, Any], limit: int) -> str:
        """Raises Refused, Broken."""
        return self._template.render({**self._names, **names, "messages": messages}, limit)


class _Renderer:
    """One request in one template."""

    def __init__(self, compiled: _Compiled, request: GenerationRequest, offered: tuple[Tool, ...]) -> None:
        self._compiled, self._request, self._offered = compiled, request, offered
        self._abilities = compiled.abilities
        self._form = compiled.form if self._abilities.has_tools or self._abilities.has_calls else GENERIC

    def render(self) -> Turn:
        request = self._request
        messages, prefill = request.messages, None
        if request.continues and messages and messages[-1].role is Role.ASSISTANT:
            messages, prefill = messages[:-1], messages[-1]
        names = self._names(prefill)
        told = self._plain(messages)
        limit = OUTPUT_FACTOR * sum(map(len, _texts(told, names))) + OUTPUT_SLACK
        try:
            text = self._compiled.render([self._told(m) for m in told], names, limit)
        except Refused:
            fewer = merged(told)
            if fewer == told:
                raise
            text = self._compiled.render([self._told(m) for m in fewer], names, limit)
        return self._begun(text, prefill)

    def _names(self, prefill: Message | None) -> dict[str, Any]:
        request = self._request
        names: dict[str, Any] = {}
        if not request.opens_turn and prefill is None:
            names["add_generation_prompt"] = False
        thinks = request.thinking
        if prefill is not None and thinks is None and self._compiled.thinking is not None:
            thinks = bool(prefill.thinking)
        if thinks is not None:
            names["enable_thinking"] = names["thinking"] = thinks
        if request.effort:
            names["reasoning_effort"] = request.effort
        if self._offered and self._abilities.has_tools:
            names["tools"] = [
                tool_document(tool.name, tool.description, json.loads(tool.parameters)) for tool in self._offered
            ]
        values = json.loads(request.template_values)
        if not isinstance(values, dict):
            raise InvalidRequest("cannot use the values for the chat template: an object is expected", "messages")
        return names | values

    def _begun(self, text: str, prefill: Message | None) -> Turn:
        """The prompt with what the assistant has said of its turn."""
        thinking, form = self._compiled.thinking, self._form
        if self._compiled.form is HARMONY:
            primer = "" if prefill is None else harmony.prefill(prefill.thinking, prefill.content)
            return Turn(text + primer, HARMONY, None, primer)
        primer = ""
        if thinking is not None:
            opens = thinking.opens.rstrip()
            before, found, after = text.rpartition(opens)
            primer = text[len(before) :] if found and not after.strip() else ""
        if prefill is None:
            return Turn(text, form, thinking, primer)
        said = prefill.content
        if thinking is not None and (primer or prefill.thinking):
            opened = "" if primer else thinking.opens
            closed = thinking.closes + "\n\n" if prefill.content else ""
            said = f"{opened}{prefill.thinking}{closed}{prefill.content}"
        return Turn(text + said, form, thinking, (primer + said).rstrip())

    # --- messages that the template knows

    def _plain(self, messages: Sequence[Message]) -> list[Message]:
        """The messages, and what the template does not know said in others."""
        abilities = self._abilities
        plain = [self._as_words(message) for message in messages]
        if self._offered and not self._abilities.has_tools:
            plain = after_system(plain, self._explanation())
        if not abilities.has_system:
            plain = without_system(plain)
        return plain

    def _as_words(self, message: Message) -> Message:
        """A call or a result in words, where the template has none."""
        if message.calls and not self._abilities.has_calls:
            calls = [self._form.spelling.call(call.name, call.arguments or "{}") for call in message.calls]
            return replace(message, content="\n".join(filter(None, (message.content, *calls))), calls=())
        if message.role is Role.TOOL and not self._abilities.has_results:
            of = f" of {message.name}" if message.name else ""
            return Message(Role.USER, f"Result{of}: {message.content}")
        return message

    def _explanation(self) -> str:
        tools = "\n".join(
            json.dumps(
                {"name": tool.name, "description": tool.description, "arguments": json.loads(tool.parameters)},
                ensure_ascii=False,
            )
            for tool in self._offered
        )
        form = self._form.spelling.call("NAME", '{"ARGUMENT": "VALUE"}')
        return _EXPLAINED.format(tools=tools, form=form, several=_SEVERAL if self._request.parallel_calls else _ONE)

    def _told(self, message: Message) -> Told:
        """The message as templates know it."""
        abilities = self._abilities
        role = Role.SYSTEM if message.role is Role.DEVELOPER else message.role
        content, thinking = message.content, message.thinking
        told: Told = {"role": role.value}
        if message.calls:
            if self._compiled.form is HARMONY and content and thinking:  # which takes one of the two
                content, thinking = "", f"{thinking}\n{content}"
            told["tool_calls"] = [
                call_document(
                    self._id(call.id),
                    call.name,
                    call.arguments if abilities.wants_text_arguments else _object(call.arguments),
                )
                for call in message.calls
            ]
        parts = abilities.wants_parts and content
        told["content"] = [{"type": "text", "text": content}] if parts else content
        if message.calls and not content and abilities.wants_no_content:
            told["content"] = None
        if thinking:
            told["reasoning_content"] = told["thinking"] = thinking
        if message.call_id:
            told["tool_call_id"] = self._id(message.call_id)
        if message.name:
            told["name"] = message.name
        return told

    def _id(self, call_id: str) -> str:
        if self._compiled.has_short_ids and (len(call_id) != _MISTRAL_ID or not call_id.isalnum()):
            return hashlib.sha256(call_id.encode()).hexdigest()[:_MISTRAL_ID]
        return call_id


def _object(arguments: str) -> Any:
    """Arguments as a value; what a model wrote and is no JSON stays text."""
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def _texts(messages: Sequence[Message], names: Mapping[str, Any]) -> list[str]:
    texts = [text for m in messages for text in (m.content, m.thinking, *(call.arguments for call in m.calls))]
    return [*texts, json.dumps(names)]
