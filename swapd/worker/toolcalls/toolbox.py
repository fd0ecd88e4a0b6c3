"""The tools that an answer may call, as its parser and its grammar need them: names, and what each parameter is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from swapd.errors import InvalidRequest
from swapd.generation import Tool

_TEXT: Final = {"type": "string"}


@dataclass(frozen=True, slots=True)
class Toolbox:
    """`schemas`: of each tool's arguments, by its name."""

    schemas: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, tools: Iterable[Tool]) -> Toolbox:
        """Raises InvalidRequest where the parameters are no JSON Schema of an object, or a name comes twice."""
        schemas: dict[str, Mapping[str, Any]] = {}
        for tool in tools:
            try:
                schema = json.loads(tool.parameters)
            except ValueError as error:
                raise InvalidRequest(f"cannot read the parameters of tool {tool.name!r}: {error}", "tools") from None
            if not isinstance(schema, dict) or schema.get("type", "object") != "object":
                raise InvalidRequest(
                    f"cannot use tool {tool.name!r}: its parameters should be a JSON Schema of the type 'object'",
                    "tools",
                )
            if tool.name in schemas:
                raise InvalidRequest(f"cannot use tool {tool.name!r}: there are two of that name", "tools")
            schemas[tool.name] = schema
        return cls(schemas)

    def only(self, name: str) -> Toolbox:
        """Raises InvalidRequest where there is no such tool."""
        if name not in self.schemas:
            known = ", ".join(self.schemas) or "none"
            raise InvalidRequest(f"cannot force tool {name!r}: it is not among the tools ({known})", "tool_choice")
        return Toolbox({name: self.schemas[name]})

    def __contains__(self, name: str) -> bool:
        return name in self.schemas

    def parameters(self, tool: str) -> Mapping[str, Any]:
        found = self.schemas.get(tool, {}).get("properties")
        return found if isinstance(found, dict) else {}

    def is_text(self, tool: str, parameter: str) -> bool:
        """Whether the schema wants a string there and nothing else."""
        schema = self.parameters(tool).get(parameter)
        if not isinstance(schema, dict):
            return False
        kind = schema.get("type")
        if kind is None and "enum" in schema:
            return all(isinstance(value, str) for value in schema["enum"])
        return kind in ("string", ["string"])
