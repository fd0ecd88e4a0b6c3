"""The official JavaScript clients, and what is built on them, against a live daemon: tests of Node's own runner.

Each file of `npm/` tests one client; `npm/package.json` says which versions.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e import node
from tests.e2e.conftest import SMOL, Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(bool(node.why_not()), reason=node.why_not() or "")]

HERE = Path(__file__).with_name("npm")
SUITES = sorted(path.name for path in HERE.glob("*.test.mjs"))


@pytest.fixture(scope="module")
def folder() -> Path:
    """Where the tests and what they import lie side by side, as Node wants it."""
    folder = node.installed("clients", json.loads((HERE / "package.json").read_text())["dependencies"])
    for path in HERE.glob("*.mjs"):
        shutil.copy(path, folder)
    return folder


@pytest.mark.timeout(600)  # the first time, packages are fetched
@pytest.mark.parametrize("suite", SUITES)
def test_a_client_s_tests_pass(daemon: Daemon, folder: Path, suite: str) -> None:
    done = subprocess.run(
        ["node", "--test", "--test-concurrency=1", suite],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "DAEMON_URL": daemon.url, "DAEMON_MODEL": SMOL},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = re.search(r"^\S+ pass (\d+)$", done.stdout, re.MULTILINE)
    assert passed is not None
    assert int(passed[1]) == (HERE / suite).read_text().count('\ntest("')
