"""Conversations reshaped for templates that want fewer kinds of turns, or other ones in a row.

Used by `chat`; pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from swapd.generation import Message, Role


def after_system(messages: Sequence[Message], text: str) -> list[Message]:
    """With this text at the end of the first system message, or in one of its own."""
    if messages and messages[0].role in (Role.SYSTEM, Role.DEVELOPER):
        first = messages[0]
        return [replace(first, content=f"{first.content}\n\n{text}"), *messages[1:]]
    return [Message(Role.SYSTEM, text), *messages]


def without_system(messages: Sequence[Message]) -> list[Message]:
    """System messages said by the user instead, together with what the user says next."""
    told: list[Message] = []
    held: list[str] = []
    for message in messages:
        if message.role in (Role.SYSTEM, Role.DEVELOPER):
            held.append(message.content)
        elif held and message.role is Role.USER:
            told.append(replace(message, content="\n\n".join((*held, message.content))))
            held = []
        else:
            if held:
                told.append(Message(Role.USER, "\n\n".join(held)))
                held = []
            told.append(message)
    if held:
        told.append(Message(Role.USER, "\n\n".join(held)))
    return told


def merged(messages: Sequence[Message]) -> list[Message]:
    """Neighbours of one role as one message."""
    told: list[Message] = []
    for message in messages:
        before = told[-1] if told else None
        if before is not None and before.role is message.role and message.role is not Role.TOOL:
            told[-1] = replace(
                before,
                content="\n\n".join(filter(None, (before.content, message.content))),
                thinking="\n\n".join(filter(None, (before.thinking, message.thinking))),
                calls=before.calls + message.calls,
            )
        else:
            told.append(message)
    return told
