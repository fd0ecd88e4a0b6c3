"""SoftGPU: cards of a chosen size, how they behave, who is on them, and what has happened to them.

Tests use it through the `soft_gpu` fixture. Everything it says is read from the ledger and everything it
changes is written there, so it holds at once for programs that are running. Sizes are bytes or texts such as
"512MiB", times are seconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from swapd.units import Bytes, Seconds, parse_bytes
from tests.softgpu.build import Libraries
from tests.softgpu.control import DRIVER, EVERY_CARD, EventRow, Fault, Knob, Telling, What, bind

Size = str | int
MOST_CARDS: Final = 16
MOST_HOLDERS: Final = 1024
LOOKEVERY_CARD: Final[Seconds] = 0.005
DRIVER_ERROR: Final = 999
"""NVML_ERROR_UNKNOWN."""
_PAGE: Final = 4096


@dataclass(frozen=True, slots=True)
class Event:
    at: Seconds
    """As `time.monotonic` says it."""
    what: What
    pid: int
    card: int
    size: Bytes
    used: Bytes
    """On the card, right after."""
    is_ordered: bool
    """A test has ordered this refusal or abort; else it happened because the card was full."""


class SoftGPU:
    """Use as a context manager: leaving it ends the foreign programs. The ledger stays for whoever still maps it."""

    def __init__(
        self,
        folder: Path,
        libraries: Libraries,
        *totals: Size,
        context: Size = 0,
        lag: Seconds | tuple[Seconds, Seconds] = 0.0,
        bus: Size = 0,
        seed: int = 0,
    ) -> None:
        """Cards of these sizes, numbered from 0, in a new ledger in `folder`. For the rest see the setters."""
        if len(totals) > MOST_CARDS:
            raise ValueError(f"at most {MOST_CARDS} cards")
        self._folder, self._libraries = folder, libraries
        self.cards = range(len(totals))
        self._totals = tuple(parse_bytes(total) for total in totals)
        self._library = bind(libraries.control)
        path = folder / "ledger"
        folder.mkdir(parents=True, exist_ok=True)
        error = self._library.softgpu_make(
            str(path).encode(), len(totals), (ctypes.c_int64 * len(totals))(*self._totals)
        )
        if error:
            raise OSError(error, os.strerror(error), str(path))
        self._ledger = self._library.softgpu_open(str(path).encode())
        self._exits = contextlib.ExitStack()
        self.set_context(context)
        self.set_lag(lag, seed=seed)
        self.set_bus(bus)
        self.env: dict[str, str] = {
            "SOFTGPU": str(path),
            "GGML_BACKEND_PATH": str(libraries.backend),
            "GGML_NO_BACKTRACE": "1",
            "LD_LIBRARY_PATH": os.pathsep.join(
                filter(None, [str(libraries.folder), os.environ.get("LD_LIBRARY_PATH")])
            ),
            "CUDA_VISIBLE_DEVICES": ",".join(map(str, self.cards)),
        }
        """For every process that shall see these cards and no others."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.close()
        self._library.softgpu_close(self._ledger)

    # --- what is

    def total(self, card: int = 0) -> Bytes:
        return self._totals[card]

    def used(self, card: int = 0) -> Bytes:
        """With what was let go and is not yet seen free."""
        return int(self._library.softgpu_used(self._ledger, card))

    def free(self, card: int = 0) -> Bytes:
        return self.total(card) - self.used(card)

    def holders(self, card: int = 0) -> dict[int, Bytes]:
        """What each live process has, by pid."""
        pids, sizes = (ctypes.c_int32 * MOST_HOLDERS)(), (ctypes.c_int64 * MOST_HOLDERS)()
        count = self._library.softgpu_holders(self._ledger, card, MOST_HOLDERS, pids, sizes)
        return dict(zip(pids[:count], sizes[:count], strict=True))

    def is_empty(self) -> bool:
        """Nobody holds anything, and all that was let go is seen free."""
        return not any(self.used(card) for card in self.cards)

    def wait_until(self, condition: Callable[[], bool], timeout: Seconds = 20.0) -> None:
        """Look until it holds; AssertionError with who is on the cards when it does not in time."""
        deadline = time.monotonic() + timeout
        pause = threading.Event()
        while not condition():
            assert time.monotonic() < deadline, f"never so: {[(self.used(c), self.holders(c)) for c in self.cards]}"
            pause.wait(LOOKEVERY_CARD)

    # --- what was

    def events(self) -> list[Event]:
        """All that has happened, oldest first. Raises RuntimeError when the ledger has forgotten the beginning."""
        events: list[Event] = []
        page = (EventRow * _PAGE)()
        while True:
            start = ctypes.c_uint64(len(events))
            count = self._library.softgpu_events(self._ledger, ctypes.byref(start), _PAGE, page)
            if start.value != len(events):
                raise RuntimeError("more has happened than the ledger keeps")
            events += [
                Event(e.at_ns / 1e9, What(e.what), e.pid, e.card, e.bytes, e.used, bool(e.is_ordered))
                for e in page[:count]
            ]
            if count < _PAGE:
                return events

    def refusals(self) -> list[Event]:
        """Allocations that did not fit, those that a test had ordered left out: empty, or somebody overcommitted."""
        return [e for e in self.events() if e.what is What.REFUSED and not e.is_ordered]

    def peak(self, card: int = 0, among: Collection[int] | None = None) -> Bytes:
        """The most that was ever in use; with `among`, the most that these processes (pids) ever held together."""
        if among is None:
            return int(self._library.softgpu_peak(self._ledger, card))
        held = most = 0
        for event in self.events():
            if event.card == card and event.pid in among:
                sign = {What.TOOK: 1, What.GAVE: -1, What.DIED: -1}.get(event.what, 0)
                held += sign * event.size
                most = max(most, held)
        return most

    # --- how the cards behave

    def set_lag(self, lag: Seconds | tuple[Seconds, Seconds], *, seed: int = 0) -> None:
        """How long memory stays in use after it was let go: always so, or anew for each release within bounds."""
        least, most = lag if isinstance(lag, tuple) else (lag, lag)
        self._turn(Knob.SEED, 0, seed)
        self._turn(Knob.LAG_LEAST_NS, 0, int(least * 1e9))
        self._turn(Knob.LAG_MOST_NS, 0, int(most * 1e9))

    def set_context(self, size: Size) -> None:
        """What a process's first use of a card costs, until the process ends."""
        for card in self.cards:
            self._turn(Knob.CONTEXT, card, parse_bytes(size))

    def set_bus(self, speed: Size) -> None:
        """Bytes a second between host and card; 0: as fast as the host copies."""
        self._turn(Knob.BUS, 0, parse_bytes(speed))

    def set_threads(self, count: int) -> None:
        """How many CPU threads compute for a card, in processes that begin to use it from now on."""
        self._turn(Knob.THREADS, 0, count)

    # --- trouble

    def refuse_allocations(
        self,
        count: int = 1,
        *,
        at_least: Size = 0,
        card: int = EVERY_CARD,
        skip: int = 0,
        sparing: Collection[int] = (),
    ) -> None:
        """Let `skip` allocations of `at_least` so much pass and fail the next `count`, but not of the pids spared."""
        self._order(Fault.ALLOCATION, card, parse_bytes(at_least), skip, count, sparing)

    def abort_computations(
        self, count: int = 1, *, card: int = EVERY_CARD, skip: int = 0, sparing: Collection[int] = ()
    ) -> None:
        """Let `skip` graph computations pass; the next `count` kill their processes, as real cards without memory."""
        self._order(Fault.COMPUTE, card, 0, skip, count, sparing)

    def withdraw_faults(self) -> None:
        self._library.softgpu_withdraw_orders(self._ledger)

    def faults_left(self) -> int:
        """Ordered, and not yet happened."""
        return int(self._library.softgpu_orders_left(self._ledger))

    def break_driver(
        self, error: int = DRIVER_ERROR, *, card: int | None = None, seconds: Seconds | None = None
    ) -> None:
        """NVML answers this error, to questions about one card or to all; for a time, or until it is mended."""
        where = DRIVER if card is None else card
        until = 0 if seconds is None else time.monotonic_ns() + int(seconds * 1e9)
        self._turn(Knob.DRIVER_ERROR_UNTIL_NS, where, until)
        self._turn(Knob.DRIVER_ERROR, where, error)

    def mend_driver(self) -> None:
        for where in (DRIVER, *self.cards):
            self._turn(Knob.DRIVER_ERROR, where, 0)

    def tell_processes(self, how: Telling) -> None:
        self._turn(Knob.TELLING, 0, how.value)

    # --- others

    @contextlib.contextmanager
    def foreign(
        self, size: Size = 0, card: int = 0, *, name: str = "bystander", draws: bool = False
    ) -> Iterator[Foreign]:
        """Another program of this name holds memory while the block runs; MemoryError where it is not free.

        `draws`: NVML lists it among the graphics processes.
        """
        other = self.start_foreign(name, draws=draws)
        try:
            other.hold(size, card)
            yield other
        finally:
            other.end()

    def start_foreign(self, name: str = "bystander", *, draws: bool = False) -> Foreign:
        """One that comes and goes as the test likes; at the latest it ends with the cards."""
        folder = self._folder / "programs"
        folder.mkdir(exist_ok=True)
        program = folder / name
        if not program.exists():
            shutil.copy(self._libraries.bystander, program)
        other = Foreign(self, subprocess.Popen([program], stdin=subprocess.PIPE), draws)
        self._exits.callback(other.end)
        return other

    def crowd(self, pid: int, card: int, size: Bytes, *, draws: bool = False) -> bool:
        """Book exactly so many bytes to a live process; False where they are not free."""
        return bool(self._library.softgpu_crowd(self._ledger, pid, card, size, draws))

    def give_back(self, pid: int, card: int, size: Bytes) -> None:
        self._library.softgpu_give(self._ledger, pid, card, size)

    # --- inside

    def _turn(self, knob: Knob, card: int, value: int) -> None:
        self._library.softgpu_turn(self._ledger, knob, card, value)

    def _order(self, fault: Fault, card: int, at_least: Bytes, skip: int, count: int, sparing: Collection[int]) -> None:
        spared = (ctypes.c_int32 * len(sparing))(*sparing)
        if not self._library.softgpu_order(self._ledger, fault, card, at_least, skip, count, spared, len(sparing)):
            raise ValueError("too many faults are ordered, or too many processes spared")


class Foreign:
    """A program that is not ours. It holds what the test says until it ends."""

    def __init__(self, gpu: SoftGPU, process: subprocess.Popen[bytes], draws: bool) -> None:
        self._gpu, self._process, self._draws = gpu, process, draws
        self.pid = process.pid

    def hold(self, size: Size, card: int = 0) -> None:
        """So much on this card from now on, be it more or less than before. MemoryError: not free, nothing changed."""
        change = parse_bytes(size) - self._gpu.holders(card).get(self.pid, 0)
        if change < 0:
            self._gpu.give_back(self.pid, card, -change)
        elif change and not self._gpu.crowd(self.pid, card, change, draws=self._draws):
            raise MemoryError(f"card {card} has {self._gpu.free(card)} bytes free, not {change}")

    def end(self) -> None:
        """As a program that quits: what it held returns after the lag. The second time nothing happens."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()
        self._gpu.is_empty()  # somebody has to look for its end to be noticed
