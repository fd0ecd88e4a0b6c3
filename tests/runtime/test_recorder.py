"""What the daemon notes of a day, on real files: enough to live it again, no word of it, and never in the way."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from swapd.core.messages import Command, Event, PolicyChanged, RequestEnded, Usage
from swapd.core.model import HOST, RequestId, Variant, VariantId
from swapd.runtime import recorder
from swapd.runtime.recorder import NAME, OLDER, Recorder
from swapd.trace import Reading, Trace, parse
from swapd.units import FOREVER, GiB
from tests.core.builders import Desk, variant
from tests.until import until

A, B = variant("a", 4 * GiB, slots=2), variant("b", 7 * GiB)
USAGE = Usage(prompt=90, cached=10, output=50, prefill_s=0.1, decode_s=2.0)
EPOCH = 1_790_000_000.0


class Noted(Desk):
    """A desk of which everything is noted."""

    def __init__(self, notes: Recorder, **more: Any) -> None:
        super().__init__(**more)
        self.recorder = notes

    def tell(self, event: Event) -> list[Command]:
        known = len(self.orders)
        told = super().tell(event)
        self.recorder.record(event, self.state, self.orders[known:])
        return told

    def answers(self, wanted: Variant, request: str, usage: Usage | None = USAGE, **more: Any) -> None:
        """One second after another: asked, loaded if it must be, and answered."""
        self.wants(wanted, request, **more)
        self.later(1.0)
        if self.holder(request) is None:
            self.measured()
            self.later(1.0)
            self.loaded(self.resident(wanted).id)
        self.later(1.0)
        self.tell(RequestEnded(self.at, RequestId(request), usage))
        self.later(1.0)


def make(folder: Path, desk: list[Noted] | None = None, *, wall: float = EPOCH, **more: Any) -> Recorder:
    return Recorder(folder, lambda: desk[0].at if desk else 0.0, lambda: wall, **more)


def read(folder: Path) -> Trace:
    reading = Reading()
    for path in (folder / OLDER, folder / NAME):
        if path.exists():
            reading.feed(path.read_text().splitlines())
    return reading.trace()


async def test_a_day_is_noted_as_it_was(tmp_path: Path) -> None:
    async with make(tmp_path / "swapd") as notes:
        desk = Noted(notes, max_wait=12.0)
        notes.belongs(RequestId("r1"), "anna@example.org")
        desk.answers(A, "r1", owner_keep_alive=FOREVER, priority=3, keep_alive=60.0)
        desk.wants(A, "left", priority=-1)
        desk.later(2.5)
        desk.ends("left")
    trace = read(tmp_path / "swapd")
    (model,) = trace.models
    answered, left = trace.calls
    assert trace.card == 10 * GiB
    assert (trace.cards, trace.host) == (1, desk.state.budgets()[HOST])
    assert trace.policy == desk.policy.__class__(keep_alive=FOREVER, max_wait=12.0)
    assert (model.name, model.size, model.layers, model.slots, model.context) == ("a", 4 * GiB, 4, 2, 512)
    assert (model.load_s, model.cold_load_s, model.prefill, model.decode) == (1.0, 1.0, 900.0, 25.0)
    assert (answered.at, answered.waited_s, answered.took_s) == (0.0, 2.0, 1.0)
    assert (answered.prompt, answered.cached, answered.output) == (100, 10, 50)
    assert (answered.priority, answered.keep_alive, answered.patience) == (3, 60.0, None)
    assert (left.at, left.patience, left.took_s, left.output) == (4.0, 2.5, 2.5, 0)
    assert answered.session
    assert "anna" not in (tmp_path / "swapd" / NAME).read_text()


async def test_whoever_leaves_the_queue_had_so_much_patience_and_who_is_refused_is_not_noted(tmp_path: Path) -> None:
    async with make(tmp_path) as notes:
        desk = Noted(notes, max_queue=1)
        desk.wants(A, "waits")
        desk.wants(B, "one too many")
        desk.later(0.25)
        desk.ends("waits")
        desk.ends("one too many")
        desk.wants(A, "loads only", slotless=True)
        desk.ends("loads only")
    (call,) = read(tmp_path).calls
    assert (call.model, call.patience, call.waited_s, call.took_s) == ("a", 0.25, None, None)


async def test_answers_that_write_nothing_are_answers(tmp_path: Path) -> None:
    """Vectors and scores: their end tells no usage, and nobody has left. They come from a model of their own."""
    beside = replace(A, id=VariantId("vectors of a"), pooling="mean")
    async with make(tmp_path) as notes:
        desk = Noted(notes)
        desk.answers(A, "text")
        desk.wants(beside, "vectors")
        desk.measured()
        desk.loaded(desk.resident(beside).id)
        desk.later(0.5)
        notes.answered(RequestId("vectors"), 1000)
        desk.ends("vectors")
    trace = read(tmp_path)
    call = trace.calls[1]
    assert (call.prompt, call.output, call.patience, call.took_s) == (1000, 0, None, 0.5)
    assert [(model.name, model.prefill) for model in trace.models] == [("a", 900.0), ("a (vectors)", 2000.0)]
    assert call.model == "a (vectors)"


async def test_models_are_told_again_when_they_are_not_as_they_were(tmp_path: Path) -> None:
    async with make(tmp_path) as notes:
        desk = Noted(notes)
        desk.answers(A, "r1")
        desk.answers(A, "r2")
        desk.pin("a")
        desk.answers(A, "r3")
        desk.answers(A, "slower", Usage(90, 10, 50, 3.0, 60.0))
        desk.tell(PolicyChanged(desk.at, desk.policy.__class__(max_wait=5.0)))
        desk.answers(A, "r4")
    text = (tmp_path / NAME).read_text()
    assert text.count('"model": {') == 4  # at first, pinned, slower, and not so slow
    assert text.count("swapd_trace") == 2
    trace = read(tmp_path)
    assert trace.models[0].pin
    assert trace.models[0].decode < 25.0
    assert trace.policy is not None
    assert trace.policy.max_wait == 5.0
    assert [call.at for call in trace.calls] == [0.0, 4.0, 7.0, 10.0, 13.0]


async def test_without_a_card_the_host_is_what_is_shared(tmp_path: Path) -> None:
    async with make(tmp_path) as notes:
        desk = Noted(notes, cards=())
        desk.answers(A, "r1")
    trace = read(tmp_path)
    assert (trace.cards, trace.card) == (0, 10 * GiB)
    assert trace.models[0].size == desk.resident(A).predicted[HOST]
    assert trace.models[0].decode == 25.0


async def test_runs_follow_each_other_also_where_the_clock_went_back(tmp_path: Path) -> None:
    for wall in (EPOCH, EPOCH + 1000.0, EPOCH - 5000.0):
        async with make(tmp_path, wall=wall) as notes:
            Noted(notes).answers(A, "the same id")
    trace = read(tmp_path)
    assert [call.at for call in trace.calls] == [0.0, 1000.0, 1003.0]
    assert len({call.id for call in trace.calls}) == 3


async def test_the_file_is_the_owners_alone_and_never_larger_than_it_may_be(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "swapd"
    async with make(folder, pause=0.0, most_bytes=4000) as notes:
        desk = Noted(notes)
        for number in range(60):
            desk.answers(A if number % 2 else B, f"r{number}")
            size = (folder / NAME).stat().st_size if (folder / NAME).exists() else 0
            await until(lambda size=size: (folder / NAME).exists() and (folder / NAME).stat().st_size != size)  # type: ignore[misc]
    assert sorted(path.name for path in folder.iterdir()) == [OLDER, NAME]
    for path in folder.iterdir():
        assert path.stat().st_size <= 4000
        assert path.stat().st_mode & 0o777 == 0o600
        parse(path.read_text().splitlines())  # each can be read alone
    assert folder.stat().st_mode & 0o777 == 0o700
    ids = [int(call.id) for call in read(folder).calls]
    assert ids == list(range(ids[0], 61))


@contextmanager
def full_disk(most: int) -> Iterator[None]:
    """No file of this process grows beyond."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_on_a_full_disk_nobody_is_disturbed_and_no_line_is_torn(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with make(tmp_path, pause=0.0) as notes:
            desk = Noted(notes)
            desk.answers(A, "r1")
            await until((tmp_path / NAME).exists)
            size = (tmp_path / NAME).stat().st_size
            with full_disk(size + 20):
                desk.answers(A, "r2")
                await until(lambda: any("cannot write the replay file" in log["event"] for log in logs))
                assert (tmp_path / NAME).stat().st_size == size
                desk.answers(A, "r3")
            desk.answers(A, "r4")
    assert [call.id for call in read(tmp_path).calls] == ["1", "2", "3", "4"]
    assert sum("cannot write" in log["event"] for log in logs) == 1


async def test_what_cannot_be_written_for_long_is_dropped_and_the_rest_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "MOST", 10)
    folder = tmp_path / "file in the way"
    folder.write_text("")
    with capture_logs() as logs:
        async with make(folder, pause=0.0) as notes:
            desk = Noted(notes)
            for number in range(25):
                desk.answers(A, f"r{number}")
            folder.unlink()
            desk.answers(A, "last")
    assert read(folder).calls[-1].id == "26"
    assert any("missing in the replay file" in log["event"] for log in logs)


async def test_a_line_that_a_crash_cut_off_is_taken_away_by_the_next_run(tmp_path: Path) -> None:
    async with make(tmp_path) as notes:
        Noted(notes).answers(A, "r1")
    with (tmp_path / NAME).open("a") as file:
        file.write('{"call": {"id": "2", "at"')
    async with make(tmp_path, wall=EPOCH + 60) as notes:
        Noted(notes).answers(A, "r1")
    assert [call.at for call in read(tmp_path).calls] == [0.0, 60.0]


async def test_a_file_that_was_removed_under_it_begins_anew(tmp_path: Path) -> None:
    async with make(tmp_path, pause=0.0) as notes:
        desk = Noted(notes)
        desk.answers(A, "r1")
        await until((tmp_path / NAME).exists)
        (tmp_path / NAME).unlink()
        desk.answers(A, "r2")
    assert [call.id for call in read(tmp_path).calls] == ["2"]


async def test_who_serves_nobody_writes_nothing(tmp_path: Path) -> None:
    async with make(tmp_path / "swapd"):
        pass
    assert not (tmp_path / "swapd").exists()
