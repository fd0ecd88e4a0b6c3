"""Grammars of calls, in llguidance's Lark: what a model must write where a call is forced, or once it has begun one.

Used by `rules`. Pure: the vocabulary is known only by the marks that are tokens without text. llguidance's lexer takes
the longest lexeme: none here may be the beginning of another that could come in its place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from swapd.worker.toolcalls import harmony
from swapd.worker.toolcalls.formats import CODER, DSML, GLM, GLM_TIGHT, INVOKES, SEED, Format, Thinking
from swapd.worker.toolcalls.toolbox import Toolbox

HEAD: Final = "%llguidance {}\n"
MOST_FORCED: Final = 4
"""Calls of a forced turn: small models that may go on do."""
MOST_BEGUN: Final = 32
"""Of a turn in which the model began to call by itself."""

_FIELDS: Final = (CODER, SEED, GLM, GLM_TIGHT, INVOKES, DSML)
"""Formats whose arguments are no JSON."""
_JSON_STYLE: Final = {
    # Small models that may write white space write nothing else.
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "coerce_one_of": True,
}


class Grammar:
    """Rules as they are added, each by its number."""

    def __init__(self, silent: Mapping[int, bytes]) -> None:
        self._silent = {text.decode(): token for token, text in silent.items()}
        marks = sorted(self._silent, key=len, reverse=True)
        self._marks = re.compile("|".join(map(re.escape, marks))) if marks else None
        self._rules: dict[tuple[str, bool], str] = {}

    def text(self, start: str) -> str:
        """All of it, for an answer that follows `start`."""
        rules = [f"{name}{'[lazy]' if lazy else ''}: {body}\n" for (body, lazy), name in self._rules.items()]
        return f"{HEAD}start: {start}\n{''.join(rules)}"

    def rule(self, body: str, lazy: bool = False) -> str:
        """Its name; rules that say the same are one."""
        return self._rules.setdefault((body, lazy), f"r{len(self._rules)}")

    def literal(self, text: str) -> str:
        """Exactly this; its marks as the tokens that they are."""
        parts: list[str] = []
        at = 0
        for found in self._marks.finditer(text) if self._marks is not None else ():
            parts += [_quoted(text[at : found.start()])] if found.start() > at else []
            parts.append(f"<[{self._silent[found.group()]}]>")
            at = found.end()
        parts += [_quoted(text[at:])] if at < len(text) else []
        return " ".join(parts) or '""'

    def until(self, mark: str) -> str:
        """Any text, and the mark that is the first after it."""
        if mark in self._silent:
            return f"{self.rule('/(?s:.*)/')} {self.literal(mark)}"
        return self.rule(f"/(?s:.*){_in_regex(mark)}/", lazy=True)

    def space(self) -> str:
        return self.rule("/[ \\n]{0,4}/")

    def json(self, schema: Mapping[str, Any]) -> str:
        return self.rule("%json " + json.dumps({**schema, "x-guidance": _JSON_STYLE}))


def calls(grammar: Grammar, form: Format, tools: Toolbox, several: bool, opened: str = "") -> str:
    """One call or, if `several`, some of them, as this format writes them; `opened`: the mark that is written."""
    spelling = form.spelling
    one = first = _one_of(grammar, form, tools)
    if opened and not spelling.begin:
        first = _one_of(grammar, form, tools, opened)
    parts = [first]
    if spelling.begin != opened and spelling.begin:
        parts.insert(0, grammar.literal(spelling.begin.removeprefix(opened)))
    if several:
        more = grammar.rule(f"{grammar.literal(spelling.between)} {one}" if spelling.between else one)
        parts.append(f"{more}{{0,{(MOST_BEGUN if opened else MOST_FORCED) - 1}}}")
    if spelling.end:
        parts.append(grammar.literal(spelling.end))
    return grammar.rule(" ".join(parts))


def _one_of(grammar: Grammar, form: Format, tools: Toolbox, opened: str = "") -> str:
    return grammar.rule(" | ".join(_call(grammar, form, tools, name, opened) for name in tools.schemas))


def objects(form: Format, tools: Toolbox) -> list[Mapping[str, Any]]:
    """Schemas of the calls of a format that writes them as bare objects."""
    name, arguments = re.findall(r'"(\w+)": ', form.spelling.before)
    return [
        {
            "type": "object",
            "properties": {name: {"const": tool}, arguments: schema},
            "required": [name, arguments],
            "additionalProperties": False,
        }
        for tool, schema in tools.schemas.items()
    ]


def thoughts(grammar: Grammar, thinking: Thinking, is_open: bool) -> str:
    """What is thought before, if anything is; `is_open`: the prompt has begun it."""
    end = f"{grammar.until(thinking.closes)} {grammar.space()}"
    return grammar.rule(end if is_open else f"({grammar.literal(thinking.opens)} {end})?")


def _call(grammar: Grammar, form: Format, tools: Toolbox, name: str, opened: str) -> str:
    spelling = form.spelling
    before = spelling.before.replace("{name}", name).removeprefix(opened)
    arguments = _fields(grammar, form, tools, name) if form in _FIELDS else grammar.json(tools.schemas[name])
    after = f" {_spelled(grammar, form, spelling.after)}" if spelling.after else ""
    return grammar.rule(f"{_spelled(grammar, form, before)} {arguments}{after}")


def _spelled(grammar: Grammar, form: Format, text: str) -> str:
    """With what the model fills in: the number of the call, and its id."""
    opens, closes = form.spelling.around_id
    holes = {"{number}": "/[0-9]{1,4}/", "{id}": f"({grammar.literal(opens)} /[a-zA-Z0-9]{{1,16}}/"}
    holes["{id}"] += f" {grammar.literal(closes)})?" if closes else ")?"
    parts = [holes.get(part) or grammar.literal(part) for part in re.split(r"(\{number\}|\{id\})", text) if part]
    return " ".join(parts)


def _fields(grammar: Grammar, form: Format, tools: Toolbox, tool: str) -> str:
    """Fields in the schema's order, those that it requires and as many of the others as the model likes."""
    schema = tools.schemas[tool]
    required = schema.get("required", ())
    shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    fields: list[str] = []
    for name, inner in tools.parameters(tool).items():
        field = _field(grammar, form, name, inner if isinstance(inner, dict) else {}, shared, tools.is_text(tool, name))
        fields.append(field if name in required else f"({field})?")
    return grammar.rule(" ".join(fields) or '""')


def _field(
    grammar: Grammar, form: Format, name: str, schema: Mapping[str, Any], shared: Mapping[str, Any], is_text: bool
) -> str:
    match form.name:
        case "coder":
            before, after = f"<parameter={name}>\n", "\n</parameter>\n"
        case "seed":
            before, after = f"<parameter={name}>", "</parameter>\n"
        case "glm tight":
            before, after = f"<arg_key>{name}</arg_key><arg_value>", "</arg_value>"
        case "glm":
            before, after = f"<arg_key>{name}</arg_key>\n<arg_value>", "</arg_value>\n"
        case "dsml":
            marks = "true" if is_text else "false"
            before = f'<｜DSML｜parameter name="{name}" string="{marks}">'
            after = "</｜DSML｜parameter>\n"
        case _:
            before, after = f'<parameter name="{name}">', "</parameter>\n"
    if not is_text:
        return grammar.rule(f"{grammar.literal(before)} {grammar.json({**shared, **schema})} {grammar.literal(after)}")
    if "enum" in schema:
        choices = grammar.rule(" | ".join(grammar.literal(str(value)) for value in schema["enum"]))
        return grammar.rule(f"{grammar.literal(before)} {choices} {grammar.literal(after)}")
    return grammar.rule(f"{grammar.literal(before)} {_ended(grammar, after)}")


def _ended(grammar: Grammar, after: str) -> str:
    """Text up to this end, which may hold a mark that is a token."""
    mark = after.strip()
    lead, tail = after[: after.index(mark)], after[after.index(mark) + len(mark) :]
    text = grammar.until(mark) if grammar.literal(mark).startswith("<[") else grammar.until(lead + mark)
    return f"{text} {grammar.literal(tail)}" if tail else text


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _in_regex(text: str) -> str:
    """As it stands between the slashes of one of Lark's."""
    return re.sub(r"([\\/.^$*+?()\[\]{}|])", r"\\\1", text).replace("\n", "\\n")


def harmony_thoughts(grammar: Grammar) -> str:
    """gpt-oss' own kind, with the beginning of the next message; or nothing."""
    begin = grammar.literal(f"{harmony.CHANNEL}analysis{harmony.MESSAGE}")
    return grammar.rule(f"({begin} {grammar.until('<|end|>')} {grammar.literal(harmony.START)})?")


def harmony_rest(grammar: Grammar, tools: Toolbox) -> str:
    """Of a call's message, from behind the mark `harmony.TO`."""
    words, after_mark = grammar.rule("/( [ a-z]*)?/"), grammar.rule("/[ a-z]*/")
    channel, kind = grammar.literal(harmony.CHANNEL), grammar.literal("<|constrain|>")
    header = f"{words} ({channel} {after_mark})? ({kind} {after_mark})? {grammar.literal(harmony.MESSAGE)}"
    named = [f"{grammar.literal(name)} {header} {grammar.json(schema)}" for name, schema in tools.schemas.items()]
    return grammar.rule(" | ".join(named))
