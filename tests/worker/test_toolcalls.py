"""What models write is told apart: text, thoughts and calls, in every format, however it is cut into pieces."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swapd.errors import InvalidRequest
from swapd.generation import CallPart, Tool
from swapd.worker.toolcalls import formats
from swapd.worker.toolcalls.formats import Format, Thinking, format_of, thinking_of
from swapd.worker.toolcalls.parser import Parser
from swapd.worker.toolcalls.reading import Said, Thought
from swapd.worker.toolcalls.toolbox import Toolbox

PARAMETERS: Final = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "string"}, "c": {"type": "array"}},
}
TOOLS: Final = Toolbox.of(
    [
        Tool("add", parameters=json.dumps(PARAMETERS)),
        Tool("now"),
        Tool("python", parameters='{"type": "object", "properties": {"code": {"type": "string"}}}'),
    ]
)
NO_TOOLS: Final = Toolbox.of([])
THINK: Final = Thinking("<think>", "</think>")
TAGGED: Final = format_of("<TOOLCALL>")
ALL: Final = {
    form.name: form for form in vars(formats).values() if isinstance(form, Format) and form.name != "tagged"
} | {"tagged": TAGGED}


@dataclass(frozen=True)
class Told:
    text: str = ""
    thinking: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    is_whole: bool = True
    ids: tuple[str, ...] = ()


def told(
    form: Format,
    pieces: Sequence[str],
    thinking: Thinking | None = THINK,
    tools: Toolbox = TOOLS,
    primer: str = "",
    is_cut: bool = False,
) -> Told:
    """What a parser makes of an answer that comes in these pieces."""
    numbers = itertools.count()
    parser = Parser(form, thinking, tools, primer, lambda: f"id{next(numbers)}")
    parts = [part for piece in pieces for part in parser.feed(piece)] + parser.finish(is_cut=is_cut)
    calls: dict[int, tuple[str, str, str]] = {}
    for part in parts:
        if isinstance(part, CallPart):
            assert (part.index in calls) != bool(part.name), "name and id come with the first part, and once"
            unique, name, arguments = calls.get(part.index, (part.id, part.name, ""))
            calls[part.index] = unique, name, arguments + part.arguments
    return Told(
        "".join(part.text for part in parts if isinstance(part, Said)),
        "".join(part.text for part in parts if isinstance(part, Thought)),
        tuple((name, arguments) for _, name, arguments in calls.values()),
        parser.is_whole,
        tuple(unique for unique, _, _ in calls.values()),
    )


def call(*calls: tuple[str, object]) -> tuple[tuple[str, str], ...]:
    return tuple((name, json.dumps(arguments)) for name, arguments in calls)


ADD: Final = call(("add", {"a": 1}))
BOTH: Final = call(("add", {"a": 1}), ("now", {}))

SAMPLES: Final[Sequence[tuple[Format, str, Told]]] = [
    (
        formats.HERMES,
        (
            '<think>\nI add.\n</think>\n\nOk <b>.\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>\n'
            '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
        ),
        Told("Ok <b>.", "I add.", BOTH),
    ),
    (formats.HERMES, '<tool_call>[{"name": "add", "arguments": {"a": 1}}]</tool_call> and on', Told("and on", "", ADD)),
    (formats.HERMES, 'x <tool_call>{"nam" and <tool_call', Told('x <tool_call>{"nam" and <tool_call')),
    (formats.HERMES, "x\n\n<tool_call>\nnothing", Told("x\n\n<tool_call>\nnothing")),
    (formats.HERMES, '<tool_call>{"name": "add"} <b>', Told("<b>", "", call(("add", {})))),
    (
        formats.HERMES,
        '<tool_call>{"name": "add", "arguments": {"b": "\\"}{',
        Told("", "", (("add", '{"b": "\\"}{'),), is_whole=False),
    ),
    (formats.HERMES, '<tool_call>{"name": "add", "arguments": {"a": 1}', Told("", "", ADD)),
    (
        formats.CODER,
        (
            '<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=b>\n1 "x"\n\n2\n</parameter>\n'
            "<parameter=c>[true]</parameter></function>\n</tool_call>\n\nbye"
        ),
        Told("bye", "", call(("add", {"a": 1, "b": '1 "x"\n\n2', "c": [True]}))),
    ),
    (formats.CODER, "<function=now>\n</function>", Told("", "", call(("now", {})))),
    (
        formats.CODER,
        "<function=add>\n<parameter=a>\n1\n<parameter=b>\nx\n</function>",
        Told("", "", call(("add", {"a": 1, "b": "x"}))),
    ),
    (formats.CODER, '<function=add>{"a": 1}</function>', Told("", "", ADD)),
    (
        formats.CODER,
        "<seed:tool_call><function=now></function></seed:tool_call>",
        Told("", "", call(("now", {}))),
    ),
    (
        formats.GLM,
        (
            "<think></think>hi\n<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n<arg_key>b</arg_key>\n"
            "<arg_value>1</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>"
        ),
        Told("hi", "", call(("add", {"a": 1, "b": "1"}), ("now", {}))),
    ),
    (
        formats.LLAMA,
        '{"name": "add", "parameters": {"a": 1}}; {"name": "now", "parameters": {}}',
        Told("", "", BOTH),
    ),
    (formats.LLAMA, '{"name": "me", "parameters": {"a": 1}}', Told('{"name": "me", "parameters": {"a": 1}}')),
    (formats.LLAMA, '<|python_tag|>{"name": "add", "parameters": {"a": 1}}', Told("", "", ADD)),
    (formats.LLAMA, '<|python_tag|>add.call(a=1, b="two)")', Told("", "", call(("add", {"a": 1, "b": "two)"})))),
    (formats.LLAMA, '<|python_tag|>print("x")\n', Told("", "", call(("python", {"code": 'print("x")\n'})))),
    (
        formats.MISTRAL_ARRAY,
        '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}, "id": "abcdefghi"}, {"name": "now", "arguments": {}}]',
        Told("", "", BOTH),
    ),
    (
        formats.MISTRAL,
        'Sure.[TOOL_CALLS]add[ARGS]{"a": 1}[TOOL_CALLS]now[CALL_ID]abcdefghi[ARGS]{}',
        Told("Sure.", "", BOTH, ids=("id0", "abcdefghi")),
    ),
    (formats.MISTRAL, "[TOOL_CALLS] are what I write", Told("[TOOL_CALLS] are what I write")),
    (
        formats.DEEPSEEK_FENCED,
        (
            "<think>x</think><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n"
            '```json\n{"a": 1}\n```'
            "<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜>"
            "<｜tool▁calls▁end｜>"
        ),
        Told("", "x", BOTH),
    ),
    (
        formats.DEEPSEEK,
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>{"a": 1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        Told("", "", ADD),
    ),
    (
        formats.DSML,
        (
            '<｜DSML｜function_calls>\n<｜DSML｜invoke name="add">\n<｜DSML｜parameter name="a" string="false">1'
            '</｜DSML｜parameter>\n<｜DSML｜parameter name="c" string="true">[1]</｜DSML｜parameter>\n'
            "</｜DSML｜invoke>\n"
            "</｜DSML｜function_calls>"
        ),
        Told("", "", call(("add", {"a": 1, "c": "[1]"}))),
    ),
    (
        formats.INVOKES,
        (
            '<minimax:tool_call>\n<invoke name="add">\n<parameter name="a">1</parameter>\n'
            '<parameter name="b">1</parameter>\n</invoke>\n<invoke name="now">\n</invoke>\n</minimax:tool_call>'
        ),
        Told("", "", call(("add", {"a": 1, "b": "1"}), ("now", {}))),
    ),
    (
        formats.HARMONY,
        (
            "<|channel|>analysis<|message|>I add.<|end|><|start|>assistant<|channel|>commentary<|message|>Let me."
            "<|end|><|start|>assistant<|channel|>commentary to=functions.add <|constrain|>json"
            '<|message|>{"a": 1}<|call|>'
        ),
        Told("Let me.", "I add.", ADD),
    ),
    (formats.HARMONY, ' to=functions.add<|channel|>commentary json<|message|>{"a": 1}', Told("", "", ADD)),
    (
        formats.HARMONY,
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Four.<|return|>",
        Told("Four.", "Hm."),
    ),
    (formats.HARMONY, "plain <words|>", Told("plain <words|>")),
    (formats.HARMONY, "<|channel|>final", Told("<|channel|>final")),
    (
        formats.GEMMA,
        '<|tool_call>call:add{a:1,b:<|"|>two "x"\n<|"|>,c:[1,{d:true,"e":-2.5}]}<tool_call|>',
        Told("", "", call(("add", {"a": 1, "b": 'two "x"\n', "c": [1, {"d": True, "e": -2.5}]}))),
    ),
    (
        formats.FUNCTION_GEMMA,
        "<start_function_call>call:add{b:<escape>x<escape>}<end_function_call>",
        Told("", "", call(("add", {"b": "x"}))),
    ),
    (
        formats.KIMI,
        (
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.add:7<|tool_call_argument_begin|>"
            '{"a": 1}<|tool_call_end|><|tool_calls_section_end|>'
        ),
        Told("", "", ADD, ids=("functions.add:7",)),
    ),
    (TAGGED, '<|tool_call|>[{"name": "add", "arguments": {"a": 1}}]', Told("", "", ADD)),
    (TAGGED, '<TOOLCALL>[{"name": "add", "arguments": {"a": 1}}]</TOOLCALL>', Told("", "", ADD)),
    (
        TAGGED,
        '<|START_ACTION|>[\n{"tool_call_id": "0", "tool_name": "add", "parameters": {"a": 1}}\n]<|END_ACTION|>',
        Told("", "", ADD),
    ),
    (
        TAGGED,
        "<|tool_call_start|>[add(a=1, b='x)'), now()]<|tool_call_end|>",
        Told("", "", call(("add", {"a": 1, "b": "x)"}), ("now", {}))),
    ),
    (formats.GENERIC, '{"name": "add", "arguments": {"a": 1}}\n{"name": "now", "arguments": {}}', Told("", "", BOTH)),
    (formats.GENERIC, 'Well.\n```json\n{"name": "add", "arguments": {"a": 1}}\n```\n', Told("Well.", "", ADD)),
    (
        formats.GENERIC,
        'So:\n```json\n{"name": "Ada", "arguments": {"a": 1}}\n```\nDone',
        Told('So:\n```json\n{"name": "Ada", "arguments": {"a": 1}}\n```\nDone'),
    ),
    (formats.GENERIC, "```tool_code\nadd(a=1)\n```", Told("", "", ADD)),
    (formats.GENERIC, '{"arguments": {"a": 1}, "type": "function", "function": "add"}', Told("", "", ADD)),
    (
        formats.GENERIC,
        '[{"type": "function", "function": {"name": "add", "arguments": "{\\"a\\": 1}"}}]',
        Told("", "", ADD),
    ),
    (formats.GENERIC, '\n{"name": "add", "argu', Told('\n{"name": "add", "argu')),
    (formats.GENERIC, '{"name": "add", "arguments": 3}', Told('{"name": "add", "arguments": 3}')),
]


def same(found: Told, expected: Told) -> None:
    """Equal; ids only where they are expected."""
    assert (found.text, found.thinking, found.is_whole) == (expected.text, expected.thinking, expected.is_whole)
    assert [name for name, _ in found.calls] == [name for name, _ in expected.calls]
    for (_, one), (_, other) in zip(found.calls, expected.calls, strict=True):
        if expected.is_whole:
            assert json.loads(one) == json.loads(other)
        else:
            assert one == other
    if expected.ids:
        assert found.ids == expected.ids


@pytest.mark.parametrize(("form", "answer", "expected"), SAMPLES)
def test_an_answer_is_told_apart(form: Format, answer: str, expected: Told) -> None:
    same(told(form, [answer]), expected)


@pytest.mark.parametrize(("form", "answer", "expected"), SAMPLES)
def test_pieces_change_nothing(form: Format, answer: str, expected: Told) -> None:
    whole = told(form, [answer])
    assert told(form, list(answer)) == whole
    for cut in range(len(answer)):
        assert told(form, [answer[:cut], answer[cut:]]) == whole


@pytest.mark.parametrize(("form", "answer", "expected"), SAMPLES)
def test_an_answer_that_breaks_off_anywhere_is_told_without_trouble(form: Format, answer: str, expected: Told) -> None:
    """And whatever is told of its calls is how the whole ones begin."""
    whole = told(form, [answer])
    for cut in range(len(answer)):
        if answer.startswith("<|python_tag|>"):  # after which anything may be code
            continue
        broken = told(form, [answer[:cut]], is_cut=True)
        for (name, arguments), (whole_name, whole_arguments) in zip(broken.calls, whole.calls, strict=False):
            assert name == whole_name
            assert whole_arguments.startswith(arguments)


def test_arguments_grow() -> None:
    parser = Parser(formats.HERMES, None, TOOLS)
    parser.feed('<tool_call>{"name": "add", "arguments": {"b": "')
    assert parser.feed("one ") == [CallPart(0, arguments="one ")]
    assert parser.feed("two") == [CallPart(0, arguments="two")]


def test_fields_that_are_strings_grow_too() -> None:
    parser = Parser(formats.CODER, None, TOOLS)
    parser.feed("<tool_call><function=add><parameter=b>\n")
    assert parser.feed('say "one"') == [CallPart(0, arguments='say \\"one\\"')]


def test_without_tools_nothing_is_a_call() -> None:
    answer = 'Write <tool_call>{"name": "add", "arguments": {}}</tool_call>.\n'
    assert told(formats.HERMES, list(answer), tools=NO_TOOLS) == Told(answer)
    answer = '{"name": "add", "arguments": {}}'
    assert told(formats.GENERIC, list(answer), tools=NO_TOOLS) == Told(answer)


def test_thoughts_that_the_prompt_began_go_on() -> None:
    assert told(formats.HERMES, ["So.\n</think>\n\nFour"], primer="<think>\n") == Told("Four", "So.")


def test_thoughts_that_never_end_are_thoughts() -> None:
    assert told(formats.HERMES, ["<think>So it", " is"]) == Told("", "So it is")


def test_only_a_turn_begins_with_thoughts() -> None:
    answer = "The mark is <think>, its end </think>."
    assert told(formats.HERMES, [answer]) == Told(answer)
    between = '<tool_call>{"name": "now"}</tool_call>\n<think>And</think>\n<tool_call>{"name": "now"}</tool_call>'
    assert told(formats.HERMES, [between]) == Told("", "And", call(("now", {}), ("now", {})), ids=("id0", "id1"))


def test_what_the_prompt_holds_of_an_answer_is_read_and_not_told() -> None:
    primer = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>It is"
    assert told(formats.HARMONY, [" four."], primer=primer) == Told(" four.")


@given(st.sampled_from(sorted(ALL)), st.text(st.sampled_from('ab \n{}[]"\\<>|,:'), max_size=60), st.data())
def test_any_text_comes_out_unchanged(name: str, text: str, data: st.DataObject) -> None:
    """Nothing of it is a call or a mark."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]
    assert told(ALL[name], pieces, None) == Told(text)


@pytest.mark.parametrize("name", sorted(ALL))
def test_arguments_that_close_with_the_wrong_bracket_are_told_alike_however_they_are_cut(name: str) -> None:
    form = ALL[name]
    for opening in ("", *form.opens):
        text = opening + '{"name": "add", "arguments": {"name": "add", "parameters": ]'
        assert told(form, [text]) == told(form, list(text))


@given(st.sampled_from(sorted(ALL)), st.data())
def test_pieces_of_marks_in_any_order_are_told_alike_however_they_are_cut(name: str, data: st.DataObject) -> None:
    form = ALL[name]
    words = [*form.opens, *form.marks, "add", "<think>", "</think>", '{"name": "add", "arguments": ', '{"a": 1}', "}"]
    words += ["[", "]", "\n", " ", "text", "```json\n", "```", form.spelling.before.replace("{name}", "add"), ","]
    text = "".join(data.draw(st.lists(st.sampled_from(words), max_size=12)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]
    assert told(form, pieces) == told(form, [text]) == told(form, list(text))


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters='<>"\\', exclude_categories=["Cc", "Zs"]), min_size=1),
        st.text(st.characters(codec="utf-8", exclude_characters="<[`", exclude_categories=["Cs"])),
        max_size=3,
    )
)
def test_what_a_format_spells_is_read_back(arguments: dict[str, str]) -> None:
    for name, form in ALL.items():
        if name in ("coder", "seed", "glm", "glm tight", "invokes", "dsml"):  # whose arguments are no JSON
            continue
        spelled = form.spelling.call("add", json.dumps(arguments, ensure_ascii=False))
        found = told(form, [spelled]).calls
        assert [(tool, json.loads(text)) for tool, text in found] == [("add", arguments)], name


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{{ '<|start|>assistant<|channel|>final<|message|>' }}", "harmony"),
        ("{{ '<｜tool▁call▁begin｜>' ~ name ~ '<｜tool▁sep｜>' }}", "deepseek"),
        ("{{ '<｜tool▁call▁begin｜>function<｜tool▁sep｜>' ~ name ~ '```json' }}", "deepseek fenced"),
        ("return <tool_call>{json}</tool_call>", "hermes"),
        ("return <tool_call><function=name></function></tool_call>", "coder"),
        ("<tool_call>{name}<arg_key>key</arg_key></tool_call>", "glm"),
        ("<tool_call>{name}<arg_key>key</arg_key><arg_value>", "glm tight"),
        ("<function=name>{json}</function>", "function"),
        ("<seed:tool_call><function=name>", "seed"),
        ("[TOOL_CALLS][", "mistral array"),
        ("[TOOL_CALLS]name[ARGS]", "mistral"),
        ("<|tool_call>call:", "gemma"),
        ("<|python_tag|>", "llama"),
        ("<TOOLCALL>", "<TOOLCALL>"),
        ("{{ message.content }}", "generic"),
    ],
)
def test_a_template_tells_its_format(template: str, name: str) -> None:
    assert format_of(template).name == name


def test_a_template_tells_how_its_model_thinks() -> None:
    assert thinking_of("{{ content.split('</think>')[-1] }}") == THINK
    assert thinking_of("[THINK]{{ x }}[/THINK]") == Thinking("[THINK]", "[/THINK]")
    assert thinking_of("{{ message.content }}") is None


@pytest.mark.parametrize(
    ("tools", "reason"),
    [
        ([Tool("a", parameters="[")], "cannot read the parameters"),
        ([Tool("a", parameters='{"type": "string"}')], "of the type 'object'"),
        ([Tool("a"), Tool("a")], "two of that name"),
    ],
)
def test_tools_that_make_no_sense_are_refused(tools: list[Tool], reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        Toolbox.of(tools)
