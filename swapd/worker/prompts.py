"""What a request asks the model to read: its tokens, and how much of them a slot already holds.

Used by `slots`. Knows templates and vocabularies, no cache and no batch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from swapd.errors import ContextLengthExceeded, InvalidRequest
from swapd.generation import GenerationRequest, Image, ToolChoice
from swapd.units import Tokens
from swapd.worker.chat import CHATML_END, ChatTemplate, Turn
from swapd.worker.infill import between
from swapd.worker.llama import Vocabulary
from swapd.worker.rules import Rules
from swapd.worker.rules import rules as rules_of
from swapd.worker.stretches import Stretch, numbers
from swapd.worker.toolcalls.formats import HARMONY, Format, Thinking
from swapd.worker.toolcalls.parser import Parser
from swapd.worker.toolcalls.toolbox import Toolbox

if TYPE_CHECKING:
    from swapd.worker.projector import Chunk, Projector

MARKER: Final = "<__media__>"
"""What is told of a picture where a prompt is shown as text."""
WORTH_KEEPING: Final = 10
"""A slot is chosen for its prefix if that is at least a tenth of the prompt: a shared greeting is no reason to
overwrite somebody's long conversation while an older slot is free."""


@dataclass(frozen=True, slots=True)
class Chat:
    """What a parser of the answer has to know."""

    form: Format
    thinking: Thinking | None
    tools: Toolbox
    primer: str
    marks: Mapping[int, bytes]
    """What is written for tokens that have no text of their own and mean something in this format."""

    def parser(self) -> Parser:
        return Parser(self.form, self.thinking, self.tools, self.primer)


@dataclass(frozen=True, slots=True)
class Picture(Stretch):
    """What of a picture is encoded at a time, and where in the prompt it stands."""

    chunk: Chunk


@dataclass(frozen=True, slots=True)
class Prompt:
    tokens: list[int]
    """Those of pictures are below 0, see `stretches`."""
    text: str
    """For echo."""
    stops: tuple[str, ...]
    reading: Chat | None = None
    """How a chat's answer is to be read; None: all of it is text."""
    rules: Rules | None = None
    """What it has to follow, where that is not just what the request says."""
    pictures: tuple[Picture, ...] = ()

    @property
    def said(self) -> list[int]:
        """The tokens that are text."""
        return [token for token in self.tokens if token >= 0] if self.pictures else self.tokens


class Reader:
    """Turns requests into prompts for one model."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        template: ChatTemplate,
        context: Tokens,
        projector: Projector | None = None,
        micro_batch: Tokens = 0,
    ) -> None:
        """With the projector, what is computed at a time: pictures that have to be read whole must be within it."""
        self._vocabulary, self._template, self._context = vocabulary, template, context
        self._projector, self._micro_batch = projector, micro_batch
        self._known_marks: dict[tuple[str, Thinking | None], Mapping[int, bytes]] = {}
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
        reading, rules = None, None
        pictures: tuple[Picture, ...] = ()
        if request.suffix is not None:
            tokens = between(vocabulary, request, self._context)
            text = b"".join(map(vocabulary.spelled, tokens)).decode("utf-8", "replace")
        elif request.messages:
            turn = self._template.render(request)
            text, reading = turn.text, self._reading(request, turn)
            if reading is not None:
                rules = rules_of(request, turn, reading.tools, reading.marks)
            has_bos = bool(vocabulary.bos_text) and text.startswith(vocabulary.bos_text)
            tokens, pictures, text = self._read(text, request.pictures, add_special=not has_bos)
            stops += self._chat_stops
        elif isinstance(request.prompt, str):
            tokens, pictures, text = self._read(request.prompt, request.pictures, add_special=True)
        else:
            tokens = vocabulary.checked(request.prompt, "prompt")
            text = b"".join(vocabulary.pieces[token] or b"" for token in tokens).decode("utf-8", "replace")
        if not tokens and vocabulary.bos is not None:
            tokens = [vocabulary.bos]
        if not tokens:
            raise InvalidRequest("the prompt is empty", "prompt")
        return Prompt(tokens, text, stops, reading, rules, pictures)

    def _read(
        self, text: str, images: Sequence[Image], *, add_special: bool
    ) -> tuple[list[int], tuple[Picture, ...], str]:
        """Its tokens, the pictures among them, and the text as it may be shown. Raises InvalidRequest."""
        vocabulary = self._vocabulary
        if not images:
            return vocabulary.tokenize(text, add_special), (), text
        if self._projector is None:
            raise InvalidRequest("cannot read images: no projector is loaded with this model", "messages")
        known = {image.marker: image for image in images}
        parts = re.split(f"({'|'.join(map(re.escape, known))})", text)
        if len({part for part in parts if part in known}) < len(known):
            raise InvalidRequest("the model's chat template leaves out an image of these messages", "messages")
        tokens = [vocabulary.bos] if add_special and vocabulary.adds_bos and vocabulary.bos is not None else []
        pictures: list[Picture] = []
        for part in parts:
            if part not in known:
                tokens += vocabulary.tokenize(part, add_special=False) if part else []
                continue
            for piece in self._projector.read(known[part].data):
                if isinstance(piece, list):
                    tokens += piece
                    continue
                if piece.is_whole and piece.tokens > self._micro_batch:
                    raise InvalidRequest(
                        f"cannot read the image: it takes {piece.tokens} tokens that are computed together, and as the "
                        f"model is placed now {self._micro_batch} are"
                    )
                pictures.append(Picture(len(tokens), piece.tokens, piece.positions, piece))
                tokens += numbers(piece.content, piece.tokens)
        if add_special and vocabulary.adds_eos and vocabulary.eos is not None:
            tokens.append(vocabulary.eos)
        shown = "".join(MARKER if part in known else part for part in parts)
        return tokens, tuple(pictures), shown

    def _reading(self, request: GenerationRequest, turn: Turn) -> Chat | None:
        offered = () if request.tool_choice is ToolChoice.NONE else request.tools
        tools = Toolbox.of(offered)
        if not tools.schemas and turn.thinking is None and turn.form is not HARMONY:
            return None
        return Chat(turn.form, turn.thinking, tools, turn.primer, self._marks(turn.form, turn.thinking))

    def _marks(self, form: Format, thinking: Thinking | None) -> Mapping[int, bytes]:
        known = self._known_marks.get((form.name, thinking))
        if known is None:
            thoughts = () if thinking is None else (thinking.opens, thinking.closes)
            known = self._vocabulary.silent((*form.opens, *form.marks, *thoughts))
            self._known_marks[form.name, thinking] = known
        return known

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
