"""All memory of this machine in one measurement: GPUs by NVML, those that only ggml knows, and then the host.

Plugged into the engine's `Memory` port by `daemon.py`. Decides nothing; says what it sees, and of a driver
that stopped answering that there is nothing free, so that nothing is loaded on a guess.

ggml's numbers come from a worker (`Extra`; the daemon never loads llama.cpp). They are total and free and no more:
who holds what is not known, so what our residents hold there is what was predicted, and of a backend that cannot
tell what is free (Vulkan without VK_EXT_memory_budget) other programs' share is unknown too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeAlias

import structlog

from swapd.core.model import Device, DeviceId, DeviceKind, ResidentId
from swapd.host import ram
from swapd.host.nvml import Nvml, NvmlError
from swapd.wire import Card

_log = structlog.get_logger(__name__)

Extra: TypeAlias = Callable[[], tuple[Card, ...] | None]
"""ggml's cards, measured now; None: nobody answers."""
_NUMBERED = re.compile(r"(.*\D)(\d+)")


class MachineMemory:
    """Blocks for milliseconds: call it in a thread, any thread, but one call at a time."""

    def __init__(self, environ: Mapping[str, str] = os.environ, extra: Extra = tuple) -> None:
        self._environ = environ
        self._extra = extra
        self._nvml: Nvml | None = None
        self._has_gpus: bool | None = None
        self._last: tuple[Device, ...] = ()
        self._known: frozenset[str] = frozenset()
        """Addresses of all cards of the driver that answered last."""
        self._last_others: tuple[Device, ...] | None = None
        """Of ggml; None: not yet told."""
        self._is_failing = False

    def measure(self, workers: Mapping[ResidentId, int]) -> tuple[Device, ...]:
        """Every device, and what each worker (by pid) holds of it."""
        return (*self._gpus(workers), *self._others(), ram.measure(workers))

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
                if self._nvml is None and self._has_gpus:
                    raise NvmlError("the driver is gone")
                self._has_gpus = self._nvml is not None
            if self._nvml is not None:
                self._last, self._known = self._nvml.measure(workers), self._nvml.known
        except NvmlError as error:
            self._failed(error)
            return _stale(self._last)
        if self._is_failing:
            _log.info("the GPU driver answers again", devices=[device.id for device in self._last])
            self._is_failing = False
        return self._last

    def _others(self) -> tuple[Device, ...]:
        """Cards that the driver does not know: the same card may have a name in several backends, or be hidden."""
        if self._last_others == () or (self._is_failing and not self._known):
            return ()  # there are none; or which of them are the driver's?
        cards = self._extra()
        if cards is None:
            return _stale(self._last_others or ())
        seen = set(self._known)
        found: list[Device] = []
        for card in cards:
            if card.pci and card.pci.lower() in seen:
                continue
            seen.add(card.pci.lower())
            found.append(_device(card))
        self._last_others = tuple(found)
        return self._last_others

    def _failed(self, error: NvmlError) -> None:
        """Once told, and from now on asked anew each time: a driver that was replaced needs a new connection."""
        if not self._is_failing:
            _log.warning(
                "cannot measure GPU memory: nothing is loaded there until the driver answers", reason=str(error)
            )
            self._is_failing = True
        self.close()


def _stale(devices: tuple[Device, ...]) -> tuple[Device, ...]:
    return tuple(replace(device, free=0, held=(), others=(), is_stale=True) for device in devices)


def _device(card: Card) -> Device:
    numbered = _NUMBERED.fullmatch(card.name)
    return Device(
        id=DeviceId(f"{numbered[1]}:{numbered[2]}".lower() if numbered else card.name.lower()),
        name=card.description or card.name,
        kind=DeviceKind.GPU,
        source="ggml",
        total=card.total,
        free=card.free,
        pci=card.name,  # to find it by: asking every card for its address would open the CUDA ones
    )
