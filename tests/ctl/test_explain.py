"""What `swapctl explain`, `queue` and `events` tell people."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from swapd.ctl.__main__ import main
from swapd.ctl.client import Exit

if TYPE_CHECKING:
    from tests.ctl.conftest import Daemon, Script


def test_the_last_swap_is_told_with_every_way_its_price_and_what_would_have_avoided_it(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("gemma: loaded, with others leaving, ")
    assert told[1:] == [
        "  smollm2-135m to leave: gemma does not fit beside",
        "  for 1 request: req-1/1",
        "  > make room for all of it, 100% GPU: 2.2 s",
        "      900 MiB on cuda:0; smollm2-135m to leave",
        "      load 1.5 s, unload 0.5 s, lose smollm2-135m 0.2 s",
        "  - load it in part, 42%/58% GPU/CPU: 31.0 s (28.8 s dearer)",
        "      300 MiB on cuda:0, 1 GiB on host",
        "      load 1.0 s, slower answers 30.0 s",
        "  would have avoided it:",
        "    400 MiB more room on cuda:0",
    ]


def test_a_request_is_looked_for_before_a_model(
    daemon: Daemon, script: type[Script], capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.replies["GET", "/swapd/decisions?request=req-1"] = script.Reply({"decisions": [script.SWAP]})
    assert main(["explain", "req-1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"decisions": [script.SWAP]}


def test_who_is_neither_model_nor_request_is_told_so(
    daemon: Daemon, script: type[Script], capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.replies["GET", "/swapd/decisions?request=nobody"] = script.Reply({"decisions": []})
    unknown = {"error": {"code": "model_not_found", "message": "model 'nobody' not found"}}
    daemon.replies["GET", "/swapd/decisions?model=nobody&limit=5"] = script.Reply(unknown, 404)
    assert main(["explain", "nobody"]) == Exit.NOT_FOUND
    assert "is no model, and no request" in capsys.readouterr().err


def test_a_model_nobody_decided_about_is_told_so(
    daemon: Daemon, script: type[Script], capsys: pytest.CaptureFixture[str]
) -> None:
    for question in ("request=gemma", "model=gemma&limit=5"):
        daemon.replies["GET", f"/swapd/decisions?{question}"] = script.Reply({"decisions": []})
    assert main(["explain", "gemma"]) == Exit.REFUSED
    assert "nothing has been decided about" in capsys.readouterr().err


def test_the_queue_and_the_events_are_a_line_each(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["queue"]) == 0
    assert "gemma" in capsys.readouterr().out.splitlines()[1]
    assert main(["events"]) == 0
    assert "load gemma reason=1 waiting" in capsys.readouterr().out
