"""Gemma 4's and FunctionGemma's: a call in a notation of their own, strings between marks instead of quotes.

<|tool_call>call:add{a:1,b:<|"|>two<|"|>,c:[1,2]}<tool_call|>
<start_function_call>call:add{a:1,b:<escape>two<escape>}<end_function_call>
"""

from __future__ import annotations

import json
from typing import Final

from swapd.worker.toolcalls import jsons
from swapd.worker.toolcalls.fields import as_json
from swapd.worker.toolcalls.reading import Reading, Steps, closing

_CLOSES: Final = {"<|tool_call>": "<tool_call|>", "<start_function_call>": "<end_function_call>"}
_QUOTES: Final = ('<|"|>', "<escape>")
OPENS: Final = tuple(_CLOSES)
MARKS: Final = (*_CLOSES.values(), *_QUOTES)
_SCALAR_ENDS: Final = (",", "}", "]")


def read(r: Reading, opened: str) -> Steps[bool]:
    yield from r.space()
    if not (yield from r.literal("call:")):
        return False
    name = yield from r.name()
    if not name or not (yield from r.literal("{")):
        return False
    r.open_call(name)
    if (yield from _object(r)):
        r.close_call()
        yield from closing(r, _CLOSES[opened])
    return True


def _object(r: Reading) -> Steps[bool]:
    """After its brace. False: it breaks off."""
    r.argue("{")
    is_first = True
    while True:
        yield from r.space()
        if (yield from r.literal("}")):
            r.argue("}")
            return True
        if not is_first:
            if not (yield from r.literal(",")):
                return False
            r.argue(", ")
            yield from r.space()
        is_first = False
        key = yield from _key(r)
        if key is None:
            return False
        r.argue(json.dumps(key, ensure_ascii=False) + ": ")
        if not (yield from _value(r)):
            return False


def _key(r: Reading) -> Steps[str | None]:
    """With its colon; None: it breaks off."""
    if (yield from r.next_is('"')):
        key = yield from jsons.whole(r)
        yield from r.space()
        return key if isinstance(key, str) and (yield from r.literal(":")) else None
    quote = yield from r.any_literal(_QUOTES)
    texts: list[str] = []
    if (yield from r.until([quote or ":"], texts.append)) is None:
        return None
    if quote:
        yield from r.space()
        if not (yield from r.literal(":")):
            return None
    return "".join(texts).strip()


def _value(r: Reading) -> Steps[bool]:
    yield from r.space()
    if (yield from r.literal("{")):
        return (yield from _object(r))
    if (yield from r.literal("[")):
        return (yield from _array(r))
    if (yield from r.next_is('"')):
        return (yield from jsons.value(r, r.argue))
    quote = yield from r.any_literal(_QUOTES)
    if quote:
        r.argue('"')
        end = yield from r.until([quote], lambda text: r.argue(json.dumps(text, ensure_ascii=False)[1:-1]))
        if end is None:
            return False
        r.argue('"')
        return True
    texts: list[str] = []
    end = yield from r.until(_SCALAR_ENDS, texts.append)
    if end is None:
        return False
    r.back(len(end))
    r.argue(as_json("".join(texts).strip()))
    return True


def _array(r: Reading) -> Steps[bool]:
    """After its bracket."""
    r.argue("[")
    is_first = True
    while True:
        yield from r.space()
        if (yield from r.literal("]")):
            r.argue("]")
            return True
        if not is_first:
            if not (yield from r.literal(",")):
                return False
            r.argue(", ")
        is_first = False
        if not (yield from _value(r)):
            return False
