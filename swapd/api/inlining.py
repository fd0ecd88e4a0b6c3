"""Thoughts in the text, for clients that tell them apart themselves: llama-server's `reasoning_format`.

Used by `openai_voice.py`. Which marks the model wrote is not known here; these are the ones that such clients look for.
"""

from __future__ import annotations

from typing import Final, Literal

from swapd.generation import Chunk

ReasoningFormat = Literal["auto", "deepseek", "deepseek-legacy", "none"]
"""Apart ("auto", "deepseek"), in the text ("none"), or in both places ("deepseek-legacy")."""

_OPENS: Final = "<think>"
_CLOSES: Final = "</think>"


class Inlining:
    """Of the answers to one request."""

    def __init__(self, wanted: ReasoningFormat | None) -> None:
        self.is_inline = wanted in ("none", "deepseek-legacy")
        """Thoughts stand in the text."""
        self.is_apart = wanted != "none"
        """Thoughts stand beside it."""
        self._thinking: set[int] = set()

    def whole(self, text: str, thinking: str) -> str:
        return f"{_OPENS}{thinking}{_CLOSES}{text}" if self.is_inline and thinking else text

    def piece(self, chunk: Chunk, index: int) -> str:
        """The text of a piece of the answer with this index; its thoughts come before what it says."""
        if not self.is_inline:
            return chunk.text
        told = ""
        if chunk.thinking:
            told = chunk.thinking if index in self._thinking else _OPENS + chunk.thinking
            self._thinking.add(index)
        if (chunk.text or chunk.calls) and index in self._thinking:
            told += _CLOSES
            self._thinking.discard(index)
        return told + chunk.text
