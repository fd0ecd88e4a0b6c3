"""What a load will take is told to the byte before it, by real workers on real models."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from swapd.units import Bytes
from swapd.wire import Load, Loaded, LoadFailed, Parts, Size, Sized
from swapd.worker import breakdown, header
from tests.host.conftest import LLAMA, Writer
from tests.softgpu.gpu import SoftGPU
from tests.worker.conftest import Child, a_load, ask

PAGE: Bytes = 4096
"""Each buffer of a soft card takes whole ones."""


def a_size(load: Load) -> Size:
    """The order for the sizing of this load."""
    return Size(**{name: getattr(load, name) for name in Size.__struct_fields__})


def size(child: Child, load: Load) -> Sized | LoadFailed:
    child.send(a_size(load))
    frame = child.receive()
    assert isinstance(frame, (Sized, LoadFailed)), frame
    return frame


def parts(child: Child, load: Load) -> Parts:
    sized = size(child, load)
    assert isinstance(sized, Sized), sized
    return sized.parts


def held(told: Parts, device: str) -> Bytes:
    return sum(amount for name, _, amount in told if name == device)


@pytest.fixture
def children() -> Iterator[Callable[[], Child]]:
    """Workers, started."""
    with ExitStack() as stack:

        def start() -> Child:
            child = Child()
            stack.callback(child.close)
            child.start()
            return child

        yield start


@pytest.fixture
def cards(soft_gpu: Callable[..., SoftGPU], monkeypatch: pytest.MonkeyPatch) -> SoftGPU:
    """Two of 1 GiB, 16 MiB for each process's context, seen by every worker of the test."""
    gpu = soft_gpu("1GiB", "1GiB", context="16MiB")
    for name, value in gpu.env.items():
        monkeypatch.setenv(name, value)
    return gpu


@pytest.mark.parametrize("model", ["smollm", "gemma"])
@pytest.mark.parametrize(
    "values",
    [
        {"context": 512, "micro_batch": 128},
        {"context": 2048, "slots": 3, "kv_type": "q8_0"},
        {"context": 1000, "kv_type": "q4_0", "micro_batch": 64},
    ],
)
def test_on_the_host_a_load_takes_what_was_told_to_the_byte(
    model: str, values: dict[str, object], request: pytest.FixtureRequest, children: Callable[[], Child]
) -> None:
    load = a_load(request.getfixturevalue(model), **values)  # type: ignore[arg-type]
    child = children()
    told = parts(child, load)
    loaded = child.load(load)
    assert isinstance(loaded, Loaded)
    assert loaded.parts == told
    assert {(device, kind) for device, kind, _ in told} == {("host", "model"), ("host", "context"), ("host", "compute")}


def test_one_worker_sizes_many_and_then_loads_and_answers(
    smollm: Path, gemma: Path, children: Callable[[], Child]
) -> None:
    child = children()
    first = parts(child, a_load(smollm))
    assert parts(child, a_load(gemma)) != first
    assert held(parts(child, a_load(smollm, context=4096)), "host") > held(first, "host")
    assert parts(child, a_load(smollm)) == first
    assert isinstance(child.load(a_load(smollm)), Loaded)
    (answer,) = child.generate(ask("The capital of France is", max_tokens=4))
    assert answer.tokens == 4


def test_what_cannot_be_loaded_cannot_be_sized_and_the_next_order_can(
    smollm: Path, tmp_path: Path, children: Callable[[], Child]
) -> None:
    child = children()
    (tmp_path / "junk.gguf").write_bytes(b"GGUF junk")
    for bad in (a_load(tmp_path / "junk.gguf"), a_load(smollm, gpu_layers=1, devices=("0000:99:00.0",))):
        failed = size(child, bad)
        assert isinstance(failed, LoadFailed)
        assert not failed.out_of_memory
    assert parts(child, a_load(smollm))


@pytest.mark.parametrize("layers", [1, 15, 31])
def test_a_card_holds_what_was_told_and_the_context(
    layers: int, smollm: Path, cards: SoftGPU, children: Callable[[], Child]
) -> None:
    child = children()
    load = a_load(smollm, gpu_layers=layers, devices=("SoftGPU0",))
    told = parts(child, load)
    assert cards.used() <= 16 * 2**20, "sizing takes no more than a context"
    loaded = child.load(load)
    assert isinstance(loaded, Loaded)
    assert held(loaded.parts, "host") == held(told, "host")
    assert 0 <= held(loaded.parts, "SoftGPU0") - held(told, "SoftGPU0") <= 3 * PAGE
    assert cards.used() - held(loaded.parts, "SoftGPU0") == 16 * 2**20


def test_shares_say_how_much_of_the_layers_each_card_gets(
    smollm: Path, cards: SoftGPU, children: Callable[[], Child]
) -> None:
    child = children()
    both = ("SoftGPU1", "SoftGPU0")

    def split(*shares: float) -> tuple[Bytes, Bytes]:
        told = parts(child, a_load(smollm, gpu_layers=30, devices=both, tensor_split=shares))
        return held(told, both[0]), held(told, both[1])

    most, least = split(0.8, 0.2)
    assert most > least > 0
    assert split(0.0, 1.0)[0] < least
    load = a_load(smollm, gpu_layers=30, devices=both, tensor_split=(0.8, 0.2))
    loaded = child.load(load)
    assert isinstance(loaded, Loaded)
    assert 0 <= held(loaded.parts, both[0]) - most <= 3 * PAGE


# --- a mixture of experts: random weights would do as well as zeros


LAYERS = 4
VOCABULARY = 3 + 256
EXPERT: Bytes = 3 * 4 * 64 * 64 * 4
"""Of one layer: three tensors of four experts, 64 by 64 floats each."""


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four layers, four experts each of which two are used, 64 wide; a vocabulary of bytes."""
    wide = 64
    tensors: list[tuple[str, tuple[int, ...], int]] = [
        ("token_embd.weight", (wide, VOCABULARY), 0),
        ("output_norm.weight", (wide,), 0),
        ("output.weight", (wide, VOCABULARY), 0),
    ]
    for layer in range(LAYERS):
        names = {"attn_norm": (wide,), "ffn_norm": (wide,), "attn_q": (wide, wide), "attn_output": (wide, wide)}
        names |= {"attn_k": (wide, wide // 2), "attn_v": (wide, wide // 2), "ffn_gate_inp": (wide, 4)}
        names |= dict.fromkeys(("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"), (wide, wide, 4))
        tensors += [(f"blk.{layer}.{name}.weight", dims, 0) for name, dims in names.items()]
    keys = {
        "llama.block_count": LAYERS,
        "llama.feed_forward_length": wide,
        "llama.rope.dimension_count": 16,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.expert_count": 4,
        "llama.expert_used_count": 2,
        "llama.vocab_size": VOCABULARY,
        "general.file_type": 0,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256],
        "tokenizer.chat_template": None,
    }
    path = tmp_path_factory.mktemp("mixture") / "mixture.gguf"
    path.write_bytes(Writer(LLAMA)(keys, tensors=tensors))
    return path


def weights(told: Parts, device: str) -> Bytes:
    return sum(amount for name, kind, amount in told if (name, kind) == (device, "model"))


def test_experts_of_so_many_layers_stay_on_the_host(
    mixture: Path, cards: SoftGPU, children: Callable[[], Child]
) -> None:
    child = children()

    def on_card(gpu_layers: int, experts: int) -> Bytes:
        load = a_load(mixture, 256, 1, gpu_layers=gpu_layers, devices=("SoftGPU0",), expert_layers_on_cpu=experts)
        return weights(parts(child, load), "SoftGPU0")

    for gpu_layers in (LAYERS + 1, 3):
        all_there = on_card(gpu_layers, 0)
        assert [all_there - on_card(gpu_layers, experts) for experts in (1, 2)] == [EXPERT, 2 * EXPERT]
    assert on_card(3, 2) == on_card(3, 99), "only layers on the card count"
    load = a_load(mixture, 256, 1, gpu_layers=LAYERS + 1, devices=("SoftGPU0",), expert_layers_on_cpu=2)
    told, loaded = parts(child, load), child.load(load)
    assert isinstance(loaded, Loaded)
    assert 0 <= weights(loaded.parts, "SoftGPU0") - weights(told, "SoftGPU0") <= PAGE
    assert weights(loaded.parts, "host") == weights(told, "host")


def test_the_first_layers_on_the_card_give_up_their_experts(mixture: Path) -> None:
    assert header.expert_layers(str(mixture), LAYERS + 1) == [0, 1, 2, 3]
    assert header.expert_layers(str(mixture), 3) == [2, 3]
    assert header.expert_layers(str(mixture), 1) == []


# --- another llama.cpp


def test_without_a_breakdown_the_log_tells_the_compute_buffers(smollm: Path, children: Callable[[], Child]) -> None:
    exact = parts(children(), a_load(smollm))
    script = (
        "import sys\n"
        "from swapd.worker import backends, breakdown, sizing\n"
        "from swapd.wire import Size\n"
        "breakdown._ask = None\n"
        "log = backends.Log()\n"
        "backends.load()\n"
        "order = Size(sys.argv[1], 2048, 1, 0, (), 512, 'f16', None)\n"
        "print(sizing.size(order, log).parts)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(smollm)], capture_output=True, text=True, timeout=60, check=True
    )
    ((device, kind, amount),) = eval(done.stdout)
    assert (device, kind) == ("host", "compute")
    (compute,) = (size for _, kind, size in exact if kind == "compute")
    assert abs(amount - compute) < 16 * 1024, "the log rounds to hundredths of a MiB"


def _tree(*nodes: tuple[int, int, int, int]) -> tuple[ctypes.Array[ctypes.c_uint64], list[int]]:
    """Nodes of eight words (parent, left, right, key by index; -1: none) and their addresses."""
    words = (ctypes.c_uint64 * (8 * len(nodes)))()
    where = [ctypes.addressof(words) + 64 * index for index in range(len(nodes))]
    for index, (parent, left, right, key) in enumerate(nodes):
        links = [0 if link < 0 else where[link] for link in (parent, left, right)]
        words[8 * index : 8 * index + 8] = [1, *links, key, 10, 20, 30]
    return words, where


@pytest.mark.parametrize(
    ("what", "is_read"),
    [
        ("two nodes", True),
        ("keys out of order", False),
        ("a child of another parent", False),
        ("more nodes than there are", False),
        ("a root where nothing is", False),
        ("nothing", False),
        ("another library's layout", False),
    ],
)
def test_only_what_is_such_a_map_in_every_respect_is_read(
    what: str, is_read: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And whatever else comes back, reading it harms nobody."""
    first = 300 if what == "keys out of order" else 100
    parent = 1 if what == "a child of another parent" else 0
    kept, where = _tree((-1, 1, -1, 200), (parent, -1, -1, first))
    words = [0, 0, where[0], where[1], where[0], 2]
    if what == "more nodes than there are":
        words[5] = 3
    elif what == "a root where nothing is":
        words[2] = 0x10
    elif what == "nothing":
        words = [0] * 6
    elif what == "another library's layout":
        words = [where[1], where[0], 2, 0xDEAD, 0xBEEF, 0x7FFF_FFFF_FFFF]

    def told(_context: int) -> breakdown._Map:
        found = breakdown._Map()
        found.words[: len(words)] = words
        return found

    monkeypatch.setattr(breakdown, "_ask", told)
    rows = breakdown.rows(0)
    assert (rows is not None) == is_read
    if rows is not None:
        assert [(row.buffer_type, row.model, row.context, row.compute) for row in rows] == [
            (100, 10, 20, 30),
            (200, 10, 20, 30),
        ]
    assert len(kept) == 16
