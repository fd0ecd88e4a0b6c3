"""All memory of this machine in one measurement: GPUs by NVML, where there are any, and then the host.

Plugged into the engine's `Memory` port by `daemon.py`. Decides nothing; says what it sees, and of a driver
that stopped answering that there is nothing free, so that nothing is loaded on a guess.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

import structlog

from swapd.core.model import Device, ResidentId
from swapd.host import ram
from swapd.host.nvml import Nvml, NvmlError

_log = structlog.get_logger(__name__)


class MachineMemory:
    """Blocks for milliseconds: call it in a thread, any thread, but one call at a time."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ
        self._nvml: Nvml | None = None
        self._has_gpus: bool | None = None
        self._last: tuple[Device, ...] = ()
        self._is_failing = False

    def measure(self, workers: Mapping[ResidentId, int]) -> tuple[Device, ...]:
        """Every device, and what each worker (by pid) holds of it."""
        return (*self._gpus(workers), ram.measure(workers))

    def close(self) -> None:
        if self._nvml is not None:
            self._nvml.close()
            self._nvml = None

    def _gpus(self, workers: Mapping[ResidentId, int]) -> tuple[Device, ...]:
        if self._has_gpus is False:
            return ()
        try:
            if self._nvml is None:
                self._nvml = Nvml.open(self._environ)
                self._has_gpus = self._nvml is not None
            self._last = self._nvml.measure(workers) if self._nvml is not None else ()
        except NvmlError as error:
            self._failed(error)
            return tuple(replace(device, free=0, held=()) for device in self._last)
        if self._is_failing:
            _log.info("the GPU driver answers again", devices=[device.id for device in self._last])
            self._is_failing = False
        return self._last

    def _failed(self, error: NvmlError) -> None:
        """Once told, and from now on asked anew each time: a driver that was replaced needs a new connection."""
        if not self._is_failing:
            _log.warning(
                "cannot measure GPU memory: nothing is loaded there until the driver answers", reason=str(error)
            )
            self._is_failing = True
        self.close()
