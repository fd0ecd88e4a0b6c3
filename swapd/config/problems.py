"""What is wrong with a configuration, one sentence a problem: where, which key, what was given, what is allowed.

Called by `settings.py` with what pydantic found.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from swapd.config.sources import Place, Sources, nearest
from swapd.config.tables import Options, Preset, kinds

_WORDS = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "greater_than": "above {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "less than {lt}",
    "less_than_equal": "{le} or less",
    "literal_error": "{expected}",
    "too_short": "at least one",
    "too_long": "none",
}


def describe(error: ValidationError, sources: Sources) -> list[str]:
    return [
        problem(tuple(found["loc"]), found["input"], _allowed(found), sources)
        for found in error.errors(include_url=False)
    ]


def problem(place: Place, given: object, allowed: str, sources: Sources) -> str:
    """`FILE:LINE: [table] key = given: allowed`."""
    return f"{sources.where(place)}: {_key(place)}{_given(place, given)}: {allowed}"


def _allowed(found: Any) -> str:
    place, kind, context = tuple(found["loc"]), found["type"], found.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown(place)
    if kind == "value_error":
        text = str(context["error"])
        return text.removeprefix(f"{found['input']!r} is ")
    words = _WORDS.get(kind)
    limits = {key: int(value) if isinstance(value, float) else value for key, value in context.items()}
    return _toml(words.format_map(limits)) if words else str(found["msg"])


def _unknown(place: Place) -> str:
    tables = kinds()
    if len(place) == 1:
        return f"no such table{nearest(str(place[0]), tables)}"
    inner = {"options": Options.model_fields, "presets": Preset.model_fields}
    known = inner.get(str(place[2]), tables[str(place[0])]) if len(place) > 3 else tables[str(place[0])]
    return f"no such key{nearest(str(place[-1]), known)}"


def _toml(expected: object) -> str:
    return str(expected).replace("'", '"').replace("False", "false")


def _key(place: Place) -> str:
    table, rest = str(place[0]), list(place[1:])
    if table == "models" and rest:
        table = f'models."{rest.pop(0)}"'
    key = ""
    for part in rest:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else str(part)
    return f"[{table}] {key}".rstrip()


def _given(place: Place, given: object) -> str:
    if len(place) < 2 or isinstance(given, dict):
        return ""
    if place[:2] == ("server", "api_keys"):
        return " = (not shown)"
    try:
        text = json.dumps(given, ensure_ascii=False, default=str)
    except (TypeError, ValueError):
        text = repr(given)
    return f" = {text if len(text) <= 60 else text[:57] + '...'}"
