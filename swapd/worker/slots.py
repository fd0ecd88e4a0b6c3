"""Continuous batching: the decode steps and prefill chunks of all slots in one batch, step by step.

Used by `child`, which feeds requests and stops between steps and sends what a step gives. No socket, no clock but
the one that measures.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final

from swapd.generation import Ending, GenerationRequest, StopReason, Usage
from swapd.units import Seconds, Tokens
from swapd.wire import Failed, Finished, FromWorker, Piece, Pieces
from swapd.worker.adapters import Adapters
from swapd.worker.constraints import Constraints
from swapd.worker.likelihoods import Untold
from swapd.worker.llama import Context, Model
from swapd.worker.prompts import Prompt, Reader
from swapd.worker.sampling import Sampler
from swapd.worker.states import Keeper, Sequence
from swapd.worker.telling import Teller
from swapd.worker.text import Text

PREFILL_BESIDE: Final[Tokens] = 256
"""Prompt tokens in one step while answers are running: they wait for it."""


class DecodeError(Exception):
    """llama.cpp cannot go on; neither can this process."""


@dataclass(slots=True)
class _Answer:
    """A request in a slot."""

    request: GenerationRequest
    prompt: Prompt
    sampler: Sampler
    text: Text
    teller: Teller
    limit: Tokens
    cached: Tokens
    restored: Tokens
    began: Seconds
    answering: Seconds | None = None
    """When the prompt was evaluated."""
    last: int = 0
    """The token drawn last, not yet in the sequence."""
    completion: Tokens = 0
    untold: Untold = field(default_factory=Untold)

    def usage(self, now: Seconds) -> Usage:
        turn = now if self.answering is None else self.answering
        times = turn - self.began, now - turn
        return Usage(len(self.prompt.tokens), self.cached, self.completion, *times, restored=self.restored)


@dataclass(slots=True)
class _Slot(Sequence):
    answer: _Answer | None = None


@dataclass(slots=True)
class _Part:
    """What one slot gives to one batch."""

    slot: _Slot
    answer: _Answer
    tokens: list[int]
    row: int
    has_logits: bool


class Slots:
    """All requests of one model: those in slots and, oldest first, those waiting for one."""

    def __init__(self, model: Model, context: Context, reader: Reader, keeper: Keeper, adapters: Adapters) -> None:
        self._model, self._context, self._reader = model, context, reader
        self._keeper, self._adapters = keeper, adapters
        self._slots = [_Slot(sequence) for sequence in range(context.slots)]
        self._constraints = Constraints(model.vocabulary)
        self._waiting: deque[tuple[GenerationRequest, Prompt]] = deque()

    @property
    def is_busy(self) -> bool:
        return bool(self._waiting) or any(slot.answer for slot in self._slots)

    def admit(self, request: GenerationRequest) -> None:
        """Queue it. Raises InvalidRequest, ContextLengthExceeded, AdapterUnusable."""
        self._adapters.find(request.adapter)
        self._waiting.append((request, self._reader.read(request)))

    def stop(self, request: str) -> list[FromWorker]:
        """Its last frame, or nothing if it has already ended."""
        for waiting in self._waiting:
            if waiting[0].id == request:
                self._waiting.remove(waiting)
                usage = Usage(prompt=len(waiting[1].tokens))
                return [Finished(request, Ending(StopReason.CANCELLED, usage))]
        for slot in self._slots:
            if slot.answer is not None and slot.answer.request.id == request:
                return [self._end(slot, slot.answer, StopReason.CANCELLED)]
        return []

    def save(self, limit: Seconds) -> list[FromWorker]:
        """Save what the slots hold, for as long; what was saved."""
        self._keeper.save(self._slots, limit)
        return self._saved()

    def step(self) -> list[FromWorker]:
        """Decode one batch; what it gave, as frames to send. Raises DecodeError."""
        pieces: list[Piece] = []
        frames: list[FromWorker] = []
        self._grant(pieces, frames)
        frames += self._saved()
        parts = self._fill()
        if parts:
            status = self._context.decode()
            if status == 1:
                frames.append(self._make_room(parts))
            elif status != 0:
                raise DecodeError(f"llama.cpp cannot decode a batch of {len(parts)} slots: error {status}")
            else:
                self._collect(parts, pieces, frames)
        return [Pieces(tuple(pieces)), *frames] if pieces else frames

    def _grant(self, pieces: list[Piece], frames: list[FromWorker]) -> None:
        while self._waiting and (free := [slot for slot in self._slots if slot.answer is None]):
            request, prompt = self._waiting.popleft()
            try:
                slot, answer = self._begin(free, request, prompt)
            except Exception as error:  # one request's trouble is not the others'
                frames.append(failed(request.id, error))
                continue
            if request.echo and prompt.text:
                pieces.append(Piece(request.id, prompt.text, 0))
            slot.answer = answer

    def _saved(self) -> list[FromWorker]:
        saved, self._keeper.saved = self._keeper.saved, []
        return [*saved]

    def _begin(self, free: list[_Slot], request: GenerationRequest, prompt: Prompt) -> tuple[_Slot, _Answer]:
        began = perf_counter()
        constraint = self._constraints.make(request, prompt.rules)
        sampler = Sampler(request, self._model.vocabulary, self._context.length, prompt.tokens, constraint)
        adapter = self._adapters.find(request.adapter)
        seat = self._keeper.seat(free, prompt.tokens, adapter, request.caches)
        room = self._context.length - len(prompt.tokens)
        limit = room if request.max_tokens is None else min(room, request.max_tokens)
        text = Text(prompt.stops)
        parser = None if prompt.reading is None else prompt.reading.parser()
        teller = Teller(request.id, parser, request.parallel_calls)
        return seat.slot, _Answer(request, prompt, sampler, text, teller, limit, seat.cached, seat.restored, began)

    def _fill(self) -> list[_Part]:
        """Put every slot's next tokens into the batch: all decode steps, then fair shares of prompts."""
        context = self._context
        context.clear()
        parts: list[_Part] = []
        prefilling: list[tuple[Tokens, _Slot, _Answer]] = []
        adapter = self._adapters.batch([slot.adapter for slot in self._slots if slot.answer is not None])
        for slot in self._slots:
            answer = slot.answer
            if answer is None or slot.adapter != adapter:
                continue
            if answer.answering is None:
                pause = self._keeper.pause(slot, len(answer.prompt.tokens))
                prefilling.append((pause - len(slot.held), slot, answer))
                continue
            tokens = [answer.last]
            row = context.add(slot.sequence, tokens, len(slot.held), True)
            parts.append(_Part(slot, answer, tokens, row, True))
        room = context.batch_size - len(parts)
        if parts:
            room = min(room, PREFILL_BESIDE)
        prefilling.sort(key=lambda entry: entry[0])  # short prompts leave what they do not need to longer ones
        for index, (left, slot, answer) in enumerate(prefilling):
            count = min(left, -(-room // (len(prefilling) - index)))
            if count == 0:
                break
            room -= count
            start = len(slot.held)
            tokens = answer.prompt.tokens[start : start + count]
            is_last = start + count == len(answer.prompt.tokens)
            row = context.add(slot.sequence, tokens, start, is_last)
            parts.append(_Part(slot, answer, tokens, row, is_last))
        return parts

    def _collect(self, parts: list[_Part], pieces: list[Piece], frames: list[FromWorker]) -> None:
        for part in parts:
            part.slot.held += part.tokens
            if not part.has_logits:
                self._keeper.evaluated(part.slot, len(part.answer.prompt.tokens))
                continue
            try:
                ending = self._advance(part, pieces)
            except Exception as error:  # one request's trouble is not the others'
                self._release(part.slot, part.answer)
                ending = failed(part.answer.request.id, error)
            if ending is not None:
                frames.append(ending)

    def _advance(self, part: _Part, pieces: list[Piece]) -> FromWorker | None:
        """Draw a slot's next token; the request's last frame, if it is the last."""
        answer = part.answer
        if answer.answering is None:
            answer.answering = perf_counter()
            if answer.limit <= 0:
                return self._end(part.slot, answer, StopReason.LENGTH)
        sampler, reading = answer.sampler, answer.prompt.reading
        token = sampler.draw(self._context.logits(part.row))
        piece = None if token is None else self._model.vocabulary.pieces[token]
        if token is not None and piece == b"" and reading is not None:
            piece = reading.marks.get(token, b"")
        reason: StopReason | None = None
        if token is None or piece is None:
            reason = StopReason.STOP
        else:
            answer.last = token
            answer.completion += 1
            start = answer.text.decoded
            text, tokens = answer.text.feed(piece)
            if sampler.likelihood is not None:
                answer.untold.add(start, answer.text.decoded, sampler.likelihood)
            self._say(answer, text, tokens, pieces)
            if answer.text.stop is not None or answer.teller.is_over or sampler.is_over:
                reason = StopReason.STOP
            elif answer.completion >= answer.limit:
                reason = StopReason.LENGTH
        if reason is None:
            return None
        if answer.text.stop is None:
            self._say(answer, *answer.text.finish(), pieces)
        if answer.text.stop is not None:
            reason = StopReason.STOP
        pieces += answer.teller.finish(is_cut=reason is StopReason.LENGTH)
        if reason is StopReason.STOP and answer.teller.has_calls:
            reason = StopReason.TOOL_CALLS
        return self._end(part.slot, answer, reason)

    def _say(self, answer: _Answer, text: str, tokens: Tokens, pieces: list[Piece]) -> None:
        if tokens:
            pieces += answer.teller.tell(text, tokens, answer.untold.take(answer.text.sent))

    def _make_room(self, parts: list[_Part]) -> FromWorker:
        """End the request that wanted most of a cache that should have had room: the others go on."""
        part = max(parts, key=lambda part: len(part.tokens))
        answer = part.answer
        if answer.answering is not None:
            frame: FromWorker = self._end(part.slot, answer, StopReason.LENGTH)
        else:
            self._release(part.slot, answer)
            count, length = len(answer.prompt.tokens), self._context.length
            message = f"llama.cpp has no room in its cache for a prompt of {count} tokens (context {length})"
            frame = Failed(answer.request.id, "context_length_exceeded", message, count, length)
        self._keeper.forget(part.slot)
        return frame

    def _end(self, slot: _Slot, answer: _Answer, reason: StopReason) -> Finished:
        self._release(slot, answer)
        stop = answer.text.stop if answer.text.stop in answer.request.stop else None  # the template's own is no news
        return Finished(answer.request.id, Ending(reason, answer.usage(perf_counter()), stop))

    def _release(self, slot: _Slot, answer: _Answer) -> None:
        slot.answer = None
        answer.sampler.close()


def failed(request: str, error: Exception) -> Failed:
    """The last frame of a request that `error` ended."""
    code = getattr(error, "code", "invalid_request")
    message = getattr(error, "message", None) or f"cannot answer: {type(error).__name__}: {error}"
    return Failed(request, code, message, getattr(error, "prompt", 0), getattr(error, "context", 0))
