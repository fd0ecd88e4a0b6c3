"""Coding agents, where they are installed, in conversations with tool calls that are scripted here."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer

from swapd.api.app import GuardSettings, make_app
from swapd.ctl.clients import RECIPES, Target
from swapd.generation import CallPart, Chunk, Ending, Role, StopReason, Usage
from swapd.runtime.asking import Answer, Ask, Watch
from tests.api.conftest import Script, ScriptedGateway

PATIENCE = 90
USAGE = Usage(prompt=100, cached=50, completion=10)
DONE: Script = [Chunk("The word is pumpernickel.", 5), Ending(StopReason.STOP, USAGE)]


def calls(name: str, arguments: dict[str, object]) -> Script:
    text = json.dumps(arguments)
    parts = [CallPart(0, "call_1", name, text[:5]), CallPart(0, arguments=text[5:])]
    told = [Chunk("", 1, calls=(part,)) for part in parts]
    return [Chunk("", 1, thinking="I look."), Chunk("I look.", 1), *told, Ending(StopReason.TOOL_CALLS, USAGE)]


class Conversation(ScriptedGateway):
    """The first question with tools gets the call, and who brings its result the end."""

    def __init__(self, call: Script) -> None:
        super().__init__()
        self._call = call

    @asynccontextmanager
    async def generate(self, ask: Ask, watch: Watch | None = None) -> AsyncIterator[Answer]:
        has_result = any(message.role is Role.TOOL for message in ask.request.messages)
        self.script = self._call if ask.request.tools and not has_result else DONE
        async with super().generate(ask, watch) as answer:
            yield answer

    @property
    def results(self) -> list[str]:
        return [m.content for ask in self.asks for m in ask.request.messages if m.role is Role.TOOL]


async def run(program: list[str], folder: Path, environ: dict[str, str]) -> str:
    home = {"HOME": str(folder), "PATH": os.environ["PATH"], "TMPDIR": str(folder), **environ}
    process = await asyncio.create_subprocess_exec(
        *program,
        cwd=folder,
        env=home,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, out.decode()
    return out.decode()


@pytest.fixture
def secret(tmp_path: Path) -> str:
    (tmp_path / "secret.txt").write_text("pumpernickel")
    return "cat secret.txt"


@pytest.mark.skipif(not shutil.which("claude"), reason="Claude Code is not installed (npm: @anthropic-ai/claude-code)")
async def test_claude_code_calls_a_tool_and_ends(tmp_path: Path, secret: str) -> None:
    gateway = Conversation(calls("Bash", {"command": secret, "description": "Looks at it"}))
    async with TestServer(make_app(gateway, GuardSettings())) as server:
        script = RECIPES["claude-code"].text(Target(f"http://{server.host}:{server.port}", "tiny", 4096))
        ask = 'exec claude -p "What is the word?" --allowedTools Bash --output-format json'
        out = await run(["bash", "-c", f"{script}\n{ask}"], tmp_path, {})
    answer = json.loads(out[out.index("{") :].splitlines()[-1])
    assert (answer["result"], answer["is_error"]) == ("The word is pumpernickel.", False)
    assert gateway.results[-1].strip() == "pumpernickel"
    assert any(message.thinking == "I look." for message in gateway.asks[-1].request.messages)


@pytest.mark.skipif(not shutil.which("codex"), reason="Codex is not installed (npm: @openai/codex)")
async def test_codex_calls_a_tool_and_ends(tmp_path: Path, secret: str) -> None:
    gateway = Conversation(calls("exec_command", {"cmd": secret}))
    async with TestServer(make_app(gateway, GuardSettings())) as server:
        config = tmp_path / ".codex" / "config.toml"
        config.parent.mkdir()
        config.write_text(RECIPES["codex"].text(Target(f"http://{server.host}:{server.port}", "tiny", 4096)))
        program = ["codex", "exec", "--skip-git-repo-check", "--sandbox", "danger-full-access", "What is the word?"]
        out = await run(program, tmp_path, {})
    assert "The word is pumpernickel." in out
    assert "pumpernickel" in gateway.results[-1]
