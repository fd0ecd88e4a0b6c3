"""The soft GPU's own promises: exact books, shared by all processes, seen alike by ggml, by NVML and by the test."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pynvml
import pytest

from swapd.units import MiB
from tests.softgpu.build import Libraries, build
from tests.softgpu.conftest import PROGRAM, WATCHER, Peer
from tests.softgpu.control import Telling, What
from tests.softgpu.fixtures import MakeSoftGPU
from tests.softgpu.gpu import SoftGPU

StartPeer = Callable[..., Peer]
LOST = pynvml.NVML_ERROR_GPU_IS_LOST


def what_happened(gpu: SoftGPU, pid: int) -> list[tuple[What, int]]:
    return [(event.what, event.size) for event in gpu.events() if event.pid == pid]


# --- books


def test_sizes_are_exact_and_cards_are_apart(soft_gpu: MakeSoftGPU, peer: StartPeer) -> None:
    gpu = soft_gpu("64MiB", 1_000_001)
    program = peer(PROGRAM, gpu.env)

    assert program.ask("bool(take(1_000_001, 1))")
    assert not program.ask("take(1, 1)")
    assert program.ask("bool(take(123_457, 0))")

    assert gpu.holders(0) == {program.pid: 123_457}
    assert gpu.holders(1) == {program.pid: 1_000_001}
    assert [gpu.free(card) for card in gpu.cards] == [64 * MiB - 123_457, 0]
    assert [(event.pid, event.card, event.size, event.used) for event in gpu.refusals()] == [
        (program.pid, 1, 1, 1_000_001)
    ]


def test_the_first_use_of_a_card_costs_a_context_until_the_process_ends(soft_gpu: MakeSoftGPU, peer: StartPeer) -> None:
    gpu = soft_gpu("64MiB", "64MiB", context="16MiB")
    program = peer(PROGRAM, gpu.env)

    assert program.ask("[give(take(1000)) for _ in range(3)]") == [None] * 3
    assert gpu.holders(0) == {program.pid: 16 * MiB}
    assert program.ask("begin(1)") is True
    assert gpu.used(1) == 16 * MiB
    assert not program.ask(f"take({48 * MiB + 1})")

    program.kill()
    assert gpu.is_empty()


def test_a_context_that_finds_no_room_is_refused(soft_gpu: MakeSoftGPU, peer: StartPeer) -> None:
    gpu = soft_gpu("15MiB", context="16MiB")
    program = peer(PROGRAM, gpu.env)

    assert program.ask("begin()") is False
    assert not program.ask("take(1)")
    assert gpu.is_empty()


def test_the_dead_hold_nothing_not_even_as_zombies(soft_gpu: MakeSoftGPU, peer: StartPeer) -> None:
    gpu = soft_gpu("64MiB")
    program = peer(PROGRAM, gpu.env)
    assert program.ask("bool(take(1000))")

    program.process.kill()
    os.waitid(os.P_PID, program.pid, os.WEXITED | os.WNOWAIT)  # dead, and nobody has collected it

    assert psutil.Process(program.pid).status() == psutil.STATUS_ZOMBIE
    assert gpu.is_empty()
    assert what_happened(gpu, program.pid) == [(What.TOOK, 1000), (What.DIED, 1000)]


def test_another_process_with_the_pid_of_a_dead_one_inherits_nothing(soft_gpu: MakeSoftGPU) -> None:
    gpu = soft_gpu("64MiB")
    first = subprocess.Popen(["sleep", "60"])
    started = time.monotonic()
    assert gpu.crowd(first.pid, 0, 1000)
    gpu.wait_until(lambda: time.monotonic() > started + 0.03)  # the kernel tells starts in hundredths of a second
    first.kill()
    first.wait()

    for _ in range(20):
        try:
            Path("/proc/sys/kernel/ns_last_pid").write_text(str(first.pid - 1))
        except OSError:
            pytest.skip("this user may not choose pids")
        second = subprocess.Popen(["sleep", "60"])
        try:
            if second.pid == first.pid:
                assert gpu.holders() == {}
                return
        finally:
            second.kill()
            second.wait()
    pytest.skip("the kernel gave other pids")


def test_more_than_256_processes_fit_on_a_card(soft_gpu: MakeSoftGPU) -> None:
    gpu = soft_gpu("64MiB")
    others = [gpu.start_foreign() for _ in range(260)]
    for number, other in enumerate(others):
        other.hold(1000 + number)

    assert sorted(gpu.holders().values()) == list(range(1000, 1260))


def test_many_at_once_never_take_more_than_there_is(soft_gpu: MakeSoftGPU, peer: StartPeer) -> None:
    """Threads of several processes, one of them killed in the middle."""
    gpu = soft_gpu(10_000)
    programs = [peer(PROGRAM, gpu.env) for _ in range(3)]
    for program in programs:
        assert program.ask("len(cards)") == 1
    for program in programs:
        program.order("hammer(400, [900, 2500, 4100])")
    gpu.wait_until(lambda: len(gpu.events()) > 50)
    programs[0].kill()

    refused = sum(program.answer() for program in programs[1:])

    assert 0 < gpu.peak() <= gpu.total()
    assert refused <= len(gpu.refusals())
    assert gpu.is_empty()
    balance = 0
    for event in gpu.events():
        balance += {What.TOOK: 1, What.GAVE: -1, What.DIED: -1}.get(event.what, 0) * event.size
        assert event.used == balance
    assert gpu.peak(among={program.pid for program in programs}) == gpu.peak()


def test_the_peak_of_some_processes_is_told_after_the_fact(soft_gpu: MakeSoftGPU) -> None:
    gpu = soft_gpu(1000)
    with gpu.foreign(300) as first, gpu.foreign(400) as second:
        first.hold(100)
        second.hold(500)
        pids = first.pid, second.pid

    assert gpu.peak() == 700
    assert gpu.peak(among=pids[:1]) == 300
    assert gpu.peak(among=pids[1:]) == 500
    assert gpu.peak(among=[]) == 0


# --- late release


def test_freed_memory_is_in_use_until_its_lag_is_over(soft_gpu: MakeSoftGPU, peer: StartPeer) -> None:
    gpu = soft_gpu(1000, lag=0.2)
    program = peer(PROGRAM, gpu.env)
    assert program.ask("give(take(600))") is None
    gpu.set_lag(60)
    assert program.ask("bool(take(1))")
    gpu.wait_until(lambda: gpu.used() == 1)
    given, returned = (next(e for e in gpu.events() if e.what is what) for what in (What.GAVE, What.RETURNED))
    assert returned.at - given.at == pytest.approx(0.2, abs=0.1)

    program.kill()

    assert (gpu.used(), gpu.holders(), gpu.is_empty()) == (1, {}, False)
    with pytest.raises(MemoryError), gpu.foreign(1000):
        pass


def test_lags_drawn_from_a_seed_can_be_drawn_again(soft_gpu: MakeSoftGPU) -> None:
    def lags(seed: int) -> list[int]:
        """Sizes in the order in which they were seen free; they were let go in rising order."""
        gpu = soft_gpu(10_000, lag=(0.02, 0.5), seed=seed)
        with gpu.foreign(36) as other:
            for left in (35, 33, 30, 26, 21, 15, 8, 0):
                other.hold(left)
        gpu.wait_until(gpu.is_empty)
        moved = {what: [e for e in gpu.events() if e.what is what] for what in (What.GAVE, What.RETURNED)}
        given = {event.size: event.at for event in moved[What.GAVE]}
        assert all(0.019 < event.at - given[event.size] < 0.51 for event in moved[What.RETURNED])
        return [event.size for event in moved[What.RETURNED]]

    assert lags(1) == lags(1) != lags(2)
    assert sorted(lags(2)) != lags(2)


# --- computing


def test_a_card_computes_and_moves_bytes_at_the_speed_of_its_bus(soft_gpu: MakeSoftGPU, peer: StartPeer) -> None:
    gpu = soft_gpu("64MiB")
    program = peer(PROGRAM, gpu.env)

    assert program.ask("begin()") is True
    assert program.ask("compute([1.0, 2.5])") == [2.0, 5.0]
    gpu.set_bus("10MiB")
    assert program.ask(f"seconds_to_move({MiB})") >= 0.2


def test_computing_without_memory_is_the_end_of_the_process(soft_gpu: MakeSoftGPU, peer: StartPeer) -> None:
    gpu = soft_gpu("64MiB")
    spared, program = (peer(PROGRAM, gpu.env) for _ in range(2))
    assert spared.ask("begin()") is program.ask("begin()") is True
    gpu.abort_computations(skip=1, sparing={spared.pid})

    assert spared.ask("[compute([1.0])[0] for _ in range(3)]") == [2.0] * 3
    assert program.ask("compute([1.0])") == [2.0]
    assert gpu.faults_left() == 1
    with pytest.raises(EOFError, match="out of memory"):
        program.ask("compute([1.0])")

    assert gpu.faults_left() == 0
    assert program.process.wait(10) == -6
    assert what_happened(gpu, program.pid)[-1][0] in (What.ABORTED, What.DIED)
    assert spared.ask("compute([1.0])") == [2.0]


def test_allocations_fail_on_demand_by_size_card_and_process(soft_gpu: MakeSoftGPU, peer: StartPeer) -> None:
    gpu = soft_gpu("64MiB", "64MiB")
    spared, program = (peer(PROGRAM, gpu.env) for _ in range(2))
    assert spared.ask("len(cards)") == program.ask("len(cards)") == 2
    gpu.refuse_allocations(2, at_least=1000, card=1, sparing={spared.pid})

    assert spared.ask("bool(take(1000, 1))") is True
    assert program.ask("[bool(take(size, card)) for size, card in [(999, 1), (1000, 0), (1000, 1)]]") == [
        True,
        True,
        False,
    ]
    assert program.ask("[bool(take(2000, 1)) for _ in range(2)]") == [False, True]
    assert gpu.refusals() == []
    assert [event.size for event in gpu.events() if event.is_ordered] == [1000, 2000]

    gpu.refuse_allocations(5)
    gpu.withdraw_faults()
    assert (gpu.faults_left(), program.ask("bool(take(1))")) == (0, True)


# --- NVML


def test_pynvml_reads_the_ledger(soft_gpu: MakeSoftGPU, peer: StartPeer) -> None:
    gpu = soft_gpu("64MiB", "32MiB")
    watcher = peer(WATCHER, gpu.env)

    with gpu.foreign(1000, 1, name="render-farm") as renders, gpu.foreign(500, 1, draws=True) as desktop:
        assert watcher.ask("memory(1)") == [32 * MiB, 32 * MiB - 1500, 1500]
        assert watcher.ask("processes(1)") == {str(renders.pid): 1000}
        assert watcher.ask("processes(1, draws=True)") == {str(desktop.pid): 500}
        assert Path(watcher.ask(f"nvmlSystemGetProcessName({renders.pid})")).name == "render-farm"
        assert psutil.Process(renders.pid).name() == "render-farm"
        assert watcher.ask("nvmlDeviceGetMemoryInfo(nvmlDeviceGetHandleByIndex(1), nvmlMemory_v2).used") == 1500
    assert watcher.ask("[memory(1), processes(1), processes(0)]") == [[32 * MiB, 32 * MiB, 0], {}, {}]

    assert watcher.ask("nvmlDeviceGetCount()") == 2
    assert watcher.ask("nvmlDeviceGetName(nvmlDeviceGetHandleByIndex(0))") == "Soft GPU 0"
    assert watcher.ask("[nvmlSystemGetDriverVersion(), nvmlSystemGetNVMLVersion()]") == ["1.0-soft", "13.1.0-soft"]
    by_uuid = "nvmlDeviceGetHandleByUUID(nvmlDeviceGetUUID(nvmlDeviceGetHandleByIndex(1)))"
    assert watcher.ask(f"nvmlDeviceGetIndex({by_uuid})") == 1
    assert watcher.ask("nvmlDeviceGetPciInfo(nvmlDeviceGetHandleByIndex(1)).busId") == "000050F7:02:00.0"
    assert watcher.ask("nvmlDeviceGetIndex(nvmlDeviceGetHandleByPciBusId('50f7:02:00.0'))") == 1
    card = "nvmlDeviceGetHandleByIndex(0)"
    assert watcher.ask(f"nvmlDeviceGetUtilizationRates({card}).gpu") == 0
    assert watcher.ask(f"nvmlDeviceGetTemperature({card}, NVML_TEMPERATURE_GPU)") == 40
    assert watcher.ask(f"nvmlDeviceGetPowerUsage({card})") == 50_000
    assert "NVMLError_InvalidArgument" in watcher.ask("nvmlDeviceGetHandleByIndex(2)")
    assert "NVMLError_NotFound" in watcher.ask("nvmlDeviceGetHandleByUUID('GPU-none')")
    watcher.ask("nvmlShutdown()")
    assert "NVMLError_Uninitialized" in watcher.ask("nvmlDeviceGetCount()")


def test_swapd_measures_the_cards(soft_gpu: MakeSoftGPU, peer: StartPeer) -> None:
    gpu = soft_gpu("64MiB", "32MiB", context=100)
    watcher, program = peer(WATCHER, gpu.env), peer(PROGRAM, gpu.env)
    assert program.ask("bool(take(900, 1))")

    with gpu.foreign(50, 1):
        assert watcher.ask(f"measure({{7: {program.pid}}})") == [
            ["cuda:0", "50f7:01:00.0", 64 * MiB, 64 * MiB, 0, 0],
            ["cuda:1", "50f7:02:00.0", 32 * MiB, 32 * MiB - 1050, 1000, 50],
        ]


def test_the_sizes_of_processes_can_be_untold_and_the_processes_too(soft_gpu: MakeSoftGPU, peer: StartPeer) -> None:
    gpu = soft_gpu("64MiB")
    watcher = peer(WATCHER, gpu.env)
    with gpu.foreign(1000) as other:
        gpu.tell_processes(Telling.NO_SIZES)
        assert watcher.ask("processes(0)") == {str(other.pid): None}
        gpu.tell_processes(Telling.NOBODY)
        assert watcher.ask("[processes(0), memory(0)[2]]") == [{}, 1000]
        gpu.tell_processes(Telling.SIZES)
        assert watcher.ask("processes(0)") == {str(other.pid): 1000}


def test_the_driver_fails_and_comes_back(soft_gpu: MakeSoftGPU, peer: StartPeer) -> None:
    gpu = soft_gpu("64MiB", "32MiB")
    watcher = peer(WATCHER, gpu.env)

    gpu.break_driver(LOST, card=1)
    assert "GPU is lost" in watcher.ask("memory(1)")
    assert watcher.ask("memory(0)[0]") == 64 * MiB
    gpu.break_driver()
    assert "Unknown Error" in watcher.ask("memory(0)")
    assert "Unknown Error" in watcher.ask("nvmlInit()")
    gpu.mend_driver()
    assert watcher.ask("memory(1)[0]") == 32 * MiB

    gpu.break_driver(seconds=0.2)
    gpu.wait_until(lambda: watcher.ask("memory(0)")[0] == 64 * MiB)


def test_without_a_ledger_there_is_no_card(soft_gpu: MakeSoftGPU, peer: StartPeer, tmp_path: Path) -> None:
    environ = {**soft_gpu("64MiB").env, "SOFTGPU": str(tmp_path / "none")}

    assert peer(PROGRAM, environ).ask("len(cards)") == 0
    with pytest.raises(EOFError, match="NVMLError_DriverNotLoaded"):
        peer(WATCHER, environ).ask("nvmlDeviceGetCount()")


# --- building


def test_building_twice_at_once_makes_one(soft_gpu_libraries: Libraries) -> None:
    cache = soft_gpu_libraries.folder.parent
    made = [soft_gpu_libraries.nvml.stat().st_mtime_ns]
    builders = [threading.Thread(target=lambda: made.append(build(cache).nvml.stat().st_mtime_ns)) for _ in range(3)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()

    assert len(made) == 4
    assert len(set(made)) == 1
