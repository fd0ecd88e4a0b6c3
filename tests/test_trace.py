"""Traces as lines: what is written is read, runs follow each other, and what is wrong is named with its line."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from swapd.core.messages import Overflow, Policy, Ranking
from swapd.trace import LONGEST, BadTrace, Call, Reading, Trace, TraceModel, call_line, head_line, lines, parse
from swapd.trace import model_line as written
from swapd.units import FOREVER, GiB

MODEL = TraceModel("a", 4 * GiB, 33, 2, 1.5, 4.0, 900.0, 25.0)
CALL = Call("1", 2.0, "a", 100, 50)
HEAD = head_line(10 * GiB, 32 * GiB)
POLICY = Policy(keep_alive=FOREVER, max_wait=10.0, max_loaded=3, overflow=Overflow.EVICT, ranking=Ranking.LRU)


def test_what_is_written_is_read() -> None:
    rich = replace(CALL, id="2", session="s", cached=7, priority=-2, patience=3.0, keep_alive=FOREVER, waited_s=1.0)
    models = (MODEL, replace(MODEL, name="b", keep_alive=FOREVER, pin=True, context=4096))
    trace = Trace("day", 10 * GiB, 32 * GiB, models, (CALL, rich), cards=2, policy=POLICY)
    assert parse(lines(trace)) == trace
    assert all("Infinity" not in line for line in lines(trace))


def test_calls_are_put_in_order_and_the_last_word_about_a_model_counts() -> None:
    late, early = replace(CALL, id="late", at=9.0), replace(CALL, id="early", at=1.0)
    other = replace(MODEL, slots=7)
    trace = parse([HEAD, written(MODEL), call_line(late), written(other), "", call_line(early)])
    assert [call.id for call in trace.calls] == ["early", "late"]
    assert trace.models == (other,)


def runs(*began: float | None) -> list[str]:
    text = []
    for each in began:
        text += [head_line(GiB, GiB, began=each), written(MODEL), call_line(replace(CALL, took_s=3.0))]
    return text


@pytest.mark.parametrize(
    ("began", "at"),
    [
        ((1000.0, 1060.0, 1200.0), [2.0, 62.0, 202.0]),
        ((1000.0, 400.0, 1200.0), [2.0, 7.0, 202.0]),
        ((1000.0, 1001.0), [2.0, 7.0]),
        ((None, None), [2.0, 7.0]),
        ((None, 1000.0, 1100.0), [2.0, 7.0, 107.0]),
    ],
    ids=["as the clocks say", "back", "too early", "no clocks", "no clock at first"],
)
def test_runs_follow_each_other(began: tuple[float | None, ...], at: list[float]) -> None:
    trace = parse(runs(*began))
    assert [call.at for call in trace.calls] == at
    assert len({call.id for call in trace.calls}) == len(at)


def test_a_file_goes_on_with_the_run_of_the_one_before() -> None:
    reading = Reading()
    for number in (1, 2):
        call = call_line(replace(CALL, id=str(number), at=number * 10.0))
        reading.feed([head_line(GiB, GiB, began=1000.0), written(MODEL), call])
    assert [(call.id, call.at) for call in reading.trace().calls] == [("1", 10.0), ("2", 20.0)]


def call_with(**changes: object) -> str:
    return json.dumps({"call": {**json.loads(call_line(CALL))["call"], **changes}})


def model_with(**changes: object) -> str:
    return json.dumps({"model": {**json.loads(written(MODEL))["model"], **changes}})


def head_with(**changes: object) -> str:
    return json.dumps({**json.loads(HEAD), **changes})


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (call_line(CALL)[:40], "cut off"),
        ("no json", "no JSON"),
        ("{} trailing", "no JSON"),
        ("[" * 20_000, "nested too deeply"),
        (" " * (LONGEST + 1), "longer than"),
        ("[1, 2]", "neither head, model nor call"),
        ('{"messages": [{"role": "user"}]}', "neither head, model nor call"),
        ('{"call": 7}', "neither head, model nor call"),
        (json.dumps({"call": {}, "model": {}}), "neither head, model nor call"),
        (call_with(at=float("nan")), "at is NaN, and should be from 0 to 10000000000"),
        (call_with(at=float("inf")), "at is inf"),
        (call_with(at=-1), "at is -1"),
        (call_with(at="now"), "at is 'now', and should be a number"),
        (call_with(prompt=1.5), "prompt is 1.5, and should be a whole number"),
        (call_with(prompt=True), "prompt is True"),
        (call_with(output=10**30), "output is 1000"),
        (call_with(cached=101), "101 cached tokens of a prompt of 100"),
        (call_with(id="1", at=1), "a second call '1'"),
        (call_with(id=None), "id is None, and should be a text"),
        (call_with(model="b" * 500), "a model that no line before it tells of"),
        (call_with(colour="red"), "unknown key 'colour'"),
        ('{"call": {"id": "2", "at": 0, "model": "a", "prompt": 1}}', "output is missing"),
        (model_with(decode=0), "decode is 0, and should be from 0.0009765625 to"),
        (model_with(size=0), "size is 0"),
        (model_with(slots=0), "slots is 0"),
        (model_with(layers=10**9), "layers is 1000000000"),
        (model_with(pin=1), "pin is 1, and should be true or false"),
        (model_with(keep_alive=-2), "keep_alive is -2, and should be from 0 to 10000000000, or -1"),
        (head_with(swapd_trace=2), "a trace of format 2; this swapd reads 1"),
        (head_with(card=None), "card is None"),
        (head_with(began="now"), "began is 'now'"),
        (head_with(policy=[]), "policy is [], and should be an object"),
        (head_with(policy={"policy": "mru"}), "policy is 'mru', and should be one of lru, cost"),
        (head_with(policy={"overflow": {}}), "overflow is {}, and should be one of evict"),
        (head_with(policy={"max_wait": None}), "max_wait is None"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(line: str, why: str) -> None:
    with pytest.raises(BadTrace) as caught:
        parse([HEAD, written(MODEL), call_line(CALL), line])
    assert caught.value.line == 4
    assert why in caught.value.why
    assert len(caught.value.why) < 700


@pytest.mark.parametrize("text", [[], [""], [written(MODEL)], [written(MODEL), call_line(CALL)]])
def test_without_a_head_it_is_no_trace(text: list[str]) -> None:
    with pytest.raises(BadTrace, match=r"(head|a call before any head)"):
        parse(text)
