"""A worker's life: spare, load, failed load, and that it never outlives the daemon."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from swapd.units import GiB
from swapd.wire import Failed, Generate, Loaded, LoadFailed, Ping, Pong, Progress, SetThreads
from tests.worker.conftest import Child, a_load, ask, wait_gone

LONG = ask("Once upon a time", name="long", max_tokens=None)


def test_a_spare_tells_its_process_and_llama_cpps_version() -> None:
    child = Child()
    try:
        started = child.start()
        assert started.pid == child.process.pid
        assert started.build
    finally:
        child.close()


def test_a_spare_answers_pings(spare: Child) -> None:
    spare.send(Ping())
    assert spare.receive() == Pong()


def test_a_spare_refuses_requests_and_lives(spare: Child) -> None:
    assert "no model is loaded" in spare.generate(ask("x"))[0].failure.message
    spare.send(Ping())
    assert spare.receive() == Pong()


def test_a_load_tells_what_was_made(spare: Child, smollm: Path) -> None:
    loaded = spare.load(a_load(smollm, context=1000, slots=3))
    assert isinstance(loaded, Loaded)
    assert (loaded.layers, loaded.gpu_layers, loaded.slots, loaded.template) == (31, 0, 3, "model")
    assert loaded.context >= 1000
    assert loaded.seconds > 0


def test_another_context_is_made_for_the_weights_that_are_there(spare: Child, smollm: Path) -> None:
    first = spare.load(a_load(smollm, context=256, slots=1))
    (before,) = spare.generate(ask("One, two, three,", name="before"))
    second = spare.load(a_load(smollm, context=512, slots=3, kv_type="q8_0"))
    assert isinstance(first, Loaded)
    assert isinstance(second, Loaded)
    assert (second.context, second.slots) == (512, 3)
    weights = [{(d, k): size for d, k, size in told.parts}["host", "model"] for told in (first, second)]
    assert weights[0] == weights[1]
    answers = spare.generate(*(ask("One, two, three,", name=f"{i}") for i in range(3)))
    assert {answer.text[:6] for answer in answers} == {before.text[:6]}
    (long,) = spare.generate(ask("word " * 300, name="long", max_tokens=1))
    assert long.ending.usage.prompt > 256


def test_a_context_that_cannot_be_made_is_told(spare: Child, smollm: Path) -> None:
    assert isinstance(spare.load(a_load(smollm, context=256)), Loaded)
    failed = spare.load(a_load(smollm, context=2**26))
    assert isinstance(failed, LoadFailed)
    assert "no model is loaded" in spare.generate(ask("x"))[0].failure.message


def test_progress_grows_to_one(spare: Child, smollm: Path) -> None:
    spare.send(a_load(smollm))
    fractions: list[float] = []
    while isinstance(frame := spare.receive(), Progress):
        fractions.append(frame.fraction)
    assert isinstance(frame, Loaded)
    assert fractions == sorted(fractions)
    assert 1 < len(fractions) < 250
    assert fractions[-1] > 0.9


@pytest.mark.parametrize("kv_type", ["q8_0", "q4_0"])
def test_the_cache_may_be_quantised(spare: Child, smollm: Path, kv_type: str) -> None:
    assert isinstance(spare.load(a_load(smollm, kv_type=kv_type)), Loaded)
    assert spare.generate(ask(chat="Say hi.", max_tokens=4))[0].text


def test_a_small_micro_batch_and_many_slots_work_together(spare: Child, smollm: Path) -> None:
    assert isinstance(spare.load(a_load(smollm, context=256, slots=6, micro_batch=4)), Loaded)
    answers = spare.generate(*(ask("one two three " * 20, name=str(i), max_tokens=3) for i in range(8)))
    assert len({answer.text for answer in answers}) == 1


def cut(model: Path, folder: Path, size: int) -> Path:
    path = folder / "cut.gguf"
    with model.open("rb") as whole:
        path.write_bytes(whole.read(size))
    return path


@pytest.mark.parametrize("size", [0, 3, 1000, 100_000, 50_000_000])
def test_a_truncated_file_is_a_failed_load(spare: Child, smollm: Path, tmp_path: Path, size: int) -> None:
    failed = spare.load(a_load(cut(smollm, tmp_path, size)))
    assert isinstance(failed, LoadFailed)
    assert "cut off" in failed.reason
    assert not failed.out_of_memory


@pytest.mark.parametrize("junk", [b"not a model at all" * 100, b"GGUF" + b"\xff" * 5000, bytes(range(256)) * 20])
def test_junk_is_a_failed_load(spare: Child, tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "junk.gguf"
    path.write_bytes(junk)
    failed = spare.load(a_load(path))
    assert isinstance(failed, LoadFailed)
    assert failed.reason
    assert not failed.out_of_memory
    spare.send(Ping())
    assert spare.receive() == Pong()


def test_a_missing_file_is_named(spare: Child, tmp_path: Path) -> None:
    failed = spare.load(a_load(tmp_path / "nothing.gguf"))
    assert isinstance(failed, LoadFailed)
    assert "No such file" in failed.reason


def test_a_missing_card_is_named(spare: Child, smollm: Path) -> None:
    failed = spare.load(a_load(smollm, devices=("0000:99:00.0",), gpu_layers=99))
    assert isinstance(failed, LoadFailed)
    assert "no device 0000:99:00.0" in failed.reason


def test_a_context_that_no_memory_holds_is_out_of_memory(spare: Child, smollm: Path) -> None:
    resource.prlimit(spare.process.pid, resource.RLIMIT_AS, (8 * GiB, 8 * GiB))
    failed = spare.load(a_load(smollm, context=2**20))
    assert isinstance(failed, LoadFailed)
    assert failed.out_of_memory, failed.reason


def test_threads_change_while_it_answers(spare: Child, smollm: Path) -> None:
    spare.load(a_load(smollm))
    spare.send(Generate(ask("One, two,", max_tokens=8)), SetThreads(2), Ping(), SetThreads(1))
    assert spare.finish("a")[0].ending.usage.completion == 8


def test_end_of_file_ends_a_spare(spare: Child) -> None:
    spare.socket.close()
    assert spare.wait_gone() == 0


def test_end_of_file_ends_an_idle_worker(spare: Child, smollm: Path) -> None:
    spare.load(a_load(smollm))
    spare.socket.close()
    assert spare.wait_gone() == 0


def test_end_of_file_ends_a_worker_that_answers(spare: Child, smollm: Path) -> None:
    spare.load(a_load(smollm))
    spare.send(Generate(LONG))
    spare.receive()
    spare.socket.close()
    assert spare.wait_gone() == 0


def test_end_of_file_ends_a_worker_that_loads(spare: Child, smollm: Path) -> None:
    """It is noticed at the next progress of the load, or right after it."""
    spare.send(a_load(smollm))
    assert isinstance(spare.receive(), Progress)
    spare.socket.shutdown(socket.SHUT_WR)
    assert spare.wait_gone() == 0


def test_a_daemon_that_is_gone_before_the_worker_starts_leaves_none() -> None:
    """The worker asks whether the one that made the socket still is its parent."""
    program = (
        "import socket, subprocess, sys\n"
        "ours, theirs = socket.socketpair()\n"
        "worker = subprocess.Popen([sys.executable, '-m', 'swapd.worker', '--fd', str(theirs.fileno())],\n"
        "    pass_fds=[theirs.fileno(), ours.fileno()], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)\n"
        "print(worker.pid)"
    )
    middle = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True, text=True)
    wait_gone(int(middle.stdout))


@pytest.fixture
def orphan(smollm: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that plays the daemon, and the id of its loaded worker."""
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from tests.worker.conftest import Child, a_load\n"
        "child = Child(); child.start(); child.load(a_load(Path(sys.argv[1])))\n"
        "print(child.process.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(smollm)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert parent.stdout is not None
        yield parent, int(parent.stdout.readline())
    finally:
        parent.kill()
        parent.communicate()


def test_a_killed_daemon_leaves_no_worker(orphan: tuple[subprocess.Popen[str], int]) -> None:
    parent, worker = orphan
    parent.kill()
    wait_gone(worker)


def test_a_killed_daemon_leaves_no_worker_that_hears_nothing(orphan: tuple[subprocess.Popen[str], int]) -> None:
    """Stopped, it cannot read the end of file: only the kernel can end it."""
    parent, worker = orphan
    os.kill(worker, signal.SIGSTOP)
    parent.kill()
    wait_gone(worker)


def test_ctrl_c_in_the_daemons_terminal_is_the_daemons_business(spare: Child) -> None:
    os.kill(spare.process.pid, signal.SIGINT)
    spare.send(Ping())
    assert spare.receive() == Pong()


def test_sigterm_ends_it_at_once(spare: Child, smollm: Path) -> None:
    spare.load(a_load(smollm))
    spare.send(Generate(LONG))
    spare.receive()
    spare.process.terminate()
    assert spare.wait_gone() == -signal.SIGTERM


def test_what_no_swapd_sends_ends_it_with_a_line(spare: Child) -> None:
    spare.socket.sendall(b"\x02\x00\x00\x00\xff\xff")
    assert spare.wait_gone() == 70
    assert spare.process.stderr is not None
    assert b"cannot go on" in spare.process.stderr.read()


@pytest.mark.parametrize(("file", "pooling"), [("/other.gguf", ""), (None, "mean")])
def test_a_load_of_anything_else_ends_it(spare: Child, smollm: Path, file: str | None, pooling: str) -> None:
    spare.load(a_load(smollm))
    spare.send(a_load(Path(file) if file else smollm, pooling=pooling))
    assert spare.wait_gone() == 70


def test_failures_have_one_last_frame(spare: Child) -> None:
    """The fixture itself refuses a second one."""
    spare.send(Generate(ask("x")), Ping())
    assert isinstance(spare.receive(), Failed)
    assert spare.receive() == Pong()
