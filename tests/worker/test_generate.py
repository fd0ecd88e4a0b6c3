"""Answers of a real model, one and several at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from swapd.generation import Message, Role, Sampling, StopReason
from swapd.wire import Generate, Loaded, Pieces, Ping, Pong
from tests.worker.conftest import GREEDY, Child, a_load, ask

QUESTIONS = ("What is the capital of France?", "Name three colours.", "What is 2 + 2?", "Why is the sky blue?")


def test_a_chat_answers_and_ends_its_turn(shared: Child) -> None:
    answer = shared.generate(ask(chat="Say hello.", max_tokens=200))[0]
    assert "ello" in answer.text
    assert "<|im" not in answer.text
    assert answer.ending.reason is StopReason.STOP
    assert answer.ending.stop is None
    assert answer.tokens == answer.ending.usage.completion > 5


def test_greedy_text_is_the_same_alone_and_beside_others(shared: Child) -> None:
    """Their beginning: llama.cpp rounds differently in batches of other shapes, and later near ties may tip."""
    requests = [ask(chat=question, name=str(i), max_tokens=12) for i, question in enumerate(QUESTIONS)]
    alone = [shared.generate(request)[0].text for request in requests]
    together = [answer.text for answer in shared.generate(*requests)]
    assert together == alone


def test_slots_do_not_mix(shared: Child) -> None:
    """Each of four says its own word again, though all are decoded in one batch."""
    words = ("apple", "river", "stone", "cloud")
    answers = shared.generate(*(ask(f"The{f' {word}' * 12}", name=word, max_tokens=6) for word in words))
    for word, answer in zip(words, answers, strict=True):
        assert answer.text.split() == [word] * 6


def test_more_requests_than_slots_all_finish(shared: Child) -> None:
    answers = shared.generate(*(ask(chat=f"Say {i}.", name=str(i), max_tokens=5 + i % 3) for i in range(11)))
    assert all(answer.ending.usage.completion for answer in answers)


def test_one_frame_carries_a_step_of_all_slots(shared: Child) -> None:
    shared.send(*(Generate(ask("Once upon a time", name=f"f{i}", max_tokens=12)) for i in range(4)))
    frame = shared.wait_for(Pieces, lambda frame: len(frame.pieces) == 4)
    assert len({piece.request for piece in frame.pieces}) == 4
    shared.finish("f0", "f1", "f2", "f3")


def test_max_tokens_ends_by_length(shared: Child) -> None:
    answer = shared.generate(ask("Once upon a time", max_tokens=7))[0]
    assert answer.ending.reason is StopReason.LENGTH
    assert answer.ending.usage.completion == answer.tokens == 7


def test_no_tokens_asked_none_given(shared: Child) -> None:
    answer = shared.generate(ask("Nobody asked for an answer to this", max_tokens=0))[0]
    assert (answer.text, answer.ending.reason) == ("", StopReason.LENGTH)
    assert answer.ending.usage.prompt > 3
    assert answer.ending.usage.completion == 0
    assert answer.ending.usage.prompt_s > 0


def test_every_slot_has_its_full_context_and_ends_by_length_at_its_end(spare: Child, smollm: Path) -> None:
    loaded = spare.load(a_load(smollm, context=256, slots=3))
    assert isinstance(loaded, Loaded)
    answers = spare.generate(*(ask((1000 + i,) * (loaded.context - 2), name=str(i), max_tokens=None) for i in range(3)))
    for answer in answers:
        assert answer.ending.reason is StopReason.LENGTH
        assert answer.ending.usage.prompt + answer.ending.usage.completion == loaded.context


def test_a_prompt_over_the_context_says_both_numbers(shared: Child) -> None:
    failure = shared.generate(ask("word " * 2000))[0].failure
    assert failure.code == "context_length_exceeded"
    assert failure.prompt > 2000
    assert failure.context == 1024
    assert str(failure.prompt) in failure.message
    assert shared.generate(ask("word", name="b", max_tokens=1))[0].ending.usage.prompt == 1


def test_the_same_prompt_again_is_mostly_cached(shared: Child) -> None:
    prompt = "The quick brown fox jumps over the lazy dog. " * 10
    first = shared.generate(ask(prompt, name="1"))[0]
    second = shared.generate(ask(prompt, name="2"))[0]
    assert first.ending.usage.cached == 0
    assert second.ending.usage.cached == second.ending.usage.prompt - 1
    assert second.ending.usage.evaluated == 1
    assert second.text == first.text


def test_a_longer_conversation_evaluates_only_what_is_new(shared: Child) -> None:
    question = Message(Role.USER, "Tell me about the river Danube and its cities, please.")
    first = shared.generate(replace(ask(name="1", max_tokens=200, chat="-"), messages=(question,)))[0]
    turn = (question, Message(Role.ASSISTANT, first.text), Message(Role.USER, "And the Rhine?"))
    second = shared.generate(replace(ask(name="2", chat="-"), messages=turn))[0]
    assert second.ending.usage.cached >= first.ending.usage.prompt
    assert second.ending.usage.evaluated < 30


def test_a_stop_frees_the_slot(shared: Child) -> None:
    """Four endless answers fill the slots; a fifth waits until one of them is stopped."""
    endless = [f"endless{i}" for i in range(4)]
    shared.send(*(Generate(ask("1 2 3 4 5 6 7 8 9", name=name, max_tokens=900)) for name in endless))
    shared.send(Generate(ask("Hello", name="fifth", max_tokens=2)))
    shared.wait_for(Pieces, lambda frame: len(frame.pieces) == 4)
    assert not shared.answers["fifth"].pieces
    shared.stop(endless[2])
    fifth = shared.finish("fifth")[0]
    assert fifth.ending.reason is StopReason.LENGTH
    assert shared.answers[endless[2]].ending.reason is StopReason.CANCELLED


def test_a_waiting_request_can_be_stopped(shared: Child) -> None:
    running = [f"running{i}" for i in range(4)]
    shared.send(*(Generate(ask("1 2 3 4 5", name=name, max_tokens=900)) for name in running))
    shared.send(Generate(ask("Hello", name="waits")))
    shared.stop("waits")
    ending = shared.finish("waits")[0].ending
    assert (ending.reason, ending.usage.completion) == (StopReason.CANCELLED, 0)


def test_a_stop_for_nobody_is_fine(shared: Child) -> None:
    shared.stop("nobody")
    shared.send(Ping())
    assert shared.receive() == Pong()


def test_pings_are_answered_between_steps(shared: Child) -> None:
    shared.send(Generate(ask("1 2 3 4 5", name="busy", max_tokens=900)), Ping())
    shared.wait_for(Pong)
    shared.stop("busy")
    assert shared.finish("busy")[0].ending.reason is StopReason.CANCELLED


def test_the_first_stop_string_ends_the_answer(shared: Child) -> None:
    answer = shared.generate(ask("1, 2, 3, 4,", max_tokens=60, stop=("never", " 9", " 8")))[0]
    assert answer.ending.reason is StopReason.STOP
    assert answer.ending.stop == " 8"
    assert answer.text.strip() == "5, 6, 7,"
    assert answer.tokens == answer.ending.usage.completion


def test_characters_of_several_tokens_arrive_whole(shared: Child) -> None:
    answer = shared.generate(ask("😀 😁 😂 😀 😁 😂 😀 😁 😂 😀 😁 😂 😀", max_tokens=40))[0]
    assert any(letter > "\uffff" for letter in answer.text)
    assert all("\ufffd" not in piece for piece in answer.pieces[:-1])
    assert answer.tokens == answer.ending.usage.completion


def test_a_prompt_may_be_tokens(shared: Child) -> None:
    answer = shared.generate(ask((504, 3575, 282, 4649, 314), max_tokens=3))[0]
    assert answer.ending.usage.prompt == 5
    assert answer.text


@pytest.mark.parametrize("tokens", [(1, 10**6), (-1,)])
def test_tokens_that_the_model_has_not_are_refused(shared: Child, tokens: tuple[int, ...]) -> None:
    failure = shared.generate(ask(tokens))[0].failure
    assert failure.code == "invalid_request"
    assert "no token of this model" in failure.message


def test_an_empty_prompt_is_the_beginning_of_a_text(shared: Child) -> None:
    assert shared.generate(ask("", max_tokens=3))[0].ending.usage.prompt == 1


def test_echo_begins_with_the_prompt(shared: Child) -> None:
    assert shared.generate(ask("One, two,", max_tokens=3, echo=True))[0].text.startswith("One, two,")


def test_a_seed_repeats_itself_and_no_seed_does_not(shared: Child) -> None:
    hot = Sampling(temperature=1.5, seed=7)
    seeded, again, other, unseeded = (
        shared.generate(ask("Once", name=str(i), max_tokens=20, sampling=sampling))[0].text
        for i, sampling in enumerate((hot, hot, replace(hot, seed=8), replace(hot, seed=None)))
    )
    assert seeded == again
    assert len({seeded, other, unseeded}) == 3


def test_a_negative_seed_is_a_fresh_one(shared: Child) -> None:
    assert shared.generate(ask("Once", max_tokens=3, sampling=Sampling(seed=-1)))[0].ending.usage.completion == 3


def test_the_narrowest_filters_are_greedy(shared: Child) -> None:
    narrow = (Sampling(top_k=1), Sampling(top_p=0.0), Sampling(min_p=1.0), GREEDY)
    texts = [shared.generate(ask("One, two,", name=str(i), sampling=s))[0].text for i, s in enumerate(narrow)]
    assert len(set(texts)) == 1


def test_a_penalty_ends_repetition(shared: Child) -> None:
    prompt, strong = "The apple apple apple apple apple apple", replace(GREEDY, repeat_penalty=5.0)
    assert "apple apple" in shared.generate(ask(prompt, name="1"))[0].text
    assert "apple apple" not in shared.generate(ask(prompt, name="2", sampling=strong))[0].text


def test_one_requests_error_is_not_the_others(shared: Child) -> None:
    good, bad = shared.generate(
        ask("One, two,", name="good", max_tokens=30),
        ask("One", name="bad", sampling=Sampling(repeat_penalty=-1.0)),
    )
    assert bad.failure.code == "invalid_request"
    assert good.ending.usage.completion == 30


def test_a_long_prompt_does_not_stop_the_others(shared: Child) -> None:
    """Its prefill goes in chunks: the running answer gets a token in each of those steps."""
    shared.send(Generate(ask("1 2 3 4 5", name="running", max_tokens=900)))
    shared.wait_for(Pieces)
    shared.send(Generate(ask(tuple(range(100, 800)), name="long", max_tokens=1)))
    between = 0
    while not shared.answers["long"].pieces:
        frame = shared.receive()
        between += isinstance(frame, Pieces)
    assert between >= 3


def test_a_sliding_window_model_works_in_one_and_several_slots(spare: Child, gemma: Path) -> None:
    """Gemma 3, a base model; its window is 512 tokens and its vocabulary 262k."""
    assert isinstance(spare.load(a_load(gemma, context=2048, slots=3)), Loaded)
    requests = [ask("1, 2, 3, 4,", name=str(i), max_tokens=8) for i in range(5)]
    alone = spare.generate(requests[0])[0]
    assert alone.text.startswith(" 5, 6,")
    texts = {answer.text for answer in spare.generate(*requests[1:])}
    assert texts == {alone.text}


def test_a_sliding_window_model_goes_back_as_far_as_its_window_is_still_there(spare: Child, gemma: Path) -> None:
    spare.load(a_load(gemma))
    base = tuple(range(1000, 2400))
    cached = []
    for number, prompt in enumerate((base, (*base[:1390], 7, 8), (*base[:1390], 7, 8, 9), (*base[:700], 7, 8))):
        (answer,) = spare.generate(ask(prompt, name=str(number), max_tokens=0))
        cached.append(answer.ending.usage.cached)
    assert cached == [0, 1390, 1392, 0]


def test_a_model_without_a_template_ends_its_turn_too(spare: Child, gemma: Path) -> None:
    """It gets ChatML, whose end marker is nothing special to Gemma: plain text that must not be sent."""
    loaded = spare.load(a_load(gemma))
    assert isinstance(loaded, Loaded)
    assert loaded.template == "chatml"
    answer = spare.generate(ask(chat="What is the capital of France?", max_tokens=60))[0]
    assert answer.text
    assert "<|im" not in answer.text
    assert (answer.ending.reason, answer.ending.stop) == (StopReason.STOP, None)


def test_a_template_that_refuses_is_the_callers_error(spare: Child, smollm: Path, tmp_path: Path) -> None:
    """The same model with another template of the same length in its file."""
    content = smollm.read_bytes()
    start = content.index(b"{% for message in messages %}")
    length = int.from_bytes(content[start - 8 : start], "little")
    template = b"{{ raise_exception('roles must alternate') }}".ljust(length)
    assert len(template) == length
    changed = tmp_path / "strict.gguf"
    changed.write_bytes(content[:start] + template + content[start + length :])
    spare.load(a_load(changed, context=256))
    failure = spare.generate(ask(chat="Hello"))[0].failure
    assert failure.code == "invalid_request"
    assert "roles must alternate" in failure.message
    assert spare.generate(ask("Hello", name="b", max_tokens=2))[0].ending.usage.completion == 2


def test_how_far_the_prompt_is_read_and_what_it_cost_is_told_where_wanted(shared: Child) -> None:
    prompt = "Seven tall towers stood by the river. " * 110
    answer = shared.generate(ask(prompt, max_tokens=3, tells_reading=True, tells_usage=True))[0]
    usage = answer.ending.usage
    assert len(answer.read) > 2
    assert answer.read == sorted(set(answer.read))
    assert (answer.read[0], answer.read[-1]) == (usage.cached, usage.prompt)
    assert [told.completion for told in answer.usages if told.completion] == [1, 2, 3]
    assert [told.prompt_s for told in answer.usages] == sorted(told.prompt_s for told in answer.usages)
    silent = shared.generate(ask(prompt, name="b", max_tokens=3))[0]
    assert (silent.read, silent.usages, silent.text) == ([], [], answer.text)


def test_an_answer_ends_with_its_block(shared: Child) -> None:
    prompt = "Once. Twice.\n    Once. Twice.\n    Once. Twice.\n    Once. Twice.\nOnce. Twice.\n    Once."
    whole = shared.generate(ask(prompt, max_tokens=40))[0]
    cut = shared.generate(ask(prompt, name="b", max_tokens=40, indent=5))[0]
    assert "\n    " in whole.text
    assert cut.text == whole.text[: whole.text.index("\n") + 1]
    assert cut.ending.reason is StopReason.LENGTH
    assert cut.tokens == cut.ending.usage.completion < whole.ending.usage.completion
    soon = shared.generate(ask(prompt, name="c", max_tokens=40, line_limit=0.0))[0]
    assert soon.text.count("\n") == 1
