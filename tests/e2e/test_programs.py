"""What `swapctl clients` prints, tried as pasted: the programs themselves, from their registries, ask a live daemon.

Each gets a home of its own with nothing in it but the printed text, and no other address. The model writes on to
the first line's end, whatever it is asked: what it says does not matter here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from swapd.ctl.clients import RECIPES
from tests.e2e import node
from tests.e2e.conftest import GEMMA, SMOL, Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]  # the first time, programs are fetched

CONFIG = """
[models."gemma3-270m"]
context = 32768
slots = 1
options = { temperature = 0.5, seed = 1, max_tokens = 200, stop = ["\\n", ".", "!"] }
[models."smollm2-135m"]
context = 8192
slots = 1
options = { temperature = 0, max_tokens = 60, stop = ["\\n", "."] }
"""
"""Agents send prompts of 10,000 tokens, and take an answer that was cut off for a failure."""
LIMIT = 240


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("daemon"), CONFIG, {}, common="")
    try:
        yield daemon.wait_ready()
    finally:
        daemon.close()


def printed(daemon: Daemon, name: str, model: str) -> str:
    line = [sys.executable, "-m", "swapd.ctl", "--url", daemon.url, "clients", name, "--model", model]
    return subprocess.run(line, capture_output=True, text=True, check=True, timeout=60).stdout


def run(home: Path, *command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """In an empty folder, with nothing of this environment but the search path."""
    folder = home / "work"
    folder.mkdir(exist_ok=True)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command,
        cwd=folder,
        env={"PATH": path, "HOME": str(home), "LANG": "C.UTF-8", **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def program(name: str, ranges: Mapping[str, str], binary: str) -> str:
    return str(node.installed(name, ranges) / "node_modules" / ".bin" / binary)


def served(daemon: Daemon, *dialects: str) -> int:
    """How many answers of these dialects were given without a fault."""
    page = daemon.call("/metrics")[1]
    return sum(
        int(float(line.rsplit(" ", 1)[1]))
        for line in page.splitlines()
        if line.startswith("swapd_requests_total{") and 'outcome="ok"' in line
        if any(f'dialect="{dialect}"' in line for dialect in dialects)
    )


def test_all_that_are_called_tried_by_tests_are_tried_here_or_beside() -> None:
    beside = {"openai-python", "ollama-python"}  # test_clients.py
    here = {name.removeprefix("test_").replace("_", "-") for name in globals() if name.startswith("test_")}
    assert {name for name, recipe in RECIPES.items() if recipe.tried == "tests"} == (here & set(RECIPES)) | beside


def test_codex(daemon: Daemon, tmp_path: Path) -> None:
    codex = program("codex", {"@openai/codex": ">=0.100 <1"}, "codex")
    (tmp_path / ".codex").mkdir()
    (tmp_path / ".codex" / "config.toml").write_text(printed(daemon, "codex", GEMMA))
    before = served(daemon, "openai")
    done = run(tmp_path, codex, "exec", "--skip-git-repo-check", "Say hello.")
    assert "provider: swapd" in done.stderr + done.stdout
    assert served(daemon, "openai") > before


def test_claude_code(daemon: Daemon, tmp_path: Path) -> None:
    claude = program("claude-code", {"@anthropic-ai/claude-code": ">=2 <3"}, "claude")
    script = printed(daemon, "claude-code", GEMMA) + 'exec "$CLAUDE" --print "Say hello." --tools Bash,Read\n'
    before = served(daemon, "anthropic")
    done = run(tmp_path, "bash", "-c", script, CLAUDE=claude)
    assert done.stdout.strip()
    assert served(daemon, "anthropic") > before


def test_continue(daemon: Daemon, tmp_path: Path) -> None:
    cn = program("continue", {"@continuedev/cli": ">=1.5 <2"}, "cn")
    config = tmp_path / ".continue" / "config.yaml"
    config.parent.mkdir()
    config.write_text(printed(daemon, "continue", GEMMA))
    before = served(daemon, "ollama", "openai")
    done = run(tmp_path, cn, "--print", "Say hello.", "--config", str(config), CONTINUE_TELEMETRY_ENABLED="0")
    assert done.stdout.strip()
    assert served(daemon, "ollama", "openai") > before


def test_aider(daemon: Daemon, tmp_path: Path) -> None:
    """It edits nothing, as a model of this size follows no edit format; it asks, and counts what came."""
    aider = aider_program()
    (tmp_path / ".aider.conf.yml").write_text(printed(daemon, "aider", SMOL))
    quiet = ["--no-git", "--no-check-update", "--no-analytics", "--no-show-model-warnings", "--yes-always"]
    before = served(daemon, "openai")
    done = run(tmp_path, aider, "--message", "Say hello.", *quiet, LITELLM_LOCAL_MODEL_COST_MAP="True")
    assert "Tokens: " in done.stdout
    assert served(daemon, "openai") > before


def aider_program() -> str:
    """In an environment of its own: it insists on versions that others do not want."""
    folder = Path(sys.prefix) / "aider"
    binary = folder / "bin" / "aider"
    stamp = folder / ".ready"  # written last
    if not stamp.is_file():
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(folder)],
            [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "aider-chat>=0.86,<1"],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=800)
            if done.returncode != 0:
                node.cannot_install("aider-chat", done.stderr[-1000:])
        stamp.touch()
    return str(binary)
