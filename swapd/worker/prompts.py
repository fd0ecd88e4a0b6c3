"""What a request asks the model to read: its tokens, and how much of them a slot already holds.

Used by `slots`. Knows templates and vocabularies, no cache and no batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from swapd.errors import ContextLengthExceeded, InvalidRequest
from swapd.generation import GenerationRequest
from swapd.units import Tokens
from swapd.worker.chat import CHATML_END, ChatTemplate
from swapd.worker.infill import between
from swapd.worker.llama import Vocabulary

WORTH_KEEPING: Final = 10
"""A slot is chosen for its prefix if that is at least a tenth of the prompt: a shared greeting is no reason to
overwrite somebody's long conversation while an older slot is free."""


@dataclass(frozen=True, slots=True)
class Prompt:
    tokens: list[int]
    text: str
    """For echo."""
    stops: tuple[str, ...]


class Reader:
    """Turns requests into prompts for one model."""

    def __init__(self, vocabulary: Vocabulary, template: ChatTemplate, context: Tokens) -> None:
        self._vocabulary, self._template, self._context = vocabulary, template, context
        self._chat_stops = (CHATML_END,) if template.source == "chatml" and not self._ends(CHATML_END) else ()

    def read(self, request: GenerationRequest) -> Prompt:
        """Raises InvalidRequest, ContextLengthExceeded."""
        prompt = self.render(request)
        if len(prompt.tokens) >= self._context:
            raise ContextLengthExceeded(len(prompt.tokens), self._context)
        return prompt

    def render(self, request: GenerationRequest) -> Prompt:
        """However long it is. Raises InvalidRequest."""
        vocabulary = self._vocabulary
        stops = request.stop
        if request.suffix is not None:
            tokens = between(vocabulary, request, self._context)
            text = b"".join(map(vocabulary.spelled, tokens)).decode("utf-8", "replace")
        elif request.messages:
            text = self._template.render(request.messages)
            has_bos = bool(vocabulary.bos_text) and text.startswith(vocabulary.bos_text)
            tokens = vocabulary.tokenize(text, add_special=not has_bos)
            stops += self._chat_stops
        elif isinstance(request.prompt, str):
            text = request.prompt
            tokens = vocabulary.tokenize(text, add_special=True)
        else:
            tokens = vocabulary.checked(request.prompt, "prompt")
            text = b"".join(vocabulary.pieces[token] or b"" for token in tokens).decode("utf-8", "replace")
        if not tokens and vocabulary.bos is not None:
            tokens = [vocabulary.bos]
        if not tokens:
            raise InvalidRequest("the prompt is empty", "prompt")
        return Prompt(tokens, text, stops)

    def _ends(self, marker: str) -> bool:
        """Whether this text is one token that ends an answer."""
        tokens = self._vocabulary.tokenize(marker, add_special=False)
        return len(tokens) == 1 and self._vocabulary.pieces[tokens[0]] is None


def common_prefix(one: Sequence[int], other: Sequence[int]) -> Tokens:
    """How many tokens both begin with. Both of one type, for slices compare in C."""
    low, high = 0, min(len(one), len(other)) + 1
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low


def choose(slots: Sequence[tuple[Tokens, int]], prompt: Tokens) -> int:
    """Of free slots (tokens that a prompt of that length can reuse there, when last used) the index of the best."""
    best = max(range(len(slots)), key=lambda index: (slots[index][0], -slots[index][1]))
    if slots[best][0] * WORTH_KEEPING < prompt:
        best = min(range(len(slots)), key=lambda index: slots[index][1])
    return best
