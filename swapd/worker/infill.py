"""Filling in the middle: the prompt for what belongs between a prefix and a suffix, in the file's own markers.

Used by `prompts`. The order is llama.cpp's: other files first, then prefix, suffix, and the place to go on.
"""

from __future__ import annotations

from typing import Final

from swapd.errors import InvalidRequest
from swapd.generation import GenerationRequest
from swapd.units import Tokens
from swapd.worker.llama import Vocabulary

_REPOSITORY: Final = "myproject\n"
_THIS_FILE: Final = "filename\n"
_SNIPPET: Final = "\n\n--- snippet ---\n\n"
ROOM_TO_ANSWER: Final = 4
"""Other files are hints: the oldest give way, so that at least a fourth of the context is left for the answer."""


def between(vocabulary: Vocabulary, request: GenerationRequest, context: Tokens) -> list[int]:
    """The prompt's tokens; prefix and suffix are whole. Raises InvalidRequest where the model has no such markers."""
    marks = vocabulary.infill
    if marks.prefix is None or marks.suffix is None or marks.middle is None:
        raise InvalidRequest(
            "cannot fill in the middle: this model's vocabulary has no tokens for it (prefix, suffix, middle)", "suffix"
        )

    def said(text: str) -> list[int]:
        return vocabulary.tokenize(text, add_special=False, parse_special=False)

    prompt = request.prompt
    before = said(prompt) if isinstance(prompt, str) else vocabulary.checked(prompt, "prompt")
    core = [marks.prefix, *before, marks.suffix, *said(request.suffix or ""), marks.middle]
    start = [vocabulary.bos] if vocabulary.adds_bos and vocabulary.bos is not None else []
    if not request.files:
        return start + core
    if marks.repository is not None:
        start += [marks.repository, *said(_REPOSITORY)]
    if marks.file is not None:
        core = [marks.file, *said(_THIS_FILE), *core]
    room = context - context // ROOM_TO_ANSWER - len(start) - len(core)
    told: list[list[int]] = []
    for name, text in reversed(request.files):
        head = said(_SNIPPET) if marks.file is None else [marks.file, *said(f"{name}\n")]
        chunk = head + said(text)
        room -= len(chunk)
        if room < 0:
            break
        told.insert(0, chunk)
    return start + [token for chunk in told for token in chunk] + core
