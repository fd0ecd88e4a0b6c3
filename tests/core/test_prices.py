"""What losing a conversation costs, and what tells how fast prompts are read."""

from __future__ import annotations

import math

import pytest

from swapd.core import costs
from swapd.core.messages import RequestEnded, Usage
from swapd.core.model import RequestId
from swapd.core.past import Past
from tests.core.builders import Desk, variant

A = variant("a")


@pytest.mark.parametrize(("is_saved", "price"), [(False, 2100 / 1000), (True, 0.0)])
def test_a_conversation_that_is_saved_costs_nothing_to_lose(is_saved: bool, price: float) -> None:
    desk = Desk(keeps_prompts=is_saved)
    desk.serve(A, "1")
    desk.tell(RequestEnded(desk.at, RequestId("1"), Usage(2000, 0, 100, 2.0, 1.0)))
    assert costs.rebuild(desk.state, desk.resident(A)) == pytest.approx(price)


def test_a_prompt_that_was_mostly_there_does_not_tell_how_fast_prompts_are_read() -> None:
    whole = Past(asked_at=-math.inf).answered(Usage(2000, 0, 100, 2.0, 1.0), 31, 1.0)
    assert whole.prefill == 1000
    assert whole.answered(Usage(3, 2097, 100, 0.1, 1.0), 31, 1.0).prefill == 1000
