"""An answer's text becomes pieces that tell, in order, what was thought, said and called, and what it took."""

from __future__ import annotations

import pytest

from swapd.generation import CallPart, Likelihood, TokenLogprob, Tool
from swapd.wire import Piece
from swapd.worker.telling import Teller
from swapd.worker.toolcalls.formats import HERMES, Thinking
from swapd.worker.toolcalls.parser import Parser
from swapd.worker.toolcalls.toolbox import Toolbox

CALL = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'


def a_teller(several: bool = True) -> Teller:
    parser = Parser(HERMES, Thinking("<think>", "</think>"), Toolbox.of([Tool("add")]), new_id=lambda: "id")
    return Teller("r", parser, several)


def a_logprob(token: int) -> TokenLogprob:
    return TokenLogprob(Likelihood(token, b"", -1.0))


def test_without_a_parser_all_is_text() -> None:
    teller = Teller("r", None)
    assert teller.tell(CALL, 3) == [Piece("r", CALL, 3)]
    assert teller.finish(is_cut=False) == []
    assert not teller.is_calling


def test_one_piece_tells_what_can_be_told_together() -> None:
    teller = a_teller()
    assert teller.tell("<think>Hm.</think>Well. " + CALL, 9) == [
        Piece("r", "Well.", 9, "Hm.", (CallPart(0, "id", "add", '{"a": 1}'),))
    ]
    assert teller.is_calling


def test_text_behind_a_call_is_a_piece_of_its_own() -> None:
    pieces = a_teller().tell(CALL + "Done", 7)
    assert pieces == [Piece("r", "", 7, calls=(CallPart(0, "id", "add", '{"a": 1}'),)), Piece("r", "Done", 0)]


def test_tokens_and_likelihoods_wait_for_something_to_be_told() -> None:
    teller = a_teller()
    assert teller.tell("<tool", 1, (a_logprob(1),)) == []
    assert teller.tell("box>", 1, (a_logprob(2),)) == [
        Piece("r", "<toolbox>", 2, logprobs=(a_logprob(1), a_logprob(2)))
    ]
    assert teller.tell(" <tool_call>", 2) == []
    assert teller.finish(is_cut=True) == [Piece("r", " <tool_call>", 2)]


def test_tokens_that_tell_nothing_are_counted_at_the_end() -> None:
    teller = a_teller()
    teller.tell(CALL.removesuffix("</tool_call>"), 5)
    assert teller.tell("</tool_call>", 2) == []
    assert teller.finish(is_cut=False) == [Piece("r", "", 2)]


@pytest.mark.parametrize("several", [False, True])
def test_an_answer_of_one_call_is_over_with_it(several: bool) -> None:
    teller = a_teller(several)
    teller.tell(CALL.removesuffix("}</tool_call>"), 1)
    assert not teller.is_over
    teller.tell("}", 1)
    assert teller.is_over == (not several)


def test_a_half_call_is_no_call_yet() -> None:
    teller = a_teller()
    teller.tell(CALL + '<tool_call>{"name": "add", "arguments": {', 9)
    teller.finish(is_cut=True)
    assert not teller.is_calling
