"""Turns as chat templates can render them, from dialects that let speakers come in any order.

Used by `anthropic_content.py` and `responses_items.py`. Many templates want one system message, at the beginning,
and then user and assistant in turn; these dialects promise that such conversations are understood all the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from swapd.generation import Message, Role

_SYSTEM: Final = frozenset({Role.SYSTEM, Role.DEVELOPER})
_MERGED: Final = frozenset({Role.SYSTEM, Role.USER, Role.ASSISTANT})


def settled(turns: Iterable[Message]) -> tuple[Message, ...]:
    """System messages at the beginning as one, later ones in the user's turn; one turn for what one says in a row.

    A later one keeps its place: moved to the beginning it would change the prompt from there on.
    """
    result: list[Message] = []
    for turn in turns:
        if turn.role in _SYSTEM:
            begins = not result or result[-1].role is Role.SYSTEM
            role, text = (Role.SYSTEM, turn.content) if begins else (Role.USER, _marked(turn.content))
            turn = Message(role, text, images=turn.images)
        last = result[-1] if result else None
        if last is not None and last.role is turn.role and turn.role in _MERGED:
            result[-1] = _joined(last, turn)
        else:
            result.append(turn)
    return tuple(result)


def _marked(text: str) -> str:
    return f"<system>\n{text}\n</system>"


def _joined(first: Message, second: Message) -> Message:
    separator = "\n\n" if first.role is Role.SYSTEM else "\n"
    return replace(
        first,
        content=separator.join(filter(None, (first.content, second.content))),
        thinking="\n".join(filter(None, (first.thinking, second.thinking))),
        calls=first.calls + second.calls,
        images=first.images + second.images,
    )
