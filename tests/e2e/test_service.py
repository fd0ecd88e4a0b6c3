"""swapd under a real user manager: sockets handed over, readiness, the watchdog, restarts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from swapd.demo import models
from tests.e2e.conftest import COMMON, SMOL
from tests.e2e.user_systemd import UserManager, user_manager, why_not

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(bool(why_not()), reason=why_not() or "")]

SERVICE = "swapd.service"
FEW_SOCKETS = "[Socket]\nListenStream=\nListenStream=%t/swapd/swapd.sock\n"
"""Without the fixed port, which may be taken on this machine."""


@pytest.fixture(scope="module")
def manager() -> Iterator[UserManager]:
    with user_manager() as running:
        config = running.home / ".config" / "swapd" / "config.toml"
        config.parent.mkdir(parents=True)
        config.write_text(f'[catalog]\ndirs = ["{models.folder()}"]\n{COMMON}')
        program = Path(sys.executable).with_name("swapd")
        running.install(program, service="[Service]\nWatchdogSec=5\nRestartSec=0\n", socket=FEW_SOCKETS)
        running.systemctl("start", "swapd.socket")
        yield running


def swapctl(manager: UserManager, *arguments: str) -> subprocess.CompletedProcess[str]:
    return manager.run(str(Path(sys.executable).with_name("swapctl")), *arguments)


def wait_main_pid(manager: UserManager, accepted: Callable[[int], bool]) -> int:
    """The daemon's process id, as soon as the manager calls it active and it is one of these."""
    seen: dict[str, str] = {}
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        seen = manager.show(SERVICE, "MainPID", "ActiveState")
        if seen["ActiveState"] == "active" and accepted(int(seen["MainPID"])):
            return int(seen["MainPID"])
    raise AssertionError(f"not so: {seen}\n{manager.systemctl('status', SERVICE, check=False)}")


def test_the_first_connection_starts_the_daemon_on_the_manager_s_socket(manager: UserManager) -> None:
    assert manager.show(SERVICE, "ActiveState")["ActiveState"] == "inactive"

    asked = swapctl(manager, "run", SMOL, "Say hello.", "--max-tokens", "8")

    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.strip()
    assert manager.show(SERVICE, "ActiveState", "StatusText")["StatusText"].startswith("serving on unix:")


def test_the_manager_restarts_a_killed_daemon_and_no_worker_is_left(manager: UserManager) -> None:
    swapctl(manager, "load", SMOL)
    pid = wait_main_pid(manager, bool)
    workers = psutil.Process(pid).children(recursive=True)

    os.kill(pid, signal.SIGKILL)

    assert wait_main_pid(manager, lambda now: now not in (0, pid))
    assert psutil.wait_procs(workers, timeout=10)[1] == []
    assert swapctl(manager, "ps").returncode == 0


def test_the_watchdog_ends_a_daemon_that_hangs(manager: UserManager) -> None:
    swapctl(manager, "status")
    pid = wait_main_pid(manager, bool)

    os.kill(pid, signal.SIGSTOP)

    assert wait_main_pid(manager, lambda now: now not in (0, pid))
    assert swapctl(manager, "status").returncode == 0


def test_reload_and_stop_keep_the_socket(manager: UserManager) -> None:
    swapctl(manager, "status")
    manager.systemctl("reload", SERVICE)
    manager.systemctl("stop", SERVICE)

    assert manager.show(SERVICE, "ActiveState", "Result") == {"ActiveState": "inactive", "Result": "success"}
    assert swapctl(manager, "status").returncode == 0, "the socket is there and starts it again"
