"""Made-up days have the load that was asked for, are the same everywhere, and look like what they were made after."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter, OrderedDict, defaultdict
from itertools import groupby, pairwise
from statistics import mean, stdev

import pytest

from swapd.sim.lab.generate import CARD, KINDS, SMALL, d_inference, kinds, make, small
from swapd.trace import Call, Trace, lines, load, parse, service_s
from swapd.units import GiB

_LOADS = (0.3, 0.6, 0.8, 0.9)


def _all() -> list[Trace]:
    return [make(kind, 0.6, 1) for kind in KINDS] + [d_inference(1)] + [small(number) for number in range(SMALL)]


def _digest() -> str:
    text = "\n".join(line for trace in _all() for line in lines(trace))
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("asked", _LOADS)
def test_a_day_has_the_load_and_about_the_hours_that_were_asked_for(kind: str, asked: float) -> None:
    for seed in (0, 1, 2):
        trace = make(kind, asked, seed)
        assert load(trace) == pytest.approx(asked, rel=0.03)
        assert trace.duration == pytest.approx(2 * 3600, rel=0.1)
        assert 400 <= len(trace.calls) <= 6000
    assert load(make(kind, asked, 0, hours=0.5)) == pytest.approx(asked, rel=0.03)


def test_the_same_arguments_give_the_same_traces_in_another_process_with_another_hash_seed() -> None:
    found = {
        subprocess.run(
            [sys.executable, __file__],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("0", "77")
    }
    assert found == {_digest()}


@pytest.mark.parametrize("kind", KINDS)
def test_another_seed_is_another_day_and_a_higher_load_has_more_calls(kind: str) -> None:
    assert make(kind, 0.6, 1).calls != make(kind, 0.6, 2).calls
    assert len(make(kind, 0.9, 1).calls) > 1.2 * len(make(kind, 0.6, 1).calls)
    assert len(make(kind, 0.6, 1, hours=1.0).calls) < 0.7 * len(make(kind, 0.6, 1).calls)


def test_every_trace_can_be_written_and_read_and_all_its_calls_make_sense() -> None:
    for trace in _all():
        assert parse(lines(trace)) == trace
        assert len({call.id for call in trace.calls}) == len(trace.calls)
        assert [call.at for call in trace.calls] == sorted(call.at for call in trace.calls)
        assert all(model.size <= trace.card and model.load_s < model.cold_load_s for model in trace.models)
        for call in trace.calls:
            assert call.at >= 0
            assert 0 <= call.cached <= call.prompt <= 16_000
            assert call.output >= 1


def test_what_is_kept_of_a_session_is_what_the_model_computed_for_it_last() -> None:
    for trace in _all():
        last: dict[tuple[str, str], Call] = {}
        for call in trace.calls:
            before = last.get((call.session, call.model))
            assert call.cached == (min(call.prompt, before.prompt + before.output) if before else 0)
            last[call.session, call.model] = call


@pytest.mark.parametrize("kind", KINDS)
def test_the_models_of_a_day_do_not_all_fit_on_the_card(kind: str) -> None:
    trace = make(kind, 0.6, 1)
    assert trace.card == CARD
    assert {call.model for call in trace.calls} <= {model.name for model in trace.models}
    assert sum(model.size for model in trace.models) > trace.card


def test_a_solo_developers_completions_are_short_and_most_are_typed_over() -> None:
    trace = make("solo", 0.6, 1)
    completions = [call for call in trace.calls if call.model == "fim"]
    typed_over = [call for call in completions if call.patience is not None and call.patience < 1]
    assert len(completions) > len(trace.calls) / 2
    assert 0.6 <= len(typed_over) / len(completions) <= 0.7
    assert all(call.prompt <= 500 and call.output <= 30 for call in completions)
    assert all(call.patience is None for call in trace.calls if call.model in ("coder", "chat"))
    episodes = _by_session(completions, cut="-")
    assert all(other.at - one.at >= 0.35 for calls in episodes.values() for one, other in pairwise(calls))
    assert max(calls[-1].at - calls[0].at for calls in episodes.values()) < 70


def test_people_think_about_eight_seconds_before_they_ask_again() -> None:
    trace = make("solo", 0.6, 1)
    pauses = []
    for calls in _by_session([call for call in trace.calls if call.model == "chat"]).values():
        for one, other in pairwise(calls):
            model = trace.model(one.model)
            pauses.append(other.at - one.at - (one.prompt - one.cached) / model.prefill - one.output / model.decode)
    assert min(pauses) > 0
    assert 6.5 < sorted(pauses)[len(pauses) // 2] < 9.5


def test_a_review_follows_every_draft_of_its_session() -> None:
    trace = make("review", 0.6, 1)
    drafter, reviewer = trace.models
    assert drafter.size + reviewer.size > trace.card
    for calls in _by_session(trace.calls).values():
        assert [call.model for call in calls] == ["drafter", "reviewer"] * (len(calls) // 2)
        assert all(review.prompt > draft.prompt for draft, review in zip(calls[::2], calls[1::2], strict=True))


def test_a_teams_calls_are_bursty_and_unevenly_spread_over_the_models() -> None:
    for seed in range(4):
        trace = make("team", 0.6, seed)
        begun = sorted(calls[0].at for calls in _by_session(trace.calls).values())
        gaps = [other - one for one, other in pairwise(begun)]
        assert stdev(gaps) / mean(gaps) > 1.2
        shares = sorted(Counter(call.model for call in trace.calls).values())
        assert len(shares) == 6
        assert shares[-1] > 3 * shares[0]


def test_an_agent_asks_two_to_four_of_the_other_model_beside_each_other_between_its_own_calls() -> None:
    trace = make("agents", 0.6, 1)
    planner, worker = trace.models
    assert planner.size + worker.size > trace.card
    fans: list[int] = []
    for calls in _by_session(trace.calls, cut=".").values():
        turns = [(model, list(turn)) for model, turn in groupby(calls, key=lambda call: call.model)]
        assert turns[0][0] == "planner"
        fans += [len(turn) for model, turn in turns if model == "worker"]
        assert all(turn[-1].at - turn[0].at < 0.4 for _, turn in turns)
        assert all(len(turn) == 1 for model, turn in turns if model == "planner")
    assert set(fans) >= {2, 3, 4}
    assert max(fans) == 4


def test_ten_models_of_the_tail_have_one_to_six_percent_of_the_calls() -> None:
    for seed in range(4):
        trace = make("tail", 0.8, seed)
        shares = Counter(call.model for call in trace.calls)
        rare = [count for model, count in shares.items() if model.startswith("rare")]
        assert 8 <= len(rare) <= 10
        assert 0.01 <= sum(rare) / len(trace.calls) <= 0.065
        assert sum(model.size for model in trace.models) > trace.host


def test_in_a_day_of_bursts_few_models_are_busy_at_a_time_and_not_always_the_same() -> None:
    trace = make("bursts", 0.8, 1)
    busiest = []
    for _, calls in groupby(trace.calls, key=lambda call: call.at // 300):
        counts = Counter(call.model for call in calls).most_common(3)
        busiest.append((frozenset(model for model, _ in counts), sum(count for _, count in counts)))
    assert len({models for models, _ in busiest}) >= 4
    assert sum(count for _, count in busiest) > 0.9 * len(trace.calls)
    assert len({call.model for call in trace.calls}) >= 5


def test_the_least_recently_used_leave_for_the_rare_models_as_in_the_report() -> None:
    trace = d_inference(1)
    sizes = sorted(model.size for model in trace.models)
    assert sum(sizes[-3:]) <= trace.card < sum(sizes[:4])
    rare = sum(call.model.startswith("rare") for call in trace.calls)
    assert rare / len(trace.calls) == pytest.approx(0.0113, rel=0.05)
    assert trace.duration == pytest.approx(49 * 3600)
    there: OrderedDict[str, None] = OrderedDict()
    loads: Counter[str] = Counter()
    for call in trace.calls:
        if call.model not in there:
            loads[call.model[:3]] += 1
            if len(there) == 3:
                there.popitem(last=False)
        there[call.model] = None
        there.move_to_end(call.model)
    assert 0.6 < loads["rar"] / loads.total() < 0.85


def test_small_traces_are_for_one_model_at_a_time_with_services_and_loads_of_seconds() -> None:
    seen = {tuple(lines(small(number)))[1:] for number in range(SMALL)}
    assert len(seen) == SMALL
    for number in range(SMALL):
        trace = small(number)
        assert 6 <= len(trace.calls) <= 9
        assert 2 <= len(trace.models) <= 3
        assert len({call.model for call in trace.calls}) >= 2
        assert sum(sorted(model.size for model in trace.models)[:2]) > trace.card
        assert all(model.slots == 1 and 1 < model.load_s < model.cold_load_s < 6 for model in trace.models)
        assert all(call.cached == 0 and call.patience is None for call in trace.calls)
        assert all(0.5 < service_s(trace.model(call.model), call) < 9 for call in trace.calls)
        assert trace.duration <= 40


def test_what_cannot_be_made_is_refused() -> None:
    assert kinds() == KINDS
    for arguments in (("weekend", 0.5, 0), ("solo", 0.0, 0), ("solo", 0.5, 0, 0.0), ("solo", float("nan"), 0)):
        with pytest.raises(ValueError, match=r"no kind|cannot be made"):
            make(*arguments)
    with pytest.raises(ValueError, match="no small trace"):
        small(-1)


def test_larger_models_are_slower_to_load_and_to_compute_with() -> None:
    models = sorted(make("team", 0.3, 0).models, key=lambda model: model.size)
    for one, other in pairwise(models):
        assert one.load_s < other.load_s
        assert one.decode > other.decode
        assert one.prefill >= other.prefill
    assert models[0].size == 5 * GiB


def _by_session(calls: tuple[Call, ...] | list[Call], cut: str = "") -> dict[str, list[Call]]:
    """With `cut`, what comes before it in the id or the session's name is the session."""
    found: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        name = call.id if cut == "-" else call.session
        found[name.split(cut)[0] if cut else name].append(call)
    return found


if __name__ == "__main__":
    sys.stdout.write(_digest())
