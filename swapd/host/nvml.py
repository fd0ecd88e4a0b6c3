"""GPU memory as the NVIDIA driver sees it; the only file that imports pynvml. Called by `memory.py`.

Cards are numbered as `nvidia-smi` does (by PCI address). `CUDA_VISIBLE_DEVICES` hides cards here as it does
from the workers, which inherit it; its indices are read in the same order, which is CUDA's own with
`CUDA_DEVICE_ORDER=PCI_BUS_ID` and wherever the cards are alike. Parts of a card (MIG) are not offered.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import psutil
import pynvml
import structlog

from swapd.core.model import Device, DeviceId, DeviceKind, Foreign, ResidentId
from swapd.units import Bytes

_MOST_OTHERS: Final = 8
"""Foreign processes that are named, of each card."""
_UNTOLD: Final = (
    pynvml.NVML_ERROR_NOT_SUPPORTED,
    pynvml.NVML_ERROR_NO_PERMISSION,
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
)
_NO_GPU: Final = (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)


_log = structlog.get_logger(__name__)


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

    def __init__(self, cards: Sequence[_Card], known: frozenset[str]) -> None:
        self._cards = tuple(cards)
        self.known = known
        """PCI addresses of all cards of the driver, hidden ones too."""
        self._last: dict[DeviceId, Device] = {}
        self._lost = False
        self._names: dict[int, str] = {}
        """Of the processes of the last measurement: looking them up costs as much as all the rest."""

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
        shown = visible(environ.get("CUDA_VISIBLE_DEVICES"), uuids)
        return Nvml([cards[index] for index in shown], frozenset(card.pci for card in cards))

    def measure(self, workers: Mapping[ResidentId, int]) -> tuple[Device, ...]:
        """Every visible card, and what each worker (by pid) and each other process holds there, where the driver tells.

        A card that does not answer is stale, as it was last. Raises NvmlError when none does.
        """
        devices: list[Device] = []
        lost: list[str] = []
        for card in self._cards:
            try:
                devices.append(_measure(card, workers, self._names))
            except pynvml.NVMLError as error:
                lost.append(f"{card.id}: {error}")
                devices.append(self._last.get(card.id) or Device(card.id, card.name, DeviceKind.GPU, "nvml", 0, 0))
                devices[-1] = replace(devices[-1], free=0, held=(), others=(), is_stale=True)
        if lost and len(lost) == len(self._cards):
            raise NvmlError(lost[0])
        if lost and not self._lost:
            _log.warning("a card does not answer: nothing is loaded there until it does", cards=lost)
        self._lost = bool(lost)
        self._last = {device.id: device for device in devices}
        self._names = {other.pid: other.name for device in devices for other in device.others}
        return tuple(devices)

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


def _measure(card: _Card, workers: Mapping[ResidentId, int], names: Mapping[int, str]) -> Device:
    memory = pynvml.nvmlDeviceGetMemoryInfo(card.handle)
    used = _used_by_pid(card)
    held = ((resident, used.get(pid)) for resident, pid in sorted(workers.items()))
    ours = frozenset(workers.values())
    others = sorted((-(size or 0), pid) for pid, size in used.items() if pid not in ours)
    return Device(
        id=card.id,
        name=card.name,
        kind=DeviceKind.GPU,
        source="nvml",
        total=memory.total,
        free=memory.free,
        held=tuple((resident, size) for resident, size in held if size is not None),
        pci=card.pci,
        others=tuple(Foreign(pid, names.get(pid) or _name(pid), used[pid]) for _, pid in others[:_MOST_OTHERS]),
    )


def _used_by_pid(card: _Card) -> dict[int, Bytes | None]:
    """A process that computes and draws is in both lists with the same number. None: the driver does not tell it."""
    used: dict[int, Bytes | None] = {}
    for ask in (pynvml.nvmlDeviceGetComputeRunningProcesses, pynvml.nvmlDeviceGetGraphicsRunningProcesses):
        for process in _listed(ask, card):
            known = (used.get(process.pid), process.usedGpuMemory)
            used[process.pid] = max((size for size in known if size is not None), default=None)
    return used


def _listed(ask: Callable[[Any], list[Any]], card: _Card) -> list[Any]:
    """Nobody where this card, this driver or these rights do not tell: what is free is known all the same."""
    try:
        return ask(card.handle)
    except pynvml.NVMLError as error:
        if error.value in _UNTOLD:
            return []
        raise


def _name(pid: int) -> str:
    """As the system calls the process; of one that it does not show us (another container's, gone) the number.

    A process of ours without a model (it sizes one) is a stranger to the residents, but no "python".
    """
    try:
        process = psutil.Process(pid)
        return "swapd" if process.ppid() == os.getpid() else process.name() or f"pid {pid}"
    except psutil.Error:
        return f"pid {pid}"


def _text(given: str | bytes) -> str:
    return given.decode(errors="replace") if isinstance(given, bytes) else given
