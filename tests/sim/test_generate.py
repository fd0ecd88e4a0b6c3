"""Made-up days: at the load that was asked for, the same for the same seed, and readable again."""

from __future__ import annotations

import pytest

from swapd.sim.lab import generate
from swapd.sim.lab.trace import BadTrace, lines, load, parse


@pytest.mark.parametrize("kind", generate.KINDS)
def test_a_day_has_the_load_that_was_asked_for(kind: str) -> None:
    for wanted in (0.3, 0.9):
        day = generate.make(kind, wanted, 1)
        assert load(day) == pytest.approx(wanted, rel=0.03)
        assert len({call.id for call in day.calls}) == len(day.calls) >= 100
        assert [call.at for call in day.calls] == sorted(call.at for call in day.calls)


def test_the_same_seed_makes_the_same_day_and_another_one_another() -> None:
    assert generate.make("team", 0.6, 7) == generate.make("team", 0.6, 7) != generate.make("team", 0.6, 8)


def test_what_is_written_is_read_again() -> None:
    day = generate.make("review", 0.3, 1)
    assert parse(lines(day)) == day


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (["{"], "line 1: no JSON"),
        (["[]"], "line 1: neither head, model nor call"),
        (['{"swapd_trace": 99}'], "line 1: a trace of format 99"),
        (['{"swapd_trace": 1, "card": 1, "host": 1}', '{"call": {"id": "1"}}'], "line 2: a key is missing"),
        (['{"swapd_trace": 1, "card": -1, "host": 1}'], "line 1: the head does not tell"),
    ],
)
def test_a_file_that_is_no_trace_is_told_by_its_line(text: list[str], why: str) -> None:
    with pytest.raises(BadTrace, match=why):
        parse(text)
