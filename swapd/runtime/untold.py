"""Cards whose driver does not tell what each process holds (containers, WSL, anything but NVIDIA's): told once.

Fed by `engine.py` after each measurement. Decides nothing: the core then goes by what was predicted.
"""

from __future__ import annotations

import structlog

from swapd.core.model import DeviceId, DeviceKind
from swapd.core.resident import Phase
from swapd.core.state import State

log = structlog.get_logger("swapd.memory")


class Untold:
    def __init__(self) -> None:
        self._told: set[DeviceId] = set()

    def look(self, state: State) -> None:
        """At a state just measured."""
        ready = state.in_phases([Phase.READY])
        for device in state.devices:
            if device.kind is not DeviceKind.GPU or device.is_stale or device.id in self._told:
                continue
            listed = dict(device.held)
            if any(device.id in r.placement.devices and r.predicted[device.id] and r.id not in listed for r in ready):
                self._told.add(device.id)
                log.warning(
                    "the driver does not tell what each process holds: predictions stand in for measurements, and "
                    "vram_reserve has to hold what processes take besides their models",
                    device=device.id,
                )
