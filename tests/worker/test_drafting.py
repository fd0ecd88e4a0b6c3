"""Speculation gives the answers that there would be without it, in fewer steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from swapd.core.arithmetic import PROPOSALS
from swapd.generation import Sampling, StopReason
from swapd.units import Seconds
from swapd.wire import Loaded, LoadFailed, Parts, Size, Sized
from swapd.worker.drafting import ROWS, Costs, Draft, Drafter, Gauge, Hopeful, Lookup
from tests.worker.conftest import Child, a_load, ask

LIST = "Items:\n" + "".join(f"- item number {i} costs {i * 3} dollars\n" for i in range(1, 9)) + "- item number 9"
ROUND = "The cat sat on the mat. The dog sat on the log. " * 6
ROUND_TOKENS = [1, 2] * 20
HOT = Sampling(temperature=0.7, seed=3)


def hopeful(tokens: list[int], room: int = 99) -> Hopeful:
    """All of it is the answer's."""
    lookup = Lookup(())
    for token in tokens:
        lookup.add(token)
    return Hopeful(0, tokens, lookup, Gauge(), room)


class Sure:
    """Proposes fives, at once."""

    def seconds(self, count: int, answers: int) -> Seconds:
        return 0.0

    def propose(self, wanted: Sequence[tuple[int, Sequence[int]]], count: int) -> list[list[int]]:
        return [[5] * count for _ in wanted]


def test_what_followed_before_is_proposed() -> None:
    lookup = Lookup([1, 2, 3, 4, 5, 9, 1, 2, 3])
    assert lookup.propose(2) == [4, 5]
    assert lookup.propose(6) == [4, 5, 9, 1, 2, 3]
    lookup.add(8)
    assert lookup.propose(4) == []


def test_a_text_that_goes_round_is_proposed_round_and_round() -> None:
    assert Lookup([1, 2, 1, 2, 1, 2]).propose(5) == [1, 2, 1, 2, 1]


def test_nothing_is_proposed_before_a_plain_step_was_measured() -> None:
    assert Drafter().propose([hopeful([1, 2, 1, 2, 1, 2])]) == [Draft([])]


def test_proposals_are_as_long_as_they_pay() -> None:
    drafter, costly = Drafter(), Drafter()
    for rows in range(1, ROWS + 2):
        drafter.measured(rows, 1.0)
        costly.measured(rows, float(2**rows))
    assert len(drafter.propose([hopeful(ROUND_TOKENS)])[0].tokens) == ROWS
    assert costly.propose([hopeful(ROUND_TOKENS)]) == [Draft([])]
    distrusted = hopeful(ROUND_TOKENS)
    distrusted.lookup.gauge.trust = [0.0] * 4
    assert drafter.propose([distrusted]) == [Draft([])]


def test_a_text_that_begins_to_repeat_itself_is_noticed_where_nothing_is_proposed() -> None:
    """Where a larger batch takes nearly as much longer as it has rows, and so nothing is tried in hope."""
    drafter = Drafter()
    for rows in range(1, ROWS + 2):
        drafter.measured(rows, 0.5 + 0.5 * rows)
    answer = hopeful(list(range(100, 140)))
    assert drafter.propose([answer]) == [Draft([])]
    for token in ROUND_TOKENS:
        answer.lookup.add(token)
    assert len(drafter.propose([answer])[0].tokens) == ROWS
    for token in (7, 1, 2, 8, 1, 2, 9, 2, 1, 6, 1, 2, 1, 2, 4, 1, 2, 1, 2, 3, 1, 2, 1, 2):
        answer.lookup.add(token)
    assert drafter.propose([answer]) == [Draft([])]


def test_a_plain_step_that_was_slow_is_measured_again_amid_proposals() -> None:
    drafter, plain = Drafter(), 0
    drafter.measured(1, 8.0)
    answer = hopeful(ROUND_TOKENS)
    for _ in range(120):
        rows = 1 + len(drafter.propose([answer])[0].tokens)
        plain += rows == 1
        drafter.measured(rows, float(rows))
    assert plain > 60


def test_what_comes_after_some_that_were_right_is_trusted_apart() -> None:
    gauge = Gauge()
    for _ in range(60):
        gauge.learn(8, 0)
        gauge.learn(8, 8)
        gauge.streak = 0
    doubtful, sure = Gauge(gauge.trust, streak=0), Gauge(gauge.trust, streak=7)
    assert doubtful.expected(8) < 0.6 * 8
    assert sure.expected(8) > 0.95 * 8


def test_a_draft_model_proposes_where_the_text_does_not_repeat_itself() -> None:
    drafter = Drafter(Sure())
    drafter.measured(1, 1.0)
    fresh, known = hopeful(list(range(40))), hopeful(ROUND_TOKENS)
    guessed, looked_up = drafter.propose([fresh, known])
    assert set(guessed.tokens) == {5}
    assert guessed.gauge is fresh.gauge
    assert set(looked_up.tokens) == {1, 2}
    assert looked_up.gauge is None
    known.lookup.gauge.trust = [0.1] * 4
    assert set(drafter.propose([known])[0].tokens) == {5}


def test_no_more_rows_than_there_are_and_no_more_tokens_than_wanted() -> None:
    drafter = Drafter()
    drafter.measured(1, 1.0)
    drafter.measured(3, 1.0)
    many = drafter.propose([hopeful(ROUND_TOKENS) for _ in range(3)])
    assert 3 <= sum(len(draft.tokens) for draft in many) <= ROWS
    assert 1 <= len(drafter.propose([hopeful(ROUND_TOKENS, room=2)])[0].tokens) <= 2
    assert drafter.propose([hopeful(ROUND_TOKENS, room=0)]) == [Draft([])]


def test_trust_follows_what_happened_and_comes_back() -> None:
    gauge = Gauge()
    for _ in range(20):
        gauge.learn(8, 0)
    assert gauge.expected(1) < 0.05
    for _ in range(200):
        gauge.rest()
    assert gauge.expected(1) > 0.5
    gauge.learn(200, 200)
    assert gauge.expected(10) == pytest.approx(10, abs=0.1)


def test_costs_between_measurements_lie_on_a_line() -> None:
    costs = Costs()
    assert costs.of(1) is None
    costs.measured(2, 1.0)
    costs.measured(10, 3.4)
    costs.measured(20, 99.0)
    assert costs.of(1) is None
    assert costs.of(6) == pytest.approx(2.2)
    assert costs.of(20) == pytest.approx(10.0)
    assert costs.of(22) == pytest.approx(10.4)


def test_one_step_that_was_held_up_does_not_count_for_much_and_a_faster_machine_for_all_sizes() -> None:
    costs = Costs()
    costs.measured(1, 1.0)
    costs.measured(9, 2.0)
    costs.measured(9, 100.0)
    assert costs.of(9) == pytest.approx(2.6)
    for _ in range(40):
        costs.measured(1, 0.5)
    assert costs.of(9) == pytest.approx(1.3, rel=0.1)


@pytest.mark.parametrize("model", ["smollm", "gemma"])
def test_a_repetitive_answer_is_the_same_in_fewer_steps(
    spare: Child, model: str, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(model)
    plain = Child()
    try:
        plain.start()
        plain.load(a_load(path))
        expected = plain.generate(ask(ROUND, name="greedy", max_tokens=80), ask(ROUND, name="hot", sampling=HOT))
    finally:
        plain.close()
    assert isinstance(spare.load(a_load(path, speculates=True)), Loaded)
    greedy = spare.generate(ask(ROUND, name="greedy", max_tokens=80))[0]
    hot = spare.generate(ask(ROUND, name="hot", sampling=HOT))[0]
    assert greedy.text == expected[0].text
    assert hot.text == expected[1].text
    assert 0 < greedy.ending.usage.accepted <= greedy.ending.usage.drafted
    assert greedy.ending.usage.completion == greedy.tokens == expected[0].tokens


def test_limits_stops_and_reuse_hold_amid_proposals(spare: Child, smollm: Path) -> None:
    loaded = spare.load(a_load(smollm, speculates=True, context=256, slots=2))
    assert isinstance(loaded, Loaded)
    short, stopped, full = spare.generate(
        ask(LIST, name="short", max_tokens=7),
        ask(LIST, name="stopped", max_tokens=90, stop=("number 11",)),
        ask(LIST, name="full", max_tokens=None, ignore_eos=True),
    )
    assert (short.tokens, short.ending.reason) == (7, StopReason.LENGTH)
    assert stopped.ending.stop == "number 11"
    assert stopped.text.endswith("- item ")
    assert full.ending.reason is StopReason.LENGTH
    assert full.ending.usage.prompt + full.ending.usage.completion == loaded.context
    again = spare.generate(ask(LIST + short.text, name="again", max_tokens=7))[0]
    assert full.text.startswith(short.text + again.text)


def test_a_draft_model_proposes_and_the_answer_stays(spare: Child, smollm: Path) -> None:
    """The model itself stands in for a good draft: nearly all that it proposes is right."""
    plain = Child()
    try:
        plain.start()
        plain.load(a_load(smollm, slots=2))
        requests = [
            ask(chat="Name three colours.", name="a", max_tokens=30),
            ask(chat="Why is the sky blue?", name="b", max_tokens=30, sampling=HOT),
        ]
        expected = [plain.generate(request)[0].text for request in requests]
    finally:
        plain.close()
    assert isinstance(spare.load(a_load(smollm, slots=2, speculates=True, draft=str(smollm))), Loaded)
    answers = [spare.generate(request)[0] for request in requests]
    assert [answer.text for answer in answers] == expected
    together = spare.generate(*(ask(LIST, name=f"t{i}", max_tokens=20) for i in range(4)))
    assert {answer.tokens for answer in together} == {20}


def test_a_drafts_memory_is_told_and_sized(spare: Child, smollm: Path) -> None:
    """The same figures before the load and after it, and more than without a draft."""
    order = a_load(smollm, slots=2, speculates=True, draft=str(smollm))
    values = {name: getattr(order, name) for name in Size.__struct_fields__}
    spare.send(Size(**values), Size(**values | {"draft": "", "speculates": False}))
    with_draft, without = spare.wait_for(Sized), spare.wait_for(Sized)
    loaded = spare.load(order)
    assert isinstance(loaded, Loaded)

    def sums(parts: Parts) -> dict[str, int]:
        found: dict[str, int] = {}
        for _, kind, size in parts:
            found[kind] = found.get(kind, 0) + size
        return found

    sized, plain, measured = sums(with_draft.parts), sums(without.parts), sums(loaded.parts)
    assert sized["context"] == measured["context"] == 2 * plain["context"]
    assert sized["compute"] == measured["compute"] > 1.5 * plain["compute"]


def test_a_draft_of_another_family_is_refused_with_the_reason(spare: Child, smollm: Path, gemma: Path) -> None:
    failed = spare.load(a_load(smollm, speculates=True, draft=str(gemma)))
    assert isinstance(failed, LoadFailed)
    assert "draft" in failed.reason
    assert "vocabulary" in failed.reason
    assert not failed.out_of_memory


def test_worker_and_core_count_the_same_rows() -> None:
    assert ROWS == PROPOSALS
