"""Where it is said to be quiet for certain, it is so under a policy that keeps the rules; and what may be there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from swapd.sim.lab import generate, quiet, report
from swapd.sim.lab.card import Card
from swapd.sim.lab.rivals import ResidentFirst
from swapd.sim.lab.run import Outcome
from swapd.trace import Call, Trace


class Watched(ResidentFirst):
    """Notes what is there when somebody comes: who waits or is served, who loads or leaves; residents and prompts."""

    def __init__(self) -> None:
        super().__init__()
        self.busy: list[bool] = []
        self.there: list[dict[str, list[str]]] = []

    def arrived(self, call: Call) -> None:
        residents = self.card.residents.values()
        is_under_way = any(one.running or one.is_ending or not one.is_ready for one in residents)
        self.busy.append(is_under_way or len(self.card.waiting) > 1)
        self.there.append({one.model.name: list(one.kept) for one in residents})
        super().arrived(call)


def watched(trace: Trace) -> tuple[Watched, float]:
    mind = Watched()
    card = Card(trace, mind)
    card.run()
    outcome = Outcome(tuple(card.served), tuple(card.loads), card.evictions)
    return mind, report.measure(trace, outcome, bounded=False).wait_max


@pytest.mark.parametrize("kind", generate.KINDS)
@pytest.mark.parametrize("load", [0.1, 0.3])
def test_nothing_is_under_way_where_it_is_quiet_and_what_is_there_is_among_what_may_be(kind: str, load: float) -> None:
    said = 0
    for seed in (1, 2, 3):
        trace = generate.make(kind, load, seed, hours=0.5)
        seen, longest = watched(trace)
        numbers = quiet.quiet_arrivals(trace, longest + 1e-3)
        said += len(numbers)
        assert not any(seen.busy[number] for number in numbers)
        for number in numbers[-8:]:
            states = quiet.states(trace, number, longest + 1e-3)
            if states is None:
                continue
            called_later = {(call.model, call.session) for call in trace.calls[number:]}
            there = {
                name: [session for session in kept if (name, session) in called_later]
                for name, kept in seen.there[number].items()
            }
            may = [
                {name: [s for s in one.kept if s != quiet.UNHEARD] for name, one in state.residents.items()}
                for state in states
            ]
            assert there in may
    assert said > 3  # the first call of each day, and more


def test_where_not_all_files_stay_in_memory_nothing_is_said_of_what_is_there() -> None:
    trace = generate.make("review", 0.3, 1, hours=0.5)
    assert quiet.states(trace, len(trace.calls) - 1, 10.0)
    assert quiet.states(replace(trace, host=trace.models[0].size), len(trace.calls) - 1, 10.0) is None


def test_before_the_first_call_nothing_is_there() -> None:
    (state,) = quiet.states(generate.make("solo", 0.3, 1, hours=0.5), 0, 10.0) or []
    assert not state.residents
    assert not state.cached
