"""Compiles the soft GPU's libraries, once for these sources and this llama.cpp; used by `gpu.py` and `fixtures.py`."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
FLAGS: Final = ("-std=c++20", "-O2")
BINDINGS: Final = "llama-cpp-python"


class CannotBuild(Exception):
    """This machine lacks what the soft GPU is made with; the text says what."""


@dataclass(frozen=True, slots=True)
class Libraries:
    folder: Path
    """With `libnvidia-ml.so.1` in it: belongs first in LD_LIBRARY_PATH."""

    @property
    def backend(self) -> Path:
        return self.folder / "libggml-softgpu.so"

    @property
    def nvml(self) -> Path:
        return self.folder / "libnvidia-ml.so.1"

    @property
    def control(self) -> Path:
        return self.folder / "libsoftgpu.so"

    @property
    def bystander(self) -> Path:
        return self.folder / "bystander"


def build(cache: Path) -> Libraries:
    """The libraries, compiled into a folder of `cache` by whoever comes first. Raises CannotBuild."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    found = importlib.util.find_spec("llama_cpp")
    if sys.platform != "linux" or compiler is None or found is None or found.origin is None:
        raise CannotBuild(f"a soft GPU needs Linux, a C++ compiler and {BINDINGS}")
    package = Path(found.origin).parent
    cache.mkdir(parents=True, exist_ok=True)
    libraries = Libraries(cache / _key(compiler, package))
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not libraries.folder.is_dir():
            with tempfile.TemporaryDirectory(dir=cache) as workshop:
                _compile(compiler, package, Libraries(Path(workshop) / "made"))
                (Path(workshop) / "made").rename(libraries.folder)
    return libraries


def _key(compiler: str, package: Path) -> str:
    digest = hashlib.sha256(repr((compiler, FLAGS, version(BINDINGS), str(package))).encode())
    for source in sorted([*HERE.glob("*.[ch]pp"), Path(__file__)]):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _compile(compiler: str, package: Path, out: Libraries) -> None:
    out.folder.mkdir()
    shared = ("-shared", "-fPIC")
    ggml = (f"-L{package / 'lib'}", "-l:libggml.so.0", "-l:libggml-base.so.0")  # the names that llama.cpp has loaded
    jobs = (
        ("backend.cpp", out.backend, (*shared, "-fvisibility=hidden", f"-I{package.parent / 'include'}"), ggml),
        ("nvml.cpp", out.nvml, shared, ()),
        ("control.cpp", out.control, shared, ()),
        ("bystander.cpp", out.bystander, (), ()),
    )
    for source, target, options, libraries in jobs:
        command = [compiler, *FLAGS, *options, str(HERE / source), "-o", str(target), *libraries]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"cannot compile {source}: {' '.join(command)}\n{done.stderr}")
