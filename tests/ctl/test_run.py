"""`swapctl run` with a question: pipes, streams, options."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from swapd.ctl.__main__ import main
from swapd.ctl.client import Exit

if TYPE_CHECKING:
    from tests.ctl.conftest import Daemon, Done, Script

GENERATE = ("POST", "/api/generate")


def asked(daemon: Daemon) -> object:
    (body,) = daemon.bodies("/api/generate")
    assert body is not None
    return body["prompt"]


def test_every_piece_is_written_as_it_comes(daemon: Daemon, script: type[Script]) -> None:
    hold = script.Hold()
    lines = [{"response": "Hel", "done": False}, hold, {"response": "lo\n", "done": False}, script.FINAL]
    daemon.replies[GENERATE] = script.Reply(lines=lines)
    command = [sys.executable, "-m", "swapd.ctl", "run", "smollm2-135m", "hi"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(3) == b"Hel"
        hold.let_go.set()
        assert process.communicate(timeout=script.PATIENCE)[0] == b"lo\n"
    assert process.returncode == 0


def test_an_answer_ends_its_line(daemon: Daemon, swapctl: Callable[..., Done]) -> None:
    assert swapctl("run", "smollm2-135m", "hi") == type(swapctl("--version"))(0, "Hello there\n", "")


@pytest.mark.parametrize(
    ("words", "stdin", "prompt"),
    [
        (["one question"], None, "one question"),
        (["several", "words"], None, "several words"),
        (["a", "--verbose", "b"], None, "a b"),
        (["--", "--help", "me"], None, "--help me"),
        (["--verbose", "--", "-x"], None, "-x"),
        ([], b"piped\nlines\n", "piped\nlines\n"),
        (["Sum up:"], b"piped", "Sum up:\npiped"),
        (["Sum up:"], b"", "Sum up:"),
        ([], b"\xff\xc3\xa9", "\ufffdé"),
    ],
)
def test_the_prompt_is_what_is_typed_and_what_is_piped_in(
    words: list[str], stdin: bytes | None, prompt: str, daemon: Daemon, swapctl: Callable[..., Done]
) -> None:
    assert swapctl("run", "smollm2-135m", *words, stdin=stdin).status == 0
    assert asked(daemon) == prompt


@pytest.mark.parametrize("stdin", [None, b"", b" \n"])
def test_nothing_to_ask_is_wrong_usage(stdin: bytes | None, daemon: Daemon, swapctl: Callable[..., Done]) -> None:
    assert swapctl("run", "smollm2-135m", stdin=stdin).status == Exit.USAGE
    assert not daemon.requests


def test_options_go_along_and_what_was_not_said_does_not(
    daemon: Daemon, swapctl: Callable[..., Done], capsys: pytest.CaptureFixture[str]
) -> None:
    said = ["--system", "Be brief.", "--temperature", "0", "--max-tokens", "7", "--keep-alive", "0"]
    assert main(["run", "smollm2-135m", "hi"]) == 0
    assert main(["run", "smollm2-135m", "hi", *said]) == 0
    plain = {"model": "smollm2-135m", "prompt": "hi", "stream": True}
    options = {"temperature": 0.0, "num_predict": 7}
    assert daemon.bodies("/api/generate") == [
        plain,
        plain | {"system": "Be brief.", "options": options, "keep_alive": "0"},
    ]


def test_verbose_tells_the_times_on_stderr(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "smollm2-135m", "hi", "--verbose"]) == 0
    told = capsys.readouterr()
    assert told.out == "Hello there\n"
    rows = [line.split(None, 1) for line in told.err.strip().splitlines()]
    assert [row[0] for row in rows] == ["load", "prompt", "answer", "total"]
    assert " ".join(rows[1][1].split()) == "31 tokens in 124 ms 250 tokens/s"
    assert " ".join(rows[2][1].split()) == "2 tokens in 50 ms 40 tokens/s"


def test_json_gives_the_whole_answer(daemon: Daemon, script: type[Script], capsys: pytest.CaptureFixture[str]) -> None:
    daemon.replies[GENERATE] = script.says("\x1b[31mred", " 赤\ud800")
    assert main(["run", "smollm2-135m", "hi", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == {
        "model": "smollm2-135m",
        "response": "\x1b[31mred 赤\ud800",
        "done_reason": "stop",
        "total_duration": 1_500_000_000,
        "load_duration": 350_000_000,
        "prompt_eval_count": 31,
        "prompt_eval_duration": 124_000_000,
        "eval_count": 2,
        "eval_duration": 50_000_000,
    }


def test_a_pipe_gets_the_models_words_untouched(
    daemon: Daemon, script: type[Script], swapctl: Callable[..., Done]
) -> None:
    daemon.replies[GENERATE] = script.says("\x1b[31mred", "\r\n\ttab")
    assert swapctl("run", "smollm2-135m", "hi").out == "\x1b[31mred\r\n\ttab\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_characters_that_the_locale_has_not_are_no_error(
    encoding: str, daemon: Daemon, script: type[Script], swapctl: Callable[..., Done]
) -> None:
    daemon.replies[GENERATE] = script.says("赤", "\ud800")
    done = swapctl("run", "smollm2-135m", "hi", PYTHONIOENCODING=encoding)
    assert (done.status, done.out) == (0, "??\n")


def test_waiting_is_told_on_stderr(daemon: Daemon, script: type[Script], swapctl: Callable[..., Done]) -> None:
    waiting: list[object] = [
        {"status": "waiting: place 2", "position": 2, "fraction": None},
        {"status": "waiting: place 2", "position": 2, "fraction": None},
        {"status": "loading smollm2-135m: 30%", "position": 0, "fraction": 0.3},
        {"status": "loading smollm2-135m: 31%", "position": 0, "fraction": 0.31},
        {"status": "loading smollm2-135m: 80%", "position": 0, "fraction": 0.8},
    ]
    daemon.replies[GENERATE] = script.Reply(lines=[*waiting, {"response": "Hi", "done": False}, script.FINAL])
    done = swapctl("run", "smollm2-135m", "hi")
    assert done.out == "Hi\n"
    assert done.err == "waiting: place 2\nloading smollm2-135m 30%\nloading smollm2-135m 80%\n"
