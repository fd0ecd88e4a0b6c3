"""`<tool_call>` and what models put in it: Hermes' and Qwen's JSON, Qwen3-Coder's functions, GLM's keys and values.

    <tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>
    <tool_call><function=add><parameter=a>1</parameter></function></tool_call>
    <tool_call>add<arg_key>a</arg_key><arg_value>1</arg_value></tool_call>

The marks are one, so one reader tells them apart by what comes next. Models often forget the outer marks of functions.
"""

from __future__ import annotations

from typing import Final

from swapd.worker.toolcalls import jsons
from swapd.worker.toolcalls.fields import Fields
from swapd.worker.toolcalls.reading import Reading, Steps, closing

_CLOSE: Final = "</tool_call>"
CLOSES: Final = {"<tool_call>": _CLOSE, "<seed:tool_call>": "</seed:tool_call>", "<function=": _CLOSE}
_FIELD_ENDS: Final = ("</parameter>", "<parameter=", "</function>")


def read(r: Reading, opened: str) -> Steps[bool]:
    if opened == "<function=":
        is_call = yield from _function(r)
    else:
        yield from r.space()
        if (yield from r.next_is("{[")):
            is_call = yield from jsons.calls(r)
        elif (yield from r.literal("<function=")):
            is_call = yield from _function(r)
        else:
            is_call = yield from _keys(r)
    if is_call:
        yield from closing(r, CLOSES[opened])
    return is_call


def _function(r: Reading) -> Steps[bool]:
    """After `<function=`."""
    name = yield from r.name()
    if not name or not (yield from r.literal(">")):
        return False
    yield from r.space()
    if (yield from r.next_is("{")):  # Functionary's: JSON between the marks
        r.open_call(name)
        if (yield from jsons.value(r, r.argue)):
            r.close_call()
            yield from closing(r, "</function>")
        return True
    r.open_call(name)
    fields = Fields(r, name)
    while (yield from r.literal("<parameter=")):
        texts: list[str] = []
        if (yield from r.until([">"], texts.append)) is None:
            return True
        end = yield from fields.until("".join(texts).strip(), _FIELD_ENDS, trims="\n")
        if end is None:
            return True
        if not end.endswith("</parameter>"):  # forgotten
            r.back(len(end.strip()))
        yield from r.space()
    if r.can_end:
        fields.close()
        yield from closing(r, "</function>")
    return True


def _keys(r: Reading) -> Steps[bool]:
    """GLM's: the name, then keys and values."""
    name = yield from r.name()
    yield from r.space()
    if not name or (yield from r.peek(("<arg_key>", _CLOSE))) is None:
        return False
    r.open_call(name)
    fields = Fields(r, name)
    while (yield from r.literal("<arg_key>")):
        texts: list[str] = []
        if (yield from r.until(["</arg_key>"], texts.append)) is None:
            return True
        yield from r.space()
        if not (yield from r.literal("<arg_value>")):
            return True
        if (yield from fields.until("".join(texts).strip(), ("</arg_value>",))) is None:
            return True
        yield from r.space()
    if r.can_end:
        fields.close()
    return True
