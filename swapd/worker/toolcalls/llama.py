"""Llama 3's: a bare object, or what follows `<|python_tag|>`: an object, a call of a built-in tool, or Python code.

{"name": "add", "parameters": {"a": 1}}
<|python_tag|>brave_search.call(query="swaps")
"""

from __future__ import annotations

import json
from typing import Final

from swapd.worker.toolcalls import jsons, pythonic
from swapd.worker.toolcalls.reading import Reading, Steps

OPENS: Final = ("<|python_tag|>",)
_INTERPRETERS: Final = ("python", "ipython", "code_interpreter")


def bare(r: Reading) -> Steps[bool]:
    """Where a turn begins: calls with nothing around them, of tools that the request offers."""
    if not (yield from r.next_is("{")):
        return False
    if not (yield from jsons.call(r, knows=True)):
        return False
    yield from r.literal(";")
    return True


def read(r: Reading, opened: str) -> Steps[bool]:
    yield from r.space()
    if (yield from r.next_is("{")):
        return (yield from jsons.call(r))
    name = yield from r.name()
    if name.endswith(".call") and (yield from r.literal("(")):
        tool = name.removesuffix(".call")
        if tool in r.tools and (yield from pythonic.arguments(r, tool)):
            return True
    r.fail()
    r.begin()
    interpreter = next((tool for tool in _INTERPRETERS if tool in r.tools), None)
    if interpreter is None or not (yield from r.has(1)):
        return False
    r.open_call(interpreter)
    field = next(iter(r.tools.parameters(interpreter)), "code")
    r.argue("{" + json.dumps(field) + ': "')
    yield from r.until((), lambda code: r.argue(json.dumps(code, ensure_ascii=False)[1:-1]))
    if not r.is_cut:
        r.argue('"}')
        r.close_call()
    return True
