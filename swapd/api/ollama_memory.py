"""Ollama's `context`: a conversation as the tokens that the caller keeps, and sends with the next prompt.

Used by `ollama.py` for `/api/generate`. Nothing is kept here.
"""

from __future__ import annotations

from msgspec.structs import replace

from swapd.errors import SwapdError
from swapd.generation import GenerationRequest
from swapd.runtime.questions import Questions


class Memory:
    def __init__(self, questions: Questions, model: str) -> None:
        self._questions, self._model = questions, model

    async def wait_recalled(self, request: GenerationRequest, context: tuple[int, ...]) -> GenerationRequest:
        """The request, its turns rendered behind the tokens so far. Raises what questions raise."""
        rendered = await self._questions.render(self._model, request)
        marks = await self._questions.describe(self._model)
        text = rendered.text
        # One mark of the beginning is enough. A template that writes it before every turn means something else by it.
        if marks.bos and text.startswith(marks.bos) and text.count(marks.bos) == 1:
            text = text.removeprefix(marks.bos)
        added = await self._questions.tokenize(self._model, (text,))
        return replace(request, messages=(), template="", prompt=(*context, *added.tokens))

    async def wait_kept(self, request: GenerationRequest, answer: str) -> tuple[int, ...]:
        """The conversation with this answer; nothing where it cannot be told: the answer itself is good."""
        try:
            prompt = request.prompt
            if isinstance(prompt, str):
                tokens = (await self._questions.render(self._model, request)).tokens
                prompt = tuple(token for token in tokens if token >= 0)  # what stands for a picture is no token
            return (*prompt, *(await self._questions.tokenize(self._model, (answer,), parse_special=False)).tokens)
        except SwapdError:
            return ()
