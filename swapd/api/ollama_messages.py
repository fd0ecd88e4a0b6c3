"""Ollama's messages and tools, read as dialect-neutral values, and calls in its words.

Used by `ollama_bodies.py` and `ollama.py`. Its calls have no ids of old: results are told apart by order and name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field

from swapd.api.fields import Body
from swapd.api.pictures import Album, Said, from_base64
from swapd.api.tools import as_json
from swapd.generation import CallPart, Message, Role, ToolCall

_MAX_CALLS: Final = 1024


def _pictures(given: Any) -> Said:
    """A list of files in base64, as markers one after the other."""
    if given is None:
        return Said("")
    if not isinstance(given, list):
        raise ValueError("a list of images in base64 is expected")
    album = Album()
    return Said("".join([album.add(from_base64(data)) for data in given]), album.images)


def _object(given: Any) -> Any:
    """Arguments as the object that Ollama has, or as OpenAI's JSON in a string."""
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            raise ValueError("a JSON object is expected") from None
    return given


Images = Annotated[Any, BeforeValidator(_pictures, json_schema_input_type=list[str] | None)]
"""As `Said`: the pictures come before what the message says, as with Ollama."""
NO_IMAGES: Final = Said("")


class Called(Body):
    name: Annotated[str, Field(min_length=1)]
    arguments: Annotated[dict[str, Any] | None, BeforeValidator(_object)] = None


class MadeCall(Body):
    id: str | None = None
    function: Called


class ChatMessage(Body):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    images: Images = NO_IMAGES
    thinking: str | None = None
    tool_calls: Annotated[list[MadeCall], Field(max_length=_MAX_CALLS)] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None
    name: str | None = None


def turns(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """In order; each result with the id of the call that it answers."""
    read: list[Message] = []
    waiting: list[ToolCall] = []
    count = 0
    for message in messages:
        shown: Said = message.images
        content = shown.text + (message.content or "")
        if message.role == "tool":
            call = _answered(message, waiting)
            name = message.tool_name or message.name or (call.name if call else "")
            read.append(
                Message(
                    Role.TOOL,
                    content,
                    call_id=message.tool_call_id or (call.id if call else ""),
                    name=name,
                    images=shown.images,
                )
            )
            continue
        calls: list[ToolCall] = []
        for made in message.tool_calls or ():
            count += 1
            arguments = as_json(made.function.arguments or {})
            calls.append(ToolCall(made.id or f"call_{count}", made.function.name, arguments))
        if calls:
            waiting = list(calls)
        read.append(Message(Role(message.role), content, message.thinking or "", tuple(calls), images=shown.images))
    return tuple(read)


def _answered(message: ChatMessage, waiting: list[ToolCall]) -> ToolCall | None:
    """The call that this result is of, no longer waiting: by id, by name, or the first."""
    name = message.tool_name or message.name
    found = next((call for call in waiting if call.id == message.tool_call_id), None)
    found = found or next((call for call in waiting if call.name == name), None)
    found = found or (waiting[0] if waiting else None)
    if found is not None:
        waiting.remove(found)
    return found


class WholeCalls:
    """Ollama tells calls whole: parts are kept until their arguments are complete."""

    def __init__(self) -> None:
        self._parts: dict[int, ToolCall] = {}
        self._told = 0

    def add(self, parts: Sequence[CallPart]) -> list[dict[str, object]]:
        """The calls that these parts complete, as documents."""
        documents: list[dict[str, object]] = []
        for part in parts:
            known = self._parts.get(part.index, ToolCall("", "", ""))
            call = ToolCall(known.id or part.id, known.name or part.name, known.arguments + part.arguments)
            self._parts[part.index] = call
            if "}" in part.arguments and (document := _document(self._told, call)) is not None:
                documents.append(document)
                del self._parts[part.index]
                self._told += 1
        return documents

    def rest(self) -> str:
        """What was begun and never completed, as text."""
        texts = [f'{{"name": {json.dumps(call.name)}, "arguments": {call.arguments}' for call in self._parts.values()]
        self._parts.clear()
        return "\n".join(texts)


def _document(index: int, call: ToolCall) -> dict[str, object] | None:
    """None: the arguments are no JSON object, or not yet."""
    try:
        arguments = json.loads(call.arguments, strict=False)
    except ValueError:
        return None
    if not isinstance(arguments, dict):
        return None
    return {"id": call.id, "function": {"index": index, "name": call.name, "arguments": arguments}}
