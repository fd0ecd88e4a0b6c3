"""The items of a Responses `input`, read as dialect-neutral turns, and its tools.

Used by `responses_bodies.py`; raises ValueError with the words that the caller gets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from swapd.api.fields import MAX_MESSAGES
from swapd.api.pictures import Album, from_url
from swapd.api.tools import MAX_TOOLS, as_json, as_list, function, offered
from swapd.generation import Message, Role, Tool, ToolCall

_TEXTS: Final = frozenset({"input_text", "output_text", "text", "summary_text", "reasoning_text"})
_ROLES: Final = frozenset(Role) - {Role.TOOL}
_FREE_FORM: Final = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}


@dataclass(frozen=True, slots=True)
class Caller:
    """How the caller knows a tool: of a namespace, or with free text in place of arguments (`custom`)."""

    name: str
    namespace: str = ""
    is_custom: bool = False

    @property
    def told(self) -> str:
        """The one name that the model gets."""
        return f"{self.namespace}__{self.name}" if self.namespace else self.name


@dataclass(frozen=True, slots=True)
class Toolbox:
    tools: tuple[Tool, ...] = ()
    callers: tuple[Caller, ...] = ()
    """Of each tool, in the same order."""

    def caller(self, told: str) -> Caller:
        """Of a name that the model said; one that it made up stands for itself."""
        return next((caller for caller in self.callers if caller.told == told), Caller(told))


def read_tools(given: Any) -> Toolbox:
    """Functions, those of namespaces too, and custom tools; what OpenAI itself would run is left out."""
    tools: list[Tool] = []
    callers: list[Caller] = []
    left_out: list[str] = []
    for tool, namespace in _flat(as_list(given, "tools", MAX_TOOLS)):
        kind = tool.get("type")
        if kind not in ("function", "custom"):
            left_out.append(str(kind))
            continue
        schema = _FREE_FORM if kind == "custom" else tool.get("parameters")
        # The older dialect's nesting is common among callers.
        about = inner if isinstance(inner := tool.get("function"), dict) else tool
        read = function(about.get("name"), about.get("description"), about.get("parameters", schema))
        caller = Caller(read.name, namespace, kind == "custom")
        callers.append(caller)
        tools.append(Tool(caller.told, read.description, read.parameters))
    return Toolbox(offered(tools, left_out), tuple(callers))


def _flat(tools: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], str]]:
    for tool in tools:
        if tool.get("type") == "namespace":
            for inner in as_list(tool.get("tools"), "tools", MAX_TOOLS):
                yield inner, _string(tool, "name")
        else:
            yield tool, ""


def read_input(given: Any) -> tuple[Message, ...]:
    """The turns of `input`, a string or items, in order."""
    if isinstance(given, str):
        return (Message(Role.USER, given),)
    read: list[Message] = []
    names: dict[str, str] = {}
    album = Album()
    for index, item in enumerate(as_list(given, "items", MAX_MESSAGES)):
        try:
            turn = _turn(item, names, album)
        except ValueError as error:
            raise ValueError(f"item {index}: {error}") from None
        names.update((call.id, call.name) for call in turn.calls)
        read.append(turn)
    if not read:
        raise ValueError("at least one item is needed")
    return album.placed(read)


def _turn(item: Mapping[str, Any], names: Mapping[str, str], album: Album) -> Message:
    kind = item.get("type") or "message"
    match kind:
        case "message":
            return _message(item, album)
        case "reasoning":
            return Message(Role.ASSISTANT, "", thinking=_text(item.get("content") or item.get("summary") or "", None))
        case "function_call" | "custom_tool_call":
            told = Caller(_string(item, "name"), item.get("namespace") or "").told
            free = kind == "custom_tool_call"
            arguments = as_json({"input": _string(item, "input")}) if free else _arguments(item)
            return Message(Role.ASSISTANT, "", calls=(ToolCall(_string(item, "call_id"), told, arguments),))
        case "function_call_output" | "custom_tool_call_output":
            call, output = _string(item, "call_id"), item.get("output")
            return Message(Role.TOOL, _text(output, album), call_id=call, name=names.get(call, ""))
        case "item_reference":
            raise ValueError("items are not kept here, so there is nothing to refer to: send the item itself")
        case _:
            raise ValueError(
                f"items of the type {str(kind)[:40]!r} are not served here; message, reasoning, function_call, "
                "custom_tool_call and their outputs are"
            )


def _message(item: Mapping[str, Any], album: Album) -> Message:
    given = str(item.get("role"))
    if given not in _ROLES:
        raise ValueError(f"the role {given[:40]!r} is unknown; user, assistant, system and developer are allowed")
    return Message(Role(given), _text(item.get("content"), album))


def _arguments(item: Mapping[str, Any]) -> str:
    text = _string(item, "arguments")
    try:
        msgspec.json.decode(text or "{}", type=dict[str, Any])
    except msgspec.DecodeError:
        raise ValueError("the 'arguments' of a function_call should be a JSON object as text") from None
    return text or "{}"


def _text(given: Any, album: Album | None) -> str:
    """Without an album there is no place for pictures."""
    if isinstance(given, str):
        return given
    if not isinstance(given, list):
        raise ValueError("a string or a list of parts is expected")
    parts = as_list(given, "parts", MAX_MESSAGES)
    return (album or Album()).joined([_part(part, album) for part in parts])


def _part(part: Mapping[str, Any], album: Album | None) -> str:
    kind = part.get("type")
    if kind == "input_image" and album is not None:
        if part.get("file_id"):
            raise ValueError("cannot read an input_image by 'file_id': no files are kept here; send 'image_url'")
        return album.add(from_url(part.get("image_url")))
    if kind in _TEXTS:
        return _string(part, "text")
    if kind == "refusal":
        return _string(part, "refusal")
    if kind in ("input_image", "input_file", "input_audio", "computer_screenshot"):
        raise ValueError(f"cannot read a part of the type {kind!r}: no model here has ears or hands for it")
    raise ValueError(
        f"parts of the type {str(kind)[:40]!r} are not served here; input_text, input_image and output_text are"
    )


def _string(item: Mapping[str, Any], name: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise ValueError(f"an item of the type {item.get('type')!r} needs a string {name!r}")
    return value
