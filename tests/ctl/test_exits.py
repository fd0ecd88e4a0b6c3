"""What the exit status tells, and what is said beside it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from swapd.ctl.__main__ import main
from swapd.ctl.client import Exit

if TYPE_CHECKING:
    from tests.ctl.conftest import Daemon, Done, Script

LOAD = ("POST", "/swapd/models/smollm2-135m/load")
GENERATE = ("POST", "/api/generate")


def test_without_a_daemon_it_says_where_it_looked_and_how_to_start_one(
    swapctl: Callable[..., Done], folder: Path
) -> None:
    done = swapctl("ps", SWAPD_URL="", XDG_RUNTIME_DIR=str(folder))
    assert (done.status, done.out) == (Exit.UNREACHABLE, "")
    assert done.err.startswith(f"swapctl: cannot reach the daemon at {folder}/swapd/swapd.sock: ")
    assert "systemctl --user start swapd" in done.err
    assert "swapd serve" in done.err


def test_nobody_at_a_tcp_address_is_unreachable(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--url", "http://127.0.0.1:1", "ps"]) == Exit.UNREACHABLE
    assert "http://127.0.0.1:1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "code", "exit_status"),
    [
        (404, "model_not_found", Exit.NOT_FOUND),
        (507, "does_not_fit", Exit.DOES_NOT_FIT),
        (422, "model_unusable", Exit.REFUSED),
        (503, "overloaded", Exit.REFUSED),
    ],
)
@pytest.mark.parametrize("is_late", [False, True])
def test_what_the_daemon_refuses(
    status: int,
    code: str,
    exit_status: int,
    is_late: bool,
    daemon: Daemon,
    script: type[Script],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Refused before the stream starts, and inside it."""
    error = {"error": {"code": code, "message": "cannot do it: \x1b[2Jreasons"}}
    waiting = {"status": "waiting", "position": 1, "fraction": None}
    daemon.replies[LOAD] = script.Reply(lines=[waiting, error]) if is_late else script.Reply(error, status)
    assert main(["load", "smollm2-135m"]) == exit_status
    told = capsys.readouterr()
    assert told.out == ""
    assert "swapctl: cannot do it: ␛[2Jreasons\n" in told.err


@pytest.mark.parametrize(
    ("status", "exit_status"), [(404, Exit.NOT_FOUND), (507, Exit.DOES_NOT_FIT), (400, Exit.REFUSED)]
)
def test_what_the_daemon_refuses_in_ollamas_words(
    status: int, exit_status: int, daemon: Daemon, script: type[Script], capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.replies[GENERATE] = script.Reply({"error": "no, because"}, status)
    assert main(["run", "smollm2-135m", "hi"]) == exit_status
    assert capsys.readouterr().err == "swapctl: no, because\n"


def test_an_answer_that_fails_in_the_middle_keeps_what_came(
    daemon: Daemon, script: type[Script], capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.replies[GENERATE] = script.Reply(lines=[{"response": "Hel", "done": False}, {"error": "the worker died"}])
    assert main(["run", "smollm2-135m", "hi"]) == Exit.REFUSED
    assert capsys.readouterr() == ("Hel\n", "swapctl: the worker died\n")


@pytest.mark.parametrize("is_cut", [False, True])
def test_a_daemon_that_goes_away_in_the_middle_is_unreachable(
    is_cut: bool, daemon: Daemon, script: type[Script], capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.replies[GENERATE] = script.Reply(lines=[{"response": "Hel", "done": False}], is_cut=is_cut)
    assert main(["run", "smollm2-135m", "hi"]) == Exit.UNREACHABLE
    assert "went away in the middle" in capsys.readouterr().err


def test_a_wrong_key_says_where_the_right_one_goes(
    tcp_daemon: Daemon, script: type[Script], capsys: pytest.CaptureFixture[str]
) -> None:
    error = {"error": {"code": "unauthorized", "message": "no key"}}
    tcp_daemon.replies["GET", "/swapd/status"] = script.Reply(error, 401)
    assert main(["status"]) == Exit.REFUSED
    assert "SWAPD_API_KEY" in capsys.readouterr().err


@pytest.mark.parametrize("body", [b"<h1>Welcome</h1>", b"[1, 2]", b'{"models": [{"name": "x"}]}', b'{"models": 7}'])
@pytest.mark.parametrize("status", [200, 404])
def test_what_is_no_swapd_is_told_without_a_traceback(
    body: bytes, status: int, daemon: Daemon, script: type[Script], capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.replies["GET", "/swapd/models"] = script.Reply(body, status)
    assert main(["ls"]) == Exit.REFUSED
    told = capsys.readouterr()
    assert told.out == ""
    assert "version?" in told.err


@pytest.mark.parametrize(
    "line",
    [
        *(
            "explain a b",
            "plan",
            "top a",
            "yield",
            "pull",
            "service",
            "doctor a",
            "replay a b",
            "clients",
            "stat",
        ),
        *("", "show", "load", "ps extra", "load a b", "ps --jso", "unload a --now", "run a --oops words"),
        *("load a --keep-alive soon", "load a --gpu-layers -1", "load a --gpu-layers many"),
        *("run a x --temperature hot", "run a x --temperature nan", "run a x --max-tokens 0"),
    ],
)
def test_wrong_usage(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == Exit.USAGE
    told = capsys.readouterr()
    assert told.out == ""
    assert "usage: swapctl" in told.err


def test_ctrl_c_ends_a_load_and_hangs_up(daemon: Daemon, script: type[Script]) -> None:
    forever = script.UntilClosed()
    daemon.replies[LOAD] = script.Reply(lines=[{"status": "loading", "position": 0, "fraction": 0.1}, forever])
    with subprocess.Popen(
        [sys.executable, "-m", "swapd.ctl", "--json", "load", "smollm2-135m"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert forever.reached.wait(script.PATIENCE)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=script.PATIENCE) == (b"", b"")
    assert process.returncode == Exit.INTERRUPTED
    assert forever.closed.wait(script.PATIENCE)


@pytest.mark.parametrize("words", [["ls"], ["--help"], ["ls", "--json"]])
def test_a_reader_that_leaves_is_no_error(words: list[str], daemon: Daemon) -> None:
    reading, writing = os.pipe()
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "swapd.ctl", *words], stdout=writing, stderr=subprocess.PIPE, env=environ, timeout=20
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (Exit.BROKEN_PIPE, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_told(daemon: Daemon) -> None:
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "swapd.ctl", "ls"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False, timeout=20)
    assert done.returncode == Exit.REFUSED
    assert done.stderr.startswith(b"swapctl: cannot write: ")
