"""Real models on soft cards: what the daemon places there, measures there and makes room for, as the ledger saw it.

The daemon is as shipped; it sees the cards through the real pynvml, its workers through ggml.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pynvml
import pytest

from swapd.demo import models
from swapd.units import MiB, format_bytes
from tests.e2e.conftest import COMMON, SMOL, Daemon, Start
from tests.softgpu.control import Telling, What
from tests.softgpu.fixtures import MakeSoftGPU
from tests.softgpu.gpu import SoftGPU

pytestmark = pytest.mark.e2e

SETTINGS = '[memory]\nvram_reserve = "0"\nhost_reserve = "256MiB"\n'
COPIES = "".join(
    f'[models."{name}"]\npath = "{models.folder() / SMOL}.gguf"\ncontext = {512 + 16 * number}\nslots = 1\n'
    for number, name in enumerate("abc")
)
"""Three names for the small model, each about 140 MiB on a card: different variants, because their contexts differ."""
ALL = 31
ONE, TWO = "256MiB", "384MiB"
"""Cards with room for so many of them."""
CONTEXT = "16MiB"

StartOn = Callable[[SoftGPU], Daemon]


@pytest.fixture
def start_on(start: Start) -> StartOn:
    """`start_on(gpu)`: a daemon that knows the copies and sees these cards."""
    return lambda gpu: start(SETTINGS, environ=gpu.env, common=COMMON + COPIES)


def ask(daemon: Daemon, model: str) -> int:
    """Ask for a word; the status of the answer."""
    return daemon.chat(model, max_tokens=2)[0]


def load_whole(daemon: Daemon, model: str) -> tuple[int, Any]:
    return daemon.call(f"/swapd/models/{model}/load", {"gpu_layers": ALL})


def resident(daemon: Daemon, name: str) -> Any:
    """Its part of the status, once it was measured."""

    def find(status: Any) -> Any:
        return next((m for m in status["models"] if m["name"] == name and m["measured"]), None)

    return find(daemon.wait_status(find))


def cards_of(gpu: SoftGPU, pid: int) -> list[int]:
    return [card for card in gpu.cards if pid in gpu.holders(card)]


def test_a_model_on_the_card_is_shown_with_the_bytes_that_the_ledger_says(
    soft_gpu: MakeSoftGPU, start_on: StartOn
) -> None:
    gpu = soft_gpu("512MiB", context=CONTEXT)
    daemon = start_on(gpu)

    assert ask(daemon, SMOL) == 200

    shown = resident(daemon, SMOL)
    held = gpu.holders()[shown["pid"]]
    assert shown["measured"]["cuda:0"] == held
    assert (shown["placement"], shown["gpu_layers"]) == ("100% GPU", ALL)
    assert daemon.call("/api/ps")[1]["models"][0]["size_vram"] == held
    listed = daemon.swapctl("ps").stdout.splitlines()[1]
    assert "100% GPU" in listed
    assert format_bytes(held) in listed
    card = daemon.status()["devices"][0]
    seen = {key: card[key] for key in ("id", "total", "free", "ours", "foreign")}
    total = gpu.total()
    assert seen == {"id": "cuda:0", "total": total, "free": total - held, "ours": held, "foreign": 0}

    daemon.stop()
    assert gpu.is_empty()


def test_models_that_fit_stay_together_and_the_least_recently_used_makes_room(
    soft_gpu: MakeSoftGPU, start_on: StartOn
) -> None:
    gpu = soft_gpu(TWO, context=CONTEXT)
    daemon = start_on(gpu)

    assert [ask(daemon, model) for model in "aba"] == [200] * 3
    assert daemon.resident_names() == {"a", "b"}
    assert len(gpu.holders()) == 2
    assert ask(daemon, "c") == 200

    assert daemon.resident_names() == {"a", "c"}
    assert gpu.refusals() == []


def test_explicit_layers_go_to_the_card_and_say_the_same(soft_gpu: MakeSoftGPU, start_on: StartOn) -> None:
    gpu = soft_gpu("512MiB", context=CONTEXT)
    daemon = start_on(gpu)
    texts, sizes = set(), []

    for layers in (0, 7, 15, 23, ALL):
        status, placed = daemon.call(f"/swapd/models/{SMOL}/load", {"gpu_layers": layers})
        assert (status, placed["gpu_layers"]) == (200, layers)
        texts.add(daemon.chat(SMOL, "Tell me about the sea.", max_tokens=12)[1]["choices"][0]["message"]["content"])
        sizes.append(gpu.holders().get(placed["pid"], 0))

    assert len(texts) == 1
    assert sizes[0] == 0
    assert sizes == sorted(set(sizes))
    assert gpu.refusals() == []


def test_a_newcomer_waits_until_late_memory_is_seen_free(soft_gpu: MakeSoftGPU, start_on: StartOn) -> None:
    """The card gives memory back 1.5 s after its holder is gone."""
    gpu = soft_gpu(ONE, context=CONTEXT, lag=1.5)
    daemon = start_on(gpu)
    assert ask(daemon, "a") == 200
    first = resident(daemon, "a")["pid"]

    assert ask(daemon, "b") == 200

    second = resident(daemon, "b")["pid"]
    happened = [(event.what, event.pid == first) for event in gpu.events() if event.pid in (first, second)]
    returned, taken = (What.RETURNED, True), (What.TOOK, False)
    assert happened.index(returned) < happened.index(taken)
    assert returned not in happened[happened.index(taken) :]
    assert gpu.refusals() == []
    assert not any("not seen free" in line for line in daemon.log)


def test_foreign_memory_counts_at_the_next_load(soft_gpu: MakeSoftGPU, start_on: StartOn) -> None:
    """Beside it only one of two fits that would both fit alone, and a larger one not at all."""
    gpu = soft_gpu(TWO, context=CONTEXT)
    daemon = start_on(gpu)
    assert ask(daemon, "a") == 200

    with gpu.foreign("150MiB", name="render-farm"):
        assert load_whole(daemon, "b")[0] == 200
        assert daemon.resident_names() == {"b"}
        daemon.wait_status(lambda status: status["devices"][0]["foreign"] == 150 * MiB)  # the one before has ended
        status, refusal = load_whole(daemon, SMOL)
        assert (status, refusal["error"]["code"]) == (507, "does_not_fit")
        assert daemon.resident_names() == {"b"}
    assert load_whole(daemon, SMOL)[0] == 200

    assert gpu.refusals() == []


def test_of_two_cards_the_one_with_more_room_is_taken(soft_gpu: MakeSoftGPU, start_on: StartOn) -> None:
    gpu = soft_gpu(ONE, TWO, context=CONTEXT)
    daemon = start_on(gpu)

    for model in "abc":
        assert load_whole(daemon, model)[0] == 200

    pids = [resident(daemon, model)["pid"] for model in "abc"]
    assert [cards_of(gpu, pid) for pid in pids] == [[1], [0], [1]]
    assert gpu.refusals() == []


def test_what_neither_card_holds_beside_the_other_is_split_as_there_is_room(
    soft_gpu: MakeSoftGPU, start_on: StartOn
) -> None:
    """Equal shares would not fit; llama.cpp puts the layers where the core said, and the text is the same."""
    gpu = soft_gpu("224MiB", "136MiB", context=CONTEXT)
    daemon = start_on(gpu)
    texts = [daemon.chat(model, "Tell me about the sea.", max_tokens=12)[1]["choices"][0] for model in "ab"]

    assert daemon.resident_names() == {"a", "b"}
    assert texts[0]["message"]["content"] == texts[1]["message"]["content"]
    split = resident(daemon, "b")
    assert (split["gpu_layers"], split["placement"]) == (ALL, "100% GPU")
    held = {f"cuda:{card}": gpu.holders(card)[split["pid"]] for card in gpu.cards}
    assert all(abs(split["predicted"][card] - size) <= 4 * MiB for card, size in held.items())
    assert gpu.refusals() == []


def test_without_an_answer_of_the_driver_residents_serve_and_nothing_goes_to_the_card(
    soft_gpu: MakeSoftGPU, start_on: StartOn
) -> None:
    gpu = soft_gpu("512MiB", context=CONTEXT)
    daemon = start_on(gpu)
    assert ask(daemon, "a") == 200
    before = gpu.events()

    gpu.break_driver(pynvml.NVML_ERROR_GPU_IS_LOST)

    assert load_whole(daemon, SMOL)[0] == 507
    assert ask(daemon, "a") == 200
    assert "GPU is lost" in daemon.wait_log("cannot measure GPU memory")
    assert gpu.events() == before

    gpu.mend_driver()

    assert load_whole(daemon, SMOL)[0] == 200
    daemon.wait_log("the GPU driver answers again")
    assert sum("cannot measure" in line for line in daemon.log) == 1


@pytest.mark.parametrize("telling", [Telling.NO_SIZES, Telling.NOBODY])
def test_a_driver_that_tells_nothing_of_processes_will_do(
    soft_gpu: MakeSoftGPU, start_on: StartOn, telling: Telling
) -> None:
    """Nobody tells then what a process takes besides its model: the owner's reserve has to hold it, and is told so."""
    gpu = soft_gpu(ONE, context=CONTEXT)
    gpu.tell_processes(telling)
    gpu.env["SWAPD_MEMORY__VRAM_RESERVE"] = "32MiB"  # a process takes more than its model, and nobody tells
    daemon = start_on(gpu)

    assert [ask(daemon, model) for model in "aba"] == [200] * 3

    assert daemon.resident_names() == {"a"}
    assert gpu.refusals() == []
    assert sum("does not tell what each process holds" in line for line in daemon.log) == 1
    (card,) = [device for device in daemon.status()["devices"] if device["kind"] == "gpu"]
    assert card["ours"] > 100 * MiB, "what was predicted counts as ours"
    assert card["foreign"] < 32 * MiB


def test_an_allocation_refused_at_load_is_not_the_clients_trouble(soft_gpu: MakeSoftGPU, start_on: StartOn) -> None:
    gpu = soft_gpu(TWO, context=CONTEXT)
    daemon = start_on(gpu)
    gpu.refuse_allocations(1, at_least="4MiB")

    assert ask(daemon, "a") == 200

    assert gpu.faults_left() == 0
    assert daemon.status()["counters"]["oom_retries"] == 1


def test_a_card_full_in_the_middle_of_an_answer_not_yet_begun_is_survived(
    soft_gpu: MakeSoftGPU, start_on: StartOn
) -> None:
    """The worker dies of it, as real ones do; its neighbour on the card does not notice."""
    gpu = soft_gpu(TWO, context=CONTEXT)
    daemon = start_on(gpu)
    assert [ask(daemon, model) for model in "ab"] == [200, 200]
    first, neighbour = (resident(daemon, model)["pid"] for model in "ab")
    gpu.abort_computations(1, sparing={neighbour})

    assert ask(daemon, "a") == 200

    assert gpu.faults_left() == 0
    assert resident(daemon, "a")["pid"] != first
    assert resident(daemon, "b")["pid"] == neighbour
