"""Arguments that come as tagged fields, told as the JSON object that they are.

Used by the formats that write no JSON. A field that the schema wants as a string grows as it comes; of any other, what
is JSON is told as it is, and the rest as a string.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from swapd.worker.toolcalls.reading import Reading, Steps

_PYTHONS: Final = {"True": "true", "False": "false", "None": "null"}


class Fields:
    """The arguments of the call just opened. `close` ends them, and with them the call."""

    def __init__(self, r: Reading, tool: str) -> None:
        self._r, self._tool = r, tool
        self._is_empty = True

    def begin(self, name: str) -> None:
        self._r.argue(("{" if self._is_empty else ", ") + json.dumps(name, ensure_ascii=False) + ": ")
        self._is_empty = False

    def until(
        self, name: str, ends: Sequence[str], *, trims: str = "", is_text: bool | None = None
    ) -> Steps[str | None]:
        """The value of a field: what comes before one of `ends`, which is returned; None: the answer is over.

        `trims`: this much white space (a line break) at either end belongs to the tags. The value is not told
        if the answer is over before it is.
        """
        r = self._r
        self.begin(name)
        if trims:
            yield from r.literal(trims)
        if self._r.tools.is_text(self._tool, name) if is_text is None else is_text:
            r.argue('"')
            end = yield from r.until([trims + end for end in ends] + list(ends), lambda text: r.argue(_inside(text)))
            if end is not None:
                r.argue('"')
            return end
        texts: list[str] = []
        end = yield from r.until(ends, texts.append)
        if end is not None:
            r.argue(as_json("".join(texts).strip()))
        return end

    def close(self) -> None:
        self._r.argue("{}" if self._is_empty else "}")
        self._r.close_call()


def as_json(text: str) -> str:
    """The text if it is JSON, Python's words for true, false and null as JSON's, else the text as a JSON string."""
    if text in _PYTHONS:
        return _PYTHONS[text]
    try:
        json.loads(text, parse_constant=_refuse)
    except ValueError:
        return json.dumps(text, ensure_ascii=False)
    return text


def _refuse(word: str) -> None:
    raise ValueError(word)


def _inside(text: str) -> str:
    """The text as it stands between the quotes of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]
