"""Vectors and scores of real loads: a tiny BERT of random weights, and a model that also writes text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from swapd.questions import Embed, Embedded, Question, Rerank, Reranked, Tokenize, Tokenized
from swapd.wire import Answered, Ask, Failed, Loaded, Ping, Pong, Stop
from tests.gguf_models import tiny_bert
from tests.worker.conftest import Child, a_load, ask

CAT, DOG, SKY = "the cat sat on the mat", "a dog sat on the mat", "the sky is blue"
CONTEXT = 64

Vector = npt.NDArray[np.float32]


def put(child: Child, *questions: Question) -> list[Answered | Failed]:
    """All at once; what came back, in the order of the questions."""
    child.send(*(Ask(str(number), question) for number, question in enumerate(questions)))
    found: dict[str, Answered | Failed] = {}
    while len(found) < len(questions):
        frame = child.receive()
        if isinstance(frame, Answered | Failed):
            found[frame.request] = frame
    return [found[str(number)] for number in range(len(questions))]


def vectors(child: Child, question: Embed) -> list[Vector]:
    (answered,) = put(child, question)
    assert isinstance(answered, Answered), answered
    assert isinstance(answered.reply, Embedded)
    return [np.frombuffer(raw, "<f4") for raw in answered.reply.vectors]


def failure(child: Child, question: Question) -> Failed:
    (failed,) = put(child, question)
    assert isinstance(failed, Failed), failed
    return failed


def likeness(one: Vector, other: Vector) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def loaded(path: Path, pooling: str, context: int = CONTEXT) -> Iterator[Child]:
    child = Child()
    try:
        child.start()
        load = a_load(path, context=context, slots=4, pooling=pooling, micro_batch=context)
        answer = child.load(load)
        assert isinstance(answer, Loaded), answer
        assert (answer.context, answer.slots) == (context, 4)
        yield child
    finally:
        child.close()


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    yield from loaded(tiny_bert(tmp_path_factory.mktemp("bert") / "bert.gguf", context=CONTEXT), "mean")


@pytest.fixture(scope="module")
def ranker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    path = tiny_bert(tmp_path_factory.mktemp("ranker") / "rank.gguf", context=CONTEXT, ranks=True)
    yield from loaded(path, "rank")


@pytest.fixture(scope="module")
def writer(smollm: Path) -> Iterator[Child]:
    yield from loaded(smollm, "last", context=256)


def test_vectors_have_length_one_and_tell_texts_apart(bert: Child) -> None:
    cat, dog, sky, again = vectors(bert, Embed((CAT, DOG, SKY, CAT)))
    assert all(abs(float(np.linalg.norm(vector)) - 1) < 1e-5 for vector in (cat, dog, sky))
    assert np.allclose(cat, again, atol=1e-5)
    assert likeness(cat, dog) > likeness(cat, sky)


def test_a_text_beside_others_has_the_vector_that_it_has_alone(bert: Child) -> None:
    alone = [vectors(bert, Embed((text,)))[0] for text in (CAT, DOG, SKY)]
    together = vectors(bert, Embed((CAT, DOG, SKY) * 30))
    for number, vector in enumerate(together):
        assert np.allclose(vector, alone[number % 3], atol=1e-4)


def test_tokens_give_the_vector_of_their_text(bert: Child) -> None:
    (reply,) = put(bert, Tokenize((CAT,), add_special=True))
    assert isinstance(reply, Answered)
    assert isinstance(reply.reply, Tokenized)
    of_text, of_tokens = vectors(bert, Embed((CAT, reply.reply.tokens)))
    assert np.allclose(of_text, of_tokens, atol=1e-5)


def test_fewer_dimensions_are_the_first_ones_of_length_one_again(bert: Child) -> None:
    (whole,) = vectors(bert, Embed((CAT,), is_normalised=False))
    (few,) = vectors(bert, Embed((CAT,), dimensions=8))
    assert np.allclose(few, whole[:8] / np.linalg.norm(whole[:8]), atol=1e-5)
    assert "have 32" in failure(bert, Embed((CAT,), dimensions=33)).message


def test_a_text_over_the_context_is_refused_with_both_numbers_or_cut_where_asked(bert: Child) -> None:
    refused = failure(bert, Embed((CAT, "cat " * 100)))
    assert (refused.code, refused.prompt, refused.context) == ("context_length_exceeded", 102, CONTEXT)
    (answered,) = put(bert, Embed(("cat " * 100,), truncates=True))
    assert isinstance(answered, Answered)
    assert isinstance(answered.reply, Embedded)
    assert answered.reply.tokens == (CONTEXT,)


def test_requests_share_batches_and_each_gets_its_own(bert: Child) -> None:
    questions = [Embed((text,) * count) for text, count in ((CAT, 50), (DOG, 1), (SKY, 7))]
    for question, answered in zip(questions, put(bert, *questions), strict=True):
        assert isinstance(answered, Answered)
        assert isinstance(answered.reply, Embedded)
        expected = vectors(bert, Embed(question.inputs[:1]))[0]
        assert len(answered.reply.vectors) == len(question.inputs)
        assert np.allclose(np.frombuffer(answered.reply.vectors[-1], "<f4"), expected, atol=1e-4)


def test_one_refusal_leaves_the_others_alone(bert: Child) -> None:
    answers = put(bert, Embed((CAT,)), Embed(((10**6,),)), Embed((DOG,)))
    assert [type(answer) for answer in answers] == [Answered, Failed, Answered]


def test_a_stopped_request_is_forgotten(bert: Child) -> None:
    bert.send(Ask("gone", Embed((CAT,) * 500)), Stop("gone"), Ping())
    bert.wait_for(Pong)
    (answered,) = put(bert, Embed((DOG,)))
    assert answered.request == "0"


def test_a_model_for_vectors_writes_no_text(bert: Child) -> None:
    (answer,) = bert.generate(ask("Once"))
    assert "no model is loaded that writes text" in answer.failure.message


def test_a_model_for_vectors_does_not_rank(bert: Child) -> None:
    assert "cannot rerank" in failure(bert, Rerank("cat", (CAT,))).message


def test_scores_belong_to_their_documents(ranker: Child) -> None:
    (one,) = put(ranker, Rerank("the cat", (CAT, SKY, DOG)))
    (other,) = put(ranker, Rerank("the cat", (DOG, CAT, SKY)))
    assert isinstance(one, Answered)
    assert isinstance(other, Answered)
    assert isinstance(one.reply, Reranked)
    assert isinstance(other.reply, Reranked)
    cat, sky, dog = one.reply.scores
    assert len({round(score, 4) for score in one.reply.scores}) == 3
    assert np.allclose(other.reply.scores, (dog, cat, sky), atol=1e-4)
    assert one.reply.tokens == other.reply.tokens > 20


def test_a_model_that_ranks_makes_no_vectors(ranker: Child) -> None:
    assert "ranks documents" in failure(ranker, Embed((CAT,))).message


def test_a_model_that_also_writes_makes_vectors(writer: Child) -> None:
    cat, dog, again = vectors(
        writer, Embed(("The cat sat on the mat.", "Stock prices fell.", "The cat sat on the mat."))
    )
    assert len(cat) == 576
    assert np.allclose(cat, again, atol=1e-3)
    assert likeness(cat, dog) < 0.99
