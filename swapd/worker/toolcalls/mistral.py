"""Mistral's: an array of calls, or, in newer models, a name and its arguments each.

[TOOL_CALLS][{"name": "add", "arguments": {"a": 1}, "id": "abcdefghi"}]
[TOOL_CALLS]add[CALL_ID]abcdefghi[ARGS]{"a": 1}
"""

from __future__ import annotations

from typing import Final

from swapd.worker.toolcalls import jsons
from swapd.worker.toolcalls.reading import Reading, Steps

OPENS: Final = ("[TOOL_CALLS]",)
MARKS: Final = ("[ARGS]", "[CALL_ID]")


def read(r: Reading, opened: str) -> Steps[bool]:
    yield from r.space()
    if (yield from r.next_is("[{")):
        return (yield from jsons.calls(r))
    name = yield from r.name()
    if not name:
        return False
    call_id = ""
    if (yield from r.literal("[CALL_ID]")):
        call_id = yield from r.name()
    yield from r.literal("[ARGS]")
    yield from r.space()
    if not (yield from r.next_is("{")):
        return False
    r.open_call(name, call_id)
    if (yield from jsons.value(r, r.argue)):
        r.close_call()
    return True
