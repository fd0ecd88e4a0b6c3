"""A swapd of its own for a measurement, and a client that costs little: one connection, blocking, timed to the byte.

Used by the measurements that look at one request after the other.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import servers

FOLDER: Final = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Timed:
    """One streamed answer: seconds to its first token and to its end, what it says, and what it tells of itself."""

    first_s: float
    whole_s: float
    text: str
    usage: Mapping[str, Any]
    timings: Mapping[str, Any]

    @property
    def evaluated(self) -> float:
        """Of the prompt, how much was really read: from 0 to 1."""
        return float(self.timings["prompt_n"]) / float(self.usage["prompt_tokens"])


class Client:
    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=300)

    def call(self, path: str, body: object = None) -> Any:
        """The decoded answer. Raises where the status is an error's."""
        method, data = ("GET", None) if body is None else ("POST", json.dumps(body))
        self._connection.request(method, path, data, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        text = response.read()
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.status} {text[:300]!r}")
        return json.loads(text)

    def complete(self, model: str, prompt: str, tokens: int, **more: object) -> Timed:
        """Greedy, streamed, of so many tokens at most."""
        body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0}
        return self.stream("/v1/completions", body | more)

    def stream(self, path: str, body: Mapping[str, object]) -> Timed:
        data = json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}})
        began = time.perf_counter()
        self._connection.request("POST", path, data, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.status} {response.read(300)!r}")
        first, text = 0.0, ""
        usage: Mapping[str, Any] = {}
        timings: Mapping[str, Any] = {}
        while line := response.readline():
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            usage, timings = event.get("usage") or usage, event.get("timings") or timings
            for choice in event["choices"]:
                said = choice.get("text") or choice.get("delta", {}).get("content") or ""
                # A token may be silent: then the end, which follows it at once, tells that it was there.
                if not first and (said or choice.get("finish_reason")):
                    first = time.perf_counter() - began
                text += said
        return Timed(first, time.perf_counter() - began, text, usage, timings)


@dataclass(frozen=True, slots=True)
class Daemon:
    """`folder` is its own, removed at the end."""

    url: str
    pid: int
    folder: Path

    def client(self) -> Client:
        return Client(self.url)


@contextlib.contextmanager
def swapd(config: str, environ: Mapping[str, str] | None = None) -> Iterator[Daemon]:
    """A daemon without a GPU on this configuration, its state and cache in a folder of its own."""
    port = servers.free_port()
    with tempfile.TemporaryDirectory(prefix="swapd-bench-") as name:
        folder = Path(name)
        file = folder / "config.toml"
        file.write_text(f'[server]\nlisten = ["127.0.0.1:{port}"]\n{config}')
        about = {"SWAPD_LOG": "error", "CUDA_VISIBLE_DEVICES": "", "XDG_STATE_HOME": name, "XDG_CACHE_HOME": name}
        command = [sys.executable, "-m", "swapd", "serve", "--config", str(file)]
        url = f"http://127.0.0.1:{port}"
        with servers.running(command, url, {**os.environ, **about, **(environ or {})}) as pid:
            yield Daemon(url, pid, folder)


def catalog(*paths: Path, **settings: object) -> str:
    """Entries for these files, by their names, all with these settings."""
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
    return "".join(f'[models."{path.stem}"]\npath = "{path}"\n{lines}' for path in paths)


def write(name: str, text: str) -> None:
    """The table of one measurement: printed, and kept beside it."""
    (FOLDER / f"{name}.md").write_text(text)
    print(text)


def processor() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        return f"{os.cpu_count()} cores of {model}"
    return f"{os.cpu_count()} cores"
