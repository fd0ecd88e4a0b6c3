"""The outside of swapctl: a scripted daemon on a real socket, the program as a process, and a terminal for it."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

Json = dict[str, Any]
PATIENCE = 15.0
"""Seconds after which a wait has failed."""

RESIDENT: Json = {
    "name": "smollm2-135m",
    "state": "ready",
    "pid": 4711,
    "gpu_layers": 31,
    "layers": 31,
    "placement": "100% GPU",
    "context": 4096,
    "slots": 4,
    "slots_busy": 1,
    "pinned": False,
    "predicted": {"cuda:0": 256 * 2**20, "host": 64 * 2**20},
    "measured": {"cuda:0": 250 * 2**20, "host": 70 * 2**20},
    "loaded_at": "2026-01-01T11:00:00Z",
    "last_used": "2026-01-01T11:59:00Z",
    "expires_at": "2026-01-01T12:04:30Z",
    "load_s": 0.35,
    "tier": "gpu",
    "loaded_from": "warm",
    "prefetched": False,
    "progress": 1.0,
    "requests": 12,
    "tokens": 3400,
}
STATUS: Json = {
    "version": "9.8.7",
    "uptime_s": 7384.2,
    "devices": [
        {
            "id": "cuda:0",
            "name": "Test Card",
            "kind": "gpu",
            "source": "nvml",
            "total": 24 * 2**30,
            "free": 20 * 2**30,
            "reserve": 512 * 2**20,
            "limit": 24 * 2**30,
            "ours": 250 * 2**20,
            "foreign": 3 * 2**30,
            "processes": [],
        },
    ],
    "models": [RESIDENT],
    "queue": [
        {"request": "r-7", "model": "gemma", "since": "2026-01-01T11:59:58Z", "position": 1, "reason": "no room yet"}
    ],
    "counters": {
        "loads": 12,
        "evictions": 3,
        "partial_offloads": 0,
        "oom_retries": 0,
        "crashes": 1,
        "prefetches": 2,
        "prefetch_hits": 1,
        "prefetches_wasted": 1,
    },
}
MODEL: Json = {
    "name": "smollm2-135m",
    "aliases": ["chat"],
    "path": "/models/smollm2-135m.gguf",
    "size": 98 * 2**20,
    "modified": "2025-12-30T12:00:00Z",
    "state": "ready",
    "tier": "gpu",
    "cached": 1.0,
    "usable": True,
    "reason": "",
    "context": 4096,
    "slots": 4,
    "family": "llama",
    "parameters": 134_515_008,
    "quantization": "Q4_1",
    "template": True,
    "digest": "0123456789abcdef" * 4,
    "pinned": False,
}
BROKEN: Json = MODEL | {
    "name": "broken",
    "aliases": [],
    "path": "/models/broken.gguf",
    "state": None,
    "usable": False,
    "reason": "the file ends too early",
}
GEMMA: Json = MODEL | {
    "name": "gemma",
    "aliases": [],
    "path": "/models/gemma.gguf",
    "state": None,
    "tier": "cold",
    "cached": 0.37,
    "template": False,
}
FORESEEN: Json = {
    "placement": "100% GPU",
    "gpu_layers": 31,
    "layers": 31,
    "micro_batch": 512,
    "experts_on_cpu": 0,
    "devices": ["cuda:0"],
    "predicted": {"cuda:0": 256 * 2**20, "host": 64 * 2**20},
}
FOOTPRINT: Json = {
    "name": "smollm2-135m",
    "now": FORESEEN | {"outcome": "loads", "exact": True, "leaving": []},
    "last": FORESEEN
    | {
        "predicted": {"cuda:0": 240 * 2**20, "host": 64 * 2**20},
        "measured": {"cuda:0": 252 * 2**20, "host": 60 * 2**20},
        "error": {"cuda:0": 12 * 2**20, "host": -4 * 2**20},
    },
}
PLACED: Json = {
    "name": "smollm2-135m",
    "placement": "100% GPU",
    "gpu_layers": 31,
    "layers": 31,
    "micro_batch": 512,
    "experts_on_cpu": 0,
    "devices": ["cuda:0"],
    "context": 4096,
    "slots": 4,
    "bytes": {"cuda:0": 600 * 2**20, "host": 60 * 2**20},
    "exact": True,
    "fits": "whole",
}
PLAN: Json = {
    "devices": [
        {
            "id": "cuda:0",
            "name": "Test Card",
            "kind": "gpu",
            "total": 24 * 2**30,
            "reserve": 512 * 2**20,
            "limit": 24 * 2**30,
            "free": 20 * 2**30,
            "room": 23 * 2**30,
        },
        {
            "id": "host",
            "name": "host",
            "kind": "host",
            "total": 64 * 2**30,
            "reserve": 2 * 2**30,
            "limit": 64 * 2**30,
            "free": 50 * 2**30,
            "room": 48 * 2**30,
        },
    ],
    "models": [PLACED, PLACED | {"name": "gemma", "exact": False}],
    "together": True,
    "context": 4096,
    "bytes": {"cuda:0": 1200 * 2**20, "host": 120 * 2**20},
    "max_loaded": 0,
    "leave": [{"name": "old", "reason": "for gemma, which needs 600 MiB on cuda:0"}],
    "combinations": [
        {
            "models": ["smollm2-135m", "gemma"],
            "bytes": {"cuda:0": 1200 * 2**20, "host": 120 * 2**20},
            "fits": True,
            "maximal": True,
            "context": 4096,
        },
        {
            "models": ["smollm2-135m"],
            "bytes": {"cuda:0": 600 * 2**20, "host": 60 * 2**20},
            "fits": True,
            "maximal": False,
            "context": None,
        },
        {
            "models": ["gemma"],
            "bytes": {"cuda:0": 600 * 2**20, "host": 60 * 2**20},
            "fits": True,
            "maximal": False,
            "context": None,
        },
    ],
}
EVENT: Json = {"id": 1, "at": "2026-01-01T12:00:00.000Z", "event": "load", "model": "gemma", "reason": "1 waiting"}
SWAP: Json = {
    "id": 41,
    "at": "2026-01-01T11:59:00.000Z",
    "choice": "evict",
    "model": "gemma",
    "reason": "smollm2-135m to leave: gemma does not fit beside",
    "requests": ["req-1/1"],
    "waiting": 1,
    "candidates": [
        {
            "plan": "evict",
            "placement": "100% GPU",
            "gpu_layers": 19,
            "layers": 19,
            "need": {"cuda:0": 900 * 2**20},
            "leaving": ["smollm2-135m"],
            "price_s": 2.25,
            "costs": {"load": 1.5, "unload": 0.5, "lose smollm2-135m": 0.25},
            "chosen": True,
            "note": "",
        },
        {
            "plan": "offload",
            "placement": "42%/58% GPU/CPU",
            "gpu_layers": 8,
            "layers": 19,
            "need": {"cuda:0": 300 * 2**20, "host": 2**30},
            "leaving": [],
            "price_s": 31.0,
            "costs": {"load": 1.0, "slower answers": 30.0},
            "chosen": False,
            "note": "28.8 s dearer",
        },
    ],
    "avoid": ["400 MiB more room on cuda:0"],
    "moved": True,
}
WAITED: Json = SWAP | {"choice": "wait", "moved": False, "candidates": [], "avoid": []}
YIELDED: Json = {
    "device": "cuda:0",
    "bytes": 8 * 2**30,
    "until": "2026-01-01T12:30:00.000Z",
    "freed": True,
    "free": 9 * 2**30,
}
FINAL: Json = {
    "model": "smollm2-135m",
    "response": "",
    "done": True,
    "done_reason": "stop",
    "total_duration": 1_500_000_000,
    "load_duration": 350_000_000,
    "prompt_eval_count": 31,
    "prompt_eval_duration": 124_000_000,
    "eval_count": 2,
    "eval_duration": 50_000_000,
}


@dataclass
class Hold:
    """In a stream: wait here until the test lets go."""

    reached: threading.Event = field(default_factory=threading.Event)
    let_go: threading.Event = field(default_factory=threading.Event)


@dataclass
class UntilClosed:
    """In a stream: wait here until the client closes the connection."""

    reached: threading.Event = field(default_factory=threading.Event)
    closed: threading.Event = field(default_factory=threading.Event)


@dataclass
class Reply:
    """`lines` make an NDJSON stream; `is_cut` breaks it off before its end; else `body`."""

    body: Json | bytes = field(default_factory=dict)
    status: int = 200
    lines: Sequence[object] | None = None
    is_cut: bool = False


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: Json | None


class _UnixServer(ThreadingHTTPServer):
    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "localhost", 0

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        connection, _ = self.socket.accept()
        return connection, ("", 0)


class Daemon:
    """Answers what the test scripts, and keeps what it was asked."""

    def __init__(self, where: Path | None) -> None:
        """`where` None: on TCP."""
        self.requests: list[Request] = []
        self.replies: dict[tuple[str, str], Reply | Callable[[Request], Reply]] = {
            ("GET", "/swapd/status"): Reply(STATUS),
            ("GET", "/swapd/models"): Reply({"models": [MODEL, GEMMA, BROKEN]}),
            ("GET", "/swapd/models/smollm2-135m/footprint"): Reply(FOOTPRINT),
            ("GET", "/api/ps"): Reply({"models": [{"name": "smollm2-135m", "digest": MODEL["digest"]}]}),
            ("POST", "/api/pull"): Reply(lines=[{"status": "success", "models": ["m"]}]),
            ("POST", "/swapd/models/smollm2-135m/load"): Reply(
                lines=[
                    {"status": "loading smollm2-135m: 42%", "position": 0, "fraction": 0.42},
                    {"status": "loading smollm2-135m: 90%", "position": 0, "fraction": 0.9},
                    RESIDENT,
                ]
            ),
            ("POST", "/swapd/models/smollm2-135m/unload"): Reply({"unloaded": True}),
            ("POST", "/swapd/models/smollm2-135m/pin"): Reply({"pinned": True}),
            ("POST", "/swapd/models/smollm2-135m/unpin"): Reply({"pinned": False}),
            ("GET", "/swapd/queue"): Reply({"queue": STATUS["queue"]}),
            ("GET", "/swapd/events?follow=false"): Reply(
                b"id: 1\nevent: load\ndata: " + json.dumps(EVENT).encode() + b"\n\n"
            ),
            ("GET", "/swapd/decisions?limit=1000"): Reply({"decisions": [WAITED, SWAP, WAITED]}),
            ("POST", "/swapd/plan"): Reply(PLAN),
            ("POST", "/swapd/yield"): Reply(YIELDED),
            ("POST", "/swapd/reload"): Reply({}),
            ("POST", "/api/show"): Reply({"details": {"context_length": 4096}, "capabilities": ["completion"]}),
            ("POST", "/api/generate"): says("Hello", " there"),
        }
        daemon = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with suppress(BrokenPipeError, ConnectionResetError):  # clients may leave
                    daemon._answer(self)

            do_POST = do_GET  # noqa: N815 (the base class's names)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        if where is None:
            self._server: ThreadingHTTPServer = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
            self.url = f"http://127.0.0.1:{self._server.server_port}"
        else:
            self._server = _UnixServer(str(where), Handler)  # type: ignore[arg-type]
            self.url = f"unix:{where}"
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def bodies(self, path: str) -> list[Json | None]:
        return [request.body for request in self.requests if request.path == path]

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        sent = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        request = Request(handler.command, handler.path, dict(handler.headers), json.loads(sent) if sent else None)
        self.requests.append(request)
        found = self.replies.get((request.method, request.path), Reply(b"<h1>Not here</h1>", 404))
        reply = found if isinstance(found, Reply) else found(request)
        handler.send_response(reply.status)
        handler.close_connection = True
        if reply.lines is None:
            body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)
            return
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for line in reply.lines:
            if isinstance(line, Hold):
                line.reached.set()
                assert line.let_go.wait(PATIENCE)
            elif isinstance(line, UntilClosed):
                line.reached.set()
                handler.connection.settimeout(PATIENCE)
                with suppress(ConnectionResetError):  # closed with something unread
                    assert handler.connection.recv(1) == b""
                line.closed.set()
                return
            else:
                data = json.dumps(line).encode() + b"\n"
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        if not reply.is_cut:
            handler.wfile.write(b"0\r\n\r\n")


def says(*pieces: str) -> Reply:
    """An answer of /api/generate."""
    return Reply(lines=[*({"response": piece, "done": False} for piece in pieces), FINAL])


def chats(*pieces: str) -> Reply:
    """An answer of /api/chat."""
    lines = [{"message": {"role": "assistant", "content": piece}, "done": False} for piece in pieces]
    return Reply(lines=[*lines, FINAL])


class Script:
    """What tests script the daemon with; test modules are not importable from each other."""

    PATIENCE = PATIENCE
    RESIDENT, STATUS, MODEL, GEMMA, BROKEN, FINAL = RESIDENT, STATUS, MODEL, GEMMA, BROKEN, FINAL
    PLAN, PLACED, YIELDED, SWAP, FOOTPRINT = PLAN, PLACED, YIELDED, SWAP, FOOTPRINT
    Reply, Hold, UntilClosed = Reply, Hold, UntilClosed
    says, chats = staticmethod(says), staticmethod(chats)


@pytest.fixture
def script() -> type[Script]:
    return Script


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short enough for the path of a socket."""
    path = Path(tempfile.mkdtemp(prefix="ctl"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def daemon(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """On a Unix socket, which SWAPD_URL names."""
    running = Daemon(folder / "swapd.sock")
    monkeypatch.setenv("SWAPD_URL", running.url)
    monkeypatch.delenv("SWAPD_API_KEY", raising=False)
    yield running
    running.close()


@pytest.fixture
def tcp_daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    running = Daemon(None)
    monkeypatch.setenv("SWAPD_URL", running.url)
    monkeypatch.delenv("SWAPD_API_KEY", raising=False)
    yield running
    running.close()


@dataclass
class Done:
    status: int
    out: str
    err: str


@pytest.fixture
def swapctl() -> Callable[..., Done]:
    """Run the program, as a shell would, to its end."""

    def run(*words: str, stdin: bytes | None = None, **environ: str) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "swapd.ctl", *words],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=PATIENCE,
            env=os.environ | environ,
            check=False,
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


class Terminal:
    """A program on a terminal of its own: type, and wait for what it shows."""

    def __init__(self, *words: str) -> None:
        self._master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (24, 80))
        start = "import os, sys; os.login_tty(0); from swapd.ctl.__main__ import main; sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", start, *words]
        environ = os.environ | {"TERM": "dumb"}
        self._process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environ)
        os.close(slave)
        self.shown = ""
        self._seen = 0

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def expect(self, text: str) -> str:
        """What came up to and with `text`, after the last expected one."""
        deadline = time.monotonic() + PATIENCE
        while (at := self.shown.find(text, self._seen)) < 0:
            assert self._read(deadline), f"no {text!r} in {self.shown[self._seen :]!r}"
        before, self._seen = self._seen, at + len(text)
        return self.shown[before : self._seen]

    def press_until(self, key: str, text: str) -> None:
        """Press until `text` is shown: a Ctrl-C between two waits of a program is seen only with its next key."""
        while text not in self.shown[self._seen :]:
            self.type(key)
            self._read(time.monotonic() + 1.0)
        self.expect(text)

    def wait(self) -> int:
        """The exit status; `shown` is complete then."""
        deadline = time.monotonic() + PATIENCE
        while self._read(deadline):
            pass
        return self._process.wait(PATIENCE)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
        try:
            data = os.read(self._master, 65536) if ready else b""
        except OSError:  # how Linux says that nobody has the terminal open any more
            data = b""
        self.shown += re.sub(r"\r+\n", "\n", data.decode(errors="replace"))
        return bool(data)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*words: str) -> Terminal:
        opened.append(Terminal(*words))
        return opened[-1]

    yield start
    for each in opened:
        each.close()
