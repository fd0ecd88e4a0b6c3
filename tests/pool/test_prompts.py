"""The folder of saved conversations: private, bounded, and nothing in it is used before it is whole."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from swapd.core.model import Shape, Variant, VariantId
from swapd.pool.prompts import PromptStore
from swapd.savedstate import SUFFIX, UNSEALED, DamagedState, Head, describe, packed, verify
from swapd.wire import Prompts, Saved

SHAPE = Shape("llama", 1, 8, 1, (1,), 8, 8, 100, 100, 1000)
VARIANT = Variant(VariantId("a"), "a", "/a.gguf", SHAPE, 2048, 4, content="abc")


def written(folder: Path, name: str, size: int = 1000) -> Saved:
    """What a worker leaves."""
    path = folder / f"{name}{UNSEALED}"
    path.write_bytes(bytes(size))
    describe(path, Head("key", "", packed([1, 2, 3]), size))
    return Saved(path.name)


async def seal(store: PromptStore, *saved: Saved) -> None:
    async with asyncio.TaskGroup() as tasks:
        for each in saved:
            store.sealing(each, tasks)
        for each in saved:
            await store.wait_sealed(of(each.name))


def of(key: str) -> Prompts:
    """What a worker was told whose files begin so."""
    return Prompts("", key, 10**6)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "prompts"


async def test_a_request_waits_for_its_own_models_conversations_and_for_no_others(folder: Path) -> None:
    store = PromptStore(folder, 10**6)
    store.prepare()
    async with asyncio.TaskGroup() as tasks:
        async with store._turn:  # nothing is sealed meanwhile
            store.sealing(written(folder, "a"), tasks)
            await store.wait_sealed(of("b"))
            own = tasks.create_task(store.wait_sealed(of("a")))
            await asyncio.sleep(0)
            assert not own.done()
        await own
        assert names(folder) == [f"a{SUFFIX}"]


async def test_the_folder_is_ours_alone_and_only_made_when_needed(folder: Path) -> None:
    PromptStore(folder, 0).prepare()
    assert not folder.exists()
    store = PromptStore(folder, 10**6)
    store.prepare()
    assert store.is_on
    assert folder.stat().st_mode & 0o777 == 0o700


async def test_a_folder_that_others_can_write_to_is_not_used(folder: Path) -> None:
    """What is in it is handed to llama.cpp."""
    folder.mkdir(mode=0o700)
    folder.chmod(0o777)
    store = PromptStore(folder, 10**6)
    store.prepare()
    assert not store.is_on
    assert store.order(VARIANT, "build") is None


async def test_a_sealed_file_is_whole_and_what_it_replaces_is_gone(folder: Path) -> None:
    store = PromptStore(folder, 10**6)
    store.prepare()
    await seal(store, written(folder, "a"))
    await seal(store, replace_with(written(folder, "b"), f"a{SUFFIX}", "../precious"))
    assert names(folder) == [f"b{SUFFIX}"]
    assert verify(folder / f"b{SUFFIX}").tokens == packed([1, 2, 3])


def replace_with(saved: Saved, *replaced: str) -> Saved:
    return Saved(saved.name, replaced)


async def test_a_file_that_was_not_written_to_its_end_is_removed(folder: Path) -> None:
    store = PromptStore(folder, 10**6)
    store.prepare()
    saved = written(folder, "a")
    os.truncate(folder / saved.name, 1010)
    await seal(store, saved, Saved(f"nothing{UNSEALED}"), Saved(f"../elsewhere{UNSEALED}"))
    assert names(folder) == []


async def test_what_was_used_last_stays_within_the_limit(folder: Path) -> None:
    store = PromptStore(folder, 3500)
    store.prepare()
    for number, name in enumerate("abcd"):
        await seal(store, written(folder, name))
        if (folder / f"{name}{SUFFIX}").exists():
            os.utime(folder / f"{name}{SUFFIX}", (number, number))
    os.utime(folder / f"b{SUFFIX}", (9, 9))
    await seal(store, written(folder, "e"))
    assert names(folder) == [f"b{SUFFIX}", f"d{SUFFIX}", f"e{SUFFIX}"]
    await store.limit(1100)
    assert names(folder) == [f"e{SUFFIX}"]
    await store.limit(0)
    assert names(folder) == []
    assert not store.is_on


async def test_what_an_earlier_daemon_left_is_kept_and_what_it_left_unfinished_is_not(folder: Path) -> None:
    store = PromptStore(folder, 10**6)
    store.prepare()
    await seal(store, written(folder, "a"))
    written(folder, "b")
    (folder / "notes.txt").write_text("not ours")
    PromptStore(folder, 10**6).prepare()
    assert names(folder) == [f"a{SUFFIX}", "notes.txt"]


async def test_only_those_share_who_can_use_it(folder: Path) -> None:
    """The length of the context may differ; file, build, kind of cache and number of slots may not."""
    store = PromptStore(folder, 10**6)
    store.prepare()

    def key(variant: Variant, build: str = "1") -> str:
        order = store.order(variant, build)
        assert order is not None
        return order.key

    assert key(VARIANT) == key(replace(VARIANT, context=4096, gpu_layers=3))
    others = [
        key(replace(VARIANT, content="other")),
        key(replace(VARIANT, kv_type="q8_0")),
        key(replace(VARIANT, slots=3)),
        key(replace(VARIANT, flash_attention=True)),
        key(VARIANT, "2"),
    ]
    assert len({key(VARIANT), *others}) == 6


def test_a_checksum_covers_every_byte(folder: Path) -> None:
    folder.mkdir()
    store = PromptStore(folder, 10**6)
    store.prepare()
    asyncio.run(seal(store, written(folder, "a", 64)))
    path = folder / f"a{SUFFIX}"
    sound = path.read_bytes()
    for at in range(len(sound)):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
        with pytest.raises(DamagedState):
            verify(path)
    path.write_bytes(sound)
    assert verify(path).state == 64
