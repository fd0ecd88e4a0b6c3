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

    with_ends: bool = False
    """Which tokens end an answer takes a look at all of them, the first time."""


class Embed(_Value, frozen=True, tag=True):
    """One vector for each input: text, or token numbers as the model reads them."""

    inputs: tuple[str | tuple[int, ...], ...]
    truncates: bool = False
    """An input over the context is cut, not refused."""
    dimensions: int | None = None
    """The first so many of each vector; None: all."""
    is_normalised: bool = True
    """Of length 1."""


class Rerank(_Value, frozen=True, tag=True):
    """How well each document answers the query."""

    query: str
    documents: tuple[str, ...]
    truncates: bool = False


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
    ends: tuple[int, ...] = ()
    """Tokens that end an answer, where they are asked for."""


class Embedded(_Value, frozen=True, tag=True):
    vectors: tuple[bytes, ...]
    """32-bit floats, little endian; in the order of the inputs."""
    tokens: tuple[Tokens, ...]
    """Of each input."""


class Reranked(_Value, frozen=True, tag=True):
    scores: tuple[float, ...]
    """In the order of the documents; the higher the better, in the model's own measure."""
    tokens: Tokens
    """Of all pairs together."""


VocabularyQuestion: TypeAlias = Render | Tokenize | Detokenize | Describe
VectorQuestion: TypeAlias = Embed | Rerank
Question: TypeAlias = VocabularyQuestion | VectorQuestion
Reply: TypeAlias = Rendered | Tokenized | Detokenized | Described | Embedded | Reranked
