"""What a swap scheduler has to get right with real models on soft cards: one sentence, one test."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from swapd.demo import models
from swapd.units import MiB
from tests.e2e.conftest import COMMON, SMOL, Daemon, Start
from tests.softgpu.control import What
from tests.softgpu.fixtures import MakeSoftGPU
from tests.softgpu.gpu import SoftGPU

pytestmark = pytest.mark.e2e

SETTINGS = '[memory]\nvram_reserve = "0"\nhost_reserve = "256MiB"\n[scheduler]\noverflow = "{}"\n'
PATH = f'path = "{models.folder() / SMOL}.gguf"\n'
SMALL = "".join(f'[models."{name}"]\n{PATH}context = {512 + 16 * n}\nslots = 1\n' for n, name in enumerate("abc"))
LARGE = "".join(f'[models."{name}"]\n{PATH}context = {8192 + 256 * n}\nslots = 2\n' for n, name in enumerate("xy"))
"""The small ones take about 140 MiB of a card, the large ones about 500."""
ONE, TWO = "256MiB", "384MiB"
CONTEXT = "16MiB"

StartOn = Callable[..., Daemon]


@pytest.fixture
def start_on(start: Start) -> StartOn:
    def make(gpu: SoftGPU, overflow: str = "evict", more: str = "") -> Daemon:
        return start(SETTINGS.format(overflow), environ=gpu.env, common=COMMON + SMALL + LARGE + more)

    return make


def ask(daemon: Daemon, model: str) -> int:
    return daemon.chat(model, max_tokens=2)[0]


def resident(daemon: Daemon, name: str) -> Any:
    def find(status: Any) -> Any:
        return next((m for m in status["models"] if m["name"] == name and m["state"] in ("ready", "busy")), None)

    return find(daemon.wait_status(find))


@contextmanager
def talking(daemon: Daemon, model: str) -> Iterator[None]:
    """An answer is being given, and goes on until the block ends."""
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port)
    body = {"model": model, "prompt": "Once upon a time", "max_tokens": 400, "stream": True, "ignore_eos": True}
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    assert response.status == 200
    assert response.readline()
    try:
        yield
    finally:
        connection.close()


def test_scenario_08_a_resident_that_is_not_concerned_answers_while_others_swap(
    soft_gpu: MakeSoftGPU, start_on: StartOn
) -> None:
    """The victim's memory comes back 1.5 s late; the bystander answers in the meantime."""
    gpu = soft_gpu(TWO, context=CONTEXT, lag=1.5)
    daemon = start_on(gpu)
    assert [ask(daemon, model) for model in "ac"] == [200, 200]
    statuses: list[int] = []
    newcomer = threading.Thread(target=lambda: statuses.append(ask(daemon, "b")))
    newcomer.start()
    daemon.wait_log("event=unload.*model=a ")

    assert ask(daemon, "c") == 200

    assert statuses == []
    newcomer.join(timeout=60)
    assert statuses == [200]
    assert daemon.resident_names() == {"b", "c"}


def test_scenario_09_the_end_of_one_worker_does_not_count_as_that_of_another(
    soft_gpu: MakeSoftGPU, start_on: StartOn
) -> None:
    """Both cards are let go at the same time and come back late: the newcomer takes only what it has seen free."""
    gpu = soft_gpu(ONE, ONE, context=CONTEXT, lag=(0.5, 1.5), seed=3)
    daemon = start_on(gpu)
    assert [daemon.call(f"/swapd/models/{m}/load", {"gpu_layers": 31})[0] for m in "ac"] == [200, 200]
    leavers = {resident(daemon, model)["pid"] for model in "ac"}
    leaving = threading.Thread(target=lambda: daemon.call("/swapd/models/c/unload", method="POST"))
    leaving.start()

    assert daemon.call("/swapd/models/b/load", {"gpu_layers": 31})[0] == 200

    leaving.join(timeout=60)
    pid = resident(daemon, "b")["pid"]
    events = gpu.events()
    first = next(event for event in events if event.what is What.TOOK and event.pid == pid)
    returned = [e.at for e in events if e.what is What.RETURNED and e.card == first.card and e.pid in leavers]
    assert returned
    assert max(returned) < first.at
    assert gpu.refusals() == []


def test_scenario_11_only_those_leave_whose_room_is_needed(soft_gpu: MakeSoftGPU, start_on: StartOn) -> None:
    """The small one is the least recently used, and its room would not help."""
    gpu = soft_gpu("768MiB", context=CONTEXT)
    daemon = start_on(gpu)
    assert [ask(daemon, model) for model in "ax"] == [200, 200]
    assert daemon.resident_names() == {"a", "x"}

    assert ask(daemon, "y") == 200

    assert daemon.resident_names() == {"a", "y"}


def test_scenario_18_an_unload_drains_and_by_force_ends_the_answer(soft_gpu: MakeSoftGPU, start_on: StartOn) -> None:
    gpu = soft_gpu(TWO, context=CONTEXT)
    daemon = start_on(gpu)
    with talking(daemon, "x"):
        assert daemon.call("/swapd/models/x/unload?wait=false", method="POST")[0] == 200
        assert [m["state"] for m in daemon.status()["models"]] == ["draining"]
        listed = daemon.swapctl("ps").stdout
        assert "Stopping..." in listed
        assert daemon.call("/swapd/models/x/unload", {"force": True})[0] == 200
        assert daemon.status()["models"] == []
    assert gpu.holders() == {}


def test_scenario_24_an_explicit_context_is_never_changed_silently(soft_gpu: MakeSoftGPU, start_on: StartOn) -> None:
    gpu = soft_gpu(TWO, context=CONTEXT)
    daemon = start_on(gpu)
    gpu.refuse_allocations(1, at_least="4MiB")

    assert ask(daemon, "a") == 200

    assert daemon.status()["counters"]["oom_retries"] == 1
    assert resident(daemon, "a")["context"] == 512
    status, refusal = daemon.chat("a", "word " * 600)
    assert (status, refusal["error"]["code"]) == (400, "context_length_exceeded")


def test_scenario_27_memory_that_does_not_come_back_is_waited_for_only_so_long(
    soft_gpu: MakeSoftGPU, start_on: StartOn
) -> None:
    """Then the newcomer makes do with what is seen free: here the CPU."""
    gpu = soft_gpu("160MiB", context=CONTEXT, lag=60.0)
    daemon = start_on(gpu)
    assert ask(daemon, "a") == 200
    assert resident(daemon, "a")["gpu_layers"] == 31

    assert ask(daemon, "b") == 200

    assert sum("not seen free" in line for line in daemon.log) == 1
    assert resident(daemon, "b")["gpu_layers"] == 0
    assert daemon.status()["counters"]["oom_retries"] == 0


def test_scenario_28_a_smaller_context_is_served_without_a_reload(soft_gpu: MakeSoftGPU, start_on: StartOn) -> None:
    daemon = start_on(soft_gpu(TWO, context=CONTEXT))
    assert ask(daemon, "a") == 200
    before = resident(daemon, "a")["pid"]

    body = {"model": "a", "prompt": "Hello", "stream": False, "options": {"num_ctx": 256, "num_predict": 2}}
    assert daemon.call("/api/generate", body)[0] == 200

    assert resident(daemon, "a")["pid"] == before
    assert daemon.status()["counters"]["loads"] == 1


def test_scenario_29_beside_a_busy_model_a_newcomer_is_loaded_in_part_and_says_so(
    soft_gpu: MakeSoftGPU, start_on: StartOn
) -> None:
    gpu = soft_gpu(ONE, context=CONTEXT)
    daemon = start_on(gpu, "offload")
    with talking(daemon, "a"):
        hot = resident(daemon, "a")["pid"]
        request = json.dumps({"model": "b", "prompt": "Hello", "max_tokens": 2})
        connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=60)
        connection.request("POST", "/v1/completions", request, {"Content-Type": "application/json"})
        response = connection.getresponse()
        told = response.getheader("X-Swapd-Placement")
        response.read()
        connection.close()

        shown = resident(daemon, "b")
        assert response.status == 200
        assert 0 < shown["gpu_layers"] < 31
        assert told == shown["placement"]
        assert str(told).endswith("GPU/CPU")
        assert resident(daemon, "a")["pid"] == hot
    assert gpu.refusals() == []


def test_scenario_34_a_load_for_the_cpu_evicts_nobody_from_the_card(soft_gpu: MakeSoftGPU, start_on: StartOn) -> None:
    gpu = soft_gpu(ONE, context=CONTEXT)
    daemon = start_on(gpu)
    assert ask(daemon, "a") == 200
    before = resident(daemon, "a")["pid"]

    assert daemon.call("/swapd/models/b/load", {"gpu_layers": 0})[0] == 200
    assert ask(daemon, "b") == 200

    assert daemon.resident_names() == {"a", "b"}
    assert set(gpu.holders()) == {before}


def test_bug_02_first_requests_at_the_same_time_load_once(soft_gpu: MakeSoftGPU, start_on: StartOn) -> None:
    daemon = start_on(soft_gpu(TWO, context=CONTEXT))
    statuses: list[int] = []
    callers = [threading.Thread(target=lambda: statuses.append(ask(daemon, "a"))) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=60)

    assert statuses == [200] * 4
    assert daemon.status()["counters"]["loads"] == 1


def test_bug_06_an_unload_while_the_keep_alive_ends_it_comes_back_and_the_next_request_is_served(
    soft_gpu: MakeSoftGPU, start_on: StartOn
) -> None:
    """The memory is seen free 1.5 s after the end, so that the unload meets it on its way."""
    gpu = soft_gpu(ONE, context=CONTEXT, lag=1.5)
    daemon = start_on(gpu)
    assert daemon.chat("a", max_tokens=2, keep_alive=0)[0] == 200
    daemon.wait_log("event=unload.*model=a .*keep-alive")
    assert [m["state"] for m in daemon.status()["models"]] == ["unloading"]

    assert daemon.call("/swapd/models/a/unload", method="POST")[0] == 200

    assert daemon.status()["models"] == []
    assert ask(daemon, "a") == 200
    assert daemon.status()["counters"]["loads"] == 2


def test_bug_07_a_load_waits_also_for_what_the_sizing_process_gives_back_late(
    soft_gpu: MakeSoftGPU, start_on: StartOn
) -> None:
    """On a card that holds the model and a little more, the context of the process that sized it is in the way."""
    roomy = soft_gpu("512MiB", context=CONTEXT)
    learner = start_on(roomy)
    assert ask(learner, "a") == 200
    whole = roomy.holders()[resident(learner, "a")["pid"]]
    learner.stop()
    gpu = soft_gpu(whole + 4 * MiB, context=CONTEXT, lag=1.0)
    daemon = start_on(gpu)

    assert ask(daemon, "a") == 200

    assert gpu.refusals() == []
    assert resident(daemon, "a")["gpu_layers"] == 31


def test_bug_08_a_name_that_stands_for_nothing_disturbs_nobody(soft_gpu: MakeSoftGPU, start_on: StartOn) -> None:
    daemon = start_on(soft_gpu(ONE, context=CONTEXT))
    assert ask(daemon, "a") == 200
    before = resident(daemon, "a")["pid"]

    for path, method in (("/v1/completions", "POST"), ("/api/generate", "POST"), ("/swapd/models/z/load", "POST")):
        assert daemon.call(path, {"model": "z", "prompt": "Hello"}, method=method)[0] == 404
    assert daemon.call("/swapd/models/z/unload", {"force": True})[0] == 404

    assert resident(daemon, "a")["pid"] == before
    assert daemon.status()["counters"] | {"loads": 1, "evictions": 0} == daemon.status()["counters"]
    assert ask(daemon, "a") == 200
