"""Whether the daemon gets on: busy is well, still is not."""

from __future__ import annotations

from dataclasses import replace

from swapd.core.group import Group, Waiting
from swapd.core.model import RequestId, ResidentId
from swapd.core.resident import Phase
from swapd.core.state import State
from swapd.runtime.health import LIMITS, STILL, Health
from tests.core.builders import Desk, variant

A = variant("a")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def waiting() -> State:
    return State(waiting={A.id: Group.of(Waiting(RequestId("1"), A, 90.0, None, None, 0, False, None))})


def test_a_daemon_without_work_is_well_however_long() -> None:
    clock = Clock()
    health = Health(clock)
    clock.now += 1e6
    assert health.complaint(State()) is None


def test_work_of_the_machine_that_does_not_come_back_is_told() -> None:
    for kind, limit in LIMITS.items():
        clock = Clock()
        health = Health(clock)
        with health.working(kind):
            clock.now += limit
            assert health.complaint(State()) is None
            clock.now += 1
            assert kind in (health.complaint(State()) or "")
        assert health.complaint(State()) is None


def test_requests_that_wait_while_nothing_at_all_is_done_are_told() -> None:
    clock = Clock()
    health = Health(clock)
    clock.now += STILL
    assert health.complaint(waiting()) is None
    clock.now += 1
    assert health.complaint(waiting()) == "1 requests wait, one for 21 s, and nothing is done for them"
    health.moved()
    assert health.complaint(waiting()) is None


def test_a_queue_behind_answers_and_loads_is_well() -> None:
    desk = Desk()
    desk.serve(A, "1")
    clock = Clock()
    health = Health(clock)
    clock.now += 1e4
    busy = replace(waiting(), leases={RequestId("2"): ResidentId(1)})
    assert health.complaint(busy) is None
    loading = replace(desk.resident(A), phase=Phase.LOADING)
    assert health.complaint(replace(waiting(), residents={loading.id: loading})) is None
