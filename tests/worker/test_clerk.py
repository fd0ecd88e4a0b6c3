"""Questions that a vocabulary is enough for, of a loaded model and of a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from swapd.generation import GenerationRequest, Message, Role
from swapd.questions import (
    Describe,
    Described,
    Detokenize,
    Detokenized,
    Question,
    Render,
    Rendered,
    Reply,
    Tokenize,
    Tokenized,
)
from swapd.wire import Answered, Ask, Failed, Generate, Loaded
from tests.gguf_models import infilling
from tests.worker.conftest import Child, a_load, ask

HELLO = GenerationRequest("r", messages=(Message(Role.USER, "Hello!"),))


def put(child: Child, question: Question, path: str = "") -> Reply | Failed:
    child.send(Ask("q", question, path))
    while True:
        frame = child.receive()
        if isinstance(frame, Answered):
            assert frame.request == "q"
            return frame.reply
        if isinstance(frame, Failed):
            return frame


def tokens_of(reply: Reply | Failed) -> tuple[int, ...]:
    assert isinstance(reply, Rendered | Tokenized), reply
    return reply.tokens


def test_a_file_s_vocabulary_answers_as_the_loaded_model_does(spare: Child, shared: Child, smollm: Path) -> None:
    questions = (Render(HELLO), Tokenize(("Once upon a time", 17, " end"), add_special=True), Describe())
    assert [put(spare, question, str(smollm)) for question in questions] == [put(shared, q) for q in questions]


def test_what_is_rendered_is_what_an_answer_reads(shared: Child) -> None:
    reply = put(shared, Render(HELLO))
    assert isinstance(reply, Rendered)
    assert reply.text.endswith("<|im_start|>assistant\n")
    (answer,) = shared.generate(GenerationRequest("g", messages=HELLO.messages, max_tokens=1))
    assert answer.ending.usage.prompt == len(reply.tokens)


def test_a_prompt_over_the_context_is_rendered_all_the_same(shared: Child) -> None:
    assert len(tokens_of(put(shared, Render(ask("word " * 2000))))) > 2000


def test_tokens_and_back(shared: Child) -> None:
    reply = put(shared, Tokenize(("Grüße, 世界 <|im_end|>",)))
    assert isinstance(reply, Tokenized)
    assert b"".join(reply.pieces).decode() == "Grüße, 世界 <|im_end|>"
    assert put(shared, Detokenize(reply.tokens)) == Detokenized("Grüße, 世界 <|im_end|>")


def test_markers_are_text_where_that_is_asked(shared: Child) -> None:
    one = tokens_of(put(shared, Tokenize(("<|im_end|>",))))
    several = tokens_of(put(shared, Tokenize(("<|im_end|>",), parse_special=False)))
    assert len(one) == 1
    assert len(several) > 1


@pytest.mark.parametrize("question", [Detokenize((1, 10**6)), Tokenize(("a", -1))])
def test_a_number_that_is_no_token_is_refused(shared: Child, question: Question) -> None:
    reply = put(shared, question)
    assert isinstance(reply, Failed)
    assert reply.code == "invalid_request"
    assert "is no token of this model (0 to 49151)" in reply.message


def test_a_question_is_answered_while_others_are_being_answered(shared: Child) -> None:
    shared.send(Generate(ask("Once upon a time", name="long", max_tokens=200)))
    shared.wait_for(object)
    assert isinstance(put(shared, Tokenize(("hello",))), Tokenized)
    assert shared.answers["long"].last is None
    shared.stop("long")


def test_a_file_that_is_none_is_unusable_and_the_process_goes_on(spare: Child, smollm: Path, tmp_path: Path) -> None:
    junk = tmp_path / "junk.gguf"
    junk.write_bytes(b"GGUF junk")
    reply = put(spare, Describe(), str(junk))
    assert isinstance(reply, Failed)
    assert reply.code == "model_unusable"
    described = put(spare, Describe(), str(smollm))
    assert isinstance(described, Described)
    assert not described.can_infill
    assert "im_start" in described.template


def test_many_vocabularies_are_kept_within_bounds(spare: Child, smollm: Path, tmp_path: Path) -> None:
    for number in range(6):
        link = tmp_path / f"{number}.gguf"
        link.symlink_to(smollm)
        assert tokens_of(put(spare, Tokenize(("hello",)), str(link)))
    assert tokens_of(put(spare, Tokenize(("hello",)), str(tmp_path / "0.gguf")))


def test_filling_in_the_middle_uses_the_file_s_own_markers(spare: Child, smollm: Path, tmp_path: Path) -> None:
    model = infilling(smollm, tmp_path / "fim.gguf")
    assert isinstance(spare.load(a_load(model, context=256)), Loaded)
    described = put(spare, Describe())
    assert isinstance(described, Described)
    assert described.can_infill
    request = GenerationRequest("f", prompt="def add(", suffix="return a + b", max_tokens=4)
    tokens = tokens_of(put(spare, Render(request)))
    before, after = tokens_of(put(spare, Tokenize(("def add(",)))), tokens_of(put(spare, Tokenize(("return a + b",))))
    assert tokens == (3, *before, 4, *after, 5)
    (answer,) = spare.generate(request)
    assert answer.ending.usage.prompt == len(tokens)


def test_other_files_come_first_and_the_oldest_give_way(spare: Child, smollm: Path, tmp_path: Path) -> None:
    model = infilling(smollm, tmp_path / "fim.gguf")
    assert isinstance(spare.load(a_load(model, context=256)), Loaded)
    files = (("old.py", "x = 1\n" * 60), ("new.py", "y = 2\n"))
    request = GenerationRequest("f", prompt="a", suffix="b", files=files, max_tokens=4)
    reply = put(spare, Render(request))
    assert isinstance(reply, Rendered)
    assert "new.py\ny = 2" in reply.text
    assert "old.py" not in reply.text
    assert len(reply.tokens) < 192
    assert reply.tokens[0] == 6
    assert reply.tokens.count(7) == 2


def test_a_model_without_such_markers_cannot_fill_in(shared: Child) -> None:
    (answer,) = shared.generate(GenerationRequest("f", prompt="a", suffix="b", max_tokens=4))
    assert answer.failure.code == "invalid_request"
    assert "no tokens for it" in answer.failure.message
