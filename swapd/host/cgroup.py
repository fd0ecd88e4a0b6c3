"""What control groups leave of the host's memory: containers, and services with a MemoryMax. Called by `ram.py`.

A group's limit counts for all groups inside it, so every ancestor that this process can see is asked: version 2
at /sys/fs/cgroup, version 1 at /sys/fs/cgroup/memory, where in the tree by /proc/self/cgroup. In a container the
file may name a path of the host's that is not there: then what is mounted at the root is our own group.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from swapd.units import Bytes

_OWN: Final = "proc/self/cgroup"
_MOUNT: Final = "sys/fs/cgroup"


@dataclass(frozen=True, slots=True)
class Allowance:
    """`limit` is the tightest of all groups; `free` is what could be taken now, which another group may decide."""

    limit: Bytes
    free: Bytes


@dataclass(frozen=True, slots=True)
class _Version:
    limits: tuple[str, ...]
    """Files; the least counts. Above memory.high the kernel stalls the processes, so it is as good as a limit."""
    used: str
    reclaimable: tuple[str, ...]
    """Fields of memory.stat that the kernel gives up before it kills anyone, as in its own MemAvailable."""


_FIRST: Final = _Version(
    ("memory.limit_in_bytes",), "memory.usage_in_bytes", ("total_active_file", "total_inactive_file")
)
_SECOND: Final = _Version(
    ("memory.max", "memory.high"), "memory.current", ("active_file", "inactive_file", "slab_reclaimable")
)


def allowance(physical: Bytes, root: Path = Path("/")) -> Allowance | None:
    """None: no group limits this process to less than the `physical` memory. `root` is where proc and sys are."""
    found = [allowed for group, version in _groups(root) if (allowed := _allowed(group, version, physical)) is not None]
    if not found:
        return None
    return Allowance(min(group.limit for group in found), min(group.free for group in found))


def _groups(root: Path) -> Iterator[tuple[Path, _Version]]:
    """Our group and its ancestors, in both versions of the hierarchy; some may not be there."""
    try:
        lines = (root / _OWN).read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0":
            mount, version = root / _MOUNT, _SECOND
        elif "memory" in controllers.split(","):
            mount, version = root / _MOUNT / "memory", _FIRST
        else:
            continue
        inside = PurePosixPath(path.lstrip("/"))
        if ".." in inside.parts:  # outside of what our namespace shows
            inside = PurePosixPath()
        for group in (inside, *inside.parents):
            yield mount / group, version


def _allowed(group: Path, version: _Version, physical: Bytes) -> Allowance | None:
    limits = [limit for name in version.limits if (limit := _number(group / name)) is not None and limit < physical]
    used = _number(group / version.used) if limits else None
    if used is None:
        return None
    cached = min(used, sum(_fields(group / "memory.stat", version.reclaimable)))
    limit = min(limits)
    return Allowance(limit, max(0, limit - used + cached))


def _number(path: Path) -> Bytes | None:
    """None: no such file, not for us, or no limit ("max")."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _fields(path: Path, names: tuple[str, ...]) -> Iterator[Bytes]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        name, _, value = line.partition(" ")
        if name in names and value.isascii() and value.isdigit():
            yield int(value)
