"""What an answer is allowed to be: JSON Schemas and Lark by llguidance, GBNF by llama.cpp's own sampler.

Used by `slots` (one constraint a request) and `sampling`. Whatever is wrong with a grammar is found when it is made;
a grammar comes from a stranger and must not be able to end the process.
"""

from __future__ import annotations

import ctypes
import re
from typing import Any, Final, Protocol

import llama_cpp.llama_cpp as C  # noqa: N812
import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLTokenizer

from swapd.errors import InvalidRequest
from swapd.generation import MAX_GRAMMAR, GenerationRequest
from swapd.units import Seconds
from swapd.worker import schemas
from swapd.worker.chain import Candidates
from swapd.worker.llama import Vocabulary
from swapd.worker.rules import Rules
from swapd.worker.tables import Tables

LARK: Final = "%llguidance"
MAX_DEPTH: Final = 128
"""Of groups in groups: llama.cpp's parser is recursive, and its stack is the process's."""

_GBNF_PARTS = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|#[^\n]*|[()]', re.DOTALL)
_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class Constraint(Protocol):
    is_slow: bool
    """Whether `allowed` costs much more than `allows`."""

    @property
    def is_over(self) -> bool:
        """Nothing can follow: the answer is complete."""

    def allows(self, token: int) -> bool: ...

    def allowed(self) -> Candidates | None:
        """All tokens that may come next, those that end the answer among them; None: every one."""

    def accept(self, token: int) -> None:
        """It comes next. Not for tokens that end the answer."""

    def close(self) -> None: ...


class Constraints:
    """Makes constraints for one model's vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._tables = Tables(vocabulary)

    def can_make(self, request: GenerationRequest, rules: Rules | None = None) -> bool:
        """Without waiting; False: what it takes is being built."""
        is_free = rules is None and request.schema is None and not request.grammar
        return is_free or self._is_plain(request, rules) or self._tables.are_there()

    def wait(self, limit: Seconds) -> None:
        """For what is being built, at most so long."""
        self._tables.wait(limit)

    def make(self, request: GenerationRequest, rules: Rules | None = None) -> Constraint | None:
        """`rules` stand in for what the request says itself. None: it is free.

        Raises InvalidRequest that says what is wrong with its grammar or schema.
        """
        if rules is not None:
            made = self._grammar(rules.grammar)
            return Lazy(made, rules, self._vocabulary, self._tables.tokenizer) if rules.triggers else made
        if request.grammar and request.schema is not None:
            raise InvalidRequest("cannot follow a grammar and a JSON schema at once: give one", "grammar")
        if request.schema is not None:
            made = Matcher(self._tables.tokenizer, schemas.compile_schema(request.schema), "schema")
        elif request.grammar:
            made = self._grammar(request.grammar)
        else:
            return None
        if not request.triggers:
            return made
        return Lazy(made, Rules("", request.triggers), self._vocabulary, self._tables.tokenizer)

    def _is_plain(self, request: GenerationRequest, rules: Rules | None) -> bool:
        """Only llama.cpp is needed."""
        grammar, triggers = (request.grammar, request.triggers) if rules is None else (rules.grammar, rules.triggers)
        return not triggers and (rules is not None or request.schema is None) and not grammar.startswith(LARK)

    def _grammar(self, text: str) -> Constraint:
        if len(text) > MAX_GRAMMAR:
            raise InvalidRequest(
                f"cannot use the grammar: it has {len(text)} characters; {MAX_GRAMMAR} are allowed", "grammar"
            )
        if text.startswith(LARK):
            return Matcher(self._tables.tokenizer, LLMatcher.grammar_from_lark(text), "grammar")
        return Gbnf(self._vocabulary, text)


class Matcher:
    """llguidance's: a mask of the whole vocabulary in 0.01 to 1 ms."""

    is_slow = False

    def __init__(self, tokenizer: LLTokenizer, grammar: str, param: str) -> None:
        """Raises InvalidRequest."""
        self._matcher = LLMatcher(tokenizer, grammar, log_level=0)
        self._param = param
        self._size = tokenizer.vocab_size
        self._mask = np.zeros((self._size + 31) // 32, np.int32)
        self._check()

    @property
    def is_over(self) -> bool:
        return bool(self._matcher.is_stopped())

    def allows(self, token: int) -> bool:
        return bool(self._matcher.validate_tokens([token]))

    def allowed(self) -> Candidates:
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        self._check()
        bits = np.unpackbits(self._mask.view(np.uint8), count=self._size, bitorder="little")
        return np.flatnonzero(bits)

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)
        self._check()

    def close(self) -> None:
        pass

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = " ".join(self._matcher.get_error().split())
            raise InvalidRequest(f"cannot use the {self._param}: {reason[:500]}", self._param)


class Gbnf:
    """llama.cpp's grammar. It ends the process when it is told a token that it does not allow: `accept` checks."""

    is_slow = True

    def __init__(self, vocabulary: Vocabulary, text: str) -> None:
        """Raises InvalidRequest."""
        if "\0" in text:
            raise InvalidRequest("cannot use the grammar: it has a NUL character", "grammar")
        if _depth(text) > MAX_DEPTH:
            raise InvalidRequest(f"cannot use the grammar: more than {MAX_DEPTH} groups in groups", "grammar")
        self._sampler = C.llama_sampler_init_grammar(vocabulary.pointer, text.encode(), b"root")
        if not self._sampler:
            raise InvalidRequest(
                "cannot use the grammar: llama.cpp refuses it; it should be GBNF with a rule named root, every rule "
                "defined and none left-recursive",
                "grammar",
            )
        self._vocabulary = vocabulary
        self._one = np.zeros(1, _CANDIDATE)
        self._all: npt.NDArray[Any] | None = None

    is_over = False  # not to be told without a look at every token

    def allows(self, token: int) -> bool:
        return len(self._apply(self._one, np.array([token], np.int32))) > 0

    def allowed(self) -> Candidates:
        if self._all is None:
            self._all = np.zeros(self._vocabulary.size, _CANDIDATE)
        return self._apply(self._all, np.arange(self._vocabulary.size, dtype=np.int32))

    def accept(self, token: int) -> None:
        if not self.allows(token):
            raise InvalidRequest("cannot follow the grammar any further", "grammar")
        C.llama_sampler_accept(self._sampler, token)

    def close(self) -> None:
        C.llama_sampler_free(self._sampler)

    def _apply(self, room: npt.NDArray[Any], tokens: npt.NDArray[np.int32]) -> Candidates:
        room["id"], room["logit"] = tokens, 0.0
        pointer = ctypes.cast(room.ctypes.data, C.llama_token_data_p)
        C.llama_sampler_apply(self._sampler, ctypes.byref(C.llama_token_data_array(pointer, len(room), -1, False)))
        allowed: Candidates = np.flatnonzero(np.isfinite(room["logit"]))
        return allowed if len(room) > 1 else tokens[allowed].astype(np.int64)


def _depth(text: str) -> int:
    deepest = depth = 0
    for part in _GBNF_PARTS.findall(text):
        depth += (part == "(") - (part == ")")
        deepest = max(deepest, depth)
    return deepest


class Lazy:
    """Free until one of the triggers is written; from behind it on as the inner constraint says.

    What was written in one token with the trigger, and is not allowed behind it, makes the answer free for good.
    """

    is_slow = True  # as long as it is free, a look at one token costs nothing

    def __init__(self, inner: Constraint, rules: Rules, vocabulary: Vocabulary, tokenizer: LLTokenizer) -> None:
        self._inner, self._vocabulary, self._tokenizer = inner, vocabulary, tokenizer
        self._triggers = [trigger.encode() for trigger in rules.triggers if trigger]
        self._pauses, self._resumes = [mark.encode() for mark in rules.pause or ("", "")]
        self._is_paused = rules.is_paused
        marks = [*self._triggers, self._pauses, self._resumes]
        self._keep = max(map(len, marks)) - 1
        self._tail = b""
        self._holds, self._is_free = not self._triggers, False

    @property
    def is_over(self) -> bool:
        return self._holds and self._inner.is_over

    def allows(self, token: int) -> bool:
        return not self._holds or self._inner.allows(token)

    def allowed(self) -> Candidates | None:
        return self._inner.allowed() if self._holds else None

    def accept(self, token: int) -> None:
        if self._holds:
            self._inner.accept(token)
        elif not self._is_free:
            self._read(self._tail + self._vocabulary.spelled(token))

    def _read(self, text: bytes) -> None:
        while (found := self._next(text)) is not None:
            mark, text = found
            if mark in (self._pauses, self._resumes):
                self._is_paused = mark == self._pauses
                continue
            self._holds = True
            for follower in self._tokenizer.greedy_tokenize(text.decode("utf-8", "ignore")):  # byte for byte
                if not self._inner.allows(follower):
                    self._holds, self._is_free = False, True
                    return
                self._inner.accept(follower)
            return
        self._tail = text[max(0, len(text) - self._keep) :]

    def _next(self, text: bytes) -> tuple[bytes, bytes] | None:
        """The mark that comes first of those that count now, and what is behind it."""
        marks = [self._resumes] if self._is_paused else [*self._triggers, self._pauses]
        found = [(at, mark) for mark in marks if mark and (at := text.find(mark)) >= 0]
        if not found:
            return None
        at, mark = min(found)
        return mark, text[at + len(mark) :]

    def close(self) -> None:
        self._inner.close()
