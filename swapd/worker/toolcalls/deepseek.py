"""DeepSeek's: R1 and V3 write the arguments in a fenced block, V3.1 right after the name, V3.2 as tagged fields.

<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add
```json
{"a": 1}
```<｜tool▁call▁end｜><｜tool▁calls▁end｜>
<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>{"a": 1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>
"""

from __future__ import annotations

from typing import Final

from swapd.worker.toolcalls import jsons
from swapd.worker.toolcalls.reading import Reading, Steps, closing

BEGIN: Final = "<｜tool▁calls▁begin｜>"
END: Final = "<｜tool▁calls▁end｜>"
CALL: Final = "<｜tool▁call▁begin｜>"
CALL_END: Final = "<｜tool▁call▁end｜>"
SEPARATOR: Final = "<｜tool▁sep｜>"

OPENS: Final = (BEGIN, CALL)
MARKS: Final = (END, CALL_END, SEPARATOR)


def read(r: Reading, opened: str) -> Steps[bool]:
    if opened == CALL:
        return (yield from _call(r))
    is_any = False
    while True:
        if is_any:
            r.begin()
        yield from r.space()
        if not (yield from r.literal(CALL)) or not (yield from _call(r)):
            break
        is_any = True
    if is_any:
        r.fail()
        yield from closing(r, END)
    return is_any


def _call(r: Reading) -> Steps[bool]:
    """After its opening mark."""
    yield from r.space()
    name = yield from r.name()
    if not name or not (yield from r.literal(SEPARATOR)):
        return False
    if name == "function" and not (yield from r.next_is("{")):
        name = yield from r.name()
        yield from r.space()
        yield from r.literal("```json")
    yield from r.space()
    if not name or not (yield from r.next_is("{")):
        return False
    r.open_call(name)
    if not (yield from jsons.value(r, r.argue)):
        return True
    r.close_call()
    yield from closing(r, "```", CALL_END)
    return True
