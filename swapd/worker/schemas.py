"""From a JSON Schema to llguidance's grammar; what it cannot serve is refused with the part that is to blame.

Used by `constraints`. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from llguidance import LLMatcher

from swapd.errors import InvalidRequest
from swapd.units import Bytes, KiB

MAX_SCHEMA: Final[Bytes] = 512 * KiB
_MAX_LOOKS: Final = 200
"""Parts that are tried by themselves to find the one to blame."""
_OPTIONS: Final = {
    # Small models that may write white space write nothing else: a space, or a new line and its indentation.
    "whitespace_pattern": r"\x20|\n\x20{0,32}|\n\t{0,12}",
    "coerce_one_of": True,
}
_MANY: Final = ("properties", "patternProperties", "$defs", "definitions")
_LISTS: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLES: Final = ("items", "additionalProperties", "additionalItems", "not")
_OPENING: Final = ("additionalProperties", "unevaluatedProperties", "patternProperties", "propertyNames")
"""Who says one of these has thought of properties that have no name."""
_COMBINED: Final = ("allOf", "anyOf", "oneOf", "$ref", "not", "if", "dependentSchemas")


def compile_schema(text: str) -> str:
    """The grammar, for a matcher. Raises InvalidRequest that names the part (`$.properties.x`) and what is wrong."""
    if len(text) > MAX_SCHEMA:
        raise InvalidRequest(
            f"cannot use the JSON schema: it has {len(text)} characters; {MAX_SCHEMA} are allowed", "schema"
        )
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"cannot use the JSON schema: it is no JSON: {error}", "schema") from None
    if not isinstance(schema, (dict, bool)):
        raise InvalidRequest("cannot use the JSON schema: it should be an object", "schema")
    schema = closed(plain(schema))
    grammar, problem = _try(schema)
    if problem is None:
        return grammar
    where, problem = _blame(schema, problem) if isinstance(schema, dict) else ("$", problem)
    raise InvalidRequest(f"cannot use the JSON schema: {where}: {problem}", "schema")


def plain(schema: Any) -> Any:
    """Without what only annotates and is refused all the same: `$schema`, and formats that are not known."""
    if isinstance(schema, list):
        return [plain(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "$schema" or (key == "format" and isinstance(value, str) and not _is_format(value)):
            continue
        if key in _MANY and isinstance(value, dict):
            kept[key] = {name: plain(part) for name, part in value.items()}
        else:
            kept[key] = plain(value) if key in _LISTS or key in _SINGLES else value
    return kept


def closed(schema: Any) -> Any:
    """An object that names its properties has no others, unless its schema says that it may.

    As llama.cpp and Ollama read schemas, for whom most are written: a small model that may go on making properties up
    does. Where parts of a schema hold for one object together, each would shut out what the others name: there all is
    left as it is. `schema` is a plain one.
    """
    return schema if _combines(schema) else _closed(schema)


def _closed(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    kept = _inside(schema, _closed)
    named = schema.get("properties")
    if isinstance(named, dict) and not any(key in schema for key in _OPENING):
        wanted = schema.get("required")
        is_named = not isinstance(wanted, list) or all(name in named for name in wanted if isinstance(name, str))
        least = schema.get("minProperties")
        if is_named and not (isinstance(least, int) and least > len(named)):
            kept["additionalProperties"] = False
    return kept


def _combines(schema: Any) -> bool:
    """Whether more than one of its parts says what properties an object may have."""
    if not isinstance(schema, dict):
        return False
    parts = sum(key in schema for key in _COMBINED) + ("properties" in schema)
    several = schema.get("allOf")
    return (
        parts > 1
        or (isinstance(several, list) and len(several) > 1)
        or any(_combines(part) for _, part in _parts(schema))
    )


def _inside(schema: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """The schema, each of those in it changed."""
    kept = dict(schema)
    for key in _MANY:
        if isinstance(schema.get(key), dict):
            kept[key] = {name: change(part) for name, part in schema[key].items()}
    for key in _LISTS:
        if isinstance(schema.get(key), list):
            kept[key] = [change(part) for part in schema[key]]
    for key in _SINGLES:
        if key in schema:
            kept[key] = change(schema[key])
    return kept


@lru_cache(maxsize=256)
def _is_format(name: str) -> bool:
    return _try({"type": "string", "format": name})[1] is None


def _try(schema: Any) -> tuple[str, str | None]:
    """(grammar, None), or what is wrong."""
    try:
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=_OPTIONS)  # type: ignore[arg-type]
        is_wrong, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    except ValueError as error:
        return "", _line(str(error))
    return grammar, _line(messages[0]) if is_wrong else None


def _line(message: str) -> str:
    return " ".join(message.split())[:300]


def _blame(schema: dict[str, Any], problem: str) -> tuple[str, str]:
    """The innermost part that is wrong by itself, and what is wrong with it."""
    where, part, looks = "$", schema, 0
    shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    while True:
        for name, inner in _parts(part):
            looks += 1
            found = _try({**shared, **inner})[1] if looks <= _MAX_LOOKS else None
            if found is not None:
                where, part, problem = f"{where}.{name}", inner, found
                break
        else:
            return where, problem


def _parts(schema: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    parts: list[tuple[str, Any]] = []
    for key in _MANY:
        if isinstance(schema.get(key), dict):
            parts += [(f"{key}.{name}", part) for name, part in schema[key].items()]
    for key in _LISTS:
        if isinstance(schema.get(key), list):
            parts += [(f"{key}[{index}]", part) for index, part in enumerate(schema[key])]
    parts += [(key, schema.get(key)) for key in _SINGLES]
    return [(name, part) for name, part in parts if isinstance(part, dict)]
