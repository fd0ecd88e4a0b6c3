"""A daemon that has lived for long holds no more than one that has not. At full length: `python -m benchmarks`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from swapd.units import MiB
from tests import endurance
from tests.e2e.conftest import Start
from tests.endurance import Held
from tests.gguf_models import tiny_llama

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]

CYCLES, REQUESTS = 60, 600
MORE = 4 * MiB
"""What is kept of the past grows until it is full. At full length smaller leaks are found."""
JUST_ENDING = 6
"""Descriptors and threads of processes that come and go; one that stays for each load would be more."""


def test_a_daemon_does_not_grow_with_what_it_has_done(start: Start, tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "tiny.gguf", context=4096)
    daemon = start("", common=endurance.entries(str(model)))
    seen: list[Held] = []

    wrong = asyncio.run(
        endurance.live(
            daemon.url, CYCLES, REQUESTS, lambda loads: seen.append(endurance.held(daemon.process.pid, loads))
        )
    )

    assert wrong == []
    assert daemon.status()["counters"]["crashes"] == 0
    middle, last = seen[CYCLES // 3 : 2 * CYCLES // 3], seen[-CYCLES // 3 :]
    assert max(each.memory for each in last) - max(each.memory for each in middle) < MORE
    assert max(each.descriptors for each in last) <= max(each.descriptors for each in middle) + JUST_ENDING
    assert max(each.threads for each in last) <= max(each.threads for each in middle) + JUST_ENDING
