"""A real `systemd --user` of the tests' own, for as long as a `with` lasts.

Works as root in a container or on a machine with another init: the manager gets a home, a runtime folder and a
control group for itself alone, and nothing of it is left behind. `why_not()` tells where it cannot work.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MANAGER = next(
    (Path(path) for path in ("/lib/systemd/systemd", "/usr/lib/systemd/systemd") if Path(path).exists()), None
)
BOOTED = Path("/run/systemd/system")  # systemd's tools look for this folder before they do anything
HIERARCHIES = ("/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup")
UNITS = Path(__file__).parents[2] / "systemd"


@dataclass(frozen=True, slots=True)
class UserManager:
    home: Path  # what units call %h
    runtime: Path  # what units call %t; short, because sockets' paths are
    environ: dict[str, str]

    def systemctl(self, *arguments: str, check: bool = True, timeout: float = 90) -> str:
        """What `systemctl --user` prints; fails with its complaint and the unit's state when `check` and it refuses."""
        ended = self.run("systemctl", "--user", "--no-pager", *arguments, timeout=timeout)
        assert not check or ended.returncode == 0, f"systemctl {arguments}: {ended.stderr}"
        return ended.stdout.strip()

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit, such as ActiveState, MainPID, NRestarts, Result."""
        lines = self.systemctl("show", unit, *(f"--property={name}" for name in properties)).splitlines()
        return dict(line.split("=", 1) for line in lines)

    def install(self, program: Path, **drop_ins: str) -> None:
        """Put swapd's units in place as they are, `program` as ~/.local/bin/swapd, and drop-ins (service=TEXT)."""
        into = self.home / ".config" / "systemd" / "user"
        for unit in sorted(UNITS.iterdir()):
            (into / f"{unit.name}.d").mkdir(parents=True, exist_ok=True)
            shutil.copy(unit, into)
        for kind, text in drop_ins.items():
            (into / f"swapd.{kind}.d" / "test.conf").write_text(text)
        link = self.home / ".local" / "bin" / "swapd"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(program)
        self.systemctl("daemon-reload")

    def run(self, *command: str, timeout: float = 90) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=self.environ, capture_output=True, text=True, timeout=timeout)


def why_not() -> str | None:
    """Why no manager can run here; None when one can."""
    if MANAGER is None or shutil.which("systemctl") is None:
        return "systemd is not installed"
    if os.geteuid() != 0:
        return "only root can give a user manager a control group of its own"
    if not any(os.access(f"{tree}/cgroup.procs", os.W_OK) for tree in HIERARCHIES):
        return "no control group can be made here"
    return None


@contextlib.contextmanager
def user_manager(**extra: str) -> Iterator[UserManager]:
    """A running manager; its services inherit its environment, and so `extra`. On the way out all of them end."""
    with contextlib.ExitStack() as cleanup:
        root = Path(tempfile.mkdtemp(prefix="swapd-"))
        cleanup.callback(shutil.rmtree, root, ignore_errors=True)
        home, runtime = root / "home", root / "run"
        home.mkdir()
        runtime.mkdir(mode=0o700)
        if not BOOTED.exists():
            BOOTED.mkdir(parents=True)
            cleanup.callback(_remove_if_empty, BOOTED)
        groups = _make_groups(root.name)
        for group in groups:
            cleanup.callback(_remove_group, group)
        environ = {
            "PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(home), "XDG_RUNTIME_DIR": str(runtime), **extra,
        }  # fmt: skip
        _boot(root, groups, environ, cleanup)
        yield UserManager(home, runtime, environ)


def _boot(root: Path, groups: list[Path], environ: dict[str, str], cleanup: contextlib.ExitStack) -> None:
    """Start the manager inside its groups and return when it says that it is ready."""
    log = root / "manager.log"
    enter = 'for group; do echo $$ >"$group/cgroup.procs" || :; done; exec "$MANAGER" --user'
    # Closed once it is ready: it tells more at every reload, and would wait for ever for somebody to read that.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.bind(str(root / "ready"))
        ready.settimeout(1)
        with log.open("wb") as output:
            manager = subprocess.Popen(
                ["/bin/sh", "-c", enter, "sh", *map(str, groups)],
                env={**environ, "NOTIFY_SOCKET": str(root / "ready"), "MANAGER": str(MANAGER)},
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
        cleanup.callback(_end, manager)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and manager.poll() is None:
            with contextlib.suppress(TimeoutError):
                if b"READY=1" in ready.recv(4096).splitlines():
                    return
    raise AssertionError(f"the user manager did not start: {log.read_text(errors='replace')}")


def _end(manager: subprocess.Popen[bytes]) -> None:
    manager.send_signal(signal.SIGTERM)  # it stops its units first
    try:
        manager.wait(60)
    except subprocess.TimeoutExpired:
        manager.kill()
        manager.wait()


def _make_groups(name: str) -> list[Path]:
    made = []
    for tree in HIERARCHIES:
        if os.access(f"{tree}/cgroup.procs", os.W_OK):
            group = Path(tree) / name
            with contextlib.suppress(OSError):
                group.mkdir()
                made.append(group)
    return made


def _remove_group(group: Path) -> None:
    """End what is still inside and remove it with the groups that the manager made in it."""
    for folder, _, _ in os.walk(group, topdown=False):
        for line in (Path(folder) / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(line), signal.SIGKILL)
        _remove_if_empty(Path(folder))


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
