"""Grammars and JSON Schemas hold while a real model samples; what cannot be served is refused by name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from swapd.generation import Sampling, StopReason
from swapd.wire import Generate, Loaded, Ping, Pong
from tests.worker.conftest import Child, a_load, ask

HOT = Sampling(temperature=1.2, seed=11)
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 2, "maxLength": 12},
        "age": {"type": "integer", "minimum": 18, "maximum": 120},
        "kind": {"enum": ["cat", "dog", None, 7]},
        "fixed": {"const": {"a": [1, 2]}},
        "code": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{2}$"},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 5}, "minItems": 1, "maxItems": 3},
        "price": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 10},
        "home": {"$ref": "#/$defs/place"},
    },
    "required": ["name", "age", "kind", "fixed", "code", "tags", "price", "home"],
    "additionalProperties": False,
    "$defs": {
        "place": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 8}, "in": {"$ref": "#/$defs/place"}},
            "required": ["city"],
            "additionalProperties": False,
        }
    },
}
SCHEMAS: list[Any] = [
    PERSON,
    {"type": "array", "items": {"anyOf": [{"type": "integer"}, {"type": "boolean"}]}, "minItems": 2, "maxItems": 4},
    {"oneOf": [{"type": "string", "maxLength": 4}, {"type": "null"}]},
    {"allOf": [{"properties": {"a": {"type": "integer", "maximum": 9}}}, {"required": ["a"], "type": "object"}],
     "maxProperties": 1},
    {"type": "string", "format": "date", "description": "a day"},
    {"type": "array", "prefixItems": [{"const": "x"}, {"type": "boolean"}], "items": False, "minItems": 2},
    {"$schema": "http://json-schema.org/draft-07/schema#", "type": "string", "format": "color", "maxLength": 3},
]  # fmt: skip


def constrained(child: Child, model: str, **changes: Any) -> list[Any]:
    """Answers of several seeds, hot, so that the constraint has something to do."""
    requests = [
        ask("Here it is: ", name=f"{model}{seed}", sampling=Sampling(temperature=1.2, seed=seed), **changes)
        for seed in range(3)
    ]
    return child.generate(*requests)


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:30])
def test_answers_follow_the_schema(shared: Child, schema: Any) -> None:
    for answer in constrained(shared, "s", schema=json.dumps(schema), max_tokens=500):
        assert answer.ending.reason is StopReason.STOP, answer.text
        jsonschema.validate(json.loads(answer.text), schema)


INTEGER = {"type": "integer", "minimum": 0, "maximum": 99}


@pytest.mark.parametrize(
    ("schema", "names"),
    [
        ({"type": "object", "properties": {"a": INTEGER}, "required": ["a"]}, {"a"}),
        ({"properties": {"a": {"type": "object", "properties": {"b": INTEGER}, "required": ["b"]}}, "required": ["a"],
          "type": "object"}, {"a", "b"}),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"type": "object", "properties": {"a": INTEGER}}}}, {"a"}),
        ({"type": "array", "maxItems": 2, "minItems": 2, "items": {"type": "object", "properties": {"a": INTEGER}}},
         {"a"}),
    ],
)  # fmt: skip
def test_an_object_has_the_properties_that_are_named_and_no_others(shared: Child, schema: Any, names: set[str]) -> None:
    """As llama.cpp and Ollama read schemas: a model that may make others up does, without end."""
    for answer in constrained(shared, "only", schema=json.dumps(schema), max_tokens=90):
        assert answer.ending.reason is StopReason.STOP, answer.text
        assert set(re.findall(r'"(\w+)"\s*:', answer.text)) <= names


@pytest.mark.parametrize(
    ("schema", "wanted"),
    [
        ({"type": "object", "properties": {"a": INTEGER}, "required": ["a", "b"], "maxProperties": 2}, ["a", "b"]),
        ({"type": "object", "properties": {"a": INTEGER}, "required": ["a", "b"], "additionalProperties": INTEGER,
          "maxProperties": 2}, ["a", "b"]),
        ({"allOf": [{"type": "object", "properties": {"a": INTEGER}, "required": ["a"]},
                    {"properties": {"b": INTEGER}, "required": ["b"]}], "maxProperties": 2}, ["a", "b"]),
        ({"type": "object", "properties": {"a": INTEGER}, "required": ["a"], "maxProperties": 2,
          "anyOf": [{"required": ["a", "b"]}]}, ["a", "b"]),
    ],
)  # fmt: skip
def test_other_properties_stay_where_a_schema_wants_them(shared: Child, schema: Any, wanted: list[str]) -> None:
    answer = shared.generate(ask("A pair: ", schema=json.dumps(schema), max_tokens=400))[0]
    if answer.ending.reason is StopReason.STOP:
        assert sorted(json.loads(answer.text)) == wanted


def test_another_vocabulary_follows_it_too(spare: Child, gemma: Path) -> None:
    """262k tokens of another kind, greedy and hot, several at once. (Greedy, it would nest places without end.)"""
    flat = {**PERSON, "$defs": {"place": {"type": "object", "maxProperties": 0}}}
    spare.load(a_load(gemma, slots=3))
    hot = ask("A person: ", name="hot", sampling=HOT, schema=json.dumps(flat), max_tokens=400)
    cold = ask("A person: ", name="cold", schema=json.dumps(flat), max_tokens=400)
    free = ask("One, two, three,", name="free", max_tokens=8)
    for answer in spare.generate(hot, cold, free)[:2]:
        assert answer.ending.reason is StopReason.STOP, answer.text
        jsonschema.validate(json.loads(answer.text), flat)


def test_json_mode_gives_an_object_in_a_chat(shared: Child) -> None:
    answer = shared.generate(ask(chat="Describe a cat as JSON.", schema='{"type": "object"}', max_tokens=700))[0]
    if answer.ending.reason is StopReason.STOP:
        assert isinstance(json.loads(answer.text), dict)
    else:
        assert answer.text.startswith("{")


def test_a_limit_cuts_and_says_so(shared: Child) -> None:
    answer = shared.generate(ask("A person: ", schema=json.dumps(PERSON), max_tokens=9))[0]
    assert answer.ending.reason is StopReason.LENGTH
    assert re.fullmatch(r'\{\s*"name".*', answer.text, re.DOTALL)


def test_a_complete_answer_ends_at_its_last_token(shared: Child) -> None:
    """No token is spent on saying that it is over."""
    answer = shared.generate(ask("It is ", schema='{"const": true}', max_tokens=1))[0]
    assert (answer.text, answer.ending.reason) == ("true", StopReason.STOP)


@pytest.mark.parametrize(
    ("schema", "part", "why"),
    [
        ({"properties": {"a": {"properties": {"b": {"not": {}}}}}}, "$.properties.a.properties.b", "not"),
        ({"items": {"uniqueItems": True, "type": "array"}}, "$.items", "uniqueItems"),
        ({"anyOf": [{"type": "string"}, {"$ref": "#/nowhere"}]}, "$.anyOf[1]", "nowhere"),
        ({"type": "thing"}, "$", "thing"),
        ({"type": "string", "pattern": "(?=a)"}, "$", "look-ahead"),
        ({"$ref": "http://127.0.0.1:9/x"}, "$", "http"),
        ([], "JSON schema", "object"),
    ],
)
def test_a_schema_that_cannot_be_served_names_the_part(shared: Child, schema: Any, part: str, why: str) -> None:
    failure = shared.generate(ask("x", schema=json.dumps(schema)))[0].failure
    assert failure.code == "invalid_request"
    assert part in failure.message
    assert why in failure.message
    assert shared.generate(ask("x", name="b", max_tokens=1))[0].ending.usage.completion == 1


@pytest.mark.parametrize("sampling", [HOT, Sampling(temperature=0)], ids=["hot", "greedy"])
def test_answers_follow_a_gbnf_grammar(shared: Child, sampling: Sampling) -> None:
    grammar = 'root ::= move (" " move){2,4} "."\nmove ::= [a-h] [1-8]'
    answer = shared.generate(ask("Chess: ", grammar=grammar, sampling=sampling, max_tokens=60))[0]
    assert answer.ending.reason is StopReason.STOP
    assert re.fullmatch(r"[a-h][1-8]( [a-h][1-8]){2,4}\.", answer.text)


def test_a_grammar_in_lark_may_hold_a_schema(shared: Child) -> None:
    schema = '{"type": "object", "properties": {"n": {"type": "integer"}}, "additionalProperties": false}'
    lark = f'%llguidance {{}}\nstart: "<call>" call "</call>"\ncall: %json {schema}'
    answer = shared.generate(ask("Go: ", grammar=lark, sampling=HOT, max_tokens=60))[0]
    assert re.fullmatch(r'<call>\{\s*("n"\s*:\s*-?\d+\s*)?\}</call>', answer.text)


@pytest.mark.parametrize(
    "grammar",
    [
        "root ::= nowhere",
        'start ::= "a"',
        'root ::= root "a" | "b"',
        'root ::= "a',
        "hello world",
        f'root ::= {"(" * 100_000}"a"{")" * 100_000}',
        'root ::= "a"{1000000000}',
        'root ::= "a" | "\0"',
        "#" * 300_000,
        "%llguidance {}\nstart: nowhere",
    ],
    ids=lambda grammar: grammar[:20],
)
def test_a_bad_grammar_is_the_callers_error_and_nobody_elses(shared: Child, grammar: str) -> None:
    good, bad = shared.generate(ask("One, two,", name="good", max_tokens=8), ask("x", name="bad", grammar=grammar))
    assert bad.failure.code == "invalid_request"
    assert "grammar" in bad.failure.message
    assert good.ending.usage.completion == 8


def test_a_grammar_that_allows_nothing_ends_the_answer(shared: Child) -> None:
    answer = shared.generate(ask("x", grammar="root ::= [z-a]"))[0]
    assert (answer.text, answer.ending.reason) == ("", StopReason.STOP)


def test_a_constraint_with_a_trigger_holds_from_behind_it(shared: Child) -> None:
    """The model counts freely until it writes a five; whatever follows is the schema's."""
    request = ask("1, 2, 3,", schema='{"enum": [[true]]}', triggers=("never", "5,"), max_tokens=40)
    answer = shared.generate(request)[0]
    assert re.fullmatch(r" 4, 5,\s*\[\s*true\s*\]", answer.text)
    assert answer.ending.reason is StopReason.STOP


def test_without_its_trigger_nothing_is_constrained(shared: Child) -> None:
    plain, lazy = shared.generate(
        ask("1, 2, 3,", name="plain"), ask("1, 2, 3,", name="lazy", grammar='root ::= "x"', triggers=("zzz",))
    )
    assert lazy.text == plain.text


def test_the_first_use_of_a_schema_holds_nobody_up(spare: Child, gemma: Path) -> None:
    """Its tables take more than a second for a vocabulary of that size; the others go on, and newcomers begin."""
    assert isinstance(spare.load(a_load(gemma, context=512, slots=3)), Loaded)
    spare.send(Generate(ask("Once upon a time", name="running", max_tokens=400, ignore_eos=True)))
    while not spare.answers["running"].text:
        spare.receive()
    spare.send(Generate(ask("A number: ", name="schema", max_tokens=8, schema='{"type": "integer"}')), Ping())
    spare.wait_for(Pong)
    before = len(spare.answers["running"].pieces)
    spare.send(Generate(ask("Yes or no?", name="late", max_tokens=2)))
    while spare.answers["late"].last is None:
        spare.receive()
    assert not spare.answers["schema"].pieces
    (schema,) = spare.finish("schema")
    assert len(spare.answers["running"].pieces) > before + 5
    assert re.match(r"-?\d", schema.text)
