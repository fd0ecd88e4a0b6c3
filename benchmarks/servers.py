"""Servers under measurement: swapd and, where there is one, llama-server, on the same model and threads."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from swapd.demo import models

MODEL = "smollm2-135m"
CONTEXT = 2048
SLOTS = 8
THREADS = os.cpu_count() or 1


def model_path() -> Path:
    return models.fetch(print)[0]


def llama_server() -> str | None:
    return os.environ.get("LLAMA_SERVER") or shutil.which("llama-server")


@contextlib.contextmanager
def swapd() -> Iterator[str]:
    """A daemon with MODEL loaded; its base URL."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "config.toml")
        config.write_text(
            f'[server]\nlisten = ["127.0.0.1:{port}"]\n[catalog]\ndirs = ["{model_path().parent}"]\n'
            f'[engine]\nthreads = {THREADS}\n[models."{MODEL}"]\ncontext = {CONTEXT}\nslots = {SLOTS}\n'
        )
        command = [sys.executable, "-m", "swapd", "serve", "--config", str(config)]
        # Folders of its own: what an earlier run has saved of its prompts must not be found.
        about = {"SWAPD_LOG": "error", "CUDA_VISIBLE_DEVICES": "", "XDG_STATE_HOME": folder, "XDG_CACHE_HOME": folder}
        url = f"http://127.0.0.1:{port}"
        with running(command, url, {**os.environ, **about}):
            request = urllib.request.Request(f"{url}/swapd/models/{MODEL}/load", method="POST")
            urllib.request.urlopen(request, timeout=120).close()
            yield url


@contextlib.contextmanager
def llama(program: str) -> Iterator[str]:
    """llama-server on the same model; its base URL."""
    port = free_port()
    command = [program, "-m", str(model_path()), "--alias", MODEL, "--port", str(port), "-t", str(THREADS)]
    command += ["-c", str(CONTEXT * SLOTS), "-np", str(SLOTS), "-b", "512", "-ub", "512", "--no-webui", "--offline"]
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    url = f"http://127.0.0.1:{port}"
    with running(command, url, environ):
        yield url


@contextlib.contextmanager
def running(command: list[str], url: str, environ: dict[str, str]) -> Iterator[int]:
    """The process, once it says at `url` that it is healthy; ended afterwards. Its number."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environ)
    try:
        _wait_healthy(process, url)
        yield process.pid
    finally:
        process.terminate()
        process.wait(timeout=60)


def _wait_healthy(process: subprocess.Popen[bytes], url: str) -> None:
    for _ in range(600):
        assert process.poll() is None, f"it ended with {process.returncode}"
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(f"{url} does not get healthy")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
