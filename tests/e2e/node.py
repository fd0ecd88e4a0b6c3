"""Programs from npm, installed into a folder of the test environment when they are first asked for.

No lock file: what the version ranges admit today is what users get today. A folder is kept for as long as its
ranges, and the Node.js that they were installed for, stay the same.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import pytest

_ROOT = Path(sys.prefix) / "npm"
OLDEST = 20
"""What the clients say that they need."""
_LIMIT = 500
"""Seconds for one installation."""


def why_not() -> str | None:
    """Why nothing from npm can be run here; None: it can."""
    absent = [name for name in ("node", "npm") if shutil.which(name) is None]
    if absent:
        return f"{' and '.join(absent)} not installed"
    major = int(_version().removeprefix("v").partition(".")[0])
    return None if major >= OLDEST else f"Node.js {major} is installed, and these packages want {OLDEST} or newer"


def installed(name: str, ranges: Mapping[str, str]) -> Path:
    """The folder that holds `node_modules` with these packages. Skips the test where the registry is not reached, and
    fails it where CI is."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    wanted = json.dumps({"node": _version(), "ranges": dict(sorted(ranges.items()))})
    folder = _ROOT / name
    folder.mkdir(parents=True, exist_ok=True)
    stamp = folder / ".ready"  # written last
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.is_file() and stamp.read_text() == wanted:
            return folder
        shutil.rmtree(folder / "node_modules", ignore_errors=True)
        (folder / "package.json").write_text(json.dumps({"private": True, "type": "module", "dependencies": ranges}))
        _install(folder)
        stamp.write_text(wanted)
    return folder


@functools.cache
def _version() -> str:
    """Like `v20.20.2`."""
    return subprocess.run(["node", "--version"], capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def _install(folder: Path) -> None:
    command = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, timeout=_LIMIT, stdin=subprocess.DEVNULL
        )
        why = "" if done.returncode == 0 else (done.stderr or done.stdout).strip()[-1000:]
    except subprocess.TimeoutExpired:
        why = f"no end after {_LIMIT} s"
    if why:
        cannot_install(folder.name, why)


def cannot_install(what: str, why: str) -> NoReturn:
    """Fails the test where CI is; elsewhere the registry may be out of reach, and it is skipped."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{what} could not be installed: {why}")
