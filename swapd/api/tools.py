"""Tools as the dialects with typed content declare them: functions, and those that a vendor would run.

Used by `anthropic_bodies.py` and `responses_bodies.py`. A vendor's own tools (a web search on its servers) are
offers that this daemon cannot make: they are left out where others remain, and refused where none does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from swapd.generation import Tool

MAX_TOOLS: Final = 512
_MAX_NAME: Final = 256


def as_json(value: object) -> str:
    """As text, keys in the order that they have."""
    return msgspec.json.encode(value).decode()


def function(name: Any, description: Any, schema: Any) -> Tool:
    """Raises ValueError."""
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME:
        raise ValueError(f"a tool needs a 'name' of 1 to {_MAX_NAME} characters")
    if description is not None and not isinstance(description, str):
        raise ValueError(f"the 'description' of the tool {name!r} should be a string")
    if schema is not None and not isinstance(schema, Mapping):
        raise ValueError(f"the schema of the tool {name!r} should be an object: a JSON Schema of its arguments")
    return Tool(name, description or "", as_json(schema if schema else {"type": "object", "properties": {}}))


def offered(tools: Sequence[Tool], left_out: Sequence[str]) -> tuple[Tool, ...]:
    """Raises ValueError: no tool remains, or two have one name."""
    if left_out and not tools:
        raise ValueError(
            f"tools of the type {left_out[0][:40]!r} run on their vendor's servers or have no schema here; "
            "functions with a schema of their own are served"
        )
    names = [tool.name for tool in tools]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two tools have the name {twice!r}; names must differ")
    return tuple(tools)


def as_list(given: Any, what: str, limit: int) -> list[Mapping[str, Any]]:
    """Raises ValueError unless it is a list of at most so many objects; null is none."""
    if given is None:
        return []
    if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
        raise ValueError(f"a list of {what} is expected, each an object")
    if len(given) > limit:
        raise ValueError(f"at most {limit} {what} are allowed")
    return given
