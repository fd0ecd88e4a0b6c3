"""What tools make an answer follow: forced calls in every format, begun ones, and documents beside thoughts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest
from msgspec.structs import replace

from swapd.errors import InvalidRequest
from swapd.generation import GenerationRequest, Message, Role, Sampling, StopReason, Tool, ToolCall, ToolChoice
from swapd.worker import backends
from swapd.worker.chat import Turn
from swapd.worker.constraints import Constraints
from swapd.worker.llama import Vocabulary, VocabularyFile
from swapd.worker.rules import Rules, rules
from swapd.worker.toolcalls import formats
from swapd.worker.toolcalls.formats import Format, Thinking, format_of
from swapd.worker.toolcalls.toolbox import Toolbox
from tests.worker.conftest import Child
from tests.worker.test_toolcalls import ALL, told

ADD: Final = {
    "type": "object",
    "properties": {
        "a": {"type": "integer", "minimum": 1, "maximum": 9},
        "b": {"type": "string"},
        "unit": {"type": "string", "enum": ["m", "km"]},
    },
    "required": ["a"],
}
TOOLS: Final = (Tool("add", "Adds.", json.dumps(ADD)), Tool("address", "Tells the address."))
BOX: Final = Toolbox.of(TOOLS)
FORCED: Final = GenerationRequest("a", tools=TOOLS, tool_choice=ToolChoice.REQUIRED)
THINK: Final = Thinking("<think>", "</think>")
NATIVE: Final = {
    "coder": "<tool_call>\n<function=add>\n<parameter=a>\n{a}\n</parameter>\n<parameter=b>\nx <y>\n</parameter>\n"
    "</function>\n</tool_call>",
    "seed": (
        "<seed:tool_call>\n<function=add>\n<parameter=a>{a}</parameter>\n<parameter=b>x <y></parameter>\n"
        "</function>\n</seed:tool_call>"
    ),
    "glm tight": (
        "<tool_call>add<arg_key>a</arg_key><arg_value>{a}</arg_value><arg_key>b</arg_key>"
        "<arg_value>x <y></arg_value></tool_call>"
    ),
    "glm": "<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>{a}</arg_value>\n<arg_key>b</arg_key>\n"
    "<arg_value>x <y></arg_value>\n</tool_call>",
    "invokes": '<minimax:tool_call>\n<invoke name="add">\n<parameter name="a">{a}</parameter>\n'
    '<parameter name="b">x <y></parameter>\n</invoke>\n</minimax:tool_call>',
    "dsml": '<｜DSML｜function_calls>\n<｜DSML｜invoke name="add">\n<｜DSML｜parameter name="a" string="false">{a}'
    '</｜DSML｜parameter>\n<｜DSML｜parameter name="b" string="true">x <y></｜DSML｜parameter>\n</｜DSML｜invoke>\n'
    "</｜DSML｜function_calls>",
}


@pytest.fixture(scope="module")
def vocabulary(smollm: Path) -> Iterator[Vocabulary]:
    backends.load()
    file = VocabularyFile(str(smollm), backends.Log())
    yield file.vocabulary
    file.close()


@pytest.fixture(scope="module")
def constraints(vocabulary: Vocabulary) -> Constraints:
    return Constraints(vocabulary)


def turn(form: Format, thinking: Thinking | None = None, primer: str = "") -> Turn:
    return Turn("", form, thinking, primer)


def spelled(form: Format, value: int = 1) -> str:
    """A call of `add`, as the format's models write it."""
    if form.name in NATIVE:
        return NATIVE[form.name].replace("{a}", str(value))
    return form.spelling.call("add", json.dumps({"a": value, "b": "x <y>"}))


def follows(constraints: Constraints, vocabulary: Vocabulary, made: Rules | None, text: str) -> bool:
    """Whether every token of the text is allowed, and the answer may end there."""
    assert made is not None
    constraint = constraints.make(GenerationRequest("a"), made)
    assert constraint is not None
    for token in vocabulary.tokenize(text, add_special=False):
        if not constraint.allows(token):
            return False
        constraint.accept(token)
    return constraint.is_over or constraint.allows(vocabulary.ends[0])


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_forced_call_is_written_as_its_format_writes_it(
    constraints: Constraints, vocabulary: Vocabulary, name: str
) -> None:
    form = ALL[name]
    made = rules(FORCED, turn(form), BOX, {})
    assert follows(constraints, vocabulary, made, spelled(form))
    assert not follows(constraints, vocabulary, made, spelled(form, 10)), "10 is too much for the schema"
    assert not follows(constraints, vocabulary, made, "No."), "words are no call"
    assert not follows(constraints, vocabulary, made, spelled(form).replace("add", "sub"))
    (call,) = told(form, [spelled(form)], tools=BOX).calls
    assert (call[0], json.loads(call[1])) == ("add", {"a": 1, "b": "x <y>"})


@pytest.mark.parametrize("name", sorted(ALL))
def test_one_call_is_one_where_no_more_are_wanted(constraints: Constraints, vocabulary: Vocabulary, name: str) -> None:
    form = ALL[name]
    two = form.spelling.between.join([spelled(form)] * 2)
    if form.spelling.begin:  # a section of calls, which begins and ends once
        inner = spelled(form).removeprefix(form.spelling.begin).removesuffix(form.spelling.end)
        two = form.spelling.begin + form.spelling.between.join([inner] * 2) + form.spelling.end
    several = form is not formats.HARMONY
    assert follows(constraints, vocabulary, rules(FORCED, turn(form), BOX, {}), two) == several
    one = rules(replace(FORCED, parallel_calls=False), turn(form), BOX, {})
    assert not follows(constraints, vocabulary, one, two)
    assert follows(constraints, vocabulary, one, spelled(form))


@pytest.mark.parametrize(
    ("form", "written"),
    [
        (formats.MISTRAL, '[TOOL_CALLS]add[CALL_ID]abcdefghi[ARGS]{"a": 1}'),
        (formats.MISTRAL_ARRAY, '[TOOL_CALLS][{"name": "add", "arguments": {"a": 1}, "id": "abcdefghi"}]'),
        (format_of("<|START_ACTION|>"), ('<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "add", '
         '"parameters": {"a": 1}},\n    {"tool_call_id": "1", "tool_name": "add", "parameters": {"a": 2}}\n]'
         "<|END_ACTION|>")),
        (format_of("<|function_call|>"), '<|function_call|>{"name": "add", "arguments": {"a": 1}}'),
        (formats.FUNCTION, '<function=add>{"a": 1}</function>'),
    ],
)  # fmt: skip
def test_models_may_write_what_they_were_taught_beside_it(
    constraints: Constraints, vocabulary: Vocabulary, form: Format, written: str
) -> None:
    for request in (FORCED, GenerationRequest("a", tools=TOOLS)):
        made = rules(request, turn(form), BOX, {})
        assert follows(constraints, vocabulary, made, written)
        assert not follows(constraints, vocabulary, made, written.replace(": 1", ": 10"))
    assert told(form, [written], tools=BOX).calls[0] == ("add", '{"a": 1}')


def test_a_named_tool_is_the_only_one(constraints: Constraints, vocabulary: Vocabulary) -> None:
    made = rules(replace(FORCED, tool_name="address"), turn(formats.HERMES), BOX, {})
    assert not follows(constraints, vocabulary, made, spelled(formats.HERMES))
    assert follows(constraints, vocabulary, made, formats.HERMES.spelling.call("address", "{}"))
    with pytest.raises(InvalidRequest, match="not among the tools"):
        rules(replace(FORCED, tool_name="sub"), turn(formats.HERMES), BOX, {})


def test_thoughts_come_before_a_forced_call(constraints: Constraints, vocabulary: Vocabulary) -> None:
    call = spelled(formats.HERMES)
    free = rules(FORCED, turn(formats.HERMES, THINK), BOX, {})
    assert follows(constraints, vocabulary, free, f"<think>Hm {{.</think>\n\n{call}")
    assert follows(constraints, vocabulary, free, call)
    begun = rules(FORCED, turn(formats.HERMES, THINK, "<think>\n"), BOX, {})
    assert follows(constraints, vocabulary, begun, f"Hm.\n</think>\n\n{call}")
    assert not follows(constraints, vocabulary, begun, "Hm.\n</think>\n\nNo.")
    harmony = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant" + spelled(formats.HARMONY)
    assert follows(constraints, vocabulary, rules(FORCED, turn(formats.HARMONY), BOX, {}), harmony)


@pytest.mark.parametrize("name", [name for name, form in sorted(ALL.items()) if form.bare is None and form.is_guided])
def test_a_call_that_the_model_begins_fits_its_schema(
    constraints: Constraints, vocabulary: Vocabulary, name: str
) -> None:
    form = ALL[name]
    made = rules(GenerationRequest("a", tools=TOOLS), turn(form), BOX, {})
    assert follows(constraints, vocabulary, made, "Words, {and more}.")
    assert follows(constraints, vocabulary, made, "I add.\n" + spelled(form))
    assert not follows(constraints, vocabulary, made, "I add.\n" + spelled(form, 10))


def test_marks_that_are_only_thought_of_begin_nothing(constraints: Constraints, vocabulary: Vocabulary) -> None:
    request, form = GenerationRequest("a", tools=TOOLS), formats.HERMES
    for thinking, text in (("", "<think>A <tool_call>, maybe.</think>"), ("<think>", "A <tool_call>, maybe.</think>")):
        made = rules(request, turn(form, THINK, thinking), BOX, {})
        assert follows(constraints, vocabulary, made, text + "Words.")
        assert follows(constraints, vocabulary, made, text + spelled(form))
        assert not follows(constraints, vocabulary, made, text + spelled(form, 10))


def test_what_is_written_with_a_mark_and_is_no_call_frees_the_answer(
    constraints: Constraints, vocabulary: Vocabulary
) -> None:
    made = Rules('%llguidance {}\nstart: "x"', ("wea",))
    assert len(vocabulary.tokenize(" weather", add_special=False)) == 1
    assert follows(constraints, vocabulary, made, "The weather is fine")


def test_a_document_may_have_thoughts_before_it(constraints: Constraints, vocabulary: Vocabulary) -> None:
    request = GenerationRequest("a", schema='{"type": "object", "required": ["x"]}')
    nothing = Toolbox.of(())
    assert rules(request, turn(formats.HERMES), nothing, {}) is None
    made = rules(request, turn(formats.HERMES, THINK, "<think>\n"), nothing, {})
    assert follows(constraints, vocabulary, made, 'Hm.</think>\n{"x": 1}')
    assert not follows(constraints, vocabulary, made, "Hm.</think>\n{}")
    harmony = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>" + '{"x": 1}'
    assert follows(constraints, vocabulary, rules(request, turn(formats.HARMONY), nothing, {}), harmony)


@pytest.mark.parametrize("form", [formats.HERMES, formats.GENERIC, formats.LLAMA])
def test_a_document_may_be_a_call_instead(constraints: Constraints, vocabulary: Vocabulary, form: Format) -> None:
    request = GenerationRequest("a", tools=TOOLS, schema='{"type": "object", "required": ["x"]}')
    made = rules(request, turn(form), BOX, {})
    assert follows(constraints, vocabulary, made, '{"x": 1}')
    assert follows(constraints, vocabulary, made, spelled(form))
    assert not follows(constraints, vocabulary, made, spelled(form, 10))


def test_a_grammar_holds_behind_begun_thoughts(constraints: Constraints, vocabulary: Vocabulary) -> None:
    request = GenerationRequest("a", grammar='root ::= "yes" | "no"')
    assert rules(request, turn(formats.HERMES, THINK), Toolbox.of(()), {}) is None
    made = rules(request, turn(formats.HERMES, THINK, "<think>"), Toolbox.of(()), {})
    assert follows(constraints, vocabulary, made, "Hm.</think>yes")
    assert not follows(constraints, vocabulary, made, "Hm.</think>perhaps")


def test_marks_that_are_tokens_are_written_as_tokens(constraints: Constraints, vocabulary: Vocabulary) -> None:
    """SmolLM2's `<jupyter_code>` has no text of its own: it plays `<tool_call>` here."""
    (mark,) = vocabulary.tokenize("<jupyter_code>", add_special=False)
    made = rules(FORCED, turn(formats.HERMES), BOX, {mark: b"<tool_call>"})
    assert not follows(constraints, vocabulary, made, spelled(formats.HERMES))
    assert follows(constraints, vocabulary, made, spelled(formats.HERMES).replace("<tool_call>", "<jupyter_code>"))


def test_a_schema_that_cannot_be_followed_is_refused_where_it_must_be(constraints: Constraints) -> None:
    tools = (Tool("odd", parameters='{"type": "object", "properties": {"a": {"not": {"type": "string"}}}}'),)
    with pytest.raises(InvalidRequest, match="cannot force tool 'odd'"):
        rules(replace(FORCED, tools=tools), turn(formats.HERMES), Toolbox.of(tools), {})
    free = rules(GenerationRequest("a", tools=tools), turn(formats.HERMES), Toolbox.of(tools), {})
    assert free is not None


# --- a real model

WEATHER: Final = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "unit": {"enum": ["celsius", "fahrenheit"]},
    },
    "required": ["city", "days"],
}
OFFERED: Final = (
    Tool("get_weather", "Tells the weather of a city.", json.dumps(WEATHER)),
    Tool("get_time", "Tells the time.", '{"type": "object", "properties": {}}'),
)
QUESTION: Final = Message(Role.USER, "What is the weather in Paris for three days?")
HERMES: Final = (
    "{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function.arguments | tojson }}</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)


def wanted(name: str, **changes: Any) -> GenerationRequest:
    values: dict[str, Any] = {
        "messages": (QUESTION,),
        "tools": OFFERED,
        "sampling": Sampling(temperature=1.2, seed=7),
        "max_tokens": 160,
        "tool_choice": ToolChoice.REQUIRED,
        "parallel_calls": False,
    }
    return GenerationRequest(name, **(values | changes))


@pytest.mark.parametrize("template", ["", HERMES])
def test_a_model_that_knows_no_tools_makes_forced_calls_that_fit(shared: Child, template: str) -> None:
    requests = [
        wanted(f"{seed}", sampling=Sampling(temperature=1.2, seed=seed), template=template) for seed in range(4)
    ]
    for answer in shared.generate(*requests):
        assert answer.ending.reason is StopReason.TOOL_CALLS
        assert answer.text == ""
        ((name, arguments),) = answer.called
        jsonschema.validate(json.loads(arguments), WEATHER if name == "get_weather" else {"type": "object"})


def test_a_named_tool_is_called(shared: Child) -> None:
    (answer,) = shared.generate(wanted("a", tool_name="get_time"))
    assert answer.called == [("get_time", "{}")]


def test_a_call_that_the_limit_cuts_is_told_half(shared: Child) -> None:
    (answer,) = shared.generate(wanted("a", tool_name="get_weather", max_tokens=12))
    assert answer.ending.reason is StopReason.LENGTH
    assert answer.tokens == 12
    assert all(name == "get_weather" for name, _ in answer.called)


def test_results_are_read_and_answered_in_words(shared: Child) -> None:
    (first,) = shared.generate(wanted("a", tool_name="get_weather"))
    ((name, arguments),) = first.called
    called = Message(Role.ASSISTANT, "", calls=(ToolCall("x", name, arguments),))
    result = Message(Role.TOOL, "Sunny, 21 degrees", call_id="x", name=name)
    (second,) = shared.generate(
        wanted("b", messages=(QUESTION, called, result), tool_choice=ToolChoice.NONE, max_tokens=24)
    )
    assert second.called == []
    assert second.text


def test_thoughts_are_told_apart(shared: Child) -> None:
    """A template that opens thoughts makes all that this model says one of them."""
    (answer,) = shared.generate(
        wanted("a", template=HERMES + "<think>\n{# </think> #}", tool_choice=ToolChoice.NONE, max_tokens=12)
    )
    assert answer.text == ""
    assert answer.thinking
