"""What a chat template can say, found out by letting it say it.

Used by `chat`, once a template. Templates differ in what they know (tools, a system message) and in how they want it
(arguments as an object or as text, content missing or empty); none of that is written in them, so words that nothing
else would print are put in, and looked for in what comes out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from swapd.worker.sandbox import Broken, Refused

_WORD: Final = "zqsaid"
_TOOL: Final = "zqtool"
_FIELD: Final = "zqfield"
_VALUE: Final = "zqvalue"
_RESULT: Final = "zqresult"
_ID: Final = "zq1234567"

Told = dict[str, Any]
Render = Callable[[Sequence[Told], Mapping[str, Any]], str]
"""(messages, more names) -> prompt. Raises Refused, Broken."""


@dataclass(frozen=True, slots=True)
class Abilities:
    has_system: bool
    has_tools: bool
    has_calls: bool
    has_results: bool
    wants_parts: bool
    """Content is a list of parts, and text alone is not seen."""
    wants_text_arguments: bool
    wants_no_content: bool
    """A message with calls has no content at all."""


_NONE: Final = Abilities(False, False, False, False, False, False, False)


def probe(render: Render) -> Abilities:
    """None at all for a template that takes too long: it is not asked again."""
    try:
        return _probe(render)
    except Broken:
        return _NONE


def _probe(render: Render) -> Abilities:
    wants_parts = not _says(render, [_said("user", _WORD)], _WORD) and _says(
        render, [{"role": "user", "content": [{"type": "text", "text": _WORD}]}], _WORD
    )

    def said(role: str, text: str = "x") -> Told:
        return _said(role, [{"type": "text", "text": text}] if wants_parts else text)

    tools = {"tools": [tool_document(_TOOL, "", {"type": "object", "properties": {_FIELD: {"type": "string"}}})]}
    has_tools = _says(render, [said("user")], _TOOL, tools)
    has_calls = wants_text = wants_none = False
    for wants_text, wants_none in ((False, False), (False, True), (True, False), (True, True)):
        call = {"role": "assistant", "content": None if wants_none else "", "tool_calls": [_call(wants_text)]}
        has_calls = _shows_call(render, [said("user"), call, _result(), said("user")], tools) or _shows_call(
            render, [said("user"), call], tools
        )
        if has_calls:
            break
    call = {"role": "assistant", "content": None if wants_none else "", "tool_calls": [_call(wants_text)]}
    return Abilities(
        has_system=not _says(render, [said("user", _WORD)], _WORD)
        or _says(render, [said("system", _WORD), said("user")], _WORD),
        has_tools=has_tools,
        has_calls=has_calls,
        has_results=(has_tools or has_calls) and _says(render, [said("user"), call, _result()], _RESULT, tools),
        wants_parts=wants_parts,
        wants_text_arguments=has_calls and wants_text,
        wants_no_content=has_calls and wants_none,
    )


def tool_document(name: str, description: str, parameters: Any) -> Told:
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def call_document(call_id: str, name: str, arguments: Any) -> Told:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _said(role: str, content: Any) -> Told:
    return {"role": role, "content": content}


def _call(as_text: bool) -> Told:
    arguments = {_FIELD: _VALUE}
    return call_document(_ID, _TOOL, json.dumps(arguments) if as_text else arguments)


def _result() -> Told:
    return {"role": "tool", "content": _RESULT, "tool_call_id": _ID, "name": _TOOL}


def _shows_call(render: Render, messages: Sequence[Told], names: Mapping[str, Any]) -> bool:
    """Whether the call's value is told, and neither as Python writes it nor as JSON inside of JSON."""
    text = _try(render, messages, names)
    as_python, as_text = f"{{'{_FIELD}': '{_VALUE}'", json.dumps(json.dumps({_FIELD: _VALUE}))[1:-3]
    return _VALUE in text and as_python not in text and as_text not in text


def _says(render: Render, messages: Sequence[Told], word: str, names: Mapping[str, Any] | None = None) -> bool:
    return word in _try(render, messages, names or {})


def _try(render: Render, messages: Sequence[Told], names: Mapping[str, Any]) -> str:
    """Raises Broken only where it took too long."""
    try:
        return render(messages, names)
    except Refused:
        return ""
    except Broken as error:
        if isinstance(error.__cause__, TimeoutError):
            raise
        return ""
