"""What an answer has to follow because of its tools: calls that are forced, and calls that the model has begun.

Used by `prompts`, which gives them to `constraints` with the request. A forced answer holds thoughts and calls and
nothing else, in the model's own format. A free one is free until it begins a call; its arguments fit the schema then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from swapd.errors import InvalidRequest
from swapd.generation import MAX_GRAMMAR, GenerationRequest, ToolChoice
from swapd.worker import schemas
from swapd.worker.chat import Turn
from swapd.worker.toolcalls import harmony, lark
from swapd.worker.toolcalls.formats import HARMONY
from swapd.worker.toolcalls.lark import Grammar
from swapd.worker.toolcalls.toolbox import Toolbox

_ANY: Mapping[str, Any] = {"type": "object"}


@dataclass(frozen=True, slots=True)
class Rules:
    """`grammar`: for the whole answer or, with `triggers`, for what follows the first of these that is written.

    Between `pause` (the marks around thoughts; `is_paused`: the answer begins inside) no trigger counts.
    """

    grammar: str
    triggers: tuple[str, ...] = ()
    pause: tuple[str, str] | None = None
    is_paused: bool = False


def rules(request: GenerationRequest, turn: Turn, tools: Toolbox, marks: Mapping[int, bytes]) -> Rules | None:
    """None: tools and thoughts add nothing to what the request itself asks. Raises InvalidRequest."""
    if tools.schemas and request.tool_choice is ToolChoice.REQUIRED:
        chosen = tools.only(request.tool_name) if request.tool_name else tools
        return Rules(_forced(request, turn, _strict(chosen), Grammar(marks)))
    if request.schema is not None:
        return _document(request, turn, tools, Grammar(marks))
    if request.grammar:
        if turn.thinking is None or not turn.primer:
            return None
        return Rules(request.grammar, (turn.thinking.closes,))
    if tools.schemas and request.tool_choice is ToolChoice.AUTO:
        return _begun(request, turn, _strict(tools, lenient=True), Grammar(marks))
    return None


def _forced(request: GenerationRequest, turn: Turn, tools: Toolbox, grammar: Grammar) -> str:
    calls = lark.calls(grammar, turn.form, tools, request.parallel_calls and turn.form is not HARMONY)
    return grammar.text(f"{_thoughts(request, turn, grammar)}{calls}")


def _document(request: GenerationRequest, turn: Turn, tools: Toolbox, grammar: Grammar) -> Rules | None:
    """A JSON document after the thoughts, or calls instead of it."""
    before = _thoughts(request, turn, grammar)
    offers = bool(tools.schemas) and request.tool_choice is ToolChoice.AUTO
    if not before and not offers:
        return None
    assert request.schema is not None
    schemas.compile_schema(request.schema)
    schema = schemas.closed(schemas.plain(json.loads(request.schema)))
    if offers and turn.form.bare is not None:
        choices = [schema, *lark.objects(turn.form, _strict(tools, lenient=True))]
        if '"$ref"' in json.dumps(choices):  # which would point into another document
            choices = [schema]
        return Rules(grammar.text(before + grammar.json({"anyOf": choices} if len(choices) > 1 else schema)))
    document = grammar.json(schema if isinstance(schema, dict) else {})
    if turn.form is HARMONY:
        document = f"{grammar.literal(f'{harmony.CHANNEL}final{harmony.MESSAGE}')} {document}"
    if offers:
        several = request.parallel_calls and turn.form is not HARMONY
        document = f"({document} | {lark.calls(grammar, turn.form, _strict(tools, lenient=True), several)})"
    return Rules(grammar.text(before + document))


def _begun(request: GenerationRequest, turn: Turn, tools: Toolbox, grammar: Grammar) -> Rules | None:
    """None: nothing announces this format's calls."""
    form = turn.form
    if form is HARMONY:
        return _short_enough(Rules(grammar.text(lark.harmony_rest(grammar, tools)), (harmony.TO,)))
    written = form.spelling.begin or form.spelling.before
    opened = next((mark for mark in form.opens if written.startswith(mark)), None)
    if form.bare is not None or opened is None or not form.is_guided:
        return None
    text = grammar.text(lark.calls(grammar, form, tools, request.parallel_calls, opened))
    pause = None if turn.thinking is None else (turn.thinking.opens, turn.thinking.closes)
    return _short_enough(Rules(text, (opened,), pause, bool(turn.primer)))


def _short_enough(made: Rules) -> Rules | None:
    return made if len(made.grammar) <= MAX_GRAMMAR else None


def _thoughts(request: GenerationRequest, turn: Turn, grammar: Grammar) -> str:
    if turn.form is HARMONY:
        return f"{lark.harmony_thoughts(grammar)} "
    if turn.thinking is None or (request.thinking is False and not turn.primer):
        return ""
    return f"{lark.thoughts(grammar, turn.thinking, bool(turn.primer))} "


def _strict(tools: Toolbox, lenient: bool = False) -> Toolbox:
    """The schemas as a grammar takes them, with no other properties than they name unless they allow some.

    `lenient`: what cannot be followed allows any object. Raises InvalidRequest otherwise.
    """
    strict: dict[str, Mapping[str, Any]] = {}
    for name, schema in tools.schemas.items():
        try:
            strict[name] = _strict_schema(json.dumps(schema))
        except InvalidRequest as error:
            if not lenient:
                raise InvalidRequest(f"cannot force tool {name!r}: {error.message}", "tools") from None
            strict[name] = _ANY
    return Toolbox(strict)


@lru_cache(maxsize=512)
def _strict_schema(text: str) -> Mapping[str, Any]:
    """Of one tool; cached, for callers send the same tools with every turn. Raises InvalidRequest."""
    schemas.compile_schema(text)
    plain = {"type": "object", **schemas.closed(schemas.plain(json.loads(text)))}
    if plain.get("properties") is not None:
        plain.setdefault("additionalProperties", False)
    return plain
