"""GPU memory as the NVIDIA driver sees it; the only file that imports pynvml. Called by `memory.py`.

Cards are numbered as `nvidia-smi` does (by PCI address). `CUDA_VISIBLE_DEVICES` hides cards here as it does
from the workers, which inherit it; its indices are read in the same order, which is CUDA's own with
`CUDA_DEVICE_ORDER=PCI_BUS_ID` and wherever the cards are alike. Parts of a card (MIG) are not offered.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pynvml

from swapd.core.model import Device, DeviceId, DeviceKind, ResidentId
from swapd.units import Bytes

_NO_GPU: Final = (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)


class NvmlError(Exception):
    """The driver is there and does not answer; the text is its own."""


@dataclass(frozen=True, slots=True)
class _Card:
    handle: Any
    id: DeviceId
    name: str
    pci: str


class Nvml:
    """An open connection to the driver. One call at a time."""

    def __init__(self, cards: Sequence[_Card]) -> None:
        self._cards = tuple(cards)

    @staticmethod
    def open(environ: Mapping[str, str] = os.environ) -> Nvml | None:
        """None: this machine has no NVIDIA driver. Raises NvmlError when it has one that does not work."""
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            if error.value in _NO_GPU:
                return None
            raise NvmlError(str(error)) from error
        try:
            cards = [_card(index) for index in range(pynvml.nvmlDeviceGetCount())]
            uuids = [_text(pynvml.nvmlDeviceGetUUID(card.handle)) for card in cards]
        except pynvml.NVMLError as error:
            _shut_down()
            raise NvmlError(str(error)) from error
        return Nvml([cards[index] for index in visible(environ.get("CUDA_VISIBLE_DEVICES"), uuids)])

    def measure(self, workers: Mapping[ResidentId, int]) -> tuple[Device, ...]:
        """Every visible card, and what each worker (by pid) holds there, where the driver tells. Raises NvmlError."""
        try:
            return tuple(_measure(card, workers) for card in self._cards)
        except pynvml.NVMLError as error:
            raise NvmlError(str(error)) from error

    def close(self) -> None:
        _shut_down()


def visible(setting: str | None, uuids: Sequence[str]) -> list[int]:
    """Which cards `CUDA_VISIBLE_DEVICES` leaves, as CUDA reads it: all before the first entry that names none.

    Entries are indices or the beginnings of UUIDs; unset shows all, empty none.
    """
    if setting is None:
        return list(range(len(uuids)))
    shown: list[int] = []
    for entry in (part.strip() for part in setting.split(",")):
        if entry.isascii() and entry.isdigit():
            named = [int(entry)] if int(entry) < len(uuids) else []
        else:
            named = [index for index, uuid in enumerate(uuids) if entry and uuid.lower().startswith(entry.lower())]
        if len(named) != 1 or named[0] in shown:
            break
        shown += named
    return shown


def _shut_down() -> None:
    with contextlib.suppress(pynvml.NVMLError):  # it was going anyway
        pynvml.nvmlShutdown()


def _card(index: int) -> _Card:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    domain, _, rest = _text(pynvml.nvmlDeviceGetPciInfo(handle).busId).partition(":")
    pci = f"{int(domain, 16):04x}:{rest.lower()}"
    return _Card(handle, DeviceId(f"cuda:{index}"), _text(pynvml.nvmlDeviceGetName(handle)), pci)


def _measure(card: _Card, workers: Mapping[ResidentId, int]) -> Device:
    memory = pynvml.nvmlDeviceGetMemoryInfo(card.handle)
    used = _used_by_pid(card)
    return Device(
        id=card.id,
        name=card.name,
        kind=DeviceKind.GPU,
        source="nvml",
        total=memory.total,
        free=memory.free,
        held=tuple((resident, used[pid]) for resident, pid in sorted(workers.items()) if pid in used),
        pci=card.pci,
    )


def _used_by_pid(card: _Card) -> dict[int, Bytes]:
    """A process that computes and draws is in both lists with the same number. Unknown numbers are left out."""
    listed = list(pynvml.nvmlDeviceGetComputeRunningProcesses(card.handle))
    with contextlib.suppress(pynvml.NVMLError_NotSupported):  # cards that never draw
        listed += pynvml.nvmlDeviceGetGraphicsRunningProcesses(card.handle)
    used: dict[int, Bytes] = {}
    for process in listed:
        if process.usedGpuMemory is not None:
            used[process.pid] = max(used.get(process.pid, 0), process.usedGpuMemory)
    return used


def _text(given: str | bytes) -> str:
    return given.decode(errors="replace") if isinstance(given, bytes) else given
