"""What loads took is kept from one run to the next, in a file that may be lost, damaged or another's."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from swapd.core.model import HOST, Device, DeviceId, DeviceKind, Footprint, Placement, VariantId
from swapd.core.state import Measurement
from swapd.runtime.learnt import MOST, Learnt, key
from swapd.units import GiB, MiB
from tests.until import until

A, B = VariantId("a-0123"), VariantId("b-4567")
BUILD = "b1234 (0c1e570)"
CARD, OTHER = DeviceId("cuda:0"), DeviceId("cuda:1")
WHOLE = Placement((CARD,), 31, 31, 512)
PART = Placement((CARD, OTHER), 15, 31, 128, experts_on_cpu=3, split=(0.1, 0.9))
CPU = Placement((), 0, 31, 512)
TOOK = Footprint.of({CARD: 250 * MiB, HOST: 70 * MiB})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "swapd" / "learnt.json"


def lessons(path: Path, build: str = BUILD) -> dict[Any, Footprint]:
    learnt = Learnt(path)
    learnt.read()
    return {(variant, place): size for variant, place, size in learnt.lessons([A, B], build)}


async def test_what_was_learnt_is_known_to_the_next_run(path: Path) -> None:
    told = {
        (A, WHOLE): TOOK,
        (A, PART): Footprint.of({OTHER: 1}),
        (B, CPU): Footprint.of({HOST: MiB}),
        (B, WHOLE): Footprint(),
    }
    async with Learnt(path) as learnt:
        assert learnt.lessons([A, B], BUILD) == ()
        for (variant, place), size in told.items():
            learnt.learn(variant, place, BUILD, size)
        learnt.learn_overheads(BUILD, {CARD: 300 * MiB})
    assert lessons(path) == told
    again = Learnt(path)
    assert again.read().keys() == {key(variant, place, BUILD) for variant, place in told}
    assert again.overheads(BUILD) == {CARD: 300 * MiB}
    assert again.lessons([B], BUILD) == tuple((v, p, size) for (v, p), size in told.items() if v == B)


async def test_another_build_has_learnt_nothing(path: Path) -> None:
    async with Learnt(path) as learnt:
        learnt.learn(A, WHOLE, BUILD, TOOK)
        learnt.learn_overheads(BUILD, {CARD: 1})
        assert learnt.lessons([A], "b1235") == ()
        assert learnt.overheads("b1235") == {}
        assert learnt.lessons([A], BUILD) == ((A, WHOLE, TOOK),)


async def test_the_last_lesson_counts(path: Path) -> None:
    async with Learnt(path) as learnt:
        learnt.learn(A, WHOLE, BUILD, Footprint.of({CARD: 1}))
        learnt.learn(A, WHOLE, BUILD, TOOK)
    assert lessons(path) == {(A, WHOLE): TOOK}


async def test_the_file_and_its_folder_are_the_owners_alone(path: Path) -> None:
    async with Learnt(path) as learnt:
        learnt.learn(A, WHOLE, BUILD, TOOK)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


async def test_it_is_written_while_the_daemon_runs(path: Path) -> None:
    """And what comes soon after waits for the pause, or the end."""
    async with Learnt(path, pause=3600) as learnt:
        learnt.learn(A, WHOLE, BUILD, TOOK)
        await until(path.exists)
        first = path.stat().st_mtime_ns
        for place in (PART, CPU):
            learnt.learn(B, place, BUILD, TOOK)
        assert path.stat().st_mtime_ns == first
    assert lessons(path).keys() == {(A, WHOLE), (B, PART), (B, CPU)}


async def test_a_write_under_way_at_the_end_is_finished(path: Path) -> None:
    async with Learnt(path) as learnt:
        await asyncio.sleep(0)  # it waits for news
        learnt.learn(A, WHOLE, BUILD, TOOK)
        await asyncio.sleep(0)  # it has begun
    assert lessons(path) == {(A, WHOLE): TOOK}


async def test_nothing_learnt_writes_nothing(path: Path) -> None:
    async with Learnt(path) as learnt:
        learnt.learn_overheads(BUILD, {})
    assert not path.parent.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"[]",
        b"{}",
        b'{"kind":"another program\'s","version":1}',
        b'{"kind":"swapd lessons","version":2,"lessons":"of another form"}',
        b'{"kind":"swapd lessons","version":1,"lessons":{"a":{"cuda:0":-1}}}',
        b'{"kind":"swapd lessons","version":1,"lessons":{"a":{"cuda:0":"many"}}}',
    ],
)
async def test_a_file_that_cannot_be_used_is_replaced(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with capture_logs() as logs:
        async with Learnt(path) as learnt:
            assert learnt.lessons([A, B], BUILD) == ()
            assert path.read_bytes() == content
            learnt.learn(A, WHOLE, BUILD, TOOK)
    assert [line["log_level"] for line in logs] == ["warning"]
    assert lessons(path) == {(A, WHOLE): TOOK}


def test_a_pipe_is_not_read(path: Path) -> None:
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    with capture_logs() as logs:
        assert lessons(path) == {}
    assert len(logs) == 1


def test_keys_that_this_swapd_does_not_understand_are_passed_over(path: Path) -> None:
    """A later version's placement may have fields that change what it takes; a missing one has its default."""
    fields = {"devices": ["cuda:0"], "gpu_layers": 31, "layers": 31, "micro_batch": 512}
    names = [
        [A, BUILD, fields],
        [B, BUILD, fields | {"experts_on_cpu": 0, "split": []}],
        [A, BUILD, fields | {"of_tomorrow": 1}],
        [A, BUILD, fields | {"layers": "all"}],
        [A, BUILD, {}],
        [A],
    ]
    entries = {json.dumps(name): {"cuda:0": 5} for name in names} | {"not json": {"cuda:0": 5}}
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"kind": "swapd lessons", "version": 1, "lessons": entries}))
    assert lessons(path) == {(A, WHOLE): Footprint.of({CARD: 5}), (B, WHOLE): Footprint.of({CARD: 5})}


def test_a_key_names_all_that_is_not_the_default() -> None:
    """So that it stays the same when placements get more fields."""
    assert json.loads(key(A, WHOLE, BUILD)) == [
        A,
        BUILD,
        {"devices": ["cuda:0"], "gpu_layers": 31, "layers": 31, "micro_batch": 512},
    ]
    assert json.loads(key(A, PART, BUILD))[2] == {
        field.name: list(value) if isinstance(value := getattr(PART, field.name), tuple) else value
        for field in dataclasses.fields(PART)
    }


FIRST = Footprint.of({CARD: 240 * MiB, HOST: 80 * MiB})
SEEN = Measurement(FIRST, TOOK)


async def test_what_was_predicted_and_measured_is_kept_beside_a_lesson(path: Path) -> None:
    async with Learnt(path) as learnt:
        learnt.learn(A, WHOLE, BUILD, TOOK, SEEN)
        learnt.learn(A, CPU, BUILD, TOOK, Measurement(None, FIRST), floor=TOOK)
        learnt.learn(B, PART, BUILD, TOOK)
        learnt.learn(A, WHOLE, BUILD, TOOK, SEEN)
    again = Learnt(path)
    again.read()
    assert again.measurements([A, B], BUILD) == ((A, CPU, None, FIRST), (A, WHOLE, FIRST, TOOK))
    assert again.floors([A, B], BUILD) == ((A, CPU, TOOK),)
    assert (again.measurements([B], BUILD), again.measurements([A], "b1235")) == ((), ())
    assert again.floors([B], BUILD) == ()


def test_a_file_of_a_swapd_that_kept_lessons_alone_is_read(path: Path) -> None:
    path.parent.mkdir(parents=True)
    content = {"kind": "swapd lessons", "version": 1, "lessons": {key(A, WHOLE, BUILD): {"cuda:0": 5}}}
    path.write_text(json.dumps(content | {"overheads": {BUILD: {"cuda:0": 7}}}))
    learnt = Learnt(path)
    learnt.read()
    learnt.recognise([card("0000:01:00.0")])
    assert learnt.lessons([A], BUILD) == ((A, WHOLE, Footprint.of({CARD: 5})),)
    assert learnt.overheads(BUILD) == {CARD: 7}
    assert learnt.measurements([A], BUILD) == ()
    assert learnt.floors([A], BUILD) == ()


async def test_what_stands_beside_a_lesson_goes_with_it(path: Path) -> None:
    async with Learnt(path) as learnt:
        learnt.learn(B, WHOLE, BUILD, TOOK, SEEN, TOOK)
        for layers in range(MOST):
            learnt.learn(A, dataclasses.replace(WHOLE, gpu_layers=layers), BUILD, TOOK)
    assert key(B, WHOLE, BUILD).encode() not in path.read_bytes()
    assert json.loads(path.read_bytes())["beside"].keys() == lessons_of(path)


def lessons_of(path: Path) -> Any:
    return json.loads(path.read_bytes())["lessons"].keys()


def card(pci: str, device: DeviceId = CARD, **changes: Any) -> Device:
    known = Device(device, "Test Card", DeviceKind.GPU, "nvml", 8 * GiB, 8 * GiB, pci=pci)
    return dataclasses.replace(known, **changes)


ONE, TWO = "0000:01:00.0", "0000:02:00.0"
RAM = Device(HOST, "host", DeviceKind.HOST, "psutil", 8 * GiB, 8 * GiB)


@pytest.mark.parametrize(
    ("now", "known"),
    [
        (card(ONE), {WHOLE, CPU, PART}),
        (card(TWO), {CPU}),
        (card(ONE, name="Another Card"), {CPU}),
        (card(ONE, total=16 * GiB), {CPU}),
        (card("", name="", total=0, is_stale=True), {WHOLE, CPU, PART}),
    ],
)
async def test_what_was_learnt_on_another_card_is_not_used(path: Path, now: Device, known: set[Placement]) -> None:
    """Lessons and what a process takes there besides; those of the host stay."""
    async with Learnt(path) as learnt:
        learnt.recognise([card(ONE), card("0000:09:00.0", OTHER), RAM])
        for place, took in {WHOLE: TOOK, CPU: Footprint.of({HOST: 5}), PART: Footprint.of({CARD: 1, OTHER: 2})}.items():
            learnt.learn(A, place, BUILD, took, Measurement(None, took), took)
        learnt.learn_overheads(BUILD, {CARD: 300 * MiB, OTHER: 200 * MiB})
    async with Learnt(path) as again:
        again.recognise([now, dataclasses.replace(RAM, total=16 * GiB)])
        for kept in (again.lessons([A], BUILD), again.measurements([A], BUILD), again.floors([A], BUILD)):
            assert {each[1] for each in kept} == known
        assert again.overheads(BUILD) == {OTHER: 200 * MiB} | ({CARD: 300 * MiB} if WHOLE in known else {})
    assert lessons(path).keys() == {(A, place) for place in known}


async def test_the_lessons_unused_for_longest_go(path: Path) -> None:
    async with Learnt(path) as learnt:
        for layers in range(MOST):
            learnt.learn(A, dataclasses.replace(WHOLE, gpu_layers=layers), BUILD, TOOK)
        learnt.learn(A, dataclasses.replace(WHOLE, gpu_layers=0), BUILD, TOOK)
        learnt.learn(B, WHOLE, BUILD, TOOK)
    known = lessons(path)
    assert len(known) == MOST
    assert (B, WHOLE) in known
    assert {place.gpu_layers for variant, place in known if variant == A} == {0, *range(2, MOST)}


async def test_a_folder_that_cannot_be_written_is_told_once(path: Path) -> None:
    path.parent.parent.mkdir()
    path.parent.write_text("in the way")
    with capture_logs() as logs:
        async with Learnt(path) as learnt:
            logs.clear()
            learnt.learn(A, WHOLE, BUILD, TOOK)
            await until(lambda: bool(logs))
            learnt.learn(B, WHOLE, BUILD, TOOK)
        assert [line["event"] for line in logs] == ["cannot keep what is learnt"]
    assert len(learnt.lessons([A, B], BUILD)) == 2
