"""On a terminal: the progress line, the chat, and models that would command it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from swapd.ctl.client import Exit
from swapd.ctl.terminal import harmless

if TYPE_CHECKING:
    from tests.ctl.conftest import Daemon, Script, Terminal

GENERATE = ("POST", "/api/generate")
CHAT = ("POST", "/api/chat")
Start = Callable[..., "Terminal"]


def messages(daemon: Daemon) -> list[list[tuple[str, str]]]:
    bodies = [body for body in daemon.bodies("/api/chat") if body is not None]
    return [[(message["role"], message["content"]) for message in body["messages"]] for body in bodies]


def test_a_load_draws_its_progress_in_one_line(daemon: Daemon, terminal: Start) -> None:
    screen = terminal("load", "smollm2-135m")
    assert screen.wait() == 0
    drawn, _, told = screen.shown.rpartition("\x1b[K")
    assert "\rloading smollm2-135m  [########............] 42%\x1b[K" in drawn
    assert "\rloading smollm2-135m  [##################..] 90%\x1b[K" in drawn
    assert "\n" not in drawn
    assert told.startswith("smollm2-135m is loaded: 100% GPU")


def test_a_long_status_stays_in_one_line(daemon: Daemon, script: type[Script], terminal: Start) -> None:
    lines: list[object] = [{"status": "waiting " * 40, "position": 1, "fraction": None}, script.RESIDENT]
    daemon.replies["POST", "/swapd/models/smollm2-135m/load"] = script.Reply(lines=lines)
    screen = terminal("load", "smollm2-135m")
    assert screen.wait() == 0
    assert len(screen.shown.partition("\x1b[K")[0]) <= 80


def test_a_model_cannot_command_the_terminal(daemon: Daemon, script: type[Script], terminal: Start) -> None:
    daemon.replies[GENERATE] = script.says("a\x1b]0;owned\x07", "\x9b2J\x08\rb\tc\n")
    screen = terminal("run", "smollm2-135m", "hi")
    assert screen.wait() == 0
    assert screen.shown == "a␛]0;owned␇\ufffd2J␈␍b\tc\n"


def test_what_is_harmless_stays_as_it_is() -> None:
    assert harmless("tab\tline\nümläut 赤 👍🏽") == "tab\tline\nümläut 赤 👍🏽"


def test_a_chat_remembers_until_it_is_cleared(daemon: Daemon, script: type[Script], terminal: Start) -> None:
    answers = iter([script.chats("One", "."), script.chats("Two."), script.chats("Three.")])
    daemon.replies[CHAT] = lambda request: next(answers)
    screen = terminal("run", "smollm2-135m", "--system", "Be brief.", "--keep-alive", "1h")
    screen.expect(">>> ")
    screen.type("first\n")
    screen.expect("One.\n")
    screen.expect(">>> ")
    screen.type("second\n")
    screen.expect("Two.\n")
    screen.type("/clear\n")
    screen.expect("forgotten")
    screen.type("third\n")
    screen.expect("Three.\n")
    screen.type("/bye\n")
    assert screen.wait() == 0
    system = ("system", "Be brief.")
    assert messages(daemon) == [
        [system, ("user", "first")],
        [system, ("user", "first"), ("assistant", "One."), ("user", "second")],
        [system, ("user", "third")],
    ]
    assert daemon.bodies("/swapd/models/smollm2-135m/load") == [{"keep_alive": "1h"}]


def test_a_message_of_several_lines(daemon: Daemon, script: type[Script], terminal: Start) -> None:
    daemon.replies[CHAT] = script.chats("Read.")
    screen = terminal("run", "smollm2-135m")
    screen.expect(">>> ")
    screen.type('"""first\n')
    screen.expect("... ")
    screen.type('/bye\n"""\n')
    screen.expect("Read.")
    screen.expect(">>> ")
    screen.type("\x04")
    assert screen.wait() == 0
    assert messages(daemon) == [[("user", "first\n/bye")]]


def test_ctrl_c_stops_the_answer_and_stays(daemon: Daemon, script: type[Script], terminal: Start) -> None:
    forever = script.UntilClosed()
    endless = script.Reply(lines=[{"message": {"role": "assistant", "content": "So far"}, "done": False}, forever])
    answers = iter([endless, script.chats("Done.")])
    daemon.replies[CHAT] = lambda request: next(answers)
    screen = terminal("run", "smollm2-135m")
    screen.expect(">>> ")
    screen.type("talk\n")
    screen.expect("So far")
    screen.type("\x03")
    assert forever.closed.wait(script.PATIENCE)
    screen.expect(">>> ")
    screen.press_until("\x03", "/bye leaves")
    screen.expect(">>> ")
    screen.type("and?\n")
    screen.expect("Done.")
    screen.expect(">>> ")
    screen.type("\x04")
    assert screen.wait() == 0
    assert messages(daemon)[1] == [("user", "talk"), ("assistant", "So far"), ("user", "and?")]


def test_a_refusal_does_not_end_the_chat(daemon: Daemon, script: type[Script], terminal: Start) -> None:
    answers = iter([script.Reply({"error": "too long"}, 400), script.chats("Fine.")])
    daemon.replies[CHAT] = lambda request: next(answers)
    screen = terminal("run", "smollm2-135m")
    screen.type("long\n")
    screen.expect("swapctl: too long")
    screen.type("short\n")
    screen.expect("Fine.")
    screen.type("/nonsense\n")
    screen.expect("There is no command /nonsense")
    screen.type("/?\n")
    screen.expect("/clear")
    screen.type("/bye\n")
    assert screen.wait() == 0
    assert messages(daemon)[1] == [("user", "short")]


def test_a_chat_with_an_unknown_model_does_not_begin(daemon: Daemon, script: type[Script], terminal: Start) -> None:
    error = {"error": {"code": "model_not_found", "message": "model 'x' not found"}}
    daemon.replies["POST", "/swapd/models/x/load"] = script.Reply(error, 404)
    screen = terminal("run", "x")
    assert screen.wait() == Exit.NOT_FOUND
    assert ">>>" not in screen.shown


def test_a_chat_is_no_json_document(daemon: Daemon, terminal: Start) -> None:
    screen = terminal("run", "smollm2-135m", "--json")
    assert screen.wait() == Exit.USAGE


@pytest.mark.parametrize("is_answering", [False, True])
def test_ctrl_c_ends_a_question(is_answering: bool, daemon: Daemon, script: type[Script], terminal: Start) -> None:
    """While it waits, and while it is answered: the daemon sees the connection close."""
    forever = script.UntilClosed()
    first = {"response": "So far", "done": False} if is_answering else {"status": "waiting", "position": 1}
    daemon.replies[GENERATE] = script.Reply(lines=[first, forever])
    screen = terminal("run", "smollm2-135m", "hi")
    screen.expect("So far" if is_answering else "waiting")
    assert forever.reached.wait(script.PATIENCE)
    screen.type("\x03")
    assert screen.wait() == Exit.INTERRUPTED == 128 + signal.SIGINT
    assert forever.closed.wait(script.PATIENCE)
    assert "Traceback" not in screen.shown
