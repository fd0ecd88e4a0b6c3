"""A real worker process for each test that wants one, spoken to over its wire."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from swapd.generation import CallPart, Ending, GenerationRequest, Message, Role, Sampling, TokenLogprob, Usage
from swapd.wire import (
    Failed,
    Finished,
    Frames,
    FromWorker,
    Generate,
    Load,
    Loaded,
    LoadFailed,
    Pieces,
    Progress,
    Started,
    Stop,
    ToWorker,
    decode_from_worker,
    encode,
)

SMOLLM = "smollm2-135m.gguf"
GEMMA = "gemma3-270m.gguf"
PATIENCE = 120.0
GREEDY = Sampling(temperature=0)

T = TypeVar("T")


def a_load(path: Path, context: int = 2048, slots: int = 1, **changes: object) -> Load:
    values: dict[str, object] = {
        "path": str(path),
        "context": context,
        "slots": slots,
        "gpu_layers": 0,
        "devices": (),
        "micro_batch": 512,
        "kv_type": "f16",
        "flash_attention": None,
        "threads": 1,
    }
    return Load(**(values | changes))  # type: ignore[arg-type]


def ask(
    prompt: str | tuple[int, ...] = "",
    *,
    name: str = "a",
    chat: str | None = None,
    max_tokens: int | None = 16,
    sampling: Sampling = GREEDY,
    stop: tuple[str, ...] = (),
    echo: bool = False,
    **changes: Any,
) -> GenerationRequest:
    messages = () if chat is None else (Message(Role.USER, chat),)
    return GenerationRequest(name, messages, prompt, sampling, max_tokens, stop, echo, **changes)


class Answer:
    """What came back for one request."""

    def __init__(self) -> None:
        self.text = ""
        self.tokens = 0
        self.thinking = ""
        self.pieces: list[str] = []
        self._calls: dict[int, tuple[str, str]] = {}
        self.logprobs: list[TokenLogprob] = []
        self.read: list[int] = []
        self.usages: list[Usage] = []
        self.last: Finished | Failed | None = None

    def call(self, part: CallPart) -> None:
        name, arguments = self._calls.get(part.index, ("", ""))
        self._calls[part.index] = name + part.name, arguments + part.arguments

    @property
    def called(self) -> list[tuple[str, str]]:
        """(name, arguments) of the calls."""
        return list(self._calls.values())

    @property
    def ending(self) -> Ending:
        assert isinstance(self.last, Finished), self.last
        return self.last.ending

    @property
    def failure(self) -> Failed:
        assert isinstance(self.last, Failed), self.last
        return self.last


class Child:
    """The daemon's end of one worker."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "swapd.worker", "--fd", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stderr=subprocess.PIPE,
            )
        self.socket = ours
        ours.settimeout(PATIENCE)
        self._frames = Frames()
        self._bodies: list[bytes] = []
        self.answers: dict[str, Answer] = {}

    def send(self, *messages: ToWorker) -> None:
        for message in messages:
            if isinstance(message, Generate):
                self.answers[message.request.id] = Answer()
        self.socket.sendall(b"".join(map(encode, messages)))

    def receive(self) -> FromWorker:
        """The next frame; answers are kept in `answers` too. ConnectionError at end of file."""
        while not self._bodies:
            data = self.socket.recv(2**20)
            if not data:
                raise ConnectionError("the worker is gone")
            self._bodies += self._frames.feed(data)
        frame = decode_from_worker(self._bodies.pop(0))
        if isinstance(frame, Pieces):
            for piece in frame.pieces:
                answer = self.answers[piece.request]
                assert answer.last is None, f"{piece} after the last frame"
                answer.text += piece.text
                answer.thinking += piece.thinking
                for part in piece.calls:
                    answer.call(part)
                answer.tokens += piece.tokens
                answer.pieces.append(piece.text)
                answer.logprobs += piece.logprobs
                if piece.read is not None:
                    answer.read.append(piece.read)
                if piece.usage is not None:
                    answer.usages.append(piece.usage)
        elif isinstance(frame, (Finished, Failed)) and frame.request in self.answers:
            answer = self.answers[frame.request]
            assert answer.last is None, f"{frame} after the last frame"
            answer.last = frame
        return frame

    def wait_for(self, kind: type[T], accept: Callable[[T], bool] = lambda frame: True) -> T:
        while True:
            frame = self.receive()
            if isinstance(frame, kind) and accept(frame):
                return frame

    def start(self) -> Started:
        return self.wait_for(Started)

    def load(self, load: Load) -> Loaded | LoadFailed:
        self.send(load)
        while True:
            frame = self.receive()
            if isinstance(frame, (Loaded, LoadFailed)):
                return frame
            assert isinstance(frame, Progress)

    def generate(self, *requests: GenerationRequest) -> list[Answer]:
        """All at once; their answers when every one has ended."""
        self.send(*map(Generate, requests))
        return self.finish(*(request.id for request in requests))

    def finish(self, *names: str) -> list[Answer]:
        while any(self.answers[name].last is None for name in names):
            self.receive()
        return [self.answers[name] for name in names]

    def stop(self, name: str) -> None:
        self.send(Stop(name))

    def settle(self) -> None:
        """End and forget whatever a test left running."""
        left = [name for name, answer in self.answers.items() if answer.last is None]
        for name in left:
            self.stop(name)
        self.finish(*left)
        self.answers.clear()

    def wait_gone(self) -> int:
        """Exit code, once the process has ended."""
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        self.socket.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()


def wait_gone(pid: int) -> None:
    """Until no process of this id is left but, at most, a zombie that nobody has collected."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except (FileNotFoundError, ProcessLookupError):
            return
    raise AssertionError(f"process {pid} is still there")


def _model(name: str) -> Path:
    given = os.environ.get("SWAPD_TEST_MODELS")
    if given:
        path = Path(given) / name
    else:
        from swapd.demo import models

        path = Path(models.folder()) / name
    if not path.exists():
        pytest.skip(f"no {path}: set SWAPD_TEST_MODELS to a folder that holds it, or run make setup")
    return path


@pytest.fixture(scope="session")
def smollm() -> Path:
    return _model(SMOLLM)


@pytest.fixture(scope="session")
def gemma() -> Path:
    return _model(GEMMA)


@pytest.fixture
def spare() -> Iterator[Child]:
    """A worker that waits, imports done."""
    child = Child()
    try:
        child.start()
        yield child
    finally:
        child.close()


@pytest.fixture(scope="module")
def loaded(smollm: Path) -> Iterator[Child]:
    child = Child()
    try:
        child.start()
        assert isinstance(child.load(a_load(smollm, context=1024, slots=4)), Loaded)
        yield child
    finally:
        child.close()


@pytest.fixture
def shared(loaded: Child) -> Iterator[Child]:
    """SmolLM2 in four slots of 1024 tokens, shared by a module's tests: what its slots hold is not known."""
    yield loaded
    loaded.settle()
