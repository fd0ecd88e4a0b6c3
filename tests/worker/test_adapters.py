"""LoRA adapters: one model, several voices, switched between batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from msgspec.structs import replace

from swapd.generation import GenerationRequest
from swapd.savedstate import SUFFIX, seal
from swapd.units import MiB
from swapd.wire import Adapter, Generate, Loaded, Prompts, Save, Saved, SaveEnded
from tests.adapters import write_adapter
from tests.worker.conftest import Child, a_load, ask

PROMPT = "The capital of France is"
STORY = " ".join(f"Train {i} leaves at {i % 24} o'clock from platform {i * 5 % 11}." for i in range(12))


def with_adapter(request: GenerationRequest, adapter: str, caches: bool = True) -> GenerationRequest:
    return replace(request, adapter=adapter, caches=caches)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Adapter, ...]:
    folder = tmp_path_factory.mktemp("adapters")
    good = [
        Adapter(name, str(write_adapter(folder / f"{name}.gguf", seed)), f"content of {name}")
        for seed, name in enumerate("abcdefgh")
    ]
    narrow = Adapter("narrow", str(write_adapter(folder / "narrow.gguf", 1, width=512)), "narrow")
    return (*good, narrow, Adapter("gone", str(folder / "gone.gguf"), "gone"))


@pytest.fixture(scope="module")
def worker(smollm: Path, files: tuple[Adapter, ...]) -> Iterator[Child]:
    child = Child()
    try:
        child.start()
        assert isinstance(child.load(a_load(smollm, context=1024, slots=4, adapters=files)), Loaded)
        yield child
    finally:
        child.close()


def text(child: Child, adapter: str, name: str, prompt: str = PROMPT) -> str:
    """Evaluated anew: nonsense that a token more or less in a batch rounds otherwise soon reads otherwise."""
    (answer,) = child.generate(with_adapter(ask(prompt, name=name), adapter, caches=False))
    return answer.text


def test_each_adapter_answers_in_its_own_way_whoever_was_before(worker: Child) -> None:
    alone = {adapter: text(worker, adapter, f"alone {adapter}") for adapter in ("", "a", "b", "c")}
    assert len(set(alone.values())) == 4
    again = {adapter: text(worker, adapter, f"again {adapter}") for adapter in ("c", "", "b", "a")}
    assert again == alone


def test_adapters_are_added_as_much_as_is_asked_for_and_several_together(worker: Child) -> None:
    def mixed(name: str, *adapters: tuple[str, float]) -> str:
        request = replace(with_adapter(ask(PROMPT, name=name), "c", caches=False), adapters=adapters)
        return worker.generate(request)[0].text

    none, a = text(worker, "", "plain"), text(worker, "a", "only a")
    assert (mixed("nothing"), mixed("zero", ("a", 0.0)), mixed("one", ("a", 1.0))) == (none, none, a)
    part, both = mixed("part", ("a", 0.5)), mixed("both", ("a", 0.5), ("b", 1.0))
    assert len({none, a, part, both}) == 4
    assert mixed("turned", ("b", 1.0), ("a", 0.5)) == both
    assert mixed("again", ("a", 0.5)) == part


def test_what_was_read_with_a_part_of_an_adapter_is_of_no_use_to_the_whole(worker: Child) -> None:
    half = replace(ask(STORY, name="half"), adapters=(("d", 0.5),))
    worker.generate(half)
    (whole,) = worker.generate(with_adapter(ask(STORY, name="whole d"), "d"))
    (again,) = worker.generate(replace(half, id="half again"))
    assert whole.ending.usage.cached == 0
    assert again.ending.usage.evaluated == 1


def test_requests_of_several_adapters_at_one_time_do_not_mix_and_all_get_on(worker: Child) -> None:
    names = ("", "a", "b", "c")
    alone = {adapter: text(worker, adapter, f"one {adapter}") for adapter in names}
    requests = [with_adapter(ask(PROMPT, name=f"together {adapter}"), adapter, caches=False) for adapter in names]
    together = worker.generate(*requests)
    assert dict(zip(names, [answer.text for answer in together], strict=True)) == alone


def test_a_long_answer_with_one_adapter_does_not_keep_another_waiting_to_its_end(worker: Child) -> None:
    worker.send(Generate(with_adapter(ask("Count up: 1, 2, 3,", name="long", max_tokens=600), "a")))
    (short,) = worker.generate(with_adapter(ask(PROMPT, name="short", max_tokens=4), "b"))
    assert short.tokens > 0
    assert worker.answers["long"].last is None
    worker.stop("long")
    worker.finish("long")


def test_what_was_read_with_one_adapter_is_of_no_use_to_another(worker: Child) -> None:
    text(worker, "a", "first", STORY)
    (other,) = worker.generate(with_adapter(ask(STORY, name="other"), "b"))
    (same,) = worker.generate(with_adapter(ask(STORY, name="same"), "a"))
    assert other.ending.usage.cached == 0
    assert same.ending.usage.evaluated == 1


@pytest.mark.parametrize(("adapter", "words"), [("narrow", "incorrect shape"), ("gone", "gone.gguf")])
def test_an_adapter_that_llama_cpp_refuses_is_refused_to_whoever_asks_for_it(
    worker: Child, adapter: str, words: str
) -> None:
    (answer,) = worker.generate(with_adapter(ask(PROMPT, name=adapter), adapter))
    assert answer.failure.code == "model_unusable"
    assert words in answer.failure.message
    assert text(worker, "a", "after")


def test_an_unknown_adapter_is_a_bad_request_that_tells_the_known_ones(worker: Child) -> None:
    (answer,) = worker.generate(with_adapter(ask(PROMPT, name="x"), "x"))
    assert answer.failure.code == "invalid_request"
    assert "a, b, c" in answer.failure.message


def test_eight_adapters_take_their_files_and_little_more(smollm: Path, files: tuple[Adapter, ...]) -> None:
    held = []
    for adapters in ((), files[:8]):
        child = Child()
        try:
            child.start()
            assert isinstance(child.load(a_load(smollm, context=1024, adapters=adapters)), Loaded)
            for number, adapter in enumerate(adapters or ("",) * 8):
                text(child, adapter.name if isinstance(adapter, Adapter) else "", str(number))
            held.append(psutil.Process(child.process.pid).memory_info().rss)
        finally:
            child.close()
    sizes = sum(Path(adapter.path).stat().st_size for adapter in files[:8])
    assert held[1] - held[0] <= sizes + 64 * MiB


def test_a_saved_conversation_belongs_to_its_adapter(smollm: Path, files: tuple[Adapter, ...], tmp_path: Path) -> None:
    def start() -> Child:
        child = Child()
        child.start()
        prompts = Prompts(str(tmp_path), "k" * 40, 2**30)
        assert isinstance(child.load(a_load(smollm, adapters=files[:2], prompts=prompts)), Loaded)
        return child

    first = start()
    told = text(first, "a", "a", STORY)
    first.send(Save(10))
    saved = first.wait_for(Saved)
    first.wait_for(SaveEnded)
    first.close()
    seal(tmp_path / saved.name)
    (tmp_path / saved.name).rename((tmp_path / saved.name).with_suffix(SUFFIX))

    second = start()
    try:
        (other,) = second.generate(with_adapter(ask(STORY, name="b"), "b"))
        (same,) = second.generate(with_adapter(ask(STORY, name="c"), "a"))
    finally:
        second.close()
    assert other.ending.usage.cached == 0
    assert same.ending.usage.evaluated == 1
    assert same.text.split()[:2] == told.split()[:2]
