"""A real daemon for a test: started as a user would, on sockets of its own, ended by its process id."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from swapd.demo import models
from swapd.units import MiB

SMOL = "smollm2-135m"
GEMMA = "gemma3-270m"
HOST_ONLY = {"CUDA_VISIBLE_DEVICES": ""}
"""These tests reason about host RAM; what a GPU changes is tested on its own."""
COMMON = """
[models."smollm2-135m"]
context = 2048
slots = 4
[models."gemma3-270m"]
context = 1024
slots = 2
"""


class Daemon:
    """`swapd serve` in a process of its own; `log` grows as it writes."""

    def __init__(self, folder: Path, config: str, environ: Mapping[str, str], *, common: str = COMMON) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.socket = folder / "run" / "swapd.sock"
        self.config = folder / "config.toml"
        self.write_config(config, common=common)
        self.log: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "swapd", "serve", "--config", str(self.config)],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **HOST_ONLY, "XDG_STATE_HOME": str(folder), "XDG_CACHE_HOME": str(folder), **environ},
        )
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def write_config(self, config: str, *, common: str = COMMON) -> None:
        listen = f'[server]\nlisten = ["unix:{self.folder}/run/swapd.sock", "127.0.0.1:{self.port}"]\n'
        if "[server]" in config:
            config = config.replace("[server]\n", listen, 1)
            listen = ""
        dirs = "" if "[catalog]" in config else f'[catalog]\ndirs = ["{models.folder()}"]\nsources = []\n'
        self.config.write_text(listen + dirs + config + common)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self.log.append(line)
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def wait_log(self, pattern: str, *, since: int = 0, timeout: float = 60) -> str:
        """The first line that the pattern is found in; fails when the daemon ends or the time is up."""
        found = re.compile(pattern)

        def line() -> str | None:
            return next((text for text in self.log[since:] if found.search(text)), None)

        with self._changed:
            self._changed.wait_for(lambda: line() or not self._reader.is_alive(), timeout)
            hit = line()
        assert hit, f"no {pattern!r} in the log:\n" + "".join(self.log)
        return hit

    def wait_ready(self) -> Daemon:
        self.wait_log("event=serving")
        return self

    def call(
        self, path: str, body: object = None, *, method: str | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """Status and decoded body (JSON, else text)."""
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=dict(headers or {}))
        try:
            with urllib.request.urlopen(request, timeout=90) as response:
                status, raw = response.status, response.read()
        except urllib.error.HTTPError as error:
            status, raw = error.code, error.read()
        try:
            return status, json.loads(raw)
        except ValueError:
            return status, raw.decode()

    def chat(self, model: str, text: str = "Say hello.", **more: object) -> tuple[int, Any]:
        body = {"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 16}
        return self.call("/v1/chat/completions", body | more)

    def status(self) -> Any:
        return self.call("/swapd/status")[1]

    def resident_names(self) -> set[str]:
        return {model["name"] for model in self.status()["models"] if model["state"] in ("ready", "busy")}

    def wait_status(self, condition: Callable[[Any], bool], timeout: float = 30) -> Any:
        """The first status for which the condition holds."""
        return self.wait(self.status, condition, timeout)

    def wait(self, ask: Callable[[], Any], condition: Callable[[Any], bool], timeout: float = 30) -> Any:
        """The first answer for which the condition holds; asked again whenever the daemon has answered."""
        deadline = threading.Event()
        timer = threading.Timer(timeout, deadline.set)
        timer.start()
        try:
            while not condition(found := ask()):
                assert not deadline.is_set(), f"never so: {json.dumps(found, indent=1)}\n{''.join(self.log[-20:])}"
            return found
        finally:
            timer.cancel()

    def workers(self) -> list[psutil.Process]:
        """Live ones; none when the daemon itself is gone."""
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(self.process.pid).children(recursive=True)
            return [child for child in children if "swapd.worker" in child.cmdline()]
        return []

    def swapctl(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "swapd.ctl", "--url", f"unix:{self.socket}", *arguments],
            capture_output=True,
            text=True,
            timeout=90,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            check=False,
        )

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=60)

    def close(self) -> None:
        if self.process.poll() is None:
            workers = self.workers()
            self.process.kill()
            self.process.wait()
            psutil.wait_procs(workers, timeout=10)
        self._reader.join(timeout=10)
        assert self.process.stderr is not None
        self.process.stderr.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session", autouse=True)
def _demo_models() -> None:
    missing = [m.file_name for m in models.DEMO_MODELS if not (models.folder() / m.file_name).is_file()]
    if missing:
        pytest.skip(f"no {', '.join(missing)} in {models.folder()}: run python -m swapd.demo.models")


Start = Callable[..., Daemon]
RoomForOne = Callable[..., str]
HOST_RESERVE = 256 * MiB


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start daemons: start(config="", environ=…) -> Daemon, serving."""
    daemons: list[Daemon] = []

    def make(config: str = "", *, environ: Mapping[str, str] | None = None, common: str = COMMON) -> Daemon:
        folder = tmp_path / f"d{len(daemons)}"
        folder.mkdir()
        daemon = Daemon(folder, config, environ or {}, common=common)
        daemons.append(daemon)
        return daemon.wait_ready()

    yield make
    for daemon in daemons:
        daemon.close()


@pytest.fixture(scope="session")
def room_for_one(tmp_path_factory: pytest.TempPathFactory) -> RoomForOne:
    """room_for_one(common=COMMON) -> settings: host memory for either of the two models and not for both.

    As swapd itself predicts them.
    """
    known: dict[str, str] = {}

    def settings(common: str = COMMON) -> str:
        if common not in known:
            asked = Daemon(tmp_path_factory.mktemp("asked"), "", {}, common=common)
            try:
                plan = asked.wait_ready().call("/swapd/plan", {"models": [SMOL, GEMMA]})[1]
            finally:
                asked.close()
            needs = [model["bytes"]["host"] for model in plan["models"]]
            room = HOST_RESERVE + max(needs) + min(needs) // 2
            known[common] = f'[memory]\nhost_reserve = "{HOST_RESERVE}"\nvram_limit = "{room}"\n'
        return known[common]

    return settings


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon with room for both models, shared by the tests of a module that leave it as they found it."""
    shared = Daemon(tmp_path_factory.mktemp("daemon"), "", {})
    try:
        yield shared.wait_ready()
    finally:
        shared.close()
