"""An answer's text as it arrives, read from the front, and what it turns out to be: the tools of every format here.

A format reads with generators (`Steps`): they give up control when the text that is there does not settle what comes
next, and go on when there is more. What they decide never depends on how the text was cut into pieces. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

from swapd.generation import CallPart
from swapd.worker.toolcalls.toolbox import Toolbox

T = TypeVar("T")
Steps: TypeAlias = Generator[None, None, T]
Out: TypeAlias = Callable[[str], None]

_SPACE: Final = re.compile(r"\s*")
_NAME: Final = re.compile(r"[\w.:/-]+")
_MAX_NAME: Final = 256
_MAX_NUMBER: Final = 6


@dataclass(frozen=True, slots=True)
class Said:
    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    text: str


Part: TypeAlias = Said | Thought | CallPart


class Reading:
    """What is unread of an answer, and the parts made of what was read.

    An attempt (`begin`) keeps what is read from there on, so that `fail` can go back; the first word of a call that
    is told ends it: what was told cannot be taken back.
    """

    def __init__(self, tools: Toolbox, new_id: Callable[[], str]) -> None:
        self.tools = tools
        self.is_over = False
        """No more text will come."""
        self.is_cut = False
        """The model had more to say: what is not finished is not."""
        self.told_calls = 0
        self.whole_calls = 0
        """How many of the told calls have come to their end."""
        self.dropped = ""
        """White space that `until` left out before the end that it found last."""
        self._new_id = new_id
        self._text = ""
        self._at = 0
        self._mark: int | None = None
        self._parts: list[Part] = []

    def add(self, text: str) -> None:
        if self._mark is None:
            self._text = self._text[self._at :] + text
            self._at = 0
        else:
            self._text += text

    def take(self) -> list[Part]:
        """What was told since the last time."""
        parts, self._parts = self._parts, []
        return parts

    # --- what was read is

    def say(self, text: str) -> None:
        if text:
            self._parts.append(Said(text))

    def think(self, text: str) -> None:
        if text:
            self._parts.append(Thought(text))

    def open_call(self, name: str, call_id: str = "") -> None:
        """`call_id`: the model's own; short ones are numbers within a turn, and no ids of a conversation."""
        self._mark = None
        self._parts.append(CallPart(self.told_calls, call_id if len(call_id) > _MAX_NUMBER else self._new_id(), name))
        self.told_calls += 1

    def argue(self, text: str) -> None:
        """More of the open call's arguments."""
        if text:
            self._parts.append(CallPart(self.told_calls - 1, arguments=text))

    def close_call(self) -> None:
        self.whole_calls += 1

    @property
    def can_end(self) -> bool:
        """A call may end here without its mark: there is other text, or the model ended its turn."""
        return not (self.is_over and self.is_cut)

    # --- attempts

    def begin(self) -> None:
        self._mark = self._at

    def fail(self) -> None:
        """Back to where the attempt began; nowhere if it has told a call since."""
        if self._mark is not None:
            self._at, self._mark = self._mark, None

    def commit(self) -> None:
        self._mark = None

    # --- reading

    @property
    def unread(self) -> str:
        return self._text[self._at :]

    def skip(self, count: int) -> None:
        self._at += count

    def back(self, count: int) -> None:
        """Unread what was read since control was given up last."""
        self._at -= count

    def has(self, count: int) -> Steps[bool]:
        """Wait for so many characters; False: the answer is over before."""
        while len(self._text) - self._at < count:
            if self.is_over:
                return False
            yield
        return True

    def peek(self, texts: Sequence[str]) -> Steps[str | None]:
        """The first of these that is next; not read."""
        for text in texts:
            for index, letter in enumerate(text):
                if not (yield from self.has(index + 1)) or self._text[self._at + index] != letter:
                    break
            else:
                return text
        return None

    def literal(self, text: str) -> Steps[bool]:
        """Read exactly this, or nothing."""
        is_next = (yield from self.peek((text,))) is not None
        if is_next:
            self._at += len(text)
        return is_next

    def any_literal(self, texts: Sequence[str]) -> Steps[str | None]:
        """Read the first of these that is next."""
        found = yield from self.peek(texts)
        self._at += len(found or "")
        return found

    def name(self) -> Steps[str]:
        """Read all that is next and may be in a name of a tool; "" if nothing is, or too much."""
        while True:
            found = _NAME.match(self._text, self._at)
            name = "" if found is None else found.group()
            if len(name) > _MAX_NAME:
                return ""
            if self._at + len(name) < len(self._text) or self.is_over:
                self._at += len(name)
                return name
            yield

    def space(self) -> Steps[str]:
        """Read all white space that is next."""
        read = ""
        while True:
            found = _SPACE.match(self._text, self._at)
            assert found is not None
            read += found.group()
            self._at = found.end()
            if self._at < len(self._text) or self.is_over:
                return read
            yield

    def next_is(self, letters: str) -> Steps[bool]:
        """Whether one of these characters is next; not read."""
        return (yield from self.has(1)) and self._text[self._at] in letters

    def until(self, ends: Sequence[str], out: Out, *, strips: bool = False) -> Steps[str | None]:
        """Give `out` all before the first of `ends` that is complete, and read that end too; None: the answer is over.

        `strips`: white space directly before the end is left out, and kept in `dropped`. Half an end, where the
        answer was cut, is no more than that, but in text that is said. No end may be the beginning of another.
        """
        held = ""  # white space that may be dropped
        while True:
            found = min(
                ((at + len(end), at, end) for end in ends if (at := self._text.find(end, self._at)) >= 0), default=None
            )
            is_half = not self.is_over or (self.is_cut and out != self.say)
            stop = found[1] if found else len(self._text) - (overlap(self.unread, ends) if is_half else 0)
            text = held + self._text[self._at : stop]
            held = ""
            if strips and not (self.is_over and not found):
                kept = text.rstrip()
                text, held = kept, text[len(kept) :]
            if text:
                out(text)
            if found is not None:
                self._at, self.dropped = found[0], held
                return found[2]
            self._at = len(self._text) if self.is_over else stop
            if self.is_over:
                return None
            yield


def overlap(text: str, ends: Sequence[str]) -> int:
    """Length of the longest end of `text` that is a beginning of one of `ends`, and not all of it."""
    longest = max(map(len, ends), default=0) - 1
    for length in range(min(len(text), longest), 0, -1):
        tail = text[-length:]
        if any(len(end) > length and end.startswith(tail) for end in ends):
            return length
    return 0


def closing(r: Reading, *marks: str) -> Steps[None]:
    """Read these after a call, in this order, as far as they are there."""
    for mark in marks:
        r.begin()
        yield from r.space()
        if (yield from r.literal(mark)):
            r.commit()
        else:
            r.fail()
