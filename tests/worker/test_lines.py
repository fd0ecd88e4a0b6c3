"""Answers that end by their lines, however they are cut into pieces."""

from __future__ import annotations

import pytest

from swapd.worker.lines import Lines


def told(lines: Lines, pieces: list[str], elapsed: float = 0.0) -> str:
    said, tokens, fed = "", 0, 0
    for piece in pieces:
        if lines.is_over:
            break
        text, count = lines.feed(piece, 1, elapsed)
        said, tokens, fed = said + text, tokens + count, fed + 1
    if not lines.is_over:
        text, count = lines.finish()
        said, tokens = said + text, tokens + count
    assert tokens == fed
    return said


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 100])
@pytest.mark.parametrize(
    ("text", "said", "is_over"),
    [
        ("a\n    b\n    c", "a\n    b\n    c", False),
        ("a\n    b\nc", "a\n    b\n", True),
        ("a\n  b", "a\n", True),
        ("a\n\t\t\t\tb\n", "a\n\t\t\t\tb\n", False),
        ("a\n    b\n\n    c", "a\n    b\n", True),
        ("a\n    ", "a\n    ", False),
        ("  a", "  a", False),
    ],
)
def test_a_line_that_is_indented_by_less_is_not_said(text: str, said: str, is_over: bool, cut: int) -> None:
    lines = Lines(4, None)
    assert told(lines, [text[at : at + cut] for at in range(0, len(text), cut)]) == said
    assert lines.is_over is is_over


def test_when_the_time_is_up_the_line_is_the_last() -> None:
    early, late = Lines(0, 1.0), Lines(0, 1.0)
    assert told(early, ["a", "\nb", "\nc"], elapsed=0.5) == "a\nb\nc"
    assert told(late, ["a", "b", "\nc", "\nd"], elapsed=1.5) == "ab\nc"
    assert (early.is_over, late.is_over) == (False, True)
