"""Questions about files, in a process of their own."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from swapd.demo import models
from swapd.errors import Death, InvalidRequest, WorkerFailed
from swapd.pool.clerk import Clerk
from swapd.questions import Detokenize, Detokenized, Tokenize, Tokenized


@pytest.fixture(scope="module")
def smollm() -> str:
    path = Path(os.environ.get("SWAPD_TEST_MODELS") or models.folder()) / "smollm2-135m.gguf"
    if not path.exists():
        pytest.skip(f"no {path}: set SWAPD_TEST_MODELS to a folder that holds it, or run make setup")
    return str(path)


async def test_many_ask_one_process_and_get_their_own_answers(smollm: str) -> None:
    async with Clerk() as clerk:
        texts = [f"number {n}" for n in range(5)]
        replies = await asyncio.gather(*(clerk.ask(smollm, Tokenize((text,))) for text in texts))
        for text, reply in zip(texts, replies, strict=True):
            assert isinstance(reply, Tokenized)
            assert await clerk.ask(smollm, Detokenize(reply.tokens)) == Detokenized(text)
        pid = clerk.pid
        assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_refusals_leave_the_process_alone(smollm: str, tmp_path: Path) -> None:
    async with Clerk() as clerk:
        with pytest.raises(InvalidRequest, match="is no token"):
            await clerk.ask(smollm, Detokenize((-1,)))
        with pytest.raises(WorkerFailed) as failed:
            await clerk.ask(str(tmp_path / "none.gguf"), Detokenize(()))
        assert failed.value.death is Death.UNUSABLE
        assert isinstance(await clerk.ask(smollm, Tokenize(("a",))), Tokenized)


async def test_a_death_is_told_and_the_next_question_gets_a_new_process(smollm: str) -> None:
    async with Clerk() as clerk:
        await clerk.ask(smollm, Tokenize(("a",)))
        first = clerk.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        asked = asyncio.create_task(clerk.ask(smollm, Tokenize(("a",))))
        await asyncio.sleep(0)
        os.kill(first, signal.SIGKILL)
        with pytest.raises(WorkerFailed):
            await asked
        assert isinstance(await clerk.ask(smollm, Tokenize(("a",))), Tokenized)
        assert clerk.pid != first


async def test_who_goes_away_disturbs_nobody(smollm: str) -> None:
    async with Clerk() as clerk:
        asked = asyncio.create_task(clerk.ask(smollm, Tokenize(("first",))))
        while clerk.pid is None:
            await asyncio.sleep(0)
        asked.cancel()
        reply = await clerk.ask(smollm, Tokenize(("second",)))
        assert isinstance(reply, Tokenized)
        assert b"".join(reply.pieces) == b"second"
