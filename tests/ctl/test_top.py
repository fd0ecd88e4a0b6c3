"""`swapctl top`: one page of everything, drawn anew; the screen is given back."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from swapd.ctl.__main__ import main
from swapd.ctl.client import Exit
from swapd.ctl.top import Look, page

if TYPE_CHECKING:
    from tests.ctl.conftest import Daemon, Done, Script, Terminal

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def looked(script: type[Script], at: float, **resident: object) -> Look:
    status = script.STATUS | {"models": [script.RESIDENT | resident]}
    return Look(status, (), at)


def test_speeds_are_what_came_between_two_looks(script: type[Script]) -> None:
    first, second = looked(script, 10.0, tokens=100), looked(script, 12.0, tokens=340)
    assert " 120 " in page(second, first, NOW)
    assert " 120 " not in page(second, None, NOW)
    reloaded = looked(script, 12.0, tokens=3, loaded_at="2026-01-01T11:59:59Z")
    assert "-48" not in page(reloaded, first, NOW)


def test_a_bar_shows_whose_the_memory_is(script: type[Script]) -> None:
    device = script.STATUS["devices"][0] | {"id": "cuda:0", "total": 2400, "ours": 600, "foreign": 600, "free": 1200}
    seen = Look(script.STATUS | {"devices": [device | {"reserve": 200}], "models": [], "queue": []}, (), 0.0)
    shown = page(seen, None, NOW)
    assert "[######++++++--..........]" in shown
    assert "No model is loaded." in shown
    assert "No request is waiting." in shown


def test_without_a_terminal_it_is_one_page(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top"]) == 0
    out = capsys.readouterr().out
    assert "smollm2-135m" in out
    assert "\x1b" not in out


def test_as_json_it_is_one_look(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--json"]) == 0
    assert json.loads(capsys.readouterr().out).keys() == {"status", "events"}


def test_on_a_terminal_it_goes_on_until_q_and_gives_the_screen_back(
    daemon: Daemon, terminal: Callable[..., Terminal]
) -> None:
    shown = terminal("top", "--every", "0.1")
    for _ in range(3):
        shown.expect("smollm2-135m")
        shown.expect("q: quit")
    shown.type("q")
    assert shown.wait() == 0
    assert shown.shown.startswith("\x1b[?1049h")
    assert shown.shown.rstrip().endswith("\x1b[?1049l")


def test_a_daemon_that_goes_away_ends_it_with_the_screen_given_back(
    daemon: Daemon, terminal: Callable[..., Terminal]
) -> None:
    shown = terminal("top", "--every", "0.1")
    shown.expect("q: quit")
    daemon.close()
    assert shown.wait() == Exit.UNREACHABLE
    assert "swapctl: " in shown.shown.rpartition("\x1b[?1049l")[2]


@pytest.mark.parametrize("every", ["0", "-1", "2h", "soon"])
def test_an_interval_out_of_reach_is_wrong_usage(swapctl: Callable[..., Done], every: str) -> None:
    done = swapctl("top", f"--every={every}")
    assert (done.status, done.out) == (Exit.USAGE, "")
