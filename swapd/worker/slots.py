"""Continuous batching: the decode steps and prefill chunks of all slots in one batch, step by step.

Used by `child`, which feeds requests and stops between steps and sends what a step gives. No socket, no clock but
the one that measures.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Final

from swapd.generation import Ending, GenerationRequest, StopReason, Usage
from swapd.units import Seconds, Tokens
from swapd.wire import Failed, Finished, FromWorker, Piece, Pieces
from swapd.worker import sharing
from swapd.worker.adapters import Adapters
from swapd.worker.answering import Answer, Part, Slot
from swapd.worker.context import Context
from swapd.worker.drafting import Drafter
from swapd.worker.echoing import Echo
from swapd.worker.llama import Model
from swapd.worker.opening import Opener
from swapd.worker.prompts import Prompt, Reader
from swapd.worker.states import Keeper

if TYPE_CHECKING:
    from swapd.worker.looking import Looker

PREFILL_BESIDE: Final[Tokens] = 256
"""Prompt tokens in one step while answers are running: they wait for it."""
PATIENCE: Final[Seconds] = 0.01
"""Between two looks for messages, where there is nothing to compute yet."""


class DecodeError(Exception):
    """llama.cpp cannot go on; neither can this process."""


class Slots:
    """All requests of one model: those in slots and, oldest first, those waiting for one."""

    def __init__(
        self,
        model: Model,
        context: Context,
        reader: Reader,
        keeper: Keeper,
        adapters: Adapters,
        drafter: Drafter | None = None,
        looker: Looker | None = None,
    ) -> None:
        self._model, self._context, self._reader = model, context, reader
        self._looker = looker
        self._looking: list[tuple[Slot, Answer]] = []
        self._keeper, self._adapters, self._drafter = keeper, adapters, drafter
        self._slots = [Slot(sequence) for sequence in range(context.slots)]
        self._opener = Opener(model, context, keeper, adapters, proposes=drafter is not None)
        self._waiting: deque[tuple[GenerationRequest, Prompt]] = deque()

    @property
    def is_busy(self) -> bool:
        return bool(self._waiting) or any(slot.answer for slot in self._slots)

    @property
    def is_brisk(self) -> bool:
        """Whether the next step, if there is one, is short: nobody's prompt is in it, and all go on."""
        answers = [slot.answer for slot in self._slots if slot.answer is not None]
        return not self._waiting and bool(answers) and all(answer.answering is not None for answer in answers)

    def admit(self, request: GenerationRequest) -> None:
        """Queue it. Raises InvalidRequest, ContextLengthExceeded, AdapterUnusable."""
        self._adapters.wanted(request)
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
        sharing.share(self._slots, self._keeper)
        frames += self._saved()
        parts = self._fill()
        if parts:
            began = perf_counter()
            status = self._context.decode()
            if status == 1:
                frames.append(self._make_room(parts))
            elif status != 0:
                raise DecodeError(f"llama.cpp cannot decode a batch of {len(parts)} slots: error {status}")
            else:
                if self._drafter is not None and all(part.answer.answering is not None for part in parts):
                    self._context.logits(parts[0].row)  # waits for a card to have done it
                    self._drafter.measured(sum(len(part.tokens) for part in parts), perf_counter() - began)
                self._collect(parts, pieces, frames)
        if self._looker is not None and self._looking:
            self._look(self._looker, pieces, frames)
        elif not parts and self._waiting:
            self._opener.wait(PATIENCE)
        return [Pieces(tuple(pieces)), *frames] if pieces else frames

    def _grant(self, pieces: list[Piece], frames: list[FromWorker]) -> None:
        while (free := self._free()) and (asked := self._next()) is not None:
            request, prompt = asked
            try:
                slot, answer = self._opener.open(self._slots, free, request, prompt)
            except Exception as error:  # one request's trouble is not the others'
                frames.append(failed(request.id, error))
                continue
            if answer.follows is None:
                pieces += answer.reading(answer.cached)
            if request.echo and answer.echo is None and prompt.text:
                pieces.append(Piece(request.id, prompt.text, 0))
            slot.answer = answer

    def _next(self) -> tuple[GenerationRequest, Prompt] | None:
        """The oldest that waits for nothing but a slot."""
        for index, asked in enumerate(self._waiting):
            if self._opener.can_open(*asked):
                del self._waiting[index]
                return asked
        return None

    def _free(self) -> list[Slot]:
        held = sharing.followed(self._slots)
        return [slot for slot in self._slots if slot.answer is None and slot.sequence not in held]

    def _saved(self) -> list[FromWorker]:
        saved, self._keeper.saved = self._keeper.saved, []
        return [*saved]

    def _fill(self) -> list[Part]:
        """Put every slot's next tokens into the batch: all decode steps, then fair shares of prompts."""
        context = self._context
        context.clear()
        parts: list[Part] = []
        adapter = self._adapters.batch([slot.adapter for slot in self._slots if slot.answer is not None])
        taking = [(slot, slot.answer) for slot in self._slots if slot.answer and slot.adapter == adapter]
        running = [(slot, answer) for slot, answer in taking if answer.answering is not None]
        reading = [(slot, answer) for slot, answer in taking if answer.answering is None and answer.follows is None]
        self._looking = [(slot, answer) for slot, answer in reading if slot.picture is not None]
        prefilling = [
            (self._pause(slot, answer) - len(slot.held), slot, answer)
            for slot, answer in reading
            if slot.picture is None
        ]
        # Beside prompts nothing is proposed: they make the batch large enough.
        drafts = [] if reading or self._drafter is None else self._draft(self._drafter, running)
        for index, (slot, answer) in enumerate(running):
            tokens = [answer.last, *drafts[index]] if drafts else [answer.last]
            row = context.add(slot.sequence, tokens[:1], slot.position, True)
            for offset, token in enumerate(tokens[1:], 1):
                context.add(slot.sequence, (token,), slot.position + offset, True)
            parts.append(Part(slot, answer, tokens, row, True))
        room = context.batch_size - len(parts)
        if parts:
            room = min(room, PREFILL_BESIDE)
        rows = context.rows - len(parts) - len(prefilling)
        prefilling.sort(key=lambda entry: entry[0])  # short prompts leave what they do not need to longer ones
        for index, (left, slot, answer) in enumerate(prefilling):
            count = min(left, -(-room // (len(prefilling) - index)))
            if answer.echo is not None:
                count = min(count, rows + 1)
                rows -= count - 1
            if count == 0:
                break
            room -= count
            start = len(slot.held)
            tokens = answer.prompt.tokens[start : start + count]
            is_last = start + count == len(answer.prompt.tokens)
            if answer.echo is not None:
                row = context.add_whole(slot.sequence, tokens, slot.position)
            else:
                row = context.add(slot.sequence, tokens, slot.position, is_last)
            parts.append(Part(slot, answer, tokens, row, is_last))
        return parts

    def _pause(self, slot: Slot, answer: Answer) -> Tokens:
        """How far its prompt may be evaluated in this step: to its checkpoint, the next picture, where others go on."""
        prompt = answer.prompt
        end = self._keeper.pause(slot, len(prompt.tokens), prompt.pictures)
        others = sharing.pause(self._slots, slot)
        end = end if others is None else min(end, others)
        return min((each.start for each in prompt.pictures if len(slot.held) <= each.start < end), default=end)

    def _look(self, looker: Looker, pieces: list[Piece], frames: list[FromWorker]) -> None:
        """One picture encoded, or a part of one read: one call of llama.cpp's, for others wait for it."""
        slot, answer = looker.next(self._looking)
        if answer.view is None:
            try:
                looker.encode(slot, answer)
            except Exception as error:  # one request's trouble is not the others'
                self._release(slot, answer)
                frames.append(failed(answer.request.id, error))
            return
        is_alone = all(other.answer is None or other is slot for other in self._slots)
        status, part = looker.read(slot, answer, self._context.batch_size if is_alone else PREFILL_BESIDE)
        if part is None:
            return
        if status == 1:
            frames.append(self._make_room([part]))
        elif status != 0:
            raise DecodeError(f"llama.cpp cannot decode {len(part.tokens)} tokens of a picture: error {status}")
        else:
            self._collect([part], pieces, frames)

    def _draft(self, drafter: Drafter, running: list[tuple[Slot, Answer]]) -> list[Sequence[int]]:
        drafts = drafter.propose([answer.hopeful(slot) for slot, answer in running])
        for (_, answer), draft in zip(running, drafts, strict=True):
            answer.drafted += len(draft.tokens)
            answer.judged = draft.gauge
        return [draft.tokens for draft in drafts]

    def _collect(self, parts: list[Part], pieces: list[Piece], frames: list[FromWorker]) -> None:
        for part in parts:
            if part.answer.echo is not None and part.answer.answering is None:
                pieces.append(self._echo(part, part.answer.echo))
            if (picture := part.slot.picture) is not None:
                part.slot.stretches.append(picture)
                part.answer.view = None
            part.slot.held += part.tokens
            if not part.has_logits:
                prompt = part.answer.prompt
                self._keeper.evaluated(part.slot, len(prompt.tokens), prompt.pictures)
                pieces += part.answer.reading(len(part.slot.held))
                continue
            try:
                ending = self._settle(part, pieces)
            except Exception as error:  # one request's trouble is not the others'
                self._release(part.slot, part.answer)
                ending = failed(part.answer.request.id, error)
            if ending is not None:
                frames.append(ending)

    def _echo(self, part: Part, echo: Echo) -> Piece:
        start, count = len(part.slot.held), len(part.tokens)
        first = part.row + 1 - count
        return echo.tell(start, count, lambda row: self._context.logits(first + row))

    def _settle(self, part: Part, pieces: list[Piece]) -> FromWorker | None:
        """Draw after each token that was right; forget those behind the first that was not."""
        answer, draft = part.answer, part.draft
        accepted = 0
        ending = self._advance(part.slot, answer, part.row, pieces)
        while ending is None and accepted < len(draft) and answer.last == draft[accepted]:
            accepted += 1
            answer.accepted += 1
            ending = self._advance(part.slot, answer, part.row + accepted, pieces)
        if answer.judged is not None:
            answer.judged.learn(len(draft), accepted)
        if wrong := len(draft) - accepted:
            del part.slot.held[-wrong:]
            self._context.trim(part.slot.sequence, part.slot.position)
        return ending

    def _advance(self, slot: Slot, answer: Answer, row: int, pieces: list[Piece]) -> FromWorker | None:
        """Draw a slot's next token; the request's last frame, if it is the last."""
        if answer.answering is None:
            answer.answering = perf_counter()
            pieces += answer.reading(len(answer.prompt.tokens))
            if answer.limit <= 0:
                return self._end(slot, answer, StopReason.LENGTH)
        sampler, reading = answer.sampler, answer.prompt.reading
        token = sampler.draw(self._context.logits(row), None if answer.budget is None else answer.budget.forced)
        piece = None if token is None else self._model.vocabulary.pieces[token]
        if token is not None and piece == b"" and reading is not None:
            piece = reading.marks.get(token, b"")
        reason: StopReason | None = None
        if token is None or piece is None:
            reason = StopReason.STOP
        else:
            answer.last = token
            answer.completion += 1
            if answer.budget is not None:
                answer.budget.feed(token)
            if answer.lookup is not None:
                answer.lookup.add(token)
            start = answer.text.decoded
            text, tokens = answer.text.feed(piece)
            if sampler.likelihood is not None:
                answer.untold.add(start, answer.text.decoded, sampler.likelihood)
            pieces += answer.say(text, tokens)
            if answer.text.stop is not None or answer.teller.is_over or sampler.is_over:
                reason = StopReason.STOP
            elif answer.completion >= answer.limit or (answer.lines is not None and answer.lines.is_over):
                reason = StopReason.LENGTH
        if reason is None:
            return None
        if answer.text.stop is None:
            pieces += answer.say(*answer.text.finish())
        if answer.text.stop is not None:
            reason = StopReason.STOP
        pieces += answer.finish(is_cut=reason is StopReason.LENGTH)
        if reason is StopReason.STOP and answer.teller.is_calling:
            reason = StopReason.TOOL_CALLS
        return self._end(slot, answer, reason)

    def _make_room(self, parts: list[Part]) -> FromWorker:
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

    def _end(self, slot: Slot, answer: Answer, reason: StopReason) -> Finished:
        self._release(slot, answer)
        stop = answer.text.stop if answer.text.stop in answer.request.stop else None  # the template's own is no news
        return Finished(answer.request.id, Ending(reason, answer.usage(perf_counter()), stop))

    def _release(self, slot: Slot, answer: Answer) -> None:
        if answer.view is not None and answer.view.done:
            self._keeper.tidy(slot)
        slot.answer = None
        answer.sampler.close()


def failed(request: str, error: Exception) -> Failed:
    """The last frame of a request that `error` ended."""
    code = getattr(error, "code", "invalid_request")
    message = getattr(error, "message", None) or f"cannot answer: {type(error).__name__}: {error}"
    return Failed(request, code, message, getattr(error, "prompt", 0), getattr(error, "context", 0))
