"""The core on a simulated machine: no overcommit, nobody lost or answered twice, nobody left waiting."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sim import storm

SOAK_STEPS = int(os.environ.get("SOAK_STEPS", "20000"))
"""100,000 take five times as long, and are run by hand."""


class Tape:
    """Chance read from bytes, so that Hypothesis can cut a failing story short."""

    def __init__(self, data: bytes) -> None:
        self._data = iter(data)
        self.is_over = False

    def __call__(self, n: int) -> int:
        drawn = next(self._data, None)
        self.is_over = drawn is None
        return 0 if drawn is None else drawn % n


@pytest.mark.timeout(1800)
@given(st.binary(min_size=60, max_size=400))
def test_keeps_every_promise_whatever_happens(data: bytes) -> None:
    """Crashes, cancels, late and repeated facts, other programs, time jumps, changes of policy."""
    chance = Tape(data)
    world = storm.world(chance)
    while not chance.is_over:
        storm.blow(world, chance)
    storm.calm(world, chance)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("faults", [0, 10, 40])
def test_a_long_soak_breaks_nothing(faults: int) -> None:
    """SOAK_STEPS (20,000), a third of them each on machines where nothing, some and much goes wrong."""
    chance = Random(faults).randrange
    steps = 0
    while steps < SOAK_STEPS / 3:
        steps += storm.story(chance, 120, faults=faults).steps


def orders_of(seed: int) -> str:
    """A digest of all orders that the core gives in one life."""
    log = storm.story(Random(seed).randrange, 60).log
    return hashlib.sha256(repr([commands for _, commands in log]).encode()).hexdigest()


def test_the_same_facts_give_the_same_orders_in_every_process() -> None:
    """Nothing depends on the order of a set or on another process's hashes."""
    call = "from tests.sim.test_world import orders_of; print([orders_of(seed) for seed in range(8)])"
    seen = {
        subprocess.run(
            [sys.executable, "-c", call],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(seen) == 1
