"""JSON inside an answer: values passed on as they grow, and objects that are calls.

Brackets and strings are followed, nothing else is checked: what a model wrote as arguments is told as it wrote it.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from swapd.worker.toolcalls.reading import Out, Reading, Steps

_OUTSIDE: Final = re.compile(r'["{}\[\]]')
_INSIDE: Final = re.compile(r'["\\]')
_SCALAR_END: Final = re.compile(r"[,}\]\s]")
_CLOSES: Final = {"{": "}", "[": "]"}

_NAMES: Final = frozenset({"name", "tool_name", "function"})
_ARGUMENTS: Final = frozenset({"arguments", "parameters"})
_IDS: Final = frozenset({"id", "tool_call_id"})


def value(r: Reading, out: Out) -> Steps[bool]:
    """Give `out` the text of one JSON value as it grows; False: it does not end, or its brackets do not match."""
    if not (yield from r.has(1)):
        return False
    first = r.unread[0]
    if first in _CLOSES:
        return (yield from _nested(r, out))
    if first == '"':
        out('"')
        r.skip(1)
        return (yield from _rest_of_string(r, out))
    return (yield from _scalar(r, out))


def _nested(r: Reading, out: Out) -> Steps[bool]:
    closes: list[str] = []
    while True:
        text, start = r.unread, 0
        while (found := _OUTSIDE.search(text, start)) is not None:
            letter, start = found.group(), found.end()
            if letter == '"':
                break
            if letter in _CLOSES:
                closes.append(_CLOSES[letter])
            elif letter != closes.pop():
                if before := text[: found.start()]:  # as if it had come letter by letter
                    out(before)
                    r.skip(len(before))
                return False
            elif not closes:
                break
        else:
            start = len(text)
        if start:
            out(text[:start])
            r.skip(start)
        if found is not None and not closes:
            return True
        if found is not None:
            if not (yield from _rest_of_string(r, out)):
                return False
        elif not (yield from r.has(1)):
            return False


def _rest_of_string(r: Reading, out: Out) -> Steps[bool]:
    """After its opening quote, to its closing one."""
    while True:
        if not (yield from r.has(1)):
            return False
        text = r.unread
        found = _INSIDE.search(text)
        if found is None:
            out(text)
            r.skip(len(text))
        elif found.group() == '"':
            out(text[: found.end()])
            r.skip(found.end())
            return True
        else:
            if not (yield from r.has(found.end() + 1)):
                return False
            out(r.unread[: found.end() + 1])
            r.skip(found.end() + 1)


def _scalar(r: Reading, out: Out) -> Steps[bool]:
    text = ""
    while (found := _SCALAR_END.search(r.unread)) is None:
        text += r.unread
        r.skip(len(r.unread))
        if not (yield from r.has(1)):
            break
    if found is not None:
        text += r.unread[: found.start()]
        r.skip(found.start())
    try:
        json.loads(text)
    except ValueError:
        return False
    out(text)
    return True


def whole(r: Reading) -> Steps[Any]:
    """One JSON value, read to its end; None: it is null or broken."""
    texts: list[str] = []
    if not (yield from value(r, texts.append)):
        return None
    try:
        return json.loads("".join(texts), strict=False)
    except ValueError:
        return None


def call(r: Reading, *, knows: bool = False) -> Steps[bool]:
    """An object with a call's name and arguments, in any order; False: this is no call, and none was told.

    `knows`: only tools that the request offers count. A call whose arguments break off stays half; what is wrong
    after them is the model's sloppiness, and the call is whole.
    """
    if not (yield from r.literal("{")):
        return False
    name, call_id, held, is_told = "", "", "", False
    is_first, is_closed = True, False
    while True:
        yield from r.space()
        if (yield from r.literal("}")):
            is_closed = True
            break
        if not is_first:
            if not (yield from r.literal(",")):
                break
            yield from r.space()
        is_first = False
        if not (yield from r.next_is('"')):
            break
        key = yield from whole(r)
        yield from r.space()
        if not (yield from r.literal(":")):
            break
        yield from r.space()
        if key in _NAMES and not name:
            if (yield from r.next_is("{")):
                return (yield from _wrapped(r, knows))
            found = yield from whole(r)
            if not isinstance(found, str) or not found or (knows and found not in r.tools):
                return False
            name = found
        elif key in _ARGUMENTS and not held:
            if name and not is_told and (yield from r.next_is("{")):
                r.open_call(name, call_id)
                is_told = True
                if not (yield from value(r, r.argue)):
                    return True
                held = "told"
                continue
            given = yield from _arguments(r)
            if given is None:
                return is_told
            held = given
        else:
            found = yield from whole(r)
            if key in _IDS and isinstance(found, str):
                call_id = found
        if name and held and not is_told:
            r.open_call(name, call_id)
            r.argue(held)
            is_told = True
    if not is_told:
        if not name or not is_closed:
            return False
        r.open_call(name, call_id)
        r.argue(held or "{}")
    r.close_call()
    return True


def _wrapped(r: Reading, knows: bool) -> Steps[bool]:
    """The call inside `{"type": "function", "function": {…}}`."""
    if not (yield from call(r, knows=knows)):
        return False
    yield from r.space()
    yield from r.literal("}")
    return True


def _arguments(r: Reading) -> Steps[str | None]:
    """Arguments that must be held: an object's text, that of an object written as a string, or "{}" for null."""
    texts: list[str] = []
    if not (yield from value(r, texts.append)):
        return None
    text = "".join(texts)
    if text.startswith('"'):
        try:
            text = json.loads(text, strict=False).strip() or "{}"
        except ValueError:
            return None
    if text == "null":
        return "{}"
    return text if text.startswith("{") else None


def calls(r: Reading, *, knows: bool = False) -> Steps[bool]:
    """One call, or an array of calls; False: neither, and none was told."""
    if (yield from r.next_is("{")):
        return (yield from call(r, knows=knows))
    if not (yield from r.literal("[")):
        return False
    is_any = False
    while True:
        yield from r.space()
        if not (yield from call(r, knows=knows)):
            if is_any:
                r.fail()
            return is_any
        is_any = True
        r.begin()
        yield from r.space()
        if (yield from r.literal("]")):
            r.commit()
            return True
        if not (yield from r.literal(",")):
            r.fail()
            return True
