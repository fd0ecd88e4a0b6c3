"""`swapctl service` where there is no systemd: it says so, and what to do instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from swapd.ctl.client import Exit

if TYPE_CHECKING:
    from tests.ctl.conftest import Done


@pytest.mark.parametrize("verb", ["install", "status"])
def test_without_a_manager_nothing_is_written(swapctl: Callable[..., Done], folder: Path, verb: str) -> None:
    done = swapctl("service", verb, HOME=str(folder), XDG_CONFIG_HOME=str(folder), PATH=str(folder))
    assert done.status == Exit.REFUSED
    assert "no systemctl" in done.err
    assert "swapd serve" in done.err
    assert list(folder.iterdir()) == []


def test_nothing_installed_is_nothing_to_remove(swapctl: Callable[..., Done], folder: Path) -> None:
    done = swapctl("service", "uninstall", "--json", HOME=str(folder), XDG_CONFIG_HOME=str(folder), PATH=str(folder))
    assert (done.status, done.out) == (0, '{\n  "removed": []\n}\n')


def test_a_verb_that_is_none_is_wrong_usage(swapctl: Callable[..., Done]) -> None:
    done = swapctl("service", "restart")
    assert done.status == Exit.USAGE
    assert "install" in done.err
