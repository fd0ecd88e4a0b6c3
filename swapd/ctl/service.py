"""`swapctl service`: the systemd user units, put in place, taken away, and how they are.

Called by `commands`, and by `doctor` for how they are. Talks to `systemctl --user`, not to the daemon. The units are
those of the project's `systemd/` folder, with the path of this installation's `swapd` in them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import swapd
from swapd.ctl.client import Exit, Failure, Json
from swapd.ctl.terminal import cell

UNITS: Final = ("swapd.socket", "swapd.service")
_MARK: Final = "# Put here by `swapctl service install`; `swapctl service uninstall` takes it away.\n"
_COMMAND: Final = "ExecStart=%h/.local/bin/swapd serve\n"
"""What the unit has where it is not told otherwise."""
_LIMIT: Final = 120
"""Seconds: a stop drains for up to 30."""
_LOG_LINES: Final = 8


@dataclass(frozen=True, slots=True)
class Installation:
    """`units`: where unit files belong; `program`: the `swapd` that they are to start."""

    units: Path
    program: Path

    @staticmethod
    def of(environ: Mapping[str, str]) -> Installation:
        home = environ.get("XDG_CONFIG_HOME", "")
        folder = Path(home) if os.path.isabs(home) else Path.home() / ".config"
        return Installation(folder / "systemd" / "user", Path(sys.executable).with_name("swapd"))


def install(arguments: Namespace) -> tuple[Json, str]:
    """Idempotent. Raises Failure, with nothing written where that can be known before."""
    where = Installation.of(os.environ)
    _check_manager()
    if not where.program.is_file():
        raise Failure(Exit.REFUSED, f"cannot install the units: there is no program {where.program}")
    texts = {unit: _MARK + _text(unit, where.program) for unit in UNITS}
    for unit in UNITS:
        if not arguments.force and _is_foreign(where.units / unit):
            raise Failure(
                Exit.REFUSED,
                f"cannot install the units: {where.units / unit} is there and was not put there by swapctl; "
                "move it away, or use --force. Own settings belong into `systemctl --user edit`, which stays.",
            )
    where.units.mkdir(parents=True, exist_ok=True)
    for unit, text in texts.items():
        (where.units / unit).write_text(text)
    _systemctl("daemon-reload")
    _systemctl("enable", *(UNITS if arguments.at_login else UNITS[:1]))
    _systemctl("start", *(UNITS if arguments.at_login else UNITS[:1]))
    document = {"installed": [str(where.units / unit) for unit in UNITS], **state(where)}
    starts = "it starts at login" if arguments.at_login else "the first connection starts it"
    lines = [*(f"wrote {cell(path)}" for path in document["installed"]), f"swapd is a service now: {starts}"]
    if document["lingers"] is False:
        lines.append("to have it also while you are not logged in: loginctl enable-linger")
    return document, "\n".join(lines)


def uninstall(arguments: Namespace) -> tuple[Json, str]:
    """Stops what runs, and removes what `install` wrote; settings made with `systemctl edit` stay. Raises Failure."""
    where = Installation.of(os.environ)
    found = [unit for unit in UNITS if (where.units / unit).exists()]
    foreign = [unit for unit in found if not arguments.force and _is_foreign(where.units / unit)]
    if foreign:
        raise Failure(
            Exit.REFUSED,
            f"cannot uninstall the units: {where.units / foreign[0]} was not put there by swapctl; remove it by hand, "
            "or use --force",
        )
    if found:
        _check_manager()
        _systemctl("disable", "--now", *found)
        for unit in found:
            (where.units / unit).unlink()
        _systemctl("daemon-reload")
    removed = [str(where.units / unit) for unit in found]
    page = "\n".join(f"removed {cell(path)}" for path in removed) or "nothing to remove: the units are not installed"
    return {"removed": removed}, page


def status(arguments: Namespace) -> tuple[Json, str]:
    """Raises Failure where there is no user manager to ask."""
    _check_manager()
    where = Installation.of(os.environ)
    document = state(where)
    lines = [f"{unit:<16}{cell(_sentence(document['units'][unit]))}" for unit in UNITS]
    if document["lingers"] is False:
        lines.append("it ends when you log out; `loginctl enable-linger` keeps it")
    document["log"] = _log()
    if document["log"]:
        lines += ["", *map(cell, document["log"]), "(all of it: journalctl --user --unit swapd)"]
    return document, "\n".join(lines)


def state(where: Installation) -> Json:
    """How the manager sees the units; one it does not know is not installed. Raises Failure."""
    names = ("LoadState", "ActiveState", "SubState", "UnitFileState", "MainPID", "Result", "NRestarts", "StatusText")
    units: dict[str, Json] = {}
    for unit in UNITS:
        shown = _systemctl("show", unit, *(f"--property={name}" for name in names))
        told = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
        units[unit] = {
            "installed": told.get("LoadState") == "loaded",
            "path": str(where.units / unit) if (where.units / unit).exists() else None,
            "active": told.get("ActiveState", "unknown"),
            "sub": told.get("SubState", ""),
            "enabled": told.get("UnitFileState") in ("enabled", "enabled-runtime"),
            "pid": int(told.get("MainPID") or 0),
            "result": told.get("Result", ""),
            "restarts": int(told.get("NRestarts") or 0),
            "status": told.get("StatusText", ""),
        }
    return {"units": units, "lingers": _lingers()}


def why_no_manager() -> str | None:
    """Why `systemctl --user` cannot be asked; None: it answers."""
    if shutil.which("systemctl") is None:
        return "there is no systemctl on this machine"
    try:
        _systemctl("show", "--property=Version")
    except Failure as failure:
        return str(failure)
    return None


def _check_manager() -> None:
    why = why_no_manager()
    if why is not None:
        raise Failure(Exit.REFUSED, f"cannot ask systemd: {why}. Without it, `swapd serve` runs in a terminal.")


def _text(unit: str, program: Path) -> str:
    """The project's unit, which lies beside the package or, of an installed one, among its data files."""
    for folder in (Path(swapd.__file__).parents[1] / "systemd", Path(sys.prefix) / "share" / "swapd" / "systemd"):
        if (folder / unit).is_file():
            text = (folder / unit).read_text()
            return text.replace(_COMMAND, f"ExecStart={_quoted(program)} serve\n")
    raise Failure(Exit.REFUSED, f"cannot install the units: {unit} is not part of this installation of swapd")


def _quoted(program: Path) -> str:
    """As systemd reads a word: `%` and `$` mean nothing, spaces divide nothing."""
    text = str(program).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{text}"' if any(character.isspace() or character in "\"'\\;" for character in text) else text


def _is_foreign(path: Path) -> bool:
    """A file that `install` did not write, whatever it says."""
    try:
        return not path.read_text(errors="replace").startswith(_MARK)
    except FileNotFoundError:
        return False


def _sentence(unit: Json) -> str:
    if not unit["installed"]:
        return "not installed (`swapctl service install` does it)"
    parts = [f"{unit['active']} ({unit['sub']})", "enabled" if unit["enabled"] else "not enabled"]
    if unit["pid"]:
        parts.append(f"pid {unit['pid']}")
    if unit["restarts"]:
        parts.append(f"restarted {unit['restarts']} times by itself")
    if unit["result"] not in ("", "success"):
        parts.append(f"ended by {unit['result']}")
    if unit["status"]:
        parts.append(unit["status"])
    return ", ".join(parts)


def _lingers() -> bool | None:
    """Whether the user's units outlive the login; None: nobody can tell."""
    if shutil.which("loginctl") is None:
        return None
    import pwd

    return Path("/var/lib/systemd/linger", pwd.getpwuid(os.getuid()).pw_name).exists()


def _log() -> list[str]:
    """The daemon's last lines; none where no journal is kept."""
    command = ["journalctl", "--user", "--unit=swapd.service", f"--lines={_LOG_LINES}", "--output=cat", "--no-pager"]
    try:
        done = subprocess.run(  # noqa: S603 (fixed words)
            [*command, "--quiet"], capture_output=True, text=True, errors="replace", timeout=_LIMIT, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


def _systemctl(*words: str) -> str:
    """What it prints. Raises Failure with its own words."""
    command = ["systemctl", "--user", "--no-pager", *words]
    try:
        done = subprocess.run(  # noqa: S603 (no shell; words of ours)
            command, capture_output=True, text=True, errors="replace", timeout=_LIMIT, check=False
        )
    except FileNotFoundError as error:
        raise Failure(Exit.REFUSED, "there is no systemctl on this machine") from error
    except subprocess.TimeoutExpired as error:
        raise Failure(Exit.REFUSED, f"`{' '.join(command)}` has not ended within {_LIMIT} s") from error
    if done.returncode != 0:
        why = done.stderr.strip() or f"status {done.returncode}"
        raise Failure(Exit.REFUSED, f"`{' '.join(command)}` failed: {why}")
    return done.stdout
