"""What becomes of every field of every dialect, for people: `python -m swapd.api.reference > docs/dialects.md`.

Made from the models that check the bodies; what is not in them, and why, is said here. A test compares the file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

from swapd.api import anthropic_bodies, extras, llamaserver_bodies, openai_bodies, responses_bodies
from swapd.api.failures import Dialect
from swapd.api.openapi import document
from swapd.api.operations import OPERATIONS

_THEIRS: Final = "only its maker's servers could act on it"
_OTHERWISE: Final = "the same is said or done otherwise"
_TIMING: Final = "changes no answer"
_CONTEXT: Final = {
    "n_keep": "contexts are not shifted",
    "n_discard": "contexts are not shifted",
    "n_cache_reuse": "prefixes are reused by themselves",
    "t_max_prompt_ms": "prompts are read whole",
    "sse_ping_interval": _TIMING,
    "backend_sampling": _TIMING,
}

IGNORED: Final[Mapping[str, Mapping[str, str]]] = {
    "/v1/chat/completions": dict.fromkeys(
        ("metadata", "prompt_cache_key", "safety_identifier", "service_tier", "store", "user", "verbosity"), _THEIRS
    )
    | {"prediction": "answers are drafted, if at all, as the model's entry says"}
    | _CONTEXT,
    "/v1/completions": {"user": _THEIRS} | _CONTEXT,
    "/v1/embeddings": {"user": _THEIRS},
    "/v1/responses": dict.fromkeys(("prompt_cache_key", "safety_identifier", "service_tier", "store"), _THEIRS),
    "/v1/messages": dict.fromkeys(("metadata", "service_tier", "container", "context_management"), _THEIRS),
    "/api/embed": {"options": "a request never reloads a model"},
    "/api/embeddings": {"options": "a request never reloads a model"},
    "/completion": _CONTEXT,
    "/rerank": {"max_tokens_per_doc": _OTHERWISE},
}
REFUSED: Final[Mapping[str, Mapping[str, Any]]] = {
    "/v1/chat/completions": openai_bodies.UNSERVED_CHAT,
    "/v1/responses": responses_bodies.UNSERVED,
    "/v1/messages": anthropic_bodies.UNSERVED,
    "/v1/completions": extras.UNSERVED_EXTRAS,
    "/completion": extras.UNSERVED_EXTRAS,
    "/infill": llamaserver_bodies.UNSERVED_INFILL,
}
_SAME: Final = {"/infill": "/completion"}
"""What is ignored there is ignored here."""
_HEAD: Final = """# The dialects, field by field

Made by `python -m swapd.api.reference` from the code that checks requests. *Served*: it has its effect, within the
range given. *Refused*: 400 that names it, unless its value changes nothing. *Ignored*: nothing that an answer says
changes by it. A field that is not here is ignored. `/openapi.json` has the same for programs.

Fields of the load in Ollama's `options` (`num_batch`, `num_gpu`, `main_gpu`, `num_thread`, `num_keep`, `use_mmap`) are
checked and then ignored: a request never reloads a model.
"""


def text() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *_pages()])


def ignored(path: str) -> Mapping[str, str]:
    return IGNORED.get(_SAME.get(path, path), {})


def _pages() -> Iterator[str]:
    told = document()
    for dialect in Dialect:
        rows = {path: op for (_, path), op in OPERATIONS.items() if op.dialect is dialect and op.body is not None}
        if rows:
            yield f"## {dialect.value}\n"
        for path, operation in rows.items():
            if operation.summary.startswith("As /"):
                continue
            alike = [other for other, op in rows.items() if op.summary == f"As {path}."]
            also = f" (also {', '.join(f'`{other}`' for other in alike)})" if alike else ""
            body = told["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
            yield f"### POST {path}{also}\n\n{operation.summary}\n"
            yield "| field | | |\n|---|---|---|"
            yield "\n".join(_rows(path, _resolved(body, told), told)) + "\n"


def _rows(path: str, schema: Mapping[str, Any], told: Mapping[str, Any]) -> Iterator[str]:
    required = set(schema.get("required", ()))
    for name, field in schema.get("properties", {}).items():
        need = "required; " if name in required else ""
        yield f"| `{name}` | served | {need}{_kind(field, told)} |"
    for name in REFUSED.get(path, {}):
        yield f"| `{name}` | refused | not in this release |"
    for name, why in ignored(path).items():
        yield f"| `{name}` | ignored | {why} |"


def _resolved(schema: Mapping[str, Any], told: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = schema.get("$ref")
    if reference is None:
        return schema
    found: Mapping[str, Any] = told["components"]["schemas"][reference.rpartition("/")[2]]
    return found


def _kind(field: Mapping[str, Any], told: Mapping[str, Any]) -> str:
    """In a few words: `integer, 0 to 128`."""
    options = [option for option in field.get("anyOf", [field]) if option.get("type") != "null"]
    return " or ".join(dict.fromkeys(_option(option, told) for option in options)) or "nothing but null"


def _option(option: Mapping[str, Any], told: Mapping[str, Any]) -> str:
    option = _resolved(option, told)
    if "enum" in option:
        return ", ".join(f"`{value}`" for value in option["enum"])
    if "const" in option:
        return f"`{option['const']}`"
    if "anyOf" in option:
        return _kind(option, told)
    kind = str(option.get("type", "any"))
    if kind == "array":
        items = option.get("items")
        most = f", at most {option['maxItems']}" if "maxItems" in option else ""
        return f"array of {_kind(items, told)}{most}" if items else f"array{most}"
    low = option.get("minimum", option.get("exclusiveMinimum", option.get("minLength")))
    high = option.get("maximum", option.get("exclusiveMaximum", option.get("maxLength")))
    unit = " characters" if "maxLength" in option or "minLength" in option else ""
    if low is None and high is None:
        return kind
    if low is None or high is None:
        return f"{kind}, {f'at most {high}' if low is None else f'at least {low}'}{unit}"
    return f"{kind}, {low} to {high}{unit}"


if __name__ == "__main__":
    sys.stdout.write(text())
