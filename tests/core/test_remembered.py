"""What is remembered while some fields of the state stay as they are: it reads no others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, ClassVar

import pytest

from swapd.core import eviction, placement, planner
from swapd.core.state import State
from swapd.units import GiB
from tests.core.builders import CARD, OTHER_CARD, Desk, variant

FIELDS = frozenset(each.name for each in fields(State))
QUESTIONS: list[Callable[[State], Any]] = [
    State.leased,
    State.promised,
    State.held,
    State.mosts,
    State.budgets,
    State.room,
    eviction._taken,
    eviction._ceiling,
    placement.usable,
    placement._sets,
    planner._room_within,
]


class Watched(State):
    """Tells which of its fields were read."""

    __slots__ = ()
    seen: ClassVar[set[str]] = set()

    def __getattribute__(self, name: str) -> Any:
        if name in FIELDS:
            Watched.seen.add(name)
        return super().__getattribute__(name)


def read_by(question: Callable[[State], Any], state: State) -> frozenset[str]:
    Watched.seen.clear()
    question(state)
    return frozenset(Watched.seen)


def a_busy_state() -> Watched:
    """Somebody is at work, somebody idle, somebody loads, somebody waits, and something is lent."""
    desk = Desk(cards=(CARD, OTHER_CARD))
    desk.serve(variant("a", 4 * GiB), "1")
    desk.idle(variant("b", 4 * GiB))
    desk.wants(variant("c", 5 * GiB), "2")
    desk.measured()
    desk.wants(variant("d", 9 * GiB), "3")
    desk.lend(GiB, 60.0)
    return Watched(**{name: getattr(desk.state, name) for name in FIELDS})


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.__name__)
def test_reads_only_what_it_is_remembered_with(question: Callable[[State], Any]) -> None:
    state = a_busy_state()
    question(state)
    names = read_by(question, state)
    assert len(names) < len(FIELDS)  # answered from memory: these are the ones that it was told
    assert read_by(question.__wrapped__, state) <= names  # type: ignore[attr-defined]


def test_a_changed_field_is_seen() -> None:
    desk = Desk()
    desk.idle(variant("a", 4 * GiB))
    before = desk.state.room()[CARD]
    desk.idle(variant("b", 4 * GiB))
    assert desk.state.room()[CARD] == before - 4 * GiB
