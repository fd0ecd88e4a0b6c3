"""What control groups leave of the host's memory: containers, and services with a MemoryMax. Called by `ram.py`.

A group's limit counts for all groups inside it, so every ancestor that this process can see is asked: version 2
at /sys/fs/cgroup, version 1 at /sys/fs/cgroup/memory, where in the tree by /proc/self/cgroup. In a container the
file may name a path of the host's that is not there: then what is mounted at the root is our own group.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
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


def _groups(root: Path) -> Iterator[tuple[str, _Version]]:
    """Our group and its ancestors, in both versions of the hierarchy; some may not be there."""
    for line in _read(f"{root}/{_OWN}").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0":
            mount, version = f"{root}/{_MOUNT}", _SECOND
        elif "memory" in controllers.split(","):
            mount, version = f"{root}/{_MOUNT}/memory", _FIRST
        else:
            continue
        inside = [name for name in path.split("/") if name]
        if ".." in inside:  # outside of what our namespace shows
            inside = []
        for depth in range(len(inside), -1, -1):
            yield "/".join((mount, *inside[:depth])), version


def _allowed(group: str, version: _Version, physical: Bytes) -> Allowance | None:
    said = [_number(f"{group}/{name}") for name in version.limits]
    limits = [limit for limit in said if limit is not None and limit < physical]
    used = _number(f"{group}/{version.used}") if limits else None
    if used is None:
        return None
    cached = min(used, sum(_fields(f"{group}/memory.stat", version.reclaimable)))
    limit = min(limits)
    return Allowance(limit, max(0, limit - used + cached))


def _number(path: str) -> Bytes | None:
    """None: no such file, not for us, or no limit ("max")."""
    try:
        return int(_read(path))
    except ValueError:
        return None


def _fields(path: str, names: tuple[str, ...]) -> Iterator[Bytes]:
    for line in _read(path).splitlines():
        name, _, value = line.partition(" ")
        if name in names and value.isascii() and value.isdigit():
            yield int(value)


def _read(path: str) -> str:
    """Empty where there is no such file or it is not for us. Asked for every second: pathlib would take most of it."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
