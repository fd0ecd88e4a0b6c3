"""JSON, for models whose template knows no tools: a call is an object, alone or in a fenced block, at a line's start.

{"name": "add", "arguments": {"a": 1}}

Only names of tools that the request offers make an object a call; any other JSON is text.
"""

from __future__ import annotations

from typing import Final

from swapd.worker.toolcalls import jsons, pythonic
from swapd.worker.toolcalls.reading import Reading, Steps, closing

_JSON_FENCES: Final = ("```json\n", "```tool_call\n", "```\n")
_PYTHON_FENCE: Final = "```tool_code\n"
OPENS: Final = ("<tool_call>", "\n{", "\n[", *("\n" + fence for fence in (*_JSON_FENCES, _PYTHON_FENCE)))


def bare(r: Reading) -> Steps[bool]:
    """Where a turn begins."""
    fence = yield from r.any_literal((*_JSON_FENCES, _PYTHON_FENCE))
    if fence == _PYTHON_FENCE:
        is_call = yield from pythonic.calls(r, knows=True)
    else:
        is_call = yield from _json(r)
    if is_call and fence:
        yield from closing(r, "```")
    return is_call


def read(r: Reading, opened: str) -> Steps[bool]:
    if opened == "<tool_call>":
        is_call = yield from _json(r)
        if is_call:
            yield from closing(r, "</tool_call>")
        return is_call
    is_fenced = opened.endswith("\n")
    if not is_fenced:
        r.back(1)
    if opened.endswith(_PYTHON_FENCE):
        is_call = yield from pythonic.calls(r, knows=True)
    else:
        is_call = yield from _json(r)
    if is_call and is_fenced:
        yield from closing(r, "```")
    return is_call


def _json(r: Reading) -> Steps[bool]:
    yield from r.space()
    return (yield from jsons.calls(r, knows=True))
