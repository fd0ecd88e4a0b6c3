"""Questions that a vocabulary is enough for: prompts rendered, texts in tokens and back. No weights are needed.

Used by `child`, with the loaded model's vocabulary or, in a process without a model, with those of files.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, assert_never

from swapd.questions import (
    Describe,
    Described,
    Detokenize,
    Detokenized,
    Render,
    Rendered,
    Reply,
    Tokenize,
    Tokenized,
    VocabularyQuestion,
)
from swapd.units import Tokens
from swapd.worker import backends
from swapd.worker.chat import CHATML, ChatTemplate
from swapd.worker.llama import Vocabulary, VocabularyFile
from swapd.worker.prompts import Reader

MOST_OPEN: Final = 4
"""Vocabularies kept at a time: tens of MiB each."""
_BOUNDLESS: Final[Tokens] = 2**31
"""A prompt that is only looked at may be longer than any context."""


class Clerk:
    """Of one vocabulary."""

    def __init__(self, vocabulary: Vocabulary, template: str | None, reader: Reader) -> None:
        self._vocabulary, self._template, self._reader = vocabulary, template, reader

    def answer(self, question: VocabularyQuestion) -> Reply:
        """Raises InvalidRequest."""
        vocabulary = self._vocabulary
        match question:
            case Render(request):
                prompt = self._reader.render(request)
                return Rendered(prompt.text, tuple(prompt.tokens))
            case Tokenize():
                tokens = self._tokens(question)
                return Tokenized(tuple(tokens), tuple(map(vocabulary.spelled, tokens)))
            case Detokenize(tokens=given):
                known = vocabulary.checked(given, "tokens")
                return Detokenized(b"".join(map(vocabulary.spelled, known)).decode("utf-8", "replace"))
            case Describe(with_ends=with_ends):
                marks = vocabulary.infill
                return Described(
                    template=self._template or CHATML,
                    bos=vocabulary.bos_text,
                    eos=vocabulary.eos_text,
                    vocabulary=vocabulary.size,
                    can_infill=None not in (marks.prefix, marks.suffix, marks.middle),
                    ends=vocabulary.ends if with_ends else (),
                )
            case _:
                assert_never(question)

    def _tokens(self, question: Tokenize) -> list[int]:
        tokens: list[int] = []
        for index, part in enumerate(question.parts):
            if isinstance(part, int):
                tokens += self._vocabulary.checked((part,), "tokens")
            else:
                is_first = question.add_special and index == 0
                tokens += self._vocabulary.tokenize(part, is_first, question.parse_special)
        return tokens


class Vocabularies:
    """Of files, opened when they are first asked for."""

    def __init__(self, log: backends.Log) -> None:
        self._log = log
        self._open: OrderedDict[str, tuple[VocabularyFile, Clerk]] = OrderedDict()

    def clerk(self, path: str) -> Clerk:
        """Raises CannotLoad."""
        if path not in self._open:
            file = VocabularyFile(path, self._log)
            vocabulary = file.vocabulary
            template = ChatTemplate(file.template, vocabulary.bos_text, vocabulary.eos_text, file.tool_template)
            self._open[path] = file, Clerk(vocabulary, file.template, Reader(vocabulary, template, _BOUNDLESS))
            if len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)[1][0].close()
        self._open.move_to_end(path)
        return self._open[path][1]
