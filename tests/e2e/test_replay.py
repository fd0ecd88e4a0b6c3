"""What a real daemon has served is lived again by swapctl, when the daemon is no more."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.conftest import GEMMA, SMOL, Daemon, RoomForOne, Start

pytestmark = pytest.mark.e2e

SECRET = "Bartholomew"


def test_a_day_is_recorded_and_replayed_without_the_daemon(start: Start, room_for_one: RoomForOne) -> None:
    daemon = start(room_for_one() + '[scheduler]\nmax_wait = "7s"\n')
    for number in range(2):
        headers = {"X-Swapd-Session": f"{SECRET}'s", "X-Request-Id": SECRET}
        body = {"model": SMOL, "messages": [{"role": "user", "content": f"I am {SECRET}."}], "max_tokens": 8 + number}
        assert daemon.call("/v1/chat/completions", body, headers=headers)[0] == 200
        assert daemon.call("/v1/completions", {"model": GEMMA, "prompt": "One, two,", "max_tokens": 4})[0] == 200
    assert daemon.call("/v1/completions", {"model": "no-such-model", "prompt": "x"})[0] == 404
    assert daemon.stop() == 0

    path = daemon.folder / "swapd" / "replay.jsonl"
    assert path.stat().st_mode & 0o777 == 0o600
    text = path.read_text()
    assert SECRET not in text
    assert "two" not in text
    calls = [json.loads(line)["call"] for line in text.splitlines() if '"call"' in line]
    assert [(call["model"], call["output"]) for call in calls] == [(SMOL, 8), (GEMMA, 4), (SMOL, 9), (GEMMA, 4)]
    assert calls[0]["session"] == calls[2]["session"] != ""
    assert all(call["took_s"] > 0 for call in calls)

    found = replayed(daemon, str(path), "--policy", "all")
    assert (found["requests"], found["cards"], found["max_wait"]) == (4, 0, 7.0)
    assert found["recorded"]["left"] == 0
    assert [row["policy"] for row in found["policies"]] == ["cost", "lru", "fifo", "resident-first", "keep-alive-first"]
    for row in found["policies"]:
        assert (row["calls"], row["left"]) == (4, 0)
        assert 2 <= row["loads"] <= 4  # two models, room for one
    assert replayed(daemon, str(path), "--tune")["now"]["max_wait"] == 7.0


def replayed(daemon: Daemon, *words: str) -> Any:
    done = daemon.swapctl("replay", *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
