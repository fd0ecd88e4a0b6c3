"""gpt-oss: an answer is a row of messages, each for one of its channels.

<|channel|>analysis<|message|>I add.<|end|><|start|>assistant<|channel|>commentary to=functions.add <|constrain|>json
<|message|>{"a": 1}<|call|>
"""

from __future__ import annotations

import re
from typing import Final

from swapd.worker.toolcalls import jsons
from swapd.worker.toolcalls.reading import Out, Reading, Steps

START: Final = "<|start|>assistant"
CHANNEL: Final = "<|channel|>"
MESSAGE: Final = "<|message|>"
TO: Final = " to=functions."
MARKS: Final = ("<|start|>", CHANNEL, MESSAGE, "<|constrain|>", "<|end|>", "<|call|>", "<|return|>")

_STRAY: Final = ("<|end|>", "<|call|>", "<|return|>")
_ENDS: Final = (*_STRAY, "<|start|>")
_BEGINS: Final = ("<|start|>", CHANNEL)
_RECIPIENT: Final = re.compile(r"to=([\w.:/-]+)")
_THINKING: Final = "analysis"
_FUNCTIONS: Final = "functions."


def prefill(thinking: str, content: str) -> str:
    """What the assistant has already said of its turn, as it stands after the prompt."""
    if not content:
        return f"{CHANNEL}analysis{MESSAGE}{thinking}" if thinking else ""
    before = f"{CHANNEL}analysis{MESSAGE}{thinking}<|end|>{START}" if thinking else ""
    return f"{before}{CHANNEL}final{MESSAGE}{content}"


def read(r: Reading) -> Steps[None]:
    while (yield from r.has(1)):
        if (yield from r.any_literal(_STRAY)) is not None:
            continue
        if (yield from r.literal("<|start|>")) or (yield from r.peek((CHANNEL, " to="))) is not None:
            header = yield from _header(r)
        else:
            header = ""
        if header is None:
            return
        if not header:  # a model that keeps to no channel
            end = yield from r.until(_BEGINS, r.say)
            r.back(len(end or ""))
            continue
        yield from _message(r, header)


def _header(r: Reading) -> Steps[str | None]:
    """Up to the message itself; None: there is none, and what came is text."""
    texts: list[str] = []
    if (yield from r.until([MESSAGE], texts.append)) is None:
        r.say("".join(texts))
        return None
    return "".join(texts) or " "


def _message(r: Reading, header: str) -> Steps[None]:
    found = _RECIPIENT.search(header)
    recipient = found.group(1) if found else ""
    channel = header.partition(CHANNEL)[2].split()
    name = recipient.removeprefix(_FUNCTIONS)
    if r.tools.schemas and (recipient.startswith(_FUNCTIONS) or name in r.tools):
        yield from _call(r, name)
    else:
        is_thought = bool(recipient) or (bool(channel) and channel[0] == _THINKING)
        yield from _to_end(r, r.think if is_thought else r.say)


def _call(r: Reading, name: str) -> Steps[None]:
    r.open_call(name)
    yield from r.space()
    if (yield from r.next_is("{")):
        if not (yield from jsons.value(r, r.argue)):
            return
        r.close_call()
        yield from _to_end(r, lambda _: None)
        return
    texts: list[str] = []
    is_whole = yield from _to_end(r, texts.append)
    r.argue("".join(texts))
    if is_whole or not r.is_cut:
        r.argue("" if texts else "{}")
        r.close_call()


def _to_end(r: Reading, out: Out) -> Steps[bool]:
    """The rest of a message, and the mark that ends it, unless that begins the next; False: the answer is over."""
    end = yield from r.until(_ENDS, out)
    if end == "<|start|>":
        r.back(len(end))
    return end is not None
