"""Settings are proposed where they help, and not where they would not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from swapd.core.messages import Policy
from swapd.sim.lab import tune
from swapd.sim.lab.run import Refused
from swapd.trace import Call, Trace, TraceModel
from swapd.units import FOREVER, GiB

A = TraceModel("a", 6 * GiB, 33, 2, 4.0, 4.0, 1000.0, 20.0)
SHORT = Policy(keep_alive=60.0)


def day(*calls: Call, models: tuple[TraceModel, ...] = (A,), card: int = 24 * GiB) -> Trace:
    return Trace("day", card, 64 * GiB, models, calls)


def every(seconds: float, count: int, model: str = "a", begin: float = 0.0) -> list[Call]:
    return [Call(f"{model}{begin}.{n}", begin + n * seconds, model, 100, 20) for n in range(count)]


def test_a_model_that_left_too_soon_is_kept_longer() -> None:
    heard: list[int] = []
    found = tune.tune(day(*every(200.0, 40)), SHORT, heard.append)
    assert found.best is not None
    assert found.best.settings == tune.Settings(SHORT.max_wait, 300.0, frozenset())
    assert found.now.report.loads == 40
    assert found.best.report.loads == 1
    assert found.best.pain < 0.1 * found.now.pain
    assert heard == list(range(1, found.count + 1))


def test_a_change_that_gains_nothing_beside_the_others_is_not_proposed() -> None:
    """With a pin nothing needs to be kept: only one of the two is told."""
    found = tune.tune(day(*every(4000.0, 12)), SHORT)
    assert found.best is not None
    assert (found.best.settings.keep_alive == FOREVER) != (found.best.settings.pins == {"a"})


def test_nothing_is_proposed_where_nothing_helps() -> None:
    found = tune.tune(day(*every(10.0, 40)), Policy(keep_alive=FOREVER))
    assert found.best is None
    assert found.why_not == "nothing that was tried is better"
    assert found.nearest == found.now


def test_what_helps_in_one_half_of_the_time_only_is_not_proposed() -> None:
    found = tune.tune(day(*every(200.0, 20), *every(5.0, 20, begin=8000.0)), SHORT)
    assert found.best is None
    assert "one half" in found.why_not
    assert found.nearest.pain < found.now.pain


def test_what_hardly_helps_is_not_proposed() -> None:
    """Two loads fewer in a thousand calls."""
    calls = [call for part in range(3) for call in every(5.0, 300, begin=part * 2000.0)]
    found = tune.tune(day(*calls), SHORT)
    assert found.best is None
    assert found.why_not == "it is hardly better"


def test_only_the_latest_calls_are_lived_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "MOST", 10)
    assert tune.tune(day(*every(200.0, 40)), SHORT).now.report.calls == 10


def test_no_pin_is_proposed_that_leaves_no_room_for_another_model() -> None:
    b = replace(A, name="b")
    calls = sorted([*every(30.0, 60), *every(30.0, 60, "b", begin=14.0)], key=lambda call: call.at)
    found = tune.tune(day(*calls, models=(A, b), card=10 * GiB), Policy(keep_alive=FOREVER))
    assert found.best is None or not found.best.settings.pins


def test_a_day_that_cannot_be_lived_is_refused() -> None:
    with pytest.raises(Refused):
        tune.tune(day(*every(1.0, 3), models=(replace(A, size=200 * GiB),)), SHORT)
