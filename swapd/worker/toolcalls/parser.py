"""Tells apart what a model said, thought and called, as its answer grows.

Used by `answers`, one parser an answer. Whatever a model writes is read: what is no call is text, unchanged.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from swapd.worker.toolcalls import harmony
from swapd.worker.toolcalls.formats import HARMONY, Format, Thinking
from swapd.worker.toolcalls.reading import Part, Reading, Steps
from swapd.worker.toolcalls.toolbox import Toolbox


def new_call_id() -> str:
    """Nine letters and digits: Mistral's templates take no others."""
    return secrets.token_hex(8)[:9]


class Parser:
    """`feed` text in pieces of any size, `finish` once; what they return does not depend on the sizes, put together.

    Without tools nothing is a call. `primer` is what of the answer is already in the prompt: it is read, not told.
    """

    def __init__(
        self,
        form: Format,
        thinking: Thinking | None,
        tools: Toolbox,
        primer: str = "",
        new_id: Callable[[], str] = new_call_id,
    ) -> None:
        self._reading = Reading(tools, new_id)
        self._steps = harmony.read(self._reading) if form is HARMONY else _turn(self._reading, form, thinking)
        if primer:
            self.feed(primer)

    @property
    def calls(self) -> int:
        """How many calls were told."""
        return self._reading.told_calls

    @property
    def is_whole(self) -> bool:
        """No call that was told is unfinished."""
        return self._reading.whole_calls == self._reading.told_calls

    def feed(self, text: str) -> list[Part]:
        self._reading.add(text)
        return self._go_on()

    def finish(self, *, is_cut: bool = False) -> list[Part]:
        """What was held back, when no more text comes. `is_cut`: because of a limit, not because the model ended."""
        self._reading.is_over, self._reading.is_cut = True, is_cut
        return self._go_on()

    def _go_on(self) -> list[Part]:
        next(self._steps, None)
        return self._reading.take()


def _turn(r: Reading, form: Format, thinking: Thinking | None) -> Steps[None]:
    """Thinking first, then text and calls. Where a turn begins again, after a call, the model may think again."""
    opens = form.opens if r.tools.schemas else ()
    bare = form.bare if r.tools.schemas else None
    while True:
        r.begin()
        yield from r.space()
        if thinking is not None and (yield from r.literal(thinking.opens)):
            r.commit()
            yield from r.space()
            if (yield from r.until([thinking.closes], r.think, strips=True)) is not None:
                yield from r.space()
            continue
        if bare is not None and (yield from bare(r)):
            yield from r.space()
            continue
        r.fail()
        if not (yield from _text(r, form, opens)):
            return
        yield from r.space()


def _text(r: Reading, form: Format, opens: tuple[str, ...]) -> Steps[bool]:
    """Up to a call and over it; False: the answer is over."""
    while True:
        opened = yield from r.until(opens, r.say, strips=bool(opens))
        if opened is None:
            return False
        before = r.dropped
        r.begin()
        if (yield from form.read(r, opened)):
            r.commit()
            return True
        r.fail()
        r.say(before + opened)
