"""What the commands ask for, and the documents for scripts."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from swapd.ctl.__main__ import main
from swapd.ctl.arguments import build_parser
from swapd.ctl.client import Exit
from swapd.ctl.commands import COMMANDS

if TYPE_CHECKING:
    from tests.ctl.conftest import Daemon, Script

LINES = {
    "status": ["status"],
    "ps": ["ps"],
    "ls": ["ls"],
    "show": ["show", "smollm2-135m"],
    "load": ["load", "smollm2-135m"],
    "unload": ["unload", "smollm2-135m"],
    "pin": ["pin", "smollm2-135m"],
    "unpin": ["unpin", "smollm2-135m"],
    "run": ["run", "smollm2-135m", "hi"],
    "plan": ["plan", "smollm2-135m", "gemma"],
    "yield": ["yield", "8GiB"],
    "queue": ["queue"],
    "events": ["events"],
    "explain": ["explain"],
    "replay": ["replay", str(Path(__file__).parent / "day.jsonl")],
    "reload": ["reload"],
    "pull": ["pull", "a/b"],
    "top": ["top"],
    "service": ["service", "uninstall"],
    "doctor": ["doctor"],
    "clients": ["clients", "codex"],
    "version": ["version"],
}


NO_DAEMON = {"replay", "service", "doctor"}
"""Commands that can do without."""


@pytest.fixture(autouse=True)
def _no_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs these tests may have swapd as a service."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


def parsers() -> dict[str, argparse.ArgumentParser]:
    action = next(a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(action.choices)


def test_every_command_can_be_typed_and_is_tested_here() -> None:
    assert parsers().keys() == COMMANDS.keys() == LINES.keys()


@pytest.mark.parametrize("command", LINES)
def test_help_fits_a_terminal(command: str) -> None:
    for page in (build_parser().format_help(), parsers()[command].format_help()):
        assert max(len(line) for line in page.splitlines()) <= 80


@pytest.mark.parametrize("command", LINES)
@pytest.mark.parametrize("is_first", [True, False])
def test_json_is_one_document_and_nothing_else(
    command: str, is_first: bool, daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    line = LINES[command]
    assert main(["--json", *line] if is_first else [line[0], "--json", *line[1:]]) == 0
    told = capsys.readouterr()
    assert isinstance(json.loads(told.out), dict)
    assert told.err == ""


@pytest.mark.parametrize("command", LINES)
def test_people_get_text(command: str, daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(LINES[command]) == 0
    told = capsys.readouterr().out
    assert told.endswith("\n")
    assert not told.startswith("{")


@pytest.mark.parametrize("command", [name for name in LINES if name not in NO_DAEMON])
def test_a_failure_leaves_stdout_empty_with_json_too(
    command: str, daemon: Daemon, script: type[Script], capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.replies.clear()
    assert main([*LINES[command], "--json"]) == Exit.REFUSED
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("swapctl: ")


def test_documents_are_the_daemons_with_digests(
    daemon: Daemon, script: type[Script], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == script.STATUS
    assert main(["ps", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"models": [script.RESIDENT | {"digest": "0123456789abcdef" * 4}]}
    assert main(["load", "smollm2-135m", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == script.RESIDENT


@pytest.mark.parametrize(
    ("words", "body"),
    [
        ([], {}),
        (["--keep-alive", "1h30m"], {"keep_alive": "1h30m"}),
        (["--keep-alive", "-1"], {"keep_alive": "-1"}),
        (["--gpu-layers", "0"], {"gpu_layers": 0}),
    ],
)
def test_load_says_what_was_wished_and_nothing_else(words: list[str], body: dict[str, object], daemon: Daemon) -> None:
    assert main(["load", "smollm2-135m", *words]) == 0
    (request,) = daemon.requests
    assert request.body == body
    assert request.headers["X-Swapd-Progress"] == "1"


@pytest.mark.parametrize(("words", "force"), [([], False), (["--force"], True)])
def test_unload_drains_unless_forced(words: list[str], force: bool, daemon: Daemon) -> None:
    assert main(["unload", "smollm2-135m", *words]) == 0
    assert daemon.requests[0].body == {"force": force}


def test_names_are_quoted_in_paths(daemon: Daemon, script: type[Script]) -> None:
    path = "/swapd/models/org%2Fm%C3%B6del%3A9b%20%3Fx%23/pin"
    daemon.replies["POST", path] = script.Reply({})
    assert main(["pin", "org/mödel:9b ?x#"]) == 0
    assert daemon.requests[0].path == path


@pytest.mark.parametrize("name", ["chat", "CHAT", "Smollm2-135M", "smollm2-135m:latest"])
def test_show_finds_a_model_as_the_daemon_does(name: str, daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", name, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["name"], shown["footprint"]["last"]["error"]["cuda:0"]) == ("smollm2-135m", 12 * 2**20)


def test_show_of_a_file_that_cannot_be_used_asks_nothing_about_its_memory(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", "broken", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["footprint"] is None
    assert [request.path for request in daemon.requests] == ["/swapd/models", "/swapd/status"]


def test_show_suggests_the_nearest_names(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "smolm2"]) == Exit.NOT_FOUND
    assert capsys.readouterr().err == "swapctl: model 'smolm2' not found; did you mean smollm2-135m?\n"


def test_version_needs_no_daemon(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--url", "unix:/nowhere/swapd.sock", "version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["swapd"] is None
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("swapctl ")
