"""llguidance's tables of one vocabulary: built when they are first wanted, in a thread, while others are answered.

Used by `constraints`. 0.2 s for 49k tokens and 1.6 for 262k; of that the last third holds Python's lock, and with it
everybody: that is llguidance's own constructor.
"""

from __future__ import annotations

import ctypes
import sys
from threading import Thread
from typing import Final

import llama_cpp.llama_cpp as C  # noqa: N812
from llguidance import LLTokenizer

from swapd.units import Seconds
from swapd.worker.llama import Vocabulary

_TURN: Final[Seconds] = 0.0005
"""So long the thread may keep Python's lock while the steps of the others want it."""


class Tables:
    """The thread only reads the vocabulary, as llama.cpp allows several to do."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._thread: Thread | None = None
        self._made: LLTokenizer | None = None
        self._error: Exception | None = None

    def are_there(self) -> bool:
        """False: they are being built. Also true where that has failed: who uses them is told."""
        if self._thread is None:
            if self._made is not None:
                return True
            self._turn = sys.getswitchinterval()
            sys.setswitchinterval(_TURN)
            self._error = None
            self._thread = Thread(target=self._build, name="tables", daemon=True)
            self._thread.start()
        if self._thread.is_alive():
            return False
        sys.setswitchinterval(self._turn)
        self._thread = None
        return True

    def wait(self, limit: Seconds | None = None) -> None:
        """Until they are built, at most so long."""
        if self._thread is not None:
            self._thread.join(limit)

    @property
    def tokenizer(self) -> LLTokenizer:
        """Waits for it. Raises what building it has raised; the next one who asks has it tried again."""
        while not self.are_there():
            self.wait()
        if self._made is None:
            assert self._error is not None
            raise self._error
        return self._made

    def _build(self) -> None:
        vocabulary = self._vocabulary
        try:
            self._made = LLTokenizer.from_llamacpp(  # type: ignore[attr-defined]
                tokens=[_spelling(vocabulary, token) for token in range(vocabulary.size)],
                vocab_ptr=vocabulary.pointer,
                tokenize_fptr=ctypes.cast(C.llama_tokenize, ctypes.c_void_p).value,
                eos_token=list(vocabulary.ends),
                slices=[],
            )
        except Exception as error:
            self._error = error


def _spelling(vocabulary: Vocabulary, token: int) -> bytes:
    """As llguidance wants it: what is never text is marked by a byte that no text has."""
    return vocabulary.pieces[token] or b"\xff" + vocabulary.spelled(token)
