"""Anthropic's messages of content blocks, read as dialect-neutral turns.

Used by `anthropic_bodies.py`; raises ValueError with the words that the caller gets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from swapd.api.fields import MAX_MESSAGES
from swapd.api.pictures import Album, from_base64
from swapd.api.tools import as_json, as_list
from swapd.generation import Message, Role, ToolCall

_MAX_BLOCKS: Final = 4096
_SEPARATOR: Final = "\n"
_BILLING: Final = "x-anthropic-billing-header:"
"""Claude Code's first system block may be one that Anthropic's servers count by and no model is meant to read.

It differs from one request to the next, so that nothing after it could be found in a slot again.
"""


def system_text(given: Any) -> Any:
    """The text of `system`: a string or text blocks."""
    if given is None or isinstance(given, str):
        return given or None
    texts = [_text(block) for block in _blocks(given)]
    return _SEPARATOR.join(text for text in texts if not text.startswith(_BILLING)) or None


def read_turns(given: Any) -> tuple[Message, ...]:
    """The turns of `messages`, in order; results of tools are turns of their own."""
    read: list[Message] = []
    tools: dict[str, str] = {}
    album = Album()
    messages = as_list(given, "messages", MAX_MESSAGES)
    if not messages:
        raise ValueError("at least one message is needed")
    for index, message in enumerate(messages):
        try:
            for turn in _turns(message, tools, album):
                tools.update((call.id, call.name) for call in turn.calls)
                read.append(turn)
        except ValueError as error:
            raise ValueError(f"message {index}: {error}") from None
    return album.placed(read)


def _turns(message: Mapping[str, Any], tools: Mapping[str, str], album: Album) -> Iterator[Message]:
    role, content = message.get("role"), message.get("content")
    if not isinstance(content, str):
        content = _blocks(content)
    match role:
        case "user":
            yield from _user(content, tools, album)
        case "assistant":
            yield _assistant(content)
        case "system":
            yield Message(Role.SYSTEM, system_text(content) or "")
        case _:
            raise ValueError(f"the role {str(role)[:40]!r} is unknown; user, assistant and system are allowed")


def _user(content: str | list[Mapping[str, Any]], tools: Mapping[str, str], album: Album) -> Iterator[Message]:
    if isinstance(content, str):
        yield Message(Role.USER, content)
        return
    texts: list[str] = []
    for block in content:
        if block.get("type") == "tool_result":
            yield _result(block, tools, album)
        else:
            texts.append(_text(block, album))
    if texts or not content:
        yield Message(Role.USER, album.joined(texts))


def _result(block: Mapping[str, Any], tools: Mapping[str, str], album: Album) -> Message:
    call, content = block.get("tool_use_id"), block.get("content")
    if not isinstance(call, str):
        raise ValueError("a tool_result needs a string 'tool_use_id'")
    if content is None:
        content = ""
    text = content if isinstance(content, str) else album.joined([_text(each, album) for each in _blocks(content)])
    if block.get("is_error") and not text:
        text = "error"
    return Message(Role.TOOL, text, call_id=call, name=tools.get(call, ""))


def _assistant(content: str | list[Mapping[str, Any]]) -> Message:
    if isinstance(content, str):
        return Message(Role.ASSISTANT, content)
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    for block in content:
        match block.get("type"):
            case "thinking":
                thoughts.append(_string(block, "thinking"))
            case "redacted_thinking":
                pass  # only its vendor can read it
            case "tool_use":
                arguments = block.get("input")
                if not isinstance(arguments, dict):
                    raise ValueError("the 'input' of a tool_use should be an object")
                calls.append(ToolCall(_string(block, "id"), _string(block, "name"), as_json(arguments)))
            case _:
                texts.append(_text(block))
    return Message(Role.ASSISTANT, _SEPARATOR.join(texts), _SEPARATOR.join(thoughts), tuple(calls))


def _blocks(given: Any) -> list[Mapping[str, Any]]:
    if not isinstance(given, list):
        raise ValueError("'content' should be a string or a list of blocks")
    return as_list(given, "blocks", _MAX_BLOCKS)


def _text(block: Mapping[str, Any], album: Album | None = None) -> str:
    """What a block says, if it can be said as text; of a picture, where there is an album for it, its marker."""
    kind = block.get("type")
    match kind, block.get("source"):
        case "image", {"type": "base64", "data": data} if album is not None:
            return album.add(from_base64(data))
        case "image", {"type": "url"} if album is not None:
            raise ValueError("images are not fetched: send the image itself, as a source of the type 'base64'")
        case "image", _ if album is not None:
            raise ValueError("an image needs a 'source' of the type 'base64', with its 'data'")
        case "image", _:
            raise ValueError("an image has its place in messages of the user and in results of tools, not here")
        case "text", _:
            return _string(block, "text")
        case "document", {"type": "text", "data": str(data)}:
            title = block.get("title")
            return f"{title}\n{data}" if isinstance(title, str) else data
        case "document", {"type": "content", "content": content}:
            return content if isinstance(content, str) else _SEPARATOR.join(map(_text, _blocks(content)))
        case "search_result", _:
            return _SEPARATOR.join([str(block.get("title", "")), *map(_text, _blocks(block.get("content")))])
        case "tool_reference", _:
            return _string(block, "tool_name")
        case "document" | "file" | "container_upload", _:
            raise ValueError(f"cannot read a block of the type {kind!r}: text and images are served")
        case _:
            raise ValueError(
                f"blocks of the type {str(kind)[:40]!r} are not served here; "
                "text, image, thinking, tool_use and tool_result are"
            )


def _string(block: Mapping[str, Any], name: str) -> str:
    value = block.get(name)
    if not isinstance(value, str):
        raise ValueError(f"a block of the type {block.get('type')!r} needs a string {name!r}")
    return value
