"""Calls written as Python: `[add(a=1, b="two"), now()]`; LFM2's and, in blocks of `tool_code`, Gemma's.

A call is told when its closing parenthesis is there: before that a value may turn out to be anything.
"""

from __future__ import annotations

import ast
import json
from typing import Any

from swapd.worker.toolcalls.reading import Reading, Steps


def calls(r: Reading, *, knows: bool = False) -> Steps[bool]:
    """One call, or a list of them; False: neither, and none was told."""
    is_list = yield from r.literal("[")
    is_any = False
    while True:
        yield from r.space()
        name = yield from r.name()
        if (
            not name
            or (knows and name not in r.tools)
            or not (yield from r.literal("("))
            or not (yield from arguments(r, name))
        ):
            break
        is_any = True
        r.begin()
        yield from r.space()
        if not is_list or not (yield from r.literal(",")):
            break
    if is_any:
        r.fail()
        if is_list:
            yield from r.space()
            yield from r.literal("]")
    return is_any


def arguments(r: Reading, tool: str) -> Steps[bool]:
    """Keyword arguments up to the closing parenthesis, and with them the call; False: they are none."""
    text = yield from _to_closing(r)
    if text is None:
        return False
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            return False
        values: dict[str, Any] = {}
        for keyword in call.keywords:
            if keyword.arg is None:
                return False
            values[keyword.arg] = _value(keyword.value)
        told = json.dumps(values, ensure_ascii=False)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return False
    r.open_call(tool)
    r.argue(told)
    r.close_call()
    return True


def _value(node: ast.expr) -> Any:
    """Raises ValueError where it is no value."""
    if isinstance(node, ast.Name) and node.id in ("true", "false", "null"):
        return {"true": True, "false": False, "null": None}[node.id]
    return ast.literal_eval(node)


def _to_closing(r: Reading) -> Steps[str | None]:
    """What is before the parenthesis that closes the one just read, which is read too."""
    read: list[str] = []
    depth, quote = 1, ""
    while (yield from r.has(1)):
        letter = r.unread[0]
        if quote and letter == "\\":
            if not (yield from r.has(2)):
                return None
            letter = r.unread[:2]
        elif quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        r.skip(len(letter))
        if depth == 0:
            return "".join(read)
        read.append(letter)
    return None
