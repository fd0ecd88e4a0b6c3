"""`swapctl doctor`: what is wrong with this machine, and what to do about it.

Called by `commands`. Looks with its own eyes, so that it can tell something also where no daemon runs; every
examination gives findings, and none ends the others. What it looks at is `Machine`'s, what it makes of that is here.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from swapd import __version__
from swapd.config import load
from swapd.config.settings import Settings
from swapd.core.model import Device
from swapd.ctl.client import Client, Exit, Failure, Json
from swapd.ctl.findings import Finding, Level
from swapd.ctl.terminal import count
from swapd.errors import InvalidConfig
from swapd.served import Model
from swapd.units import Bytes, GiB, format_bytes

_LITTLE_DISK: Final[Bytes] = 2 * GiB
_MOST_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class Engine:
    """What llama.cpp, asked in a process of its own, tells of itself; `failure`: why it cannot be loaded."""

    version: str = ""
    has_gpu_code: bool = False
    failure: str = ""


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    reason: str
    size: Bytes
    is_usable: bool


@dataclass(frozen=True, slots=True)
class Machine:
    """Everything that is looked at; each is asked at most once."""

    environ: Mapping[str, str]
    client: Client
    engine: Callable[[], Engine]
    gpus: Callable[[], tuple[Device, ...]]
    """Raises NvmlError, given as `gpu_error`."""
    gpu_error: type[Exception]
    driver: Callable[[], str | None]
    """The version of a loaded NVIDIA kernel driver, whether or not it can be used."""
    host: Callable[[], Device]
    models: Callable[[Settings], tuple[tuple[Model, ...], tuple[str, ...]]]
    """The catalog of a configuration, and what is odd about it."""
    units: Callable[[], Json | None]
    """Of `service.state`; None: there is no user manager."""
    free_disk: Callable[[Path], Bytes] = field(default=lambda path: shutil.disk_usage(_existing(path)).free)


def examine(machine: Machine) -> Iterator[Finding]:
    yield from _of_engine(machine)
    yield from _of_gpus(machine)
    yield from _of_host(machine)
    settings = None
    try:
        settings = load(environ=machine.environ)
    except InvalidConfig as error:
        yield Finding("configuration", Level.WRONG, error.message, "mend it; `swapd check` says whether it is right")
    else:
        yield Finding("configuration", Level.FINE, f"{settings.source or 'defaults: there is no file'}")
        yield from _of_models(machine, settings)
        yield from _of_folders(machine, settings)
    yield from _of_daemon(machine)
    yield from _of_service(machine)


def _of_engine(machine: Machine) -> Iterator[Finding]:
    engine = machine.engine()
    if engine.failure:
        yield Finding(
            "llama.cpp",
            Level.WRONG,
            f"cannot be loaded: {engine.failure}",
            "`make setup` in swapd's folder builds it anew; or pip install --force-reinstall llama-cpp-python",
        )
        return
    code = "with code for GPUs" if engine.has_gpu_code else "for the CPU alone"
    yield Finding("llama.cpp", Level.FINE, f"llama-cpp-python {engine.version}, built {code}")


def _of_gpus(machine: Machine) -> Iterator[Finding]:
    try:
        cards = machine.gpus()
    except machine.gpu_error as error:
        yield Finding(
            "GPU",
            Level.WRONG,
            f"the NVIDIA driver does not answer: {error}",
            "after an update of the driver: reboot, so that its kernel part and its libraries are of one version; "
            "in a container: start it with the NVIDIA container toolkit",
        )
        return
    if not cards:
        yield from _of_no_gpu(machine)
        return
    if not machine.engine().has_gpu_code and not machine.engine().failure:
        yield Finding(
            "GPU",
            Level.WRONG,
            "there is one, and llama.cpp was built without code for it: everything runs on the CPU",
            'make setup CMAKE_ARGS="-DGGML_CUDA=on"',
        )
    for card in cards:
        names = ", ".join(
            f"{other.name} (pid {other.pid}) {'?' if other.size is None else format_bytes(other.size)}"
            for other in card.others[:_MOST_NAMED]
        )
        room = f"{card.name}: {format_bytes(card.free)} free of {format_bytes(card.total)}"
        is_crowded = card.free * 2 < card.total and bool(card.others)
        yield Finding(
            str(card.id),
            Level.NOTE if is_crowded else Level.FINE,
            f"{room}; in use by {names}" if names else room,
            "what other programs hold cannot be given to models" if is_crowded else "",
        )


def _of_no_gpu(machine: Machine) -> Iterator[Finding]:
    driver, hidden = machine.driver(), machine.environ.get("CUDA_VISIBLE_DEVICES")
    if driver is None:
        yield Finding("GPU", Level.NOTE, "no NVIDIA driver: models run on the CPU, in host memory")
    elif hidden is not None:
        yield Finding("GPU", Level.NOTE, f"CUDA_VISIBLE_DEVICES={hidden!r} hides all cards from programs started here")
    else:
        yield Finding(
            "GPU",
            Level.WRONG,
            f"the kernel has NVIDIA's driver {driver}, and its library (libnvidia-ml.so.1) is not found",
            "install the driver's user part of the same version; in a container use the NVIDIA container toolkit",
        )


def _of_host(machine: Machine) -> Iterator[Finding]:
    host = machine.host()
    yield Finding("memory", Level.FINE, f"{format_bytes(host.free)} free of {format_bytes(host.total)}")


def _of_models(machine: Machine, settings: Settings) -> Iterator[Finding]:
    try:  # a daemon may have been started with another configuration than this one
        served = machine.client.get("/swapd/models")["models"]
        models = [_File(model["name"], model["reason"], model["size"], model["usable"]) for model in served]
        problems: tuple[str, ...] = ()
    except (Failure, KeyError, TypeError):
        found, problems = machine.models(settings)
        models = [_File(m.name, m.reason, m.size, m.variant is not None and not m.shadowed) for m in found]
    usable = [model for model in models if model.is_usable]
    broken = [model for model in models if not model.is_usable]
    if usable:
        yield Finding("models", Level.FINE, f"{count(len(usable), 'model')} can be served")
    else:
        where = ", ".join(map(str, settings.catalog_dirs)) or "no folder is named"
        yield Finding(
            "models",
            Level.WRONG,
            f"none that could be served ({where})",
            "put *.gguf files into a folder, and name it in [catalog] dirs",
        )
    for model in broken[:_MOST_NAMED]:
        yield Finding("models", Level.NOTE, f"{model.name} cannot be used: {model.reason}")
    if len(broken) > _MOST_NAMED:
        yield Finding("models", Level.NOTE, f"and {len(broken) - _MOST_NAMED} more; `swapctl ls` lists them")
    for problem in problems[:_MOST_NAMED]:
        yield Finding("models", Level.NOTE, problem)
    everything = machine.host().total + sum(card.total for card in _cards(machine))
    for model in usable:
        if model.size > everything:
            size = format_bytes(model.size)
            yield Finding("models", Level.NOTE, f"{model.name} ({size}) is larger than all memory together")


def _of_folders(machine: Machine, settings: Settings) -> Iterator[Finding]:
    for about, folder in (("state", settings.state_dir), ("cache", settings.cache_dir)):
        nearest = _existing(folder)
        if not _is_writable(nearest):
            yield Finding(
                about,
                Level.WRONG,
                f"cannot write into {nearest}",
                f"make it yours, or set [paths] {about} to another folder",
            )
            continue
        free = machine.free_disk(folder)
        if about == "cache" and free < max(_LITTLE_DISK, settings.prompt_cache):
            yield Finding(
                about,
                Level.NOTE,
                f"{folder}: {format_bytes(free)} left on its disk; [memory] prompt_cache may use "
                f"{format_bytes(settings.prompt_cache)}",
                "make room, set [paths] cache to another disk, or prompt_cache lower",
            )
        else:
            yield Finding(about, Level.FINE, f"{folder}: {format_bytes(free)} left on its disk")


def _of_daemon(machine: Machine) -> Iterator[Finding]:
    try:
        status = machine.client.get("/swapd/status")
    except Failure as failure:
        level = Level.NOTE if failure.exit is Exit.UNREACHABLE else Level.WRONG
        yield Finding("daemon", level, str(failure))
        return
    version = str(status.get("version"))
    if version != __version__:
        yield Finding(
            "daemon",
            Level.WRONG,
            f"it is {version} and swapctl is {__version__}: answers may be misread",
            "restart it: systemctl --user restart swapd",
        )
    else:
        yield Finding("daemon", Level.FINE, f"swapd {version} answers at {machine.client.address}")
    try:
        machine.client.get("/health")
    except Failure as failure:
        yield Finding(
            "daemon", Level.WRONG, str(failure), "`swapctl queue` and `swapctl explain` tell more; restarting helps"
        )
    crashes = (status.get("counters") or {}).get("crashes", 0)
    if crashes:
        yield Finding("daemon", Level.NOTE, f"{count(crashes, 'worker')} crashed since it started; see its log")


def _of_service(machine: Machine) -> Iterator[Finding]:
    units = machine.units()
    if units is None:
        yield Finding("service", Level.NOTE, "no systemd user manager answers here: `swapd serve` runs in a terminal")
        return
    service, sockets = units["units"]["swapd.service"], units["units"]["swapd.socket"]
    if not service["installed"]:
        yield Finding("service", Level.NOTE, "not installed", "`swapctl service install` starts swapd when it is used")
    elif service["active"] == "failed" or sockets["active"] == "failed":
        ended = service["result"] if service["active"] == "failed" else sockets["result"]
        yield Finding(
            "service",
            Level.WRONG,
            f"it failed ({ended})",
            "journalctl --user --unit swapd tells why; then systemctl --user reset-failed swapd.service swapd.socket",
        )
    elif service["active"] != "active" and sockets["active"] != "active":
        yield Finding("service", Level.WRONG, "installed, and not running", "systemctl --user start swapd.socket")
    else:
        yield Finding("service", Level.FINE, f"swapd.service {service['active']}, swapd.socket {sockets['active']}")
        if units["lingers"] is False:
            yield Finding("service", Level.NOTE, "it ends when you log out", "loginctl enable-linger")


def _cards(machine: Machine) -> tuple[Device, ...]:
    try:
        return machine.gpus()
    except machine.gpu_error:
        return ()


def _existing(path: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _is_writable(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
