"""Memory is measured: the host by the kernel, cards by the driver, whose library is replaced here at its edge."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pynvml
import pytest
from structlog.testing import capture_logs

from swapd.core.model import HOST, DeviceKind, ResidentId
from swapd.host import ram
from swapd.host.memory import MachineMemory
from swapd.host.nvml import Nvml, visible
from swapd.units import GiB, MiB

MAPPER = """
import mmap, sys
with open(sys.argv[1], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
for at in range(0, len(mapped), mmap.PAGESIZE):
    mapped[at]
print("mapped", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def mapper(tmp_path: Path) -> Iterator[int]:
    """The pid of a process that has mapped 32 MiB of a file, as a worker maps its weights."""
    weights = tmp_path / "weights"
    weights.write_bytes(bytes(32 * MiB))
    with subprocess.Popen(
        [sys.executable, "-c", MAPPER, str(weights)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"mapped\n"
        yield process.pid
        process.kill()


def test_the_host_is_measured() -> None:
    device = ram.measure({})
    assert (device.id, device.kind, device.source, device.held) == (HOST, DeviceKind.HOST, "psutil", ())
    assert device.total == psutil.virtual_memory().total
    assert 0 < device.free <= device.total


def test_mapped_weights_are_held_and_not_free_as_well(mapper: int, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = SimpleNamespace(total=8 * GiB, available=4 * GiB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    device = ram.measure({ResidentId(7): mapper})
    ((resident, held),) = device.held
    mapped = psutil.Process(mapper).memory_info().shared
    assert resident == 7
    assert held >= mapped >= 32 * MiB
    assert device.free == 4 * GiB - mapped


def test_free_memory_is_never_below_nothing(mapper: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=8 * GiB, available=MiB))
    assert ram.measure({ResidentId(7): mapper}).free == 0


def test_a_worker_that_is_gone_holds_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert ram.measure({ResidentId(1): process.pid}).held == ()


def test_without_a_driver_there_is_only_the_host() -> None:
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        assert Nvml.open() is None
        assert [device.id for device in MachineMemory().measure({})] == [HOST]
    else:
        pytest.skip("this machine has the driver's library")


@pytest.mark.parametrize(
    ("setting", "shown"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1", [1]),
        ("2,0", [2, 0]),
        (" 2 , 0 ", [2, 0]),
        ("0,7,1", [0]),
        ("0,,1", [0]),
        ("1,1,2", [1]),
        ("GPU-aa", [0]),
        ("gpu-AB,GPU-aa11", [1, 0]),
        ("GPU-a", []),
        ("MIG-GPU-aa11/1/0", []),
        ("²", []),
    ],
)
def test_hidden_cards_are_not_offered(setting: str | None, shown: list[int]) -> None:
    assert visible(setting, ["GPU-aa11", "GPU-ab22", "GPU-cc33"]) == shown


# --- cards, by a driver that tells what the test wants


@dataclass
class Driver:
    """What the driver's library would answer; `broken` is the code of every answer while it is set."""

    computing: list[Any] = field(default_factory=list)
    drawing: list[Any] = field(default_factory=list)
    broken: int = 0
    opened: int = 0

    def answer(self, value: Any) -> Any:
        if self.broken:
            raise pynvml.NVMLError(self.broken)
        return value

    def init(self) -> None:
        self.answer(None)
        self.opened += 1

    def close(self) -> None:
        self.opened -= 1


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = Driver()
    answers: dict[str, Callable[..., Any]] = {
        "nvmlInit": driver.init,
        "nvmlShutdown": driver.close,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetName": lambda index: f"Card {index}",
        "nvmlDeviceGetUUID": lambda index: f"GPU-{index}",
        "nvmlDeviceGetPciInfo": lambda index: SimpleNamespace(busId=f"0000000{index}:0A:00.0".encode()),
        "nvmlDeviceGetMemoryInfo": lambda index: driver.answer(SimpleNamespace(total=8 * GiB, free=(3 + index) * GiB)),
        "nvmlDeviceGetComputeRunningProcesses": lambda index: driver.computing if index == 0 else [],
        "nvmlDeviceGetGraphicsRunningProcesses": lambda index: driver.drawing if index == 0 else [],
    }
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, name, answer)
    return driver


def using(pid: int, size: int | None) -> Any:
    return SimpleNamespace(pid=pid, usedGpuMemory=size)


def test_cards_come_first_and_then_the_host(driver: Driver) -> None:
    first, second, host = MachineMemory({}).measure({})
    assert (first.id, first.kind, first.source, first.name, first.pci) == (
        "cuda:0",
        DeviceKind.GPU,
        "nvml",
        "Card 0",
        "0000:0a:00.0",
    )
    assert (first.total, first.free, second.free, second.pci) == (8 * GiB, 3 * GiB, 4 * GiB, "0001:0a:00.0")
    assert host.id == HOST


def test_cards_keep_their_number_when_others_are_hidden(driver: Driver) -> None:
    assert [device.id for device in MachineMemory({"CUDA_VISIBLE_DEVICES": "1"}).measure({})] == ["cuda:1", HOST]


def test_each_worker_holds_what_the_driver_says(driver: Driver) -> None:
    """Once for a process that computes and draws, nothing where the driver does not tell, no strangers."""
    driver.computing = [using(10, GiB), using(11, None), using(99, 2 * GiB)]
    driver.drawing = [using(10, GiB), using(12, MiB)]
    workers = {ResidentId(3): 12, ResidentId(1): 10, ResidentId(2): 11}
    card, other, _ = MachineMemory({}).measure(workers)
    assert card.held == ((1, GiB), (3, MiB))
    assert card.foreign == 8 * GiB - 3 * GiB - GiB - MiB
    assert other.held == ()


def test_a_driver_that_stops_answering_has_nothing_free_until_it_answers(driver: Driver) -> None:
    driver.computing = [using(10, GiB)]
    memory = MachineMemory({})
    before = memory.measure({ResidentId(1): 10})
    with capture_logs() as logs:
        driver.broken = pynvml.NVML_ERROR_GPU_IS_LOST
        for _ in range(2):
            cards = memory.measure({ResidentId(1): 10})
            assert [(card.id, card.free, card.held) for card in cards[:2]] == [("cuda:0", 0, ()), ("cuda:1", 0, ())]
            assert cards[0].total == 8 * GiB
            assert cards[2].free > 0
        driver.broken = 0
        assert memory.measure({ResidentId(1): 10})[:2] == before[:2]
    assert [(line["log_level"], line.get("reason")) for line in logs] == [("warning", "GPU is lost"), ("info", None)]
    memory.close()
    assert driver.opened == 0


def test_a_driver_that_does_not_start_is_told_once_and_tried_again(driver: Driver) -> None:
    driver.broken = pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
    memory = MachineMemory({})
    with capture_logs() as logs:
        assert [device.id for device in memory.measure({})] == [HOST]
        assert [device.id for device in memory.measure({})] == [HOST]
        driver.broken = 0
        assert [device.id for device in memory.measure({})] == ["cuda:0", "cuda:1", HOST]
    assert [line["log_level"] for line in logs] == ["warning", "info"]


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
def test_a_machine_without_a_card_is_no_reason_to_warn(driver: Driver, code: int) -> None:
    driver.broken = code
    with capture_logs() as logs:
        assert [device.id for device in MachineMemory({}).measure({ResidentId(1): os.getpid()})] == [HOST]
    assert logs == []
