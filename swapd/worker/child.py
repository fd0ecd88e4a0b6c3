"""The worker's loop: wait as a spare, size or load a model, answer until the daemon closes the socket.

Started by `__main__`. Between two decode steps, and at every progress of a load, it listens: end of file there
means that the daemon is gone, and the process ends at once, wherever it is.
"""

from __future__ import annotations

import os
import socket
import sys
from time import perf_counter
from typing import TYPE_CHECKING, Final, NoReturn, assert_never

import llama_cpp.llama_cpp as C  # noqa: N812

from swapd.errors import InvalidRequest, ModelUnusable
from swapd.questions import Embed, Rerank
from swapd.units import Bytes, Seconds
from swapd.wire import (
    Answered,
    Ask,
    Failed,
    Frames,
    FromWorker,
    Generate,
    Load,
    Loaded,
    LoadFailed,
    Parts,
    Pieces,
    Ping,
    Pong,
    Progress,
    Save,
    SaveEnded,
    SetThreads,
    Size,
    Started,
    Stop,
    ToWorker,
    WireError,
    decode_to_worker,
    encode,
)
from swapd.worker import backends, sizing
from swapd.worker.adapters import Adapters
from swapd.worker.chat import ChatTemplate
from swapd.worker.clerk import Clerk, Vocabularies
from swapd.worker.context import Context
from swapd.worker.drafting import Drafter
from swapd.worker.draftmodel import Draft, load_draft
from swapd.worker.lifeline import leave
from swapd.worker.llama import CannotLoad, Model
from swapd.worker.parameters import draft_order
from swapd.worker.prompts import Reader
from swapd.worker.slots import Slots, failed
from swapd.worker.states import Keeper
from swapd.worker.vectors import Vectors

if TYPE_CHECKING:
    from swapd.worker.looking import Looker
    from swapd.worker.projector import Projector

_READ: Final[Bytes] = 2**20
_PROGRESS_PAUSE: Final[Seconds] = 0.02
"""Telling, and listening, costs both sides: a load has hundreds of steps, and may take a tenth of a second."""
_FATAL: Final = 70
HOLD: Final[Seconds] = 0.06
"""Steps that follow each other faster are told together, sixteen times a second. Each telling wakes the daemon and the
client, on cores that this process computes with and with caches full of weights: half a millisecond of CPU for the
daemon alone, whether it is about one token or eight. An answer's first token never waits."""


class Channel:
    """The socket to the daemon. Ends the process when the other end is closed."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._frames = Frames()
        self._heard: list[ToWorker] = []
        self._held: tuple[FromWorker, ...] = ()
        self._sent_at = 0.0

    def send(self, *messages: FromWorker) -> None:
        """Now, and before it what was held back."""
        self._hold(messages)
        messages, self._held = self._held, ()
        if not messages:
            return
        self._sent_at = perf_counter()
        try:
            self._socket.sendall(b"".join(map(encode, messages)))
        except OSError:
            leave()

    def send_soon(self, *messages: FromWorker, within: Seconds) -> None:
        """With what comes next, if that is `within` so long and nothing waits for longer than `HOLD` then; else now.

        Call it again, or `send`, within so long.
        """
        if perf_counter() + within - self._sent_at < HOLD:
            self._hold(messages)
        else:
            self.send(*messages)

    def listen(self, wait: bool) -> None:
        """Read what has arrived; with `wait`, until something has. Raises WireError."""
        try:
            data = self._socket.recv(_READ, 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            leave()
        if not data:
            leave()
        self._heard += map(decode_to_worker, self._frames.feed(data))

    def take(self, wait: bool) -> list[ToWorker]:
        """What has arrived, oldest first; with `wait`, at least a part of something. Raises WireError."""
        self.listen(wait and not self._heard)
        heard, self._heard = self._heard, []
        return heard

    def answer_pings(self) -> None:
        """During a load, when everything else must wait. Raises WireError."""
        self.listen(wait=False)
        others: list[ToWorker] = [message for message in self._heard if not isinstance(message, Ping)]
        self.send(*[Pong()] * (len(self._heard) - len(others)))
        self._heard = others

    def _hold(self, messages: tuple[FromWorker, ...]) -> None:
        """Pieces that follow each other become one message."""
        match self._held[-1:] + messages[:1]:
            case (Pieces(first), Pieces(more)):
                self._held = (*self._held[:-1], Pieces(first + more), *messages[1:])
            case _:
                self._held += messages


def main(connection: socket.socket) -> NoReturn:
    """Ends with the daemon, or by a fatal error with a line on stderr."""
    try:
        Worker(Channel(connection)).run()
    except Exception as error:
        sys.stderr.write(f"worker {os.getpid()}: cannot go on: {type(error).__name__}: {error}\n")
        sys.stderr.flush()
        os._exit(_FATAL)


class Worker:
    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._log = backends.Log()
        self._model: Model | None = None
        self._adapters: Adapters | None = None
        self._slots: Slots | None = None
        self._vectors: Vectors | None = None
        self._context: Context | None = None
        self._draft: Draft | None = None
        self._projector: Projector | None = None
        self._clerk: Clerk | None = None
        self._vocabularies = Vocabularies(self._log)
        self._told_at = 0.0

    def run(self) -> NoReturn:
        backends.load()
        self._channel.send(Started(os.getpid(), C.llama_version().decode(), backends.cards()))
        while True:
            work = self._slots or self._vectors
            messages = self._channel.take(wait=work is None or not work.is_busy)
            if messages:
                self._channel.send()  # what is held must not wait for what they ask
            for message in messages:
                self._obey(message)
            if work is not None and work.is_busy:
                began = perf_counter()
                frames = work.step()
                if work.is_brisk:
                    self._channel.send_soon(*frames, within=perf_counter() - began)
                else:
                    self._channel.send(*frames)

    def _obey(self, message: ToWorker) -> None:
        match message:
            case Load():
                self._load(message)
            case Size():
                self._size(message)
            case Generate(request):
                try:
                    if self._slots is None:
                        raise InvalidRequest("cannot answer: no model is loaded that writes text", "model")
                    self._slots.admit(request)
                except Exception as error:  # one request's trouble is not the others'
                    self._channel.send(failed(request.id, error))
            case Ask(request):
                try:
                    self._answer(message)
                except CannotLoad as error:
                    self._channel.send(Failed(request, ModelUnusable.code, str(error)))
                except Exception as error:  # one request's trouble is not the others'
                    self._channel.send(failed(request, error))
            case Stop(request):
                if (work := self._slots or self._vectors) is not None:
                    self._channel.send(*work.stop(request))
            case Save(limit):
                self._channel.send(*([] if self._slots is None else self._slots.save(limit)), SaveEnded())
            case SetThreads(threads):
                if self._context is not None:
                    self._context.set_threads(threads)
                if self._draft is not None:
                    self._draft.context.set_threads(threads)
            case Ping():
                self._channel.send(Pong(backends.cards()))
            case _:
                assert_never(message)

    def _answer(self, ask: Ask) -> None:
        """Raises CannotLoad, InvalidRequest, ContextLengthExceeded."""
        question = ask.question
        if isinstance(question, Embed | Rerank):
            if self._vectors is None:
                raise InvalidRequest("cannot make vectors: no model is loaded for that", "model")
            self._vectors.admit(ask.request, question)
        else:
            clerk = self._clerk or self._vocabularies.clerk(ask.path)
            self._channel.send(Answered(ask.request, clerk.answer(question)))

    def _load(self, load: Load) -> None:
        if self._model is not None:
            self._renew(load, self._model)
            return
        began = perf_counter()
        try:
            model = Model(load, self._progress, self._log)
            try:
                context = model.context(load, self._log)
                try:
                    if load.projector:
                        self._projector = self._load_projector(load, model)
                    if load.draft:
                        self._draft = load_draft(load, model, self._progress, self._log)
                except CannotLoad:
                    if self._projector is not None:
                        self._projector.close()
                    context.close()
                    raise
            except CannotLoad:
                model.close()
                raise
        except CannotLoad as error:
            self._channel.send(LoadFailed(error.out_of_memory, str(error)))
            return
        self._model = model
        self._serve(load, model, context, began)

    def _renew(self, load: Load, model: Model) -> None:
        """Another context for the weights that are there."""
        if self._context is None or self._draft is not None or load.draft or load.pooling or load.path != model.path:
            raise WireError("Load is sent again for the weights of a model that writes text, alone")
        began = perf_counter()
        self._slots = self._clerk = None
        self._context.close()
        self._context = None
        try:
            context = model.context(load, self._log)
        except CannotLoad as error:
            self._channel.send(LoadFailed(error.out_of_memory, str(error)))
            return
        self._serve(load, model, context, began)

    def _serve(self, load: Load, model: Model, context: Context, began: Seconds) -> None:
        vocabulary = model.vocabulary
        template = ChatTemplate(model.template, vocabulary.bos_text, vocabulary.eos_text, model.tool_template)
        reader = Reader(vocabulary, template, context.length, self._projector, context.micro_batch)
        self._context = context
        self._clerk = Clerk(vocabulary, model.template, reader)
        if load.pooling:
            self._vectors = Vectors(model, context, load.pooling)
        else:
            keeper = Keeper(model, context, load.prompts)
            if self._adapters is None:
                self._adapters = Adapters(model, context, load.adapters, self._log)
            self._adapters.use(context)
            drafter = Drafter(self._draft) if load.speculates and not model.is_recurrent else None
            self._slots = Slots(model, context, reader, keeper, self._adapters, drafter, self._looker(context))
        self._channel.send(
            Loaded(
                layers=model.layers,
                gpu_layers=model.gpu_layers,
                context=context.length,
                slots=load.slots,
                seconds=perf_counter() - began,
                template=template.source,
                parts=self._measure(load, model, context),
            )
        )

    def _load_projector(self, load: Load, model: Model) -> Projector:
        from swapd.worker.projector import Projector  # late: its library is of use to few models

        return Projector(load, model, self._log)

    def _looker(self, context: Context) -> Looker | None:
        if self._projector is None:
            return None
        from swapd.worker.looking import Looker  # late, as the projector

        return Looker(self._projector, context)

    def _measure(self, load: Load, model: Model, context: Context) -> Parts:
        parts, draft = sizing.measure(load, model, context), self._draft
        if parts and self._projector is not None:
            parts = sizing.together(parts, sizing.of_projector(load, self._projector.bytes))
        if draft is None or not parts:
            return parts
        return sizing.together(parts, sizing.measure(draft_order(load), draft.model, draft.context))

    def _size(self, order: Size) -> None:
        if self._context is not None:
            raise WireError("Size is sent while no model is loaded")
        try:
            sized = sizing.size(order, self._log)
        except CannotLoad as error:
            self._channel.send(LoadFailed(error.out_of_memory, str(error)))
            return
        self._channel.send(sized)

    def _progress(self, fraction: float) -> None:
        now = perf_counter()
        if now - self._told_at >= _PROGRESS_PAUSE or fraction >= 1:
            self._told_at = now
            self._channel.answer_pings()
            self._channel.send(Progress(fraction))
