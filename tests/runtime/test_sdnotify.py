"""What the service manager hears."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from swapd.runtime.sdnotify import notify, watchdog_interval


def listen(address: str) -> socket.socket:
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.settimeout(10)
    manager.bind(address)
    return manager


def test_the_manager_gets_one_message_with_a_line_for_each_assignment(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with listen(path) as manager:
        assert notify("READY=1", "STATUS=two models", environ={"NOTIFY_SOCKET": path})
        assert manager.recv(4096) == b"READY=1\nSTATUS=two models"


def test_an_abstract_address_is_understood() -> None:
    name = f"swapd-test-notify-{os.getpid()}"
    with listen("\0" + name) as manager:
        assert notify("WATCHDOG=1", environ={"NOTIFY_SOCKET": "@" + name})
        assert manager.recv(4096) == b"WATCHDOG=1"


def test_a_line_break_in_a_status_forges_no_assignment(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with listen(path) as manager:
        assert notify("STATUS=model\nMAINPID=1", environ={"NOTIFY_SOCKET": path})
        assert manager.recv(4096) == b"STATUS=model MAINPID=1"


@pytest.mark.parametrize("address", ["", "@", "relative", "/nowhere/at/all"])
def test_without_a_manager_nothing_happens(address: str) -> None:
    assert not notify("READY=1", environ={"NOTIFY_SOCKET": address})
    assert not notify("READY=1", environ={})


def test_the_watchdog_is_fed_twice_as_often_as_the_manager_asks() -> None:
    assert watchdog_interval({"WATCHDOG_USEC": "30000000"}) == 15.0
    assert watchdog_interval({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}) == 15.0


@pytest.mark.parametrize(
    "environ",
    [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}],
    ids=["none", "off", "unreadable", "another process"],
)
def test_no_watchdog_for_this_process_means_no_interval(environ: dict[str, str]) -> None:
    assert watchdog_interval(environ) is None
