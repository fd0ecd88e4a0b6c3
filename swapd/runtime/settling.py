"""When is the memory of an ended worker seen free? Compares two measurements; knows no clock and no task.

Used by `engine.py` between the end of a process and `WorkerGone`. Drivers give memory back up to 1.5 s after
the process is gone, and other programs come and go meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from swapd.core.model import Device, DeviceId, DeviceKind, Footprint, ResidentId
from swapd.units import Bytes

SETTLED: Final = 0.9
"""So much of what the worker held must be back: the rest is pools of the driver and other programs' comings."""


@dataclass(frozen=True, slots=True)
class _Awaited:
    """One card, as it was while the worker still held `size` on it."""

    size: Bytes
    free: Bytes
    unlisted: Bytes | None


@dataclass(frozen=True, slots=True)
class Settling:
    """What is to come back on which card. Nothing on the host: the kernel gives it back with the process."""

    awaited: Mapping[DeviceId, _Awaited]

    @staticmethod
    def of(resident: ResidentId, promised: Footprint, before: tuple[Device, ...]) -> Settling:
        """`promised` counts where the driver does not list the worker (containers, WSL)."""
        awaited: dict[DeviceId, _Awaited] = {}
        for device in before:
            size = dict(device.held).get(resident, 0) or promised[device.id]
            if device.kind is DeviceKind.GPU and size and not device.is_stale:
                awaited[device.id] = _Awaited(size, device.free, _unlisted(device))
        return Settling(awaited)

    def is_over(self, now: tuple[Device, ...]) -> bool:
        """So much more is free, or no more is in use than the listed processes hold: then others have it by now."""
        devices = {device.id: device for device in now}
        return all(name not in devices or _is_back(was, devices[name]) for name, was in self.awaited.items())


def _is_back(was: _Awaited, now: Device) -> bool:
    if now.is_stale or now.free >= was.free + int(SETTLED * was.size):
        return True
    unlisted = _unlisted(now)
    return unlisted is not None and was.unlisted is not None and unlisted <= was.unlisted + (1 - SETTLED) * was.size


def _unlisted(device: Device) -> Bytes | None:
    """In use, and by no process that the driver lists; None: it does not list them all."""
    sizes = [size for _, size in device.held] + [other.size for other in device.others]
    if not sizes or None in sizes:
        return None
    return device.total - device.free - sum(size for size in sizes if size is not None)
