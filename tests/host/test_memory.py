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

from swapd.core.model import HOST, DeviceKind, Foreign, ResidentId
from swapd.host import ram
from swapd.host.memory import MachineMemory
from swapd.host.nvml import Nvml, visible
from swapd.units import GiB, MiB
from swapd.wire import Card

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
    silent: int = 0
    """The code of every answer about processes while it is set."""
    opened: int = 0

    def answer(self, value: Any) -> Any:
        if self.broken:
            raise pynvml.NVMLError(self.broken)
        return value

    def init(self) -> None:
        self.answer(None)
        self.opened += 1

    def list(self, index: int, processes: list[Any]) -> list[Any]:
        if self.silent:
            raise pynvml.NVMLError(self.silent)
        return processes if index == 0 else []

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
        "nvmlDeviceGetComputeRunningProcesses": lambda index: driver.list(index, driver.computing),
        "nvmlDeviceGetGraphicsRunningProcesses": lambda index: driver.list(index, driver.drawing),
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


def test_others_are_named_largest_first(driver: Driver) -> None:
    """Ours are not among them; one whose size is not told comes last, one that is not to be seen keeps its number."""
    us, nobody = os.getpid(), 2**22 + 1
    driver.computing = [using(10, GiB), using(nobody, 3 * GiB), using(1, None)]
    driver.drawing = [using(us, 2 * GiB)]
    card, other, _ = MachineMemory({}).measure({ResidentId(1): 10})
    assert card.others == (
        Foreign(nobody, f"pid {nobody}", 3 * GiB),
        Foreign(us, psutil.Process().name(), 2 * GiB),
        Foreign(1, psutil.Process(1).name(), None),
    )
    assert other.others == ()


def test_our_own_processes_without_a_model_go_by_our_name(driver: Driver, mapper: int) -> None:
    driver.computing = [using(mapper, GiB)]
    card, *_ = MachineMemory({}).measure({})
    assert card.others == (Foreign(mapper, "swapd", GiB),)


def test_not_more_than_eight_others_are_named(driver: Driver) -> None:
    driver.computing = [using(2**22 + number, number * MiB) for number in range(1, 20)]
    card, *_ = MachineMemory({}).measure({})
    assert [other.size for other in card.others] == [number * MiB for number in range(19, 11, -1)]


@pytest.mark.parametrize(
    "code", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_NO_PERMISSION, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND]
)
def test_a_driver_that_does_not_tell_of_processes_still_tells_what_is_free(driver: Driver, code: int) -> None:
    driver.computing, driver.silent = [using(10, GiB)], code
    card, *_ = MachineMemory({}).measure({ResidentId(1): 10})
    assert (card.free, card.held, card.others, card.is_stale) == (3 * GiB, (), (), False)


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
            assert cards[0].is_stale
            assert cards[2].free > 0
        driver.broken = 0
        assert memory.measure({ResidentId(1): 10})[:2] == before[:2]
    assert [(line["log_level"], line.get("reason")) for line in logs] == [
        ("warning", "cuda:0: GPU is lost"),
        ("info", None),
    ]
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


def test_a_driver_that_is_taken_away_is_waited_for(driver: Driver) -> None:
    """Its module was unloaded, for an update perhaps: the cards are still there and have nothing free."""
    memory = MachineMemory({})
    before = memory.measure({})
    with capture_logs() as logs:
        for code in (
            pynvml.NVML_ERROR_UNKNOWN,
            pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
            pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        ):
            driver.broken = code
            assert [(card.id, card.free) for card in memory.measure({})[:2]] == [("cuda:0", 0), ("cuda:1", 0)]
        driver.broken = 0
        assert memory.measure({})[:2] == before[:2]
    assert [line["log_level"] for line in logs] == ["warning", "info"]


# --- cards that only ggml knows

RADEON = Card("Vulkan1", "Radeon", "0000:65:00.0", 6 * GiB, 16 * GiB)


@pytest.fixture
def no_driver(driver: Driver) -> Driver:
    driver.broken = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
    return driver


def test_cards_that_only_ggml_knows_are_found_by_its_name_for_them(no_driver: Driver) -> None:
    card, host = MachineMemory({}, lambda: (RADEON,)).measure({ResidentId(1): os.getpid()})
    assert (card.id, card.name, card.kind, card.source, card.pci) == (
        "vulkan:1",
        "Radeon",
        DeviceKind.GPU,
        "ggml",
        "Vulkan1",
    )
    assert (card.total, card.free, card.held, card.others) == (16 * GiB, 6 * GiB, (), ())
    assert host.id == HOST


def test_a_card_is_counted_once(driver: Driver) -> None:
    """By who knows it best: the driver, hidden cards too; else the first backend. Without an address nobody can say."""
    cards = (
        Card("Vulkan0", "Card 0", "0000:0A:00.0", GiB, 8 * GiB),
        Card("Vulkan2", "Card 1", "0001:0a:00.0", GiB, 8 * GiB),
        Card("ROCm0", "Radeon", "0000:65:00.0", GiB, 16 * GiB),
        RADEON,
        Card("Metal", "", "", GiB, 8 * GiB),
        Card("SYCL0", "Arc", "", GiB, 8 * GiB),
    )
    devices = MachineMemory({"CUDA_VISIBLE_DEVICES": "0"}, lambda: cards).measure({})
    assert [device.id for device in devices] == ["cuda:0", "rocm:0", "metal", "sycl:0", HOST]


def test_what_ggml_says_is_asked_anew_each_time(no_driver: Driver) -> None:
    """And where it does not say, nothing is free."""
    answers = iter([None, (RADEON,), (Card("Vulkan1", "Radeon", "", GiB, 16 * GiB),), None, ()])
    memory = MachineMemory({}, lambda: next(answers))
    seen = [[(device.free, device.is_stale) for device in memory.measure({})[:-1]] for _ in range(5)]
    assert seen == [[], [(6 * GiB, False)], [(GiB, False)], [(0, True)], []]


def test_ggml_is_not_asked_again_when_all_it_knows_the_driver_knows(driver: Driver) -> None:
    answers = iter([(Card("Vulkan0", "Card 0", "0000:0a:00.0", GiB, 8 * GiB),)])
    memory = MachineMemory({}, lambda: next(answers))
    assert [device.id for device in memory.measure({})] == ["cuda:0", "cuda:1", HOST]
    assert [device.id for device in memory.measure({})] == ["cuda:0", "cuda:1", HOST]


def test_a_driver_that_never_answered_hides_which_cards_are_its_own(driver: Driver) -> None:
    driver.broken = pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
    memory = MachineMemory({}, lambda: (RADEON,))
    assert [device.id for device in memory.measure({})] == [HOST]
    driver.broken = 0
    assert [device.id for device in memory.measure({})] == ["cuda:0", "cuda:1", "vulkan:1", HOST]
