"""The machine that `doctor` examines: each question asked of whom it belongs to, and once.

Called by `commands`. Loads what is slow only when a question needs it.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from swapd.config.settings import Settings
from swapd.core.model import Device
from swapd.ctl import service
from swapd.ctl.client import Client, Failure, Json
from swapd.ctl.doctor import Engine, Machine
from swapd.host import ram
from swapd.host.catalog import Catalog
from swapd.host.nvml import Nvml, NvmlError
from swapd.served import Model

_ASK: Final = """
import json, llama_cpp
print(json.dumps([llama_cpp.__version__, bool(llama_cpp.llama_supports_gpu_offload())]))
"""
"""In a process of its own: this one never loads llama.cpp."""
_LIMIT: Final = 60
_DRIVER: Final = Path("/proc/driver/nvidia/version")


def this_machine(client: Client) -> Machine:
    return Machine(
        os.environ,
        client,
        functools.cache(_engine),
        functools.cache(_gpus),
        NvmlError,
        _driver,
        functools.cache(lambda: ram.measure({})),
        _models,
        _units,
    )


def _engine() -> Engine:
    try:
        done = subprocess.run(  # noqa: S603 (our own interpreter)
            [sys.executable, "-c", _ASK], capture_output=True, text=True, errors="replace", timeout=_LIMIT, check=False
        )
    except subprocess.TimeoutExpired:
        return Engine(failure=f"it has not come up within {_LIMIT} s")
    if done.returncode != 0:
        told = done.stderr.strip().splitlines()
        return Engine(failure=told[-1] if told else f"its process ended with status {done.returncode}")
    version, has_gpu_code = json.loads(done.stdout.splitlines()[-1])
    return Engine(version, has_gpu_code)


def _gpus() -> tuple[Device, ...]:
    opened = Nvml.open()
    if opened is None:
        return ()
    try:
        return opened.measure({})
    finally:
        opened.close()


def _driver() -> str | None:
    try:
        found = re.search(r"\b\d+\.\d+(\.\d+)?\b", _DRIVER.read_text())
    except OSError:
        return None
    return found[0] if found else "of an unknown version"


def _models(settings: Settings) -> tuple[tuple[Model, ...], tuple[str, ...]]:
    catalog = Catalog(settings.catalog_dirs, settings.entries, settings.routes, stores=settings.stores)
    catalog.scan()
    return catalog.models(), catalog.problems()


def _units() -> Json | None:
    if service.why_no_manager() is not None:
        return None
    try:
        return service.state(service.Installation.of(os.environ))
    except Failure:
        return None
