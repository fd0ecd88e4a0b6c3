"""Where swapctl looks for the daemon, and what it shows there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from swapd.ctl.__main__ import main
from swapd.ctl.client import Exit, Failure, default_socket, parse_address
from swapd.host.listen import UnixAddress, parse

if TYPE_CHECKING:
    from tests.ctl.conftest import Daemon


@pytest.mark.parametrize(
    "environ", [{"XDG_RUNTIME_DIR": "/run/mine"}, {"XDG_RUNTIME_DIR": "not/absolute"}, {}, {"TMPDIR": "/var/tmp"}]
)
def test_the_usual_socket_is_the_one_that_the_daemon_listens_on(environ: dict[str, str]) -> None:
    assert UnixAddress(Path(default_socket(environ))) == parse("unix:$XDG_RUNTIME_DIR/swapd/swapd.sock", environ)


def test_a_private_folder_of_someone_else_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"swapd-{os.getuid()}").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(os, "lstat", lambda path: os.stat_result((0o40700, 0, 0, 1, os.getuid() + 1, 0, 0, 0, 0, 0)))
    with pytest.raises(Failure, match="belongs to someone else") as caught:
        default_socket({"TMPDIR": str(tmp_path)})
    assert caught.value.exit is Exit.UNREACHABLE


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("unix:/run/a.sock", "/run/a.sock"),
        ("unix:///run/a.sock", "/run/a.sock"),
        ("http://localhost:11435", "http://localhost:11435"),
        ("http://localhost:11435/", "http://localhost:11435"),
        ("http://[::1]:11435", "http://[::1]:11435"),
        ("http://gpu-box", "http://gpu-box:80"),
    ],
)
def test_addresses_that_are_understood(url: str, address: str) -> None:
    assert str(parse_address(url)) == address


@pytest.mark.parametrize(
    "url", ["localhost:11435", "unix:relative", "http://", "http://h:99999", "http://h:1/v1", "ftp://h", "http://[::1"]
)
def test_other_addresses_are_wrong_usage(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--url", url, "ps"]) == Exit.USAGE
    assert "http://HOST:PORT or unix:/PATH" in capsys.readouterr().err


def test_the_key_goes_along_over_tcp(tcp_daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWAPD_API_KEY", "secret\n")
    assert main(["status"]) == 0
    assert tcp_daemon.requests[0].headers["Authorization"] == "Bearer secret"


def test_the_key_does_not_go_to_a_socket(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWAPD_API_KEY", "secret")
    assert main(["status"]) == 0
    assert "Authorization" not in daemon.requests[0].headers


def test_a_key_that_would_break_out_of_its_header_is_wrong_usage(
    tcp_daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWAPD_API_KEY", "secret\r\nX-Other: 1")
    assert main(["status"]) == Exit.USAGE
    assert not tcp_daemon.requests


def test_the_option_wins_over_the_environment_before_and_after_the_command(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWAPD_URL", "unix:/nowhere")
    assert main(["--url", daemon.url, "status"]) == 0
    assert main(["status", "--url", daemon.url]) == 0


def test_the_start_loads_only_the_standard_library() -> None:
    """Instant start-up, kept by what is not imported: no timing on shared machines."""
    code = "import sys; before = {*sys.modules}; import swapd.ctl.__main__; print(*{*sys.modules} - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
    loaded = set(done.stdout.split())
    assert "swapd.ctl.commands" in loaded
    slow = {"aiohttp", "asyncio", "pydantic", "msgspec", "structlog", "dataclasses", "readline", "tempfile"}
    assert not slow & loaded
    ours = {name for name in loaded if name.startswith("swapd.") and not name.startswith("swapd.ctl")}
    assert ours == {"swapd.units"}
