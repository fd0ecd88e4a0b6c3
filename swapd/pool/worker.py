"""One worker process as its parent sees it: spawn, frames in and out, its end and why.

Used by `pool.Pool` and `sizer.Sizer`. A worker that dies tells everyone who waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable
from typing import Final, TypeVar

import structlog

from swapd import wire
from swapd.errors import ContextLengthExceeded, Death, InvalidRequest, ModelUnusable, WorkerFailed
from swapd.generation import Chunk, Ending, GenerationRequest
from swapd.pool.link import Link, Stream
from swapd.questions import Question, Reply
from swapd.units import Seconds

STOP_GRACE: Final[Seconds] = 2.0
"""Between SIGTERM and SIGKILL."""
_LAST_WORDS: Final = 20
_READ: Final = 256 * 1024
_OUT_OF_MEMORY: Final = re.compile(r"out of memory|failed to allocate", re.IGNORECASE)

log = structlog.get_logger("swapd.pool")

T = TypeVar("T")


class Worker:
    """A live process. `started` is done when it is a spare; `ended` when it is reaped, with the reason."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        loop = asyncio.get_running_loop()
        self.pid = process.pid
        self.started: asyncio.Future[wire.Started] = loop.create_future()
        self.ended: asyncio.Future[WorkerFailed] = loop.create_future()
        self.spoke: asyncio.Future[None] = loop.create_future()
        """Done when anything of an answer has come."""
        self._process = process
        self._link = Link(self._take, self._tell)
        self._loaded: asyncio.Future[wire.Loaded] = loop.create_future()
        self._sized: asyncio.Future[wire.Sized] | None = None
        self._ponged: asyncio.Future[wire.Pong] = loop.create_future()
        self._progressed: Callable[[float], None] = lambda fraction: None
        self.saved: Callable[[wire.Saved], None] = lambda saved: None
        """Hears of every conversation that it has saved."""
        self.prompts: wire.Prompts | None = None
        """Where it saves them, since it was told to load."""
        self._save_ended: asyncio.Future[None] | None = None
        self._streams: dict[str, Stream] = {}
        self._fresh: dict[str, Stream] = {}
        """Those of which something has come that is not yet told."""
        self._asked: dict[str, asyncio.Future[Reply]] = {}
        self._questions = itertools.count(1)
        self._threads = 0
        self._last_words: deque[str] = deque(maxlen=_LAST_WORDS)
        for future in (self.started, self._loaded, self._ponged):
            future.add_done_callback(_look)

    @staticmethod
    async def spawn() -> Worker:
        """Raises OSError when no process can be made."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-P",  # a folder named swapd in the working directory must not shadow us
                    "-m",
                    "swapd.worker",
                    "--fd",
                    str(theirs.fileno()),
                    pass_fds=(theirs.fileno(),),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.PIPE,
                    env=_environment(),
                    start_new_session=True,  # Ctrl-C in the daemon's terminal is the daemon's business
                )
            except BaseException:
                ours.close()
                raise
        worker = Worker(process)
        await asyncio.get_running_loop().create_unix_connection(lambda: worker._link, sock=ours)
        return worker

    @property
    def heard_at(self) -> Seconds:
        """When the last frame came."""
        return self._link.heard_at

    # --- orders

    def send(self, message: wire.ToWorker) -> None:
        """To a dead worker: nothing happens; `ended` tells."""
        self._link.send(message)

    async def load(self, order: wire.Load, progressed: Callable[[float], None]) -> wire.Loaded:
        """Again: another context for the weights that are there. Raises WorkerFailed."""
        self._progressed = progressed
        self._threads, self.prompts = order.threads, order.prompts
        await self.started
        if self.ended.done():
            raise self.ended.result()
        if self._loaded.done():
            self._loaded = asyncio.get_running_loop().create_future()
            self._loaded.add_done_callback(_look)
        self.send(order)
        return await self._loaded

    async def ping(self) -> wire.Pong:
        """Raises WorkerFailed. Asked twice at a time, both get the first answer."""
        if self.ended.done():
            raise self.ended.result()
        if self._ponged.done():
            self._ponged = asyncio.get_running_loop().create_future()
            self._ponged.add_done_callback(_look)
        self.send(wire.Ping())
        return await asyncio.shield(self._ponged)

    async def size(self, order: wire.Size) -> wire.Sized:
        """One at a time, and none while a model is loaded. Raises WorkerFailed."""
        await self.started
        if self.ended.done():
            raise self.ended.result()
        sized: asyncio.Future[wire.Sized] = asyncio.get_running_loop().create_future()
        self._sized = sized
        self.send(order)
        try:
            return await sized
        finally:
            self._sized = None

    def open(self, request: GenerationRequest, closed: Callable[[], None]) -> Stream:
        """Its answer, of which the caller owes a `close`; then `closed` is called. Raises WorkerFailed."""
        if self.ended.done():
            raise self.ended.result()

        def close() -> None:
            if not self._streams.pop(request.id).is_over:  # what has not come of it is not wanted
                self.send(wire.Stop(request.id))
            closed()

        stream = self._streams[request.id] = Stream(close)
        self.send(wire.Generate(request))
        return stream

    async def ask(self, question: Question, path: str) -> Reply:
        """Raises InvalidRequest, ContextLengthExceeded, WorkerFailed."""
        await asyncio.shield(self.started)  # several wait for it
        if self.ended.done():
            raise self.ended.result()
        unique = f"question {next(self._questions)}"
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._asked[unique] = reply
        self.send(wire.Ask(unique, question, path))
        try:
            return await reply
        finally:
            del self._asked[unique]
            if reply.cancelled():
                self.send(wire.Stop(unique))

    def use_threads(self, threads: int) -> None:
        if threads != self._threads:
            self._threads = threads
            self.send(wire.SetThreads(threads))

    async def save(self, limit: Seconds) -> None:
        """Have it save what its slots hold; returns when that is done, the limit has passed, or it is dead."""
        if self.ended.done():
            return
        ended = self._save_ended = asyncio.get_running_loop().create_future()
        self.send(wire.Save(limit))
        await asyncio.wait([ended, self.ended], timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        self._save_ended = None

    async def stop(self) -> None:
        """End the process, gently first; returns when it is reaped."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self.ended), STOP_GRACE)
        self._signal(signal.SIGKILL)
        await self.ended

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    # --- facts: the owner runs these two as tasks

    async def listen(self) -> None:
        """Until the process ends; then tell everyone."""
        broken = await self._link.closed
        if broken:
            self.kill()
        status = await self._process.wait()
        # llama.cpp aborts when memory runs out in use; only its last words tell.
        short = next((text for text in self._last_words if _OUT_OF_MEMORY.search(text)), None)
        death = Death.CRASHED if short is None else Death.OUT_OF_MEMORY
        self._end(WorkerFailed(death, broken or self._describe(status, short)))

    async def overhear(self) -> None:
        """Log what the process says on stderr; keep the last words."""
        assert self._process.stderr is not None
        with contextlib.suppress(ValueError):  # a line longer than the reader's limit
            async for line in self._process.stderr:
                text = line.decode(errors="replace").rstrip()
                if text:
                    self._last_words.append(text)
                    log.debug("worker says", pid=self.pid, text=text)
        while await self._process.stderr.read(_READ):
            pass

    def _take(self, message: wire.FromWorker) -> None:
        match message:
            case wire.Pieces(pieces):
                _resolve(self.spoke, None)
                for piece in pieces:
                    self._put(piece.request, piece.chunk)
            case wire.Finished(request, ending):
                _resolve(self.spoke, None)
                self._put(request, ending)
            case wire.Failed(request, code, text, prompt, context):
                if code == ContextLengthExceeded.code:
                    self._fail(request, ContextLengthExceeded(prompt, context))
                elif code == ModelUnusable.code:
                    self._fail(request, WorkerFailed(Death.UNUSABLE, text))
                else:
                    self._fail(request, InvalidRequest(text))
            case wire.Answered(request, reply):
                _resolve(self.spoke, None)
                if (asked := self._asked.get(request)) is not None:
                    _resolve(asked, reply)
            case wire.Progress(fraction):
                self._progressed(fraction)
            case wire.Started():
                _resolve(self.started, message)
            case wire.Loaded():
                _resolve(self._loaded, message)
            case wire.Sized():
                if self._sized is not None:
                    _resolve(self._sized, message)
            case wire.LoadFailed(out_of_memory, reason):
                failure = WorkerFailed(Death.OUT_OF_MEMORY if out_of_memory else Death.UNUSABLE, reason)
                if self._sized is not None:
                    _fail(self._sized, failure)
                else:
                    _fail(self._loaded, failure)
            case wire.Saved():
                self.saved(message)
            case wire.SaveEnded():
                if self._save_ended is not None:
                    _resolve(self._save_ended, None)
            case wire.Pong():
                _resolve(self._ponged, message)

    def _put(self, request: str, item: Chunk | Ending) -> None:
        if (stream := self._streams.get(request)) is not None:
            self._fresh[request] = stream
            stream.put(item)

    def _tell(self) -> None:
        fresh, self._fresh = self._fresh, {}
        for stream in fresh.values():
            stream.tell()

    def _fail(self, request: str, failure: Exception) -> None:
        _resolve(self.spoke, None)
        if (asked := self._asked.get(request)) is not None:
            _fail(asked, failure)
        if (stream := self._streams.get(request)) is not None:
            self._fresh[request] = stream
            stream.fail(failure)

    def _end(self, failure: WorkerFailed) -> None:
        self.ended.set_result(failure)
        if self._sized is not None:
            _fail(self._sized, failure)
        for future in (self.started, self._loaded, self._ponged):
            if not future.done():
                future.set_exception(failure)
        for asked in self._asked.values():
            _fail(asked, failure)
        for stream in self._streams.values():
            stream.fail(failure)
            stream.tell()

    def _describe(self, status: int, telling: str | None) -> str:
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        words = telling or (self._last_words[-1] if self._last_words else "")
        return f"{how}: {words}" if words else how


def _environment() -> dict[str, str]:
    """The daemon's, less what is meant for it alone: its service manager and its settings, keys among them."""
    ours = ("NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_", "SWAPD_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    # Cards are numbered as NVML does; an abort forks no debugger, whose orphan would keep our pipes open.
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", **kept, "GGML_NO_BACKTRACE": "1"}


def _look(future: asyncio.Future[T]) -> None:
    """A death that nobody waits for is no warning."""
    if not future.cancelled():
        future.exception()


def _resolve(future: asyncio.Future[T], value: T) -> None:
    if not future.done():
        future.set_result(value)


def _fail(future: asyncio.Future[T], failure: Exception) -> None:
    if not future.done():
        future.set_exception(failure)
