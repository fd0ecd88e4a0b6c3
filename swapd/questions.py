"""What a model can be asked besides an answer, and what comes back: prompts, tokens, vectors, in no dialect's words.

Built by `api/*`, carried by `wire`, done by `worker`. The first four need the model's vocabulary only.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from swapd.generation import GenerationRequest
from swapd.units import Tokens


class _Value(msgspec.Struct, frozen=True, tag=True):
    pass


# --- questions


class Render(_Value, frozen=True, tag=True):
    """The prompt that this request would give, however long it is."""

    request: GenerationRequest


class Tokenize(_Value, frozen=True, tag=True):
    """Texts and token numbers as one sequence. `add_special`: BOS, EOS as the vocabulary wants them."""

    parts: tuple[str | int, ...]
    add_special: bool = False
    parse_special: bool = True
    """Markers written in the text become their tokens."""


class Detokenize(_Value, frozen=True, tag=True):
    tokens: tuple[int, ...]


class Describe(_Value, frozen=True, tag=True):
    """What the file says of its template and markers."""


# --- replies


class Rendered(_Value, frozen=True, tag=True):
    text: str
    tokens: tuple[int, ...]


class Tokenized(_Value, frozen=True, tag=True):
    tokens: tuple[int, ...]
    pieces: tuple[bytes, ...]
    """The bytes of each; together they are the text."""


class Detokenized(_Value, frozen=True, tag=True):
    text: str


class Described(_Value, frozen=True, tag=True):
    template: str
    """Jinja2: the file's own, or the plain one that is used where it has none."""
    bos: str
    eos: str
    vocabulary: Tokens
    can_infill: bool
    """It has the tokens for filling in the middle."""


VocabularyQuestion: TypeAlias = Render | Tokenize | Detokenize | Describe
Question: TypeAlias = VocabularyQuestion
Reply: TypeAlias = Rendered | Tokenized | Detokenized | Described
