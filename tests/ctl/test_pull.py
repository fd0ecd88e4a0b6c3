"""`swapctl pull`: progress while it comes, the names that can be served at the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from swapd.ctl.__main__ import main
from swapd.ctl.client import Exit

if TYPE_CHECKING:
    from tests.ctl.conftest import Daemon, Done, Script

LINES: list[Any] = [
    {"status": "pulling manifest"},
    {"status": "pulling abc", "digest": "sha256:abc", "total": 100, "completed": 40},
    {"status": "pulling abc", "digest": "sha256:abc", "total": 100, "completed": 100},
]
DONE = {"status": "success", "models": ["m-Q4_0"]}


def replies(daemon: Daemon, script: type[Script], *last: Any, cut: bool = False) -> None:
    daemon.replies[("POST", "/api/pull")] = script.Reply(lines=[*LINES, *last], is_cut=cut)


def test_names_are_told_and_progress_goes_to_stderr(
    daemon: Daemon, script: type[Script], capsys: pytest.CaptureFixture[str]
) -> None:
    replies(daemon, script, DONE)
    assert main(["pull", "a/b:Q4_0"]) == 0
    out, err = capsys.readouterr()
    assert out == "m-Q4_0 can be served\n"
    assert "pulling abc 40%" in err
    assert daemon.requests[-1].body == {"model": "a/b:Q4_0"}


def test_as_json_it_is_the_last_line(daemon: Daemon, script: type[Script], capsys: pytest.CaptureFixture[str]) -> None:
    replies(daemon, script, DONE)
    assert main(["pull", "a/b", "--json"]) == 0
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == (DONE, "")


def test_a_failure_in_the_middle_is_one(
    daemon: Daemon, script: type[Script], capsys: pytest.CaptureFixture[str]
) -> None:
    replies(daemon, script, {"error": "cannot fetch m.gguf: the hub answers 503"})
    assert main(["pull", "a/b"]) == Exit.REFUSED
    assert "the hub answers 503" in capsys.readouterr().err


def test_a_daemon_that_goes_away_is_no_success(
    daemon: Daemon, script: type[Script], swapctl: Callable[..., Done]
) -> None:
    replies(daemon, script, cut=True)
    assert swapctl("pull", "a/b").status == Exit.UNREACHABLE


def test_a_file_that_cannot_be_served_is_told(
    daemon: Daemon, script: type[Script], capsys: pytest.CaptureFixture[str]
) -> None:
    replies(daemon, script, DONE | {"models": []})
    assert main(["pull", "a/b"]) == 0
    assert "cannot be served" in capsys.readouterr().out
