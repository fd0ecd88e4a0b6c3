"""Limits of control groups: trees of files as the kernel shows them, in both versions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from swapd.host import ram
from swapd.host.cgroup import Allowance, allowance
from swapd.units import GiB, MiB

MACHINE = 16 * GiB
UNLIMITED_FIRST = 9223372036854771712


class Tree:
    """A root folder with the group that this process is in and what its groups say."""

    def __init__(self, root: Path, own: str) -> None:
        self.root = root
        (root / "proc/self").mkdir(parents=True)
        (root / "proc/self/cgroup").write_text(own)

    def second(self, path: str, limit: str | int, used: int, high: str | int = "max", **stat: int) -> None:
        files = {"memory.max": limit, "memory.high": high, "memory.current": used}
        self._group(self.root / "sys/fs/cgroup" / path, files, {"anon": 1, "file": 2} | stat)

    def first(self, path: str, limit: int, used: int, **stat: int) -> None:
        files = {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": used}
        own_only = {"active_file": 3 * GiB, "inactive_file": 3 * GiB}  # without the groups inside
        self._group(self.root / "sys/fs/cgroup/memory" / path, files, own_only | stat)

    def _group(self, folder: Path, files: Mapping[str, str | int], stat: Mapping[str, int]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in files.items():
            (folder / name).write_text(f"{value}\n")
        (folder / "memory.stat").write_text("".join(f"{name} {value}\n" for name, value in stat.items()))

    def allowance(self) -> Allowance | None:
        return allowance(MACHINE, self.root)


def test_a_service_with_a_limit(tmp_path: Path) -> None:
    """What the kernel would reclaim before it kills is free: file pages and slabs that say so, nothing else."""
    tree = Tree(tmp_path, "0::/user.slice/swapd.service\n")
    cache = {"active_file": 200 * MiB, "inactive_file": 300 * MiB, "slab_reclaimable": 10 * MiB, "shmem": GiB}
    tree.second("user.slice/swapd.service", 4 * GiB, 3 * GiB, **cache)
    tree.second("user.slice", "max", 9 * GiB)
    assert tree.allowance() == Allowance(4 * GiB, GiB + 510 * MiB)


def test_the_tightest_of_all_ancestors_counts(tmp_path: Path) -> None:
    """And the one with least left need not be the one with the lowest limit."""
    tree = Tree(tmp_path, "0::/a/b/c\n")
    tree.second("a", 8 * GiB, 8 * GiB - 100 * MiB)
    tree.second("a/b", 2 * GiB, GiB)
    tree.second("a/b/c", 3 * GiB, GiB)
    assert tree.allowance() == Allowance(2 * GiB, 100 * MiB)


def test_a_container_sees_its_own_group_at_the_root(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "0::/\n")
    tree.second("", GiB, 600 * MiB)
    assert tree.allowance() == Allowance(GiB, GiB - 600 * MiB)


@pytest.mark.parametrize("path", ["/docker/0123abcd", "/../../outside"])
def test_a_path_of_the_host_is_not_there_in_a_container(tmp_path: Path, path: str) -> None:
    tree = Tree(tmp_path, f"0::{path}\n")
    tree.second("", GiB, 600 * MiB)
    assert tree.allowance() == Allowance(GiB, GiB - 600 * MiB)


def test_the_first_version(tmp_path: Path) -> None:
    """Of memory.stat the sums over the groups inside; the hierarchy of another controller is none of ours."""
    tree = Tree(tmp_path, "9:name=systemd:/\n4:cpu,memory:/docker/0123abcd\n3:cpuset:/elsewhere\n0::/\n")
    tree.first("", UNLIMITED_FIRST, 9 * GiB)
    tree.first("docker/0123abcd", 2 * GiB, 2 * GiB, total_active_file=100 * MiB, total_inactive_file=20 * MiB)
    assert tree.allowance() == Allowance(2 * GiB, 120 * MiB)


def test_memory_high_is_as_good_as_a_limit(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "0::/service\n")
    tree.second("service", 4 * GiB, GiB, high=2 * GiB)
    assert tree.allowance() == Allowance(2 * GiB, GiB)


def test_a_group_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "0::/service\n")
    tree.second("service", GiB, GiB + MiB)
    assert tree.allowance() == Allowance(GiB, 0)


def test_a_limit_beyond_the_machine_is_none(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "0::/service\n")
    tree.second("service", MACHINE, GiB)
    assert tree.allowance() is None


@pytest.mark.parametrize("own", ["", "0::/service\n", "nonsense\n", "0:\n", "4:memory:/gone\n"])
def test_without_groups_there_is_no_limit(tmp_path: Path, own: str) -> None:
    assert Tree(tmp_path, own).allowance() is None
    assert allowance(MACHINE, tmp_path / "nowhere") is None


def test_damaged_files_limit_nothing_and_add_nothing(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "0::/a/b\n")
    tree.second("a", "many", 1)
    tree.second("a/b", GiB, 600 * MiB)
    stat = tmp_path / "sys/fs/cgroup/a/b/memory.stat"
    stat.write_text("active_file\ninactive_file -5\n\nactive_file x y\n")
    assert tree.allowance() == Allowance(GiB, GiB - 600 * MiB)
    stat.unlink()
    assert tree.allowance() == Allowance(GiB, GiB - 600 * MiB)


def test_the_host_is_as_large_as_its_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=MACHINE, available=6 * GiB))
    tree = Tree(tmp_path, "0::/service\n")
    tree.second("service", 4 * GiB, 3 * GiB, inactive_file=512 * MiB)
    host = ram.measure({}, tmp_path)
    assert (host.total, host.free) == (4 * GiB, GiB + 512 * MiB)
    tree.second("service", 12 * GiB, GiB)
    host = ram.measure({}, tmp_path)
    assert (host.total, host.free) == (12 * GiB, 6 * GiB), "other programs have the rest of the machine"
