"""GET /openapi.json: all routes and what their bodies may hold, made from the models that check them."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Final

from aiohttp import web
from pydantic.json_schema import models_json_schema

from swapd import __version__
from swapd.api.calls import json_answer
from swapd.api.failures import Dialect
from swapd.api.operations import OPERATIONS, Operation

routes = web.RouteTableDef()

_REF: Final = "#/components/schemas/{model}"
_LIMITS: Final = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
_TEXT: Final = {"type": "string"}
_NUMBER: Final = {"type": "integer"}


@routes.get("/openapi.json")
async def page(request: web.Request) -> web.Response:
    return json_answer(document())


@cache
def document() -> dict[str, Any]:
    """OpenAPI 3.1."""
    bodies = list({operation.body: None for operation in OPERATIONS.values() if operation.body is not None})
    refs, defined = models_json_schema([(body, "validation") for body in bodies], ref_template=_REF)
    schemas: dict[str, Any] = _in_its_words(defined.get("$defs", {}))
    schemas |= {_error_name(dialect): _error(dialect) for dialect in Dialect}
    paths: dict[str, dict[str, Any]] = {}
    for (method, path), operation in OPERATIONS.items():
        body = None if operation.body is None else refs[operation.body, "validation"]
        paths.setdefault(path, {})[method.lower()] = _operation(method, path, operation, body)
    return {
        "openapi": "3.1.0",
        "info": {"title": "swapd", "version": __version__, "license": {"name": "MIT", "identifier": "MIT"}},
        "security": [{}, {"key": []}],
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _in_its_words(value: Any) -> Any:
    """Pydantic tells limits that it checks after a validator of ours in its own words."""
    if isinstance(value, list):
        return [_in_its_words(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    told = {_LIMITS.get(name, name): _in_its_words(inner) for name, inner in value.items()}
    for exclusive, inclusive, step in (("exclusiveMinimum", "minimum", 1), ("exclusiveMaximum", "maximum", -1)):
        if told.get("type") == "integer" and exclusive in told:
            told[inclusive] = told.pop(exclusive) + step
    return told


def _operation(method: str, path: str, operation: Operation, body: Any) -> dict[str, Any]:
    told: dict[str, Any] = {
        "tags": [operation.dialect.value],
        "summary": operation.summary,
        "operationId": _identifier(method, path),
        "parameters": [*_in_path(path), *_in_query(operation)],
        "responses": {
            str(operation.success): {"description": "Done.", "content": _contents(operation)},
            "default": {"description": "Why not.", "content": {"application/json": {"schema": _ref(operation)}}},
        },
    }
    if body is not None:
        told["requestBody"] = {
            "required": not operation.is_optional,
            "content": {"application/json": {"schema": body}},
        }
    return told


def _identifier(method: str, path: str) -> str:
    """`get_v1_models_id`; a folder is another than the file of its name."""
    words = re.sub(r"[^a-z0-9]+", "_", f"{method}{path}".lower()).strip("_")
    return f"{words}_index" if path.endswith("/") else words


def _in_path(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"{(\w+)}", path)
    ]


def _in_query(operation: Operation) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "query", "required": False, "description": text, "schema": _TEXT}
        for name, text in operation.query.items()
    ]


def _contents(operation: Operation) -> dict[str, Any]:
    kinds = [kind for kind in (operation.content, operation.streams) if kind]
    return {kind: {} for kind in kinds}


def _ref(operation: Operation) -> dict[str, str]:
    return {"$ref": _REF.format(model=_error_name(operation.dialect))}


def _error_name(dialect: Dialect) -> str:
    return f"{''.join(part.title() for part in dialect.value.split('-'))}Error"


def _error(dialect: Dialect) -> dict[str, Any]:
    match dialect:
        case Dialect.OPENAI:
            optional = {"type": ["string", "null"]}
            return _wrapped({"message": _TEXT, "type": _TEXT, "param": optional, "code": optional})
        case Dialect.ANTHROPIC:
            told = _wrapped({"type": _TEXT, "message": _TEXT})
            told["properties"] |= {"type": {"const": "error"}, "request_id": _TEXT}
            return told
        case Dialect.OLLAMA:
            return {"type": "object", "required": ["error"], "properties": {"error": _TEXT}}
        case Dialect.LLAMA_SERVER:
            return _wrapped({"code": _NUMBER, "message": _TEXT, "type": _TEXT})
        case Dialect.SWAPD:
            return _wrapped({"code": _TEXT, "message": _TEXT})


def _wrapped(properties: dict[str, Any]) -> dict[str, Any]:
    inner = {"type": "object", "required": list(properties), "properties": properties}
    return {"type": "object", "required": ["error"], "properties": {"error": inner}}
