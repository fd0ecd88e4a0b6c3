"""How pictures get into a sequence: encoded one at a time, then read like a prompt, a part in each step.

Used by `slots`, between the batches of text: embeddings and tokens do not go into one. Encoding is one call of
llama.cpp's, and nothing else goes on meanwhile; what others write goes on between it and each part.
"""

from __future__ import annotations

from collections.abc import Sequence

from swapd.units import Tokens
from swapd.worker.answering import Answer, Part, Slot, View
from swapd.worker.context import Context
from swapd.worker.projector import Projector


class Looker:
    """Of one model's context."""

    def __init__(self, projector: Projector, context: Context) -> None:
        self._projector, self._context = projector, context

    def next(self, looking: Sequence[tuple[Slot, Answer]]) -> tuple[Slot, Answer]:
        """Whose turn it is of those at a picture: who has begun one, else who came first."""
        return min(looking, key=lambda each: (each[1].view is None, each[1].began))

    def encode(self, slot: Slot, answer: Answer) -> None:
        """The picture that is next. Raises InvalidRequest."""
        picture = slot.picture
        assert picture is not None
        embeddings = self._projector.encode(picture.chunk)
        answer.view = View(embeddings, self._projector.positions(picture.chunk, slot.position))

    def read(self, slot: Slot, answer: Answer, most: Tokens) -> tuple[int, Part | None]:
        """At most so many of its tokens, or all if they belong together: `decode`'s answer, and the part it was.

        None: there is more of it.
        """
        picture, view = slot.picture, answer.view
        assert picture is not None
        assert view is not None
        end = picture.tokens if picture.chunk.is_whole else min(view.done + most, picture.tokens)
        is_done = end == picture.tokens
        is_last = is_done and picture.end == len(answer.prompt.tokens)
        status = self._context.look(
            slot.sequence,
            view.embeddings[view.done : end],
            view.positions[:, view.done : end].copy(),
            is_whole=picture.chunk.is_whole,
            wants_logits=is_last,
        )
        row = end - view.done - 1
        if status == 0:
            view.done = end
        tokens = answer.prompt.tokens[picture.start : picture.end]
        return status, Part(slot, answer, tokens, row, is_last) if is_done or status else None
