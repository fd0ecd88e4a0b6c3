"""The resident's six phases: the table, over the whole product of phases and triggers."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

import swapd.core
from swapd.core import diagram
from swapd.core.model import Footprint, Placement, ResidentId
from swapd.core.resident import HOLDING, LEGAL, STAYING, IllegalTransition, Phase, Resident, Trigger
from tests.core.builders import variant

README = Path(swapd.core.__file__).with_name("README.md")

LEADS_TO = {
    "reserved": {"room made": "loading", "retired": "gone"},
    "loading": {"loaded": "ready", "retired": "unloading", "died": "unloading"},
    "ready": {"retired": "draining", "handed on": "gone", "died": "unloading"},
    "draining": {"drained": "unloading", "died": "unloading"},
    "unloading": {"freed": "gone"},
    "gone": {},
}
"""The design's drawing, written down a second time by hand."""


def resident(phase: Phase) -> Resident:
    place = Placement((), 0, 4, 512)
    return Resident(ResidentId(1), variant("a"), place, phase, Footprint(), 300.0, since=0.0, asked_at=0.0, used_at=0.0)


@pytest.mark.parametrize(("phase", "trigger"), list(product(Phase, Trigger)))
def test_every_trigger_in_every_phase_does_what_the_drawing_says_or_raises(phase: Phase, trigger: Trigger) -> None:
    before = resident(phase)
    leads_to = LEADS_TO[phase].get(trigger)
    if leads_to is None:
        with pytest.raises(IllegalTransition, match="cannot take"):
            before.after(trigger)
    else:
        assert before.after(trigger) == replace(before, phase=Phase(leads_to))
    assert before == resident(phase)


def test_there_is_no_way_back() -> None:
    """Phases are declared in the order of life; every step leads forward, and all end in one."""
    order = list(Phase)
    assert all(order.index(after) > order.index(before) for (before, _), after in LEGAL.items())
    assert {phase for phase in Phase if not any(before is phase for before, _ in LEGAL)} == {Phase.GONE}


def test_whoever_may_own_memory_is_held_until_it_is_gone() -> None:
    assert set(Phase) - HOLDING == {Phase.RESERVED, Phase.GONE}
    assert Phase.RESERVED in STAYING


def test_the_picture_in_the_readme_is_the_table() -> None:
    """`python -m swapd.core.diagram` prints it."""
    text = README.read_text()
    begin, end = diagram.MARKERS
    assert text[text.index(begin) + len(begin) : text.index(end)].strip() == diagram.mermaid()
