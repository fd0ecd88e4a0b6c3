"""Pictures in prompts: a real worker with SmolLM2 and a projector of random weights."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from swapd.generation import GenerationRequest, Image, Message, Role
from swapd.savedstate import SUFFIX, seal
from swapd.wire import Generate, Load, Loaded, LoadFailed, Prompts, Save, Saved, SaveEnded, Size, Sized
from tests.gguf_models import picture, tiny_projector, tiny_qwen
from tests.worker.conftest import GREEDY, Answer, Child, a_load, ask

RED, BLUE = picture((220, 20, 20)), picture((20, 20, 220))
TOKENS = 16
"""Of a picture."""
BEFORE = 24
"""What the template says before what the user says, and a token or two."""


def looks(*images: bytes, name: str = "a", says: str = "What is this?", max_tokens: int = 8) -> GenerationRequest:
    """A chat with these pictures before the question."""
    shown = tuple(Image(f"<zq-{name}-{index}>", data) for index, data in enumerate(images))
    content = "".join(image.marker for image in shown) + says
    return GenerationRequest(
        name, (Message(Role.USER, content, images=shown),), sampling=GREEDY, max_tokens=max_tokens, logprobs=5
    )


@pytest.fixture(scope="module")
def projector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_projector(tmp_path_factory.mktemp("projector") / "mmproj.gguf")


@pytest.fixture(scope="module")
def seeing(smollm: Path, projector: Path) -> Iterator[Child]:
    child = Child()
    try:
        child.start()
        loaded = child.load(a_load(smollm, context=1024, slots=3, projector=str(projector)))
        assert isinstance(loaded, Loaded), loaded
        yield child
    finally:
        child.close()


@pytest.fixture
def eyes(seeing: Child) -> Iterator[Child]:
    yield seeing
    seeing.settle()


def test_a_picture_counts_its_tokens_and_changes_what_is_said(eyes: Child) -> None:
    blind = eyes.generate(ask(chat="What is this?", name="t", max_tokens=8))[0]
    red, blue = (eyes.generate(looks(data, name=f"{i}"))[0] for i, data in enumerate((RED, BLUE)))
    assert red.ending.usage.prompt == blue.ending.usage.prompt == blind.ending.usage.prompt + TOKENS
    assert red.logprobs != blue.logprobs


def test_the_same_picture_again_is_not_read_again_and_another_is(eyes: Child) -> None:
    first = eyes.generate(looks(RED, name="1", says="Who is it?"))[0]
    again = eyes.generate(looks(RED, name="2", says="Who is it?"))[0]
    other = eyes.generate(looks(BLUE, name="3", says="Who is it?"))[0]
    assert again.text == first.text
    assert again.ending.usage.cached == first.ending.usage.prompt - 1
    assert other.ending.usage.cached < first.ending.usage.prompt - TOKENS


def test_several_pictures_are_told_apart_by_their_order(eyes: Child) -> None:
    one = eyes.generate(looks(RED, BLUE, name="1"))[0]
    other = eyes.generate(looks(BLUE, RED, name="2"))[0]
    assert one.ending.usage.prompt == other.ending.usage.prompt
    assert one.logprobs != other.logprobs
    assert other.ending.usage.cached < BEFORE + TOKENS


def test_a_conversation_goes_on_behind_its_picture(eyes: Child) -> None:
    """What the model said of it, and the next question, are all that is read."""
    first = looks(RED, name="1", says="Describe it in a few words.")
    said = eyes.generate(first)[0]
    turns = (*first.messages, Message(Role.ASSISTANT, said.text), Message(Role.USER, "And now?"))
    more = GenerationRequest("2", turns, sampling=GREEDY, max_tokens=4)
    usage = eyes.generate(more)[0].ending.usage
    assert usage.cached >= said.ending.usage.prompt
    assert usage.prompt - usage.cached < 40


def test_pictures_and_texts_are_answered_beside_each_other(eyes: Child) -> None:
    alone = [eyes.generate(request)[0].text for request in (looks(RED, name="r"), ask(chat="Say hello.", name="h"))]
    eyes.generate(looks(BLUE, name="b"), ask(chat="Name a colour.", name="c"))  # other conversations in between
    together = eyes.generate(looks(RED, name="1"), ask(chat="Say hello.", name="2"), looks(BLUE, BLUE, name="3"))
    assert together[1].text[:8] == alone[1][:8]
    assert all(answer.ending.usage.completion for answer in together)


def test_a_marker_that_is_nobodys_is_text(eyes: Child) -> None:
    """The one of the bindings, and one that looks like ours."""
    answer = eyes.generate(looks(RED, name="1", says="<__media__> <zq-2-0> What?"))[0]
    plain = eyes.generate(looks(RED, name="3", says="What?"))[0]
    assert answer.ending.usage.prompt > plain.ending.usage.prompt
    assert answer.ending.usage.prompt < plain.ending.usage.prompt + TOKENS + 20


def test_a_prompt_may_end_with_a_picture_and_have_nothing_else(eyes: Child) -> None:
    image = Image("<m>", RED)
    bare = GenerationRequest("1", prompt="<m>", images=(image,), sampling=GREEDY, max_tokens=4)
    answer = eyes.generate(bare)[0]
    assert answer.ending.usage.prompt in (TOKENS, TOKENS + 1)
    assert answer.ending.usage.completion
    again = eyes.generate(GenerationRequest("2", prompt="<m>", images=(image,), sampling=GREEDY, max_tokens=4))[0]
    assert again.text == answer.text
    assert again.ending.usage.cached <= 1  # its last token has to be read again, and a picture is read whole


@pytest.mark.parametrize(
    ("data", "words"),
    [(RED[:60], "damaged"), (RED[:-30], None), (b"no picture at all", "damaged"), (b"", "damaged")],
)
def test_a_damaged_picture_is_refused_and_the_next_request_is_fine(eyes: Child, data: bytes, words: str | None) -> None:
    answer = eyes.generate(looks(data, name="1"))[0]
    if words is not None:
        assert answer.failure.code == "invalid_request"
        assert words in answer.failure.message
    assert eyes.generate(looks(RED, name="2"))[0].ending.usage.prompt > TOKENS


def test_a_small_file_that_unpacks_without_end_is_refused(eyes: Child) -> None:
    """Its header says 1 x 1; what follows it unpacks to 1 GiB."""
    packer = zlib.compressobj(1)
    body = b"".join([*(packer.compress(bytes(2**24)) for _ in range(64)), packer.flush()])

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    assert len(bomb) < 8 * 2**20
    failure = eyes.generate(looks(bomb, name="1"))[0].failure
    assert failure.code == "invalid_request"
    assert eyes.generate(looks(RED, name="2"))[0].ending.usage.completion


def test_a_prompt_with_pictures_over_the_context_says_both_numbers(eyes: Child) -> None:
    failure = eyes.generate(looks(*[RED] * 70, name="1"))[0].failure
    assert (failure.code, failure.context) == ("context_length_exceeded", 1024)
    assert failure.prompt > 70 * TOKENS


def test_without_a_projector_pictures_are_refused(shared: Child) -> None:
    failure = shared.generate(looks(RED))[0].failure
    assert failure.code == "invalid_request"
    assert "no projector" in failure.message


def test_a_template_that_leaves_a_picture_out_is_told(eyes: Child) -> None:
    blind = replace(looks(RED), template="{% for m in messages %}{{ m.role }}{% endfor %}")
    assert "leaves out an image" in eyes.generate(blind)[0].failure.message


def test_one_that_is_stopped_in_a_picture_leaves_its_slot_in_order(eyes: Child) -> None:
    request = looks(RED, BLUE, RED, name="1", says="Go on")
    whole = eyes.generate(request)[0]
    for number in range(4):
        name = f"s{number}"
        eyes.send(Generate(replace(looks(BLUE, RED, BLUE, name=name, says="Go on"), id=name)))
        eyes.stop(name)
        eyes.finish(name)
    again = eyes.generate(replace(request, id="2"))[0]
    assert again.text == whole.text


def test_a_projector_of_another_width_is_told(spare: Child, smollm: Path, tmp_path: Path) -> None:
    wrong = tiny_projector(tmp_path / "mmproj.gguf", width=128)
    failed = spare.load(a_load(smollm, projector=str(wrong)))
    assert isinstance(failed, LoadFailed)
    assert "projector" in failed.reason
    assert "128" in failed.reason


def test_pictures_that_are_seen_whole_need_their_micro_batch(spare: Child, smollm: Path, tmp_path: Path) -> None:
    """As Gemma's: each of a picture's tokens attends to all of them."""
    gemma = tiny_projector(tmp_path / "mmproj.gguf", kind="gemma3", side=224)
    load = a_load(smollm, context=512, slots=2, projector=str(gemma), sees_whole=True)
    assert isinstance(spare.load(load), Loaded)
    blind = spare.generate(ask(chat="What is this?", name="t", max_tokens=4))[0]
    red, blue = spare.generate(looks(RED, name="1"), looks(BLUE, name="2"))
    assert red.ending.usage.prompt == blue.ending.usage.prompt > blind.ending.usage.prompt + TOKENS
    assert red.logprobs != blue.logprobs
    again = spare.generate(looks(RED, name="3"))[0]
    assert again.ending.usage.cached == red.ending.usage.prompt - 1


LONG = "Describe them. " + "Take your time with it. " * 30


def kept_in(folder: Path, smollm: Path, projector: Path | str) -> Load:
    prompts = Prompts(str(folder), "f" * 64, limit=2**30)
    return a_load(smollm, context=1024, projector=str(projector), prompts=prompts)


def saved_by_another(load: Load, folder: Path, request: GenerationRequest) -> Answer:
    """The answer of a worker that saves the conversation and ends."""
    with contextlib.closing(Child()) as first:
        first.start()
        assert isinstance(first.load(load), Loaded)
        answer = first.generate(request)[0]
        first.send(Save(5.0))
        saved = first.wait_for(Saved)
        first.wait_for(SaveEnded)
    seal(folder / saved.name)
    (folder / saved.name).rename((folder / saved.name).with_suffix(SUFFIX))
    return answer


@pytest.mark.parametrize(
    ("seen", "others"),
    [([], [RED]), ([RED], [BLUE]), ([RED, BLUE], [BLUE, RED]), ([RED] * 9, [BLUE, *[RED] * 8])],
    ids=["a text", "one", "two", "many"],
)
def test_a_conversation_with_pictures_is_saved_and_goes_on_in_another_process(
    smollm: Path, projector: Path, tmp_path: Path, seen: list[bytes], others: list[bytes]
) -> None:
    load = kept_in(tmp_path, smollm, projector)
    answer = saved_by_another(load, tmp_path, looks(*seen, name="1", says=LONG))
    with contextlib.closing(Child()) as second:
        second.start()
        assert isinstance(second.load(load), Loaded)
        again = second.generate(looks(*seen, name="2", says=LONG))[0]
        other = second.generate(looks(*others, name="3", says=LONG))[0]
    assert (
        again.text.split()[:1] == answer.text.split()[:1]
    )  # from there on batches of other shapes may round otherwise
    assert again.ending.usage.restored == again.ending.usage.cached == answer.ending.usage.prompt - 1
    assert other.ending.usage.cached < BEFORE + TOKENS


def test_what_was_saved_with_pictures_is_no_trouble_to_a_model_that_takes_none(
    smollm: Path, projector: Path, tmp_path: Path
) -> None:
    saved_by_another(kept_in(tmp_path, smollm, projector), tmp_path, looks(RED, BLUE, name="1", says=LONG))
    with contextlib.closing(Child()) as blind:
        blind.start()
        assert isinstance(blind.load(kept_in(tmp_path, smollm, "")), Loaded)
        first, again = (blind.generate(ask(chat=LONG, name=name, max_tokens=4))[0] for name in "23")
    assert first.ending.usage.cached < BEFORE
    assert again.ending.usage.cached == first.ending.usage.prompt - 1


def test_sizing_counts_the_projector(spare: Child, smollm: Path, projector: Path) -> None:
    def sized(path: str) -> int:
        spare.send(
            Size(
                str(smollm),
                512,
                1,
                gpu_layers=0,
                devices=(),
                micro_batch=512,
                kv_type="f16",
                flash_attention=None,
                projector=path,
            )
        )
        return sum(size for _, _, size in spare.wait_for(Sized).parts)

    grown = sized(str(projector)) - sized("")
    assert projector.stat().st_size * 0.9 < grown < projector.stat().st_size + 2**20


@pytest.mark.parametrize("kind", ["mlp", "gemma3", "qwen2vl_merger"])
def test_a_prompt_is_read_as_llama_cpp_itself_reads_it(kind: str, spare: Child, smollm: Path, tmp_path: Path) -> None:
    """Positions in a line and in a plane, pictures in parts and whole: the same tokens are drawn after it."""
    is_plane = kind == "qwen2vl_merger"
    model = tiny_qwen(tmp_path / "qwen.gguf") if is_plane else smollm
    shape = {"mlp": (576, 56), "gemma3": (576, 224), "qwen2vl_merger": (64, 112)}[kind]
    projector = tiny_projector(tmp_path / "mmproj.gguf", width=shape[0], kind=kind, side=shape[1])
    pictures = [picture((220, 20, 20), 400, 100), BLUE]
    for number, data in enumerate(pictures):
        (tmp_path / f"{number}.png").write_bytes(data)
    files = [str(tmp_path / f"{number}.png") for number in range(len(pictures))]
    text = "See <__media__> and then <__media__>. That is"
    told = subprocess.run(
        [sys.executable, "-m", "tests.worker.reference_reading", str(model), str(projector), text, *files],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    expected = [int(token) for token in told.stdout.split()]
    load = a_load(model, context=512, slots=2, projector=str(projector), sees_whole=kind == "gemma3")
    assert isinstance(spare.load(load), Loaded)
    images = tuple(Image(f"<m{number}>", data) for number, data in enumerate(pictures))
    prompt = text.replace("<__media__>", "<m0>", 1).replace("<__media__>", "<m1>", 1)
    wanted = GenerationRequest(
        "1", prompt=prompt, images=images, sampling=GREEDY, max_tokens=len(expected), logprobs=0, ignore_eos=True
    )
    first, again = (spare.generate(replace(wanted, id=name))[0] for name in "12")
    drawn = [told.drawn.token for told in first.logprobs]
    assert drawn == expected[: len(drawn)]
    assert len(drawn) >= 4
    assert again.text == first.text
    assert again.ending.usage.cached == first.ending.usage.prompt - 1
