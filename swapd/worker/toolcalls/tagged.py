"""Formats that differ in their marks only: JSON calls between two marks, or a name and JSON between marks."""

from __future__ import annotations

from typing import Final

from swapd.worker.toolcalls import jsons, pythonic
from swapd.worker.toolcalls.fields import Fields
from swapd.worker.toolcalls.reading import Reading, Steps, closing

JSON_CLOSES: Final = {
    "<|tool_call|>": "<|/tool_call|>",  # Phi 4 mini; Granite 3 has no closing mark
    "<|function_call|>": "",  # GigaChat
    "<TOOLCALL>": "</TOOLCALL>",  # Nemotron
    "<tool_calls>": "</tool_calls>",  # Apriel and others
    "<|START_ACTION|>": "<|END_ACTION|>",  # Command R7B and A
    "<|tool_call_start|>": "<|tool_call_end|>",  # LFM2, which writes Python there
    "functools": "",  # Phi 3.5 and Firefunction
}

KIMI_BEGIN: Final = "<|tool_calls_section_begin|>"
KIMI_END: Final = "<|tool_calls_section_end|>"
KIMI_CALL: Final = "<|tool_call_begin|>"
KIMI_ARGUMENTS: Final = "<|tool_call_argument_begin|>"
KIMI_CALL_END: Final = "<|tool_call_end|>"
KIMI_MARKS: Final = (KIMI_END, KIMI_ARGUMENTS, KIMI_CALL_END)

INVOKE_CLOSES: Final = {
    "<minimax:tool_call>": "</minimax:tool_call>",
    "<function_calls>": "</function_calls>",
    "<｜DSML｜function_calls>": "</｜DSML｜function_calls>",
}


def read_json(r: Reading, opened: str) -> Steps[bool]:
    yield from r.space()
    is_call = yield from jsons.calls(r)
    if not is_call and opened == "<|tool_call_start|>":
        r.fail()
        r.begin()
        yield from r.space()
        is_call = yield from pythonic.calls(r)
    if is_call and JSON_CLOSES[opened]:
        yield from closing(r, JSON_CLOSES[opened])
    return is_call


def read_kimi(r: Reading, opened: str) -> Steps[bool]:
    """`functions.add:0` names both the tool and the call."""
    if opened == KIMI_CALL:
        return (yield from _kimi_call(r))
    is_any = False
    while True:
        if is_any:
            r.begin()
        yield from r.space()
        if not (yield from r.literal(KIMI_CALL)) or not (yield from _kimi_call(r)):
            break
        is_any = True
    if is_any:
        r.fail()
        yield from closing(r, KIMI_END)
    return is_any


def _kimi_call(r: Reading) -> Steps[bool]:
    yield from r.space()
    given = yield from r.name()
    yield from r.space()
    name = given.removeprefix("functions.").rpartition(":")[0] or given.removeprefix("functions.")
    if not name or not (yield from r.literal(KIMI_ARGUMENTS)):
        return False
    yield from r.space()
    if not (yield from r.next_is("{")):
        return False
    r.open_call(name, given)
    if (yield from jsons.value(r, r.argue)):
        r.close_call()
        yield from closing(r, KIMI_CALL_END)
    return True


def read_invokes(r: Reading, opened: str) -> Steps[bool]:
    """`<invoke name="add"><parameter name="a">1</parameter></invoke>`, in MiniMax's and DeepSeek V3.2's marks."""
    prefix = "｜DSML｜" if "DSML" in opened else ""
    is_any = False
    while True:
        if is_any:
            r.begin()
        yield from r.space()
        if not (yield from r.literal(f'<{prefix}invoke name="')) or not (yield from _invoke(r, prefix)):
            break
        is_any = True
    if is_any:
        r.fail()
        yield from closing(r, INVOKE_CLOSES[opened])
    return is_any


def _invoke(r: Reading, prefix: str) -> Steps[bool]:
    """After the quote that opens its name."""
    name = yield from r.name()
    if not name or not (yield from r.literal('">')):
        return False
    r.open_call(name)
    fields = Fields(r, name)
    yield from r.space()
    while (yield from r.literal(f'<{prefix}parameter name="')):
        texts: list[str] = []
        if (yield from r.until(['"'], texts.append)) is None:
            return True
        rest: list[str] = []
        if (yield from r.until([">"], rest.append)) is None:
            return True
        is_text = {'string="true"': True, 'string="false"': False}.get("".join(rest).strip())
        if (yield from fields.until("".join(texts), (f"</{prefix}parameter>",), is_text=is_text)) is None:
            return True
        yield from r.space()
    if r.can_end:
        fields.close()
        yield from closing(r, f"</{prefix}invoke>")
    return True
