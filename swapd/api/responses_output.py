"""The output items of a response, and the events that tell how they grow.

Used by `responses.py`, for streams and whole answers alike: the items of both are the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from swapd.api.constrained import told_all
from swapd.api.responses_items import Caller, Toolbox
from swapd.generation import CallPart, Chunk

Event: TypeAlias = tuple[str, dict[str, object]]
"""Its type, and its fields but for the sequence number."""
Likelihoods: TypeAlias = Sequence[dict[str, object]]

IN_PROGRESS: Final = "in_progress"
COMPLETED: Final = "completed"
INCOMPLETE: Final = "incomplete"


class _Item(ABC):
    prefix: str

    def __init__(self, unique: str, index: int) -> None:
        self.place: dict[str, object] = {"item_id": f"{self.prefix}_{unique}_{index}", "output_index": index}
        self._said: list[str] = []

    @property
    def said(self) -> str:
        return "".join(self._said)

    def head(self, status: str) -> dict[str, object]:
        return {"id": self.place["item_id"], "status": status}

    def grow(self, text: str, likelihoods: Likelihoods = ()) -> Iterator[Event]:
        self._said.append(text)
        yield from self.grown(text, likelihoods)

    @abstractmethod
    def document(self, status: str) -> dict[str, object]: ...

    @abstractmethod
    def begun(self) -> Iterator[Event]: ...

    @abstractmethod
    def grown(self, text: str, likelihoods: Likelihoods) -> Iterator[Event]: ...

    @abstractmethod
    def ended(self) -> Iterator[Event]: ...


class _Text(_Item):
    """With one part: what is said or what is thought."""

    delta: str

    def __init__(self, unique: str, index: int) -> None:
        super().__init__(unique, index)
        self.likelihoods: list[dict[str, object]] = []

    @abstractmethod
    def part(self) -> dict[str, object]: ...

    @property
    def words(self) -> dict[str, object]:
        return {**self.place, "content_index": 0}

    def begun(self) -> Iterator[Event]:
        yield "response.content_part.added", {**self.words, "part": self.part()}

    def grown(self, text: str, likelihoods: Likelihoods) -> Iterator[Event]:
        self.likelihoods += likelihoods
        yield f"response.{self.delta}.delta", {**self.words, "delta": text, "logprobs": list(likelihoods)}

    def ended(self) -> Iterator[Event]:
        yield f"response.{self.delta}.done", {**self.words, "text": self.said, "logprobs": self.likelihoods}
        yield "response.content_part.done", {**self.words, "part": self.part()}


class _Message(_Text):
    prefix, delta = "msg", "output_text"

    def part(self) -> dict[str, object]:
        return {"type": "output_text", "text": self.said, "annotations": [], "logprobs": self.likelihoods}

    def document(self, status: str) -> dict[str, object]:
        content = [] if status == IN_PROGRESS else [self.part()]
        return {**self.head(status), "type": "message", "role": "assistant", "content": content}


class _Reasoning(_Text):
    prefix, delta = "rs", "reasoning_text"

    def part(self) -> dict[str, object]:
        return {"type": "reasoning_text", "text": self.said}

    def document(self, status: str) -> dict[str, object]:
        content = [] if status == IN_PROGRESS else [self.part()]
        return {**self.head(status), "type": "reasoning", "summary": [], "content": content}


class _Call(_Item):
    prefix = "fc"

    def __init__(self, unique: str, index: int, call: str, caller: Caller) -> None:
        super().__init__(unique, index)
        self._call, self._caller = call, caller

    def document(self, status: str) -> dict[str, object]:
        namespace = {"namespace": self._caller.namespace} if self._caller.namespace else {}
        about = {"call_id": self._call, "name": self._caller.name, "arguments": self.said}
        return {**self.head(status), "type": "function_call", **about, **namespace}

    def begun(self) -> Iterator[Event]:
        yield from ()

    def grown(self, text: str, likelihoods: Likelihoods) -> Iterator[Event]:
        yield "response.function_call_arguments.delta", {**self.place, "delta": text}

    def ended(self) -> Iterator[Event]:
        done = {**self.place, "name": self._caller.name, "arguments": self.said}
        yield "response.function_call_arguments.done", done


class _CustomCall(_Call):
    """The caller gets the text, which to the model is the only argument of a function."""

    prefix = "ctc"

    def _input(self) -> str:
        try:
            given = msgspec.json.decode(self.said, type=dict[str, Any]).get("input")
        except msgspec.DecodeError:
            given = None  # cut off
        return given if isinstance(given, str) else ""

    def document(self, status: str) -> dict[str, object]:
        about = {"call_id": self._call, "name": self._caller.name, "input": self._input()}
        return {**self.head(status), "type": "custom_tool_call", **about}

    def grown(self, text: str, likelihoods: Likelihoods) -> Iterator[Event]:
        yield from ()

    def ended(self) -> Iterator[Event]:
        text = self._input()
        yield "response.custom_tool_call_input.delta", {**self.place, "delta": text}
        yield "response.custom_tool_call_input.done", {**self.place, "input": text}


class Output:
    """Items one after another: an item ends where the next begins."""

    def __init__(self, unique: str, box: Toolbox, tells: bool = False) -> None:
        """`tells`: the likelihoods of what is said."""
        self._tells = tells
        self.done: list[dict[str, object]] = []
        self._unique, self._box = unique, box
        self._open: _Item | None = None
        self._call: int | None = None
        """Of the open item, if it is a call."""

    def tell(self, chunk: Chunk) -> Iterator[Event]:
        if chunk.thinking:
            if not isinstance(self._open, _Reasoning):
                yield from self._begin(_Reasoning(self._unique, self._next))
            yield from self._grow(chunk.thinking)
        if chunk.text:
            if not isinstance(self._open, _Message):
                yield from self._begin(_Message(self._unique, self._next))
            yield from self._grow(chunk.text, told_all(chunk.logprobs) if self._tells else ())
        for part in chunk.calls:
            if part.index != self._call:
                yield from self._begin(self._new_call(part), part.index)
            yield from self._grow(part.arguments)

    def close(self, status: str = COMPLETED) -> Iterator[Event]:
        item, self._open, self._call = self._open, None, None
        if item is not None:
            yield from item.ended()
            document = item.document(status)
            self.done.append(document)
            yield "response.output_item.done", {"output_index": len(self.done) - 1, "item": document}

    @property
    def _next(self) -> int:
        return len(self.done) + (self._open is not None)

    def _new_call(self, part: CallPart) -> _Item:
        caller = self._box.caller(part.name)
        return (_CustomCall if caller.is_custom else _Call)(self._unique, self._next, part.id, caller)

    def _begin(self, item: _Item, call: int | None = None) -> Iterator[Event]:
        yield from self.close()
        self._open, self._call = item, call
        yield "response.output_item.added", {"output_index": len(self.done), "item": item.document(IN_PROGRESS)}
        yield from item.begun()

    def _grow(self, text: str, likelihoods: Likelihoods = ()) -> Iterator[Event]:
        assert self._open is not None
        if text:
            yield from self._open.grow(text, likelihoods)
