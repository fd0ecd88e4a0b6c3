"""Conversations outlive their slot and their process: what is read twice, and what comes back from a file."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from swapd.generation import GenerationRequest, Message, Role
from swapd.savedstate import SUFFIX, UNSEALED, DamagedState, Head, describe, packed, read_head, seal, verify
from swapd.wire import Finished, Generate, Loaded, Prompts, Save, Saved, SaveEnded
from tests.recurrent import write_jamba, write_mamba
from tests.worker.conftest import GREEDY, Answer, Child, a_load, ask

KEY = "k" * 40
LONG = " ".join(
    f"Visitor {i} of the museum bought {i * 7 % 13} postcards and asked for painting number {i * 31 % 97}."
    for i in range(40)
)
"""More than 700 tokens for both models: more than a window of Gemma."""
SOME = LONG[: len(LONG) // 4]
OTHER = " ".join(f"Train {i} leaves at {i % 24} o'clock from platform {i * 5 % 11} and is late." for i in range(10))
MODELS = pytest.mark.parametrize("model", ["smollm", "gemma"])


class Desk:
    """Workers of one model that share a folder, one after the other; seals what they save, as the daemon does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.children: list[Child] = []

    def worker(self, path: Path, *, slots: int = 1, key: str = KEY, limit: int = 2**30, **changes: object) -> Child:
        child = Child()
        self.children.append(child)
        child.start()
        order = a_load(path, context=2048, slots=slots, prompts=Prompts(str(self.folder), key, limit), **changes)
        assert isinstance(child.load(order), Loaded)
        return child

    def seal(self, saved: Saved) -> Path:
        for name in saved.replaces:
            (self.folder / name).unlink()
        path = self.folder / saved.name
        seal(path)
        return path.rename(path.with_suffix(SUFFIX))

    def leave(self, child: Child) -> list[Path]:
        """Have it save what it holds, and end it."""
        child.send(Save(10))
        files = []
        while not isinstance(frame := child.receive(), SaveEnded):
            if isinstance(frame, Saved):
                files.append(self.seal(frame))
        child.close()
        return files

    def files(self) -> list[Path]:
        return sorted(self.folder.iterdir())


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    for child in desk.children:
        if child.process.poll() is None:
            child.close()


@pytest.fixture
def path(request: pytest.FixtureRequest, model: str) -> Path:
    found = request.getfixturevalue(model)
    assert isinstance(found, Path)
    return found


def one(child: Child, prompt: str | tuple[int, ...], name: str = "a", max_tokens: int = 12) -> Answer:
    (answer,) = child.generate(ask(prompt, name=name, max_tokens=max_tokens))
    return answer


def evaluated(answer: Answer) -> int:
    return answer.ending.usage.evaluated


@MODELS
def test_a_conversation_goes_on_in_another_process_as_if_it_had_never_left(desk: Desk, path: Path) -> None:
    stays = desk.worker(path)
    first = one(stays, LONG)
    assert evaluated(first) > 700
    goes_on = LONG + first.text + " And then"
    told = one(stays, goes_on, "b")
    stays.close()

    leaves = desk.worker(path)
    assert one(leaves, LONG).text == first.text
    (file,) = desk.leave(leaves)
    assert file.stat().st_mode & 0o777 == 0o600

    back = one(desk.worker(path), goes_on, "b")
    usage = back.ending.usage
    assert back.text == told.text
    assert usage.evaluated == told.ending.usage.evaluated <= 0.02 * usage.prompt
    assert usage.restored == usage.cached


@MODELS
def test_the_same_prompt_again_is_not_read_again(desk: Desk, path: Path) -> None:
    """Of a model with a sliding window not more than the end that its checkpoint leaves out."""
    worker = desk.worker(path)
    first = one(worker, LONG, max_tokens=2)
    again = one(worker, LONG, "b", max_tokens=2)
    assert evaluated(again) <= 8
    desk.leave(worker)
    restored = one(desk.worker(path), LONG, "c", max_tokens=2)
    assert evaluated(restored) <= 8
    assert first.text == again.text == restored.text


def test_the_same_prompt_is_answered_the_same_to_the_bit_again_and_after_a_return(desk: Desk, gemma: Path) -> None:
    """Also where the window lies across the end of its cells, and some in its midst are free again."""

    def likelihoods(worker: Child, name: str) -> list[float]:
        (answer,) = worker.generate(ask(LONG, name=name, max_tokens=80, logprobs=0))
        return [one.drawn.logprob for one in answer.logprobs]

    stays = desk.worker(gemma, micro_batch=64)
    one(stays, LONG, max_tokens=80)
    again = likelihoods(stays, "b")
    assert len(again) >= 40
    desk.leave(stays)
    assert likelihoods(desk.worker(gemma, micro_batch=64), "c") == again


def test_a_long_answer_does_not_push_the_prompt_out_of_the_window(desk: Desk, gemma: Path) -> None:
    """A template that renders the answer otherwise (or leaves thoughts out) finds the prompt's end as it was."""
    worker = desk.worker(gemma, micro_batch=64)
    short = one(worker, LONG + " Therefore", max_tokens=2)
    worker.close()

    worker = desk.worker(gemma, micro_batch=64)
    (answer,) = worker.generate(ask(LONG, name="long", max_tokens=330))
    if answer.ending.usage.completion < 300:
        pytest.skip("this build of the model ends its answer early")
    other = one(worker, LONG + " Therefore", "b", max_tokens=2)
    assert evaluated(other) <= 24
    assert other.text == short.text
    desk.leave(worker)
    restored = one(desk.worker(gemma, micro_batch=64), LONG + " Therefore", "c", max_tokens=2)
    assert evaluated(restored) <= 24
    assert restored.text == short.text


def test_what_adds_a_word_can_be_gone_back_to_as_well(desk: Desk, gemma: Path) -> None:
    """Its end comes so soon after what is held that no part of it is evaluated before the end."""
    worker = desk.worker(gemma)
    longer = LONG + one(worker, LONG, max_tokens=40).text + " Then"
    assert evaluated(one(worker, longer, "b", max_tokens=24)) <= 4
    desk.leave(worker)
    assert evaluated(one(desk.worker(gemma), longer, "c", max_tokens=2)) <= 4


@MODELS
def test_a_conversation_displaced_from_its_slot_comes_back_to_it(desk: Desk, path: Path) -> None:
    worker = desk.worker(path)
    first = one(worker, LONG)
    worker.send(Generate(ask(OTHER, name="b")))
    desk.seal(worker.wait_for(Saved))
    worker.finish("b")
    worker.send(Generate(ask(LONG + first.text, name="c")))
    desk.seal(worker.wait_for(Saved))  # now the other one
    worker.finish("c")
    back = worker.answers["c"].ending.usage
    assert back.evaluated <= 0.02 * back.prompt
    assert back.restored == back.cached
    assert len(desk.files()) == 2


def test_what_has_grown_replaces_what_was_saved_before(desk: Desk, smollm: Path) -> None:
    worker = desk.worker(smollm)
    first = one(worker, SOME)
    (old,) = desk.leave(worker)
    worker = desk.worker(smollm)
    one(worker, SOME + first.text + " And then", "b")
    (new,) = desk.leave(worker)
    assert desk.files() == [new] != [old]


def test_what_has_not_changed_is_not_saved_again(desk: Desk, smollm: Path) -> None:
    worker = desk.worker(smollm)
    one(worker, SOME)
    (old,) = desk.leave(worker)
    worker = desk.worker(smollm)
    one(worker, SOME, "b")
    assert desk.leave(worker) == []
    assert desk.files() == [old]


def test_short_conversations_and_those_beyond_the_limit_are_not_saved(desk: Desk, smollm: Path) -> None:
    worker = desk.worker(smollm, limit=2**20)
    one(worker, "Hello!", max_tokens=2)
    assert desk.leave(worker) == []
    worker = desk.worker(smollm, limit=2**20)
    one(worker, SOME, max_tokens=2)
    assert desk.leave(worker) == []
    assert desk.files() == []


@pytest.mark.parametrize("where", [0.0, 0.5, 0.9999999])
def test_a_damaged_file_is_removed_and_the_prompt_read_anew(desk: Desk, smollm: Path, where: float) -> None:
    worker = desk.worker(smollm)
    first = one(worker, SOME)
    (file,) = desk.leave(worker)
    with file.open("r+b") as content:
        at = int(where * file.stat().st_size)
        content.seek(at)
        (byte,) = content.read(1)
        content.seek(at)
        content.write(bytes([byte ^ 4]))
    with pytest.raises(DamagedState):
        verify(file)
    answer = one(desk.worker(smollm), SOME)
    assert (answer.text, answer.ending.usage.cached) == (first.text, 0)
    assert desk.files() == []


@pytest.mark.parametrize("size", [3, 10**6])
def test_a_file_that_was_cut_off_is_removed(desk: Desk, smollm: Path, size: int) -> None:
    worker = desk.worker(smollm)
    first = one(worker, SOME)
    (file,) = desk.leave(worker)
    os.truncate(file, size)
    answer = one(desk.worker(smollm), SOME)
    assert (answer.text, answer.ending.usage.cached) == (first.text, 0)
    assert desk.files() == []


def test_another_builds_file_is_not_used(desk: Desk, smollm: Path) -> None:
    """Nor one of another model under a name that begins alike; it stays for whom it belongs to."""
    worker = desk.worker(smollm)
    one(worker, SOME)
    (file,) = desk.leave(worker)
    for key in (KEY[:-1] + "x", "another"):
        answer = one(desk.worker(smollm, key=key), SOME)
        assert answer.ending.usage.cached == 0
    assert desk.files() == [file]


def test_a_file_of_another_kind_of_cache_is_left_out(desk: Desk, smollm: Path) -> None:
    """The key says what is in it; if it did not, llama.cpp says so, and the prompt is read anew."""
    worker = desk.worker(smollm, kv_type="q8_0", flash_attention=True)
    one(worker, SOME)
    desk.leave(worker)
    worker = desk.worker(smollm, flash_attention=True)
    answer, again = one(worker, SOME), one(worker, OTHER, "b")
    assert answer.ending.usage.cached == again.ending.usage.cached == 0
    assert isinstance(answer.last, Finished)


def test_a_file_without_its_seal_is_not_used(desk: Desk, smollm: Path) -> None:
    worker = desk.worker(smollm)
    one(worker, SOME)
    worker.send(Save(10))
    worker.wait_for(SaveEnded)
    worker.close()
    (file,) = desk.files()
    assert file.suffix == UNSEALED
    assert one(desk.worker(smollm), SOME).ending.usage.cached == 0


def test_whoever_wants_nothing_cached_gets_nothing_cached(desk: Desk, smollm: Path) -> None:
    worker = desk.worker(smollm)
    one(worker, SOME)
    request = GenerationRequest("b", prompt=SOME, sampling=GREEDY, max_tokens=2, caches=False)
    (answer,) = worker.generate(request)
    assert answer.ending.usage.cached == 0


def test_a_worker_that_answers_saves_between_two_steps(desk: Desk, smollm: Path) -> None:
    worker = desk.worker(smollm, slots=2)
    one(worker, SOME)
    worker.send(Generate(ask("Count.", name="b", max_tokens=400)), Save(10))
    desk.seal(worker.wait_for(Saved))
    worker.wait_for(SaveEnded)
    assert worker.answers["b"].last is None
    (answer,) = worker.finish("b")
    assert answer.ending.usage.completion > 0


def test_the_head_tells_what_is_held(desk: Desk, smollm: Path) -> None:
    worker = desk.worker(smollm)
    messages = (Message(Role.USER, SOME),)
    (answer,) = worker.generate(GenerationRequest("a", messages, sampling=GREEDY, max_tokens=3))
    (file,) = desk.leave(worker)
    head = read_head(file)
    assert (head.key, head.adapter, head.checkpoint) == (KEY, "", 0)
    # The token drawn last was never evaluated.
    drawn = answer.ending.usage.completion - (0 if answer.ending.reason == "stop" else 1)
    assert len(head.ids) == answer.ending.usage.prompt + drawn
    assert re.fullmatch(rf"{KEY[:16]}-[0-9a-f]{{16}}{re.escape(SUFFIX)}", file.name)


@pytest.mark.parametrize("write", [write_mamba, write_jamba])
def test_a_model_with_one_state_of_all_goes_on_from_its_checkpoint(
    desk: Desk, tmp_path_factory: pytest.TempPathFactory, write: Callable[[Path], Path]
) -> None:
    """Nothing of a recurrent state can be cut off: without the copy every turn would be read anew from its start."""
    mamba = write(tmp_path_factory.mktemp("recurrent") / "model.gguf")
    prompt = tuple(3 + (i * i * 7 + i) % 256 for i in range(600))
    other = (*prompt, 80, 81)
    fresh = one(desk.worker(mamba), other)
    worker = desk.worker(mamba)
    assert evaluated(one(worker, prompt)) == 600
    turned = one(worker, other, "b")
    assert (turned.text, evaluated(turned)) == (fresh.text, 10)
    assert evaluated(one(worker, (*prompt[:300], 7), "c")) == 301
    one(worker, prompt, "d")
    desk.leave(worker)
    back = one(desk.worker(mamba), other)
    assert (back.text, evaluated(back), back.ending.usage.restored) == (fresh.text, 10, 592)


@pytest.mark.parametrize("write", [write_mamba, write_jamba])
def test_where_restoring_has_no_effect_that_is_noticed_and_the_prompt_read_anew(
    desk: Desk, tmp_path_factory: pytest.TempPathFactory, write: Callable[[Path], Path]
) -> None:
    """llama.cpp takes the file and says that all is well, but what the sequence holds then is not what was saved."""
    model = write(tmp_path_factory.mktemp("recurrent") / "model.gguf")
    prompt = tuple(3 + (i * i * 7 + i) % 256 for i in range(600))
    worker = desk.worker(model)
    fresh = one(worker, prompt)
    (full,) = desk.leave(worker)
    full.unlink()
    worker = desk.worker(model)
    one(worker, prompt[:200])
    (short,) = desk.leave(worker)
    head = read_head(short)
    state = short.read_bytes()[: head.state]
    short.unlink()
    wrong = desk.folder / f"{KEY[:16]}-{'0' * 16}{UNSEALED}"
    wrong.write_bytes(state)
    describe(wrong, Head(KEY, "", packed(prompt[:590]), len(state)))
    seal(wrong)
    wrong.rename(wrong.with_suffix(SUFFIX))

    worker = desk.worker(model)
    answer = one(worker, prompt)
    assert (answer.text, evaluated(answer), answer.ending.usage.restored) == (fresh.text, 600, 0)
    again = one(worker, (*prompt[:300], 7), "b")
    assert evaluated(again) == 301
    assert desk.leave(worker) == [], "what cannot be restored is not saved"
