"""Tokens' bytes become text that may be sent."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swapd.worker.text import Text


def through(pieces: list[bytes], stops: tuple[str, ...] = ()) -> tuple[str, str | None, int, list[str]]:
    """(text, stop, tokens, parts) of an answer that ends with these pieces or with a stop string."""
    text = Text(stops)
    parts: list[tuple[str, int]] = []
    for piece in pieces:
        parts.append(text.feed(piece))
        if text.stop is not None:
            break
    else:
        parts.append(text.finish())
    return "".join(part for part, _ in parts), text.stop, sum(count for _, count in parts), [part for part, _ in parts]


def test_a_character_is_sent_when_its_last_byte_is_there() -> None:
    euro = "€".encode()
    assert through([b"a", euro[:1], euro[1:2], euro[2:], b"b"])[3] == ["a", "", "", "€", "b", ""]


def test_the_token_count_waits_with_the_text() -> None:
    text = Text()
    assert text.feed(b"\xe2") == ("", 0)
    assert text.feed(b"\x82") == ("", 0)
    assert text.feed(b"\xac") == ("€", 3)


@pytest.mark.parametrize("pieces", [[b"a\xff", b"b"], [b"ab", b"\xe2\x82"], [b"\x80"]])
def test_bytes_that_are_no_text_become_replacement_characters(pieces: list[bytes]) -> None:
    assert through(pieces)[0] == b"".join(pieces).decode("utf-8", "replace")


def test_a_marker_without_text_is_counted_with_what_follows() -> None:
    text = Text()
    assert text.feed(b"") == ("", 0)
    assert text.feed(b"x") == ("x", 2)


def test_a_stop_string_over_several_pieces_is_never_sent() -> None:
    text, stop, tokens, parts = through([b"one", b" ST", b"O", b"P", b" two"], ("STOP",))
    assert (text, stop, tokens) == ("one ", "STOP", 4)
    assert parts == ["one", " ", "", ""]


def test_what_only_looked_like_a_stop_string_is_sent() -> None:
    text, stop, _, parts = through([b"ab", b"abx"], ("abac",))
    assert (text, stop) == ("ababx", None)
    assert parts == ["", "ababx", ""]


def test_what_was_held_back_is_sent_at_the_end() -> None:
    assert through([b"one\n", b"\n"], ("\n\nUser:",))[0] == "one\n\n"


def test_an_empty_stop_string_stops_nothing() -> None:
    assert through([b"abc"], ("",))[:2] == ("abc", None)


def test_a_stop_string_may_hold_characters_of_several_bytes() -> None:
    one, two = "«»".encode()[:3], "«»".encode()[3:]
    assert through([b"a", one, two, b"b"], ("«»",))[:2] == ("a", "«»")


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.data())
def test_how_the_text_was_cut_into_pieces_changes_nothing(text: str, stops: list[str], data: st.DataObject) -> None:
    """All of the text before the stop string that is complete first, however it arrives."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    pieces = [text[a:b].encode() for a, b in itertools.pairwise([0, *cuts, len(text)])]
    one_by_one = through([letter.encode() for letter in text], tuple(stops))
    whole = through(pieces, tuple(stops))
    assert whole[:2] == one_by_one[:2]
    assert not any(stop in whole[0] for stop in stops)
    if whole[1] is None:
        assert whole[0] == text
        assert whole[2] == len(pieces)
