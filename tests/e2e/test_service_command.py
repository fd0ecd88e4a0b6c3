"""`swapctl service` under a real user manager: the units come, start the daemon when it is used, and go."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swapd.demo import models
from tests.e2e.conftest import COMMON, SMOL
from tests.e2e.user_systemd import UserManager, user_manager, why_not

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(bool(why_not()), reason=why_not() or "")]

FEW_SOCKETS = "[Socket]\nListenStream=\nListenStream=%t/swapd/swapd.sock\n"
"""Without the fixed port, which may be taken on this machine."""


@pytest.fixture
def manager() -> Iterator[UserManager]:
    with user_manager() as running:
        config = running.home / ".config"
        (config / "swapd").mkdir(parents=True)
        (config / "swapd" / "config.toml").write_text(f'[catalog]\ndirs = ["{models.folder()}"]\n{COMMON}')
        drop_in = config / "systemd" / "user" / "swapd.socket.d"
        drop_in.mkdir(parents=True)
        (drop_in / "test.conf").write_text(FEW_SOCKETS)
        yield running


def swapctl(manager: UserManager, *arguments: str) -> subprocess.CompletedProcess[str]:
    return manager.run(str(Path(sys.executable).with_name("swapctl")), *arguments)


def document(manager: UserManager, *arguments: str) -> Any:
    done = swapctl(manager, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_service_is_installed_used_told_of_and_taken_away(manager: UserManager) -> None:
    assert document(manager, "service", "status")["units"]["swapd.service"]["installed"] is False

    installed = swapctl(manager, "service", "install")
    assert installed.returncode == 0, installed.stderr
    assert "the first connection starts it" in installed.stdout
    told = document(manager, "service", "status")["units"]
    assert (told["swapd.socket"]["active"], told["swapd.socket"]["enabled"]) == ("active", True)
    assert told["swapd.service"]["active"] == "inactive"

    asked = swapctl(manager, "run", SMOL, "Say hello.", "--max-tokens", "4")
    assert asked.returncode == 0, asked.stderr
    running = document(manager, "service", "status")["units"]["swapd.service"]
    assert running["active"] == "active"
    assert running["status"].startswith("serving on unix:")
    assert f"pid {running['pid']}" in swapctl(manager, "service", "status").stdout
    examined = document(manager, "doctor")["findings"]
    assert next(each["level"] for each in examined if each["about"] == "service") == "fine"
    assert [each["level"] for each in examined if each["about"] == "daemon"] == ["fine"]

    again = swapctl(manager, "service", "install", "--at-login")
    assert again.returncode == 0, again.stderr
    after = document(manager, "service", "status")["units"]["swapd.service"]
    assert (after["enabled"], after["pid"]) == (True, running["pid"]), "it goes on as it was"

    removed = swapctl(manager, "service", "uninstall")
    assert removed.returncode == 0, removed.stderr
    units = manager.home / ".config" / "systemd" / "user"
    assert sorted(path.name for path in units.iterdir() if path.is_file()) == []
    assert (units / "swapd.socket.d" / "test.conf").exists(), "the user's own settings stay"
    assert not (manager.runtime / "swapd" / "swapd.sock").exists()
    assert "nothing to remove" in swapctl(manager, "service", "uninstall").stdout


def test_units_of_somebody_else_s_are_left_alone_unless_forced(manager: UserManager) -> None:
    unit = manager.home / ".config" / "systemd" / "user" / "swapd.service"
    unit.write_text("[Service]\nExecStart=/bin/true\n")
    for verb in ("install", "uninstall"):
        refused = swapctl(manager, "service", verb)
        assert refused.returncode == 1
        assert str(unit) in refused.stderr
    assert unit.read_text() == "[Service]\nExecStart=/bin/true\n"
    assert swapctl(manager, "service", "install", "--force").returncode == 0
    program = Path(sys.executable).with_name("swapd")
    assert f"\nExecStart={program} serve\n" in unit.read_text()


def test_a_unit_starts_a_program_of_any_name(manager: UserManager) -> None:
    from swapd.ctl.service import _quoted, _text

    odd = Path('/home/a b/100%"$HOME"/swapd')
    (command,) = [line for line in _text("swapd.service", odd).splitlines() if line.startswith("ExecStart=")]
    path = manager.home / "odd.service"
    path.write_text(f"[Service]\n{command.replace(_quoted(odd), '/bin/echo ' + _quoted(odd))}\n")
    shown = manager.run("systemd-analyze", "--user", "verify", str(path))
    assert shown.returncode == 0, shown.stderr
    (manager.home / ".config" / "systemd" / "user" / "odd.service").write_text(path.read_text())
    manager.systemctl("daemon-reload")
    assert str(odd) in manager.systemctl("show", "odd.service", "--property=ExecStart").replace("$$", "$")
