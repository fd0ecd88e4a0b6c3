"""How long the core thinks: one `step` for each fact of a busy hour, at the size of a large household and of a crowd.

`python -m benchmarks decisions`. Virtual time; only the core is timed, in CPU time of its thread. Each life is lived
three times, the same each time, in a process that has nothing remembered yet, and of each step the least of the three
counts: what others who compute meanwhile take of caches and cores would else be most of the worst. Without garbage
collection, which the engine has wait until a step is over. The bars: one decision, for one model that is waited for,
under 1 ms with 50 models known and 10 resident; one step, which may take several, under 2 ms with 1,000 known, 20
resident and 10,000 waiting. And how long one measurement of this machine takes, which has to add less than 2 ms to an
answer.
"""

from __future__ import annotations

import contextlib
import gc
import heapq
import itertools
import multiprocessing
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from swapd.core import planner
from swapd.core.arithmetic import arithmetic, process_bytes
from swapd.core.messages import (
    Command,
    Event,
    GrantLease,
    MeasureMemory,
    MemoryMeasured,
    Overflow,
    PlacementSized,
    Policy,
    Ranking,
    RefuseRequest,
    RequestArrived,
    RequestEnded,
    SizePlacement,
    StartWorker,
    StopWorker,
    Usage,
    WorkerGone,
    WorkerLoaded,
)
from swapd.core.model import (
    HOST,
    Device,
    DeviceId,
    DeviceKind,
    Footprint,
    Placement,
    RequestId,
    ResidentId,
    Shape,
    Variant,
    VariantId,
)
from swapd.core.scheduler import step
from swapd.core.state import State
from swapd.host.memory import MachineMemory
from swapd.units import GiB, MiB, Seconds

LAYERS: Final = 32
LIVES: Final = 3
WORKERS: Final = 10
MEASUREMENTS: Final = 500
EACH: Final = 4 * GiB
"""About what a model takes: memory holds so many of them as shall be resident."""
ON_HOST: Final = 4
"""Of those that are offloaded so many have room on the host."""


@dataclass(frozen=True, slots=True)
class Case:
    """`waiting`: requests that are there before anything is timed."""

    ranking: Ranking
    overflow: Overflow
    cards: int
    known: int = 50
    resident: int = 10
    waiting: int = 0
    facts: int = 3000

    def __str__(self) -> str:
        return f"{self.ranking}, {self.overflow}, {self.cards} card{'s' if self.cards > 1 else ''}"


HOUSEHOLD: Final = tuple(Case(r, o, cards) for r in Ranking for o in Overflow for cards in (1, 2, 4))
CROWD: Final = tuple(
    Case(r, Overflow.AUTO, cards, known=1000, resident=20, waiting=10_000, facts=1000)
    for r in Ranking
    for cards in (1, 2, 4)
)


def main() -> None:
    for title, bar, cases in (
        ("50 models known, 10 resident", 1.0, HOUSEHOLD),
        ("1,000 models known, 20 resident, 10,000 requests waiting", 2.0, CROWD),
    ):
        print(f"\nmilliseconds, {title} (bar {bar:g}): decisions; steps that place somebody; all steps")
        for case in cases:
            lives = [_lived(case) for _ in range(LIVES)]
            deciding, placing, others = (
                [min(same) for same in zip(*times, strict=True)] for times in zip(*lives, strict=True)
            )
            for times in (deciding, placing, placing + others):
                print(f"  {case!s:24} {_figures(times, bar)}", flush=True)
    print(f"\nmilliseconds of one measurement of this machine with {WORKERS} workers, in a thread of its own")
    print(f"  {_figures(_measurements(), 2.0)}")


def _lived(case: Case) -> tuple[list[Seconds], list[Seconds], list[Seconds]]:
    """Seconds of each decision, of each step that places somebody and of each of the others."""
    with multiprocessing.get_context("fork").Pool(1) as process:
        return process.apply(_times, (case,))


def _times(case: Case) -> tuple[list[Seconds], list[Seconds], list[Seconds]]:
    gc.disable()
    life = Life(case)
    life.live()
    return life.deciding, life.placing, life.others


def _measurements() -> list[Seconds]:
    """With processes that only sleep in the place of workers. A request that finds its model ready waits for none."""
    times: list[Seconds] = []
    with contextlib.ExitStack() as stack:
        memory = stack.enter_context(contextlib.closing(MachineMemory()))
        workers: dict[ResidentId, int] = {}
        for number in range(WORKERS):
            sleeper = [sys.executable, "-c", "import sys; sys.stdin.read()"]
            process = stack.enter_context(subprocess.Popen(sleeper, stdin=subprocess.PIPE))
            workers[ResidentId(number)] = process.pid
        for _ in range(MEASUREMENTS):
            began = time.perf_counter()
            memory.measure(workers)
            times.append(time.perf_counter() - began)
    return times


def _figures(seconds: list[Seconds], bar: float) -> str:
    times = sorted(1e3 * each for each in seconds)
    p99 = times[int(0.99 * (len(times) - 1))]
    over = sum(each > bar for each in times)
    return (
        f"{len(times):5}: median {statistics.median(times):.2f}, p99 {p99:.2f}, worst {times[-1]:.2f},"
        f" over the bar {over}"
    )


@contextlib.contextmanager
def _timed(question: str, times: list[Seconds]) -> Iterator[None]:
    """Every call of this function of the planner."""
    asked = getattr(planner, question)

    def ask(*args: object) -> object:
        began = time.thread_time()
        answer = asked(*args)
        times.append(time.thread_time() - began)
        return answer

    setattr(planner, question, ask)
    try:
        yield
    finally:
        setattr(planner, question, asked)


class Life:
    """A machine that does what the core orders, and people who ask: some models often, most seldom."""

    def __init__(self, case: Case) -> None:
        self._case, self._chance = case, random.Random(7)
        self._variants = [_variant(number, self._chance) for number in range(case.known)]
        weights = [1 / (1 + number) for number in range(case.known)]
        self._popularity = list(itertools.accumulate(weights))
        policy = Policy(
            ranking=case.ranking, overflow=case.overflow, keep_alive=1800.0, max_queue=10**6, vram_reserve=512 * MiB
        )
        self.state = State(policy=policy)
        self._host = policy.host_reserve + (ON_HOST + 1) * EACH
        beside = ON_HOST if case.overflow is Overflow.OFFLOAD else 0
        self._card = (case.resident - beside) * EACH // case.cards + policy.vram_reserve
        self._agenda: list[tuple[Seconds, int, Event]] = []
        self._numbers = itertools.count()
        self.placing: list[Seconds] = []
        """Of steps that order a load, an end or a sizing."""
        self.others: list[Seconds] = []
        self.deciding: list[Seconds] = []
        """For one of those that are waited for."""

    def live(self) -> None:
        with _timed("decide", self.deciding):
            self._live()

    def _live(self) -> None:
        for event in self._asked(self._case.waiting, 0.0):
            self._tell(event)
        for times in (self.placing, self.others, self.deciding):
            times.clear()
        while len(self.placing) + len(self.others) < self._case.facts:
            if not self._agenda or self._chance.random() < 0.3:
                at = self.state.now + self._chance.expovariate(2.0)
                for event in self._asked(1, at):
                    self._plan(at, event)
            self._tell(heapq.heappop(self._agenda)[2])

    def _asked(self, count: int, at: Seconds) -> Iterator[Event]:
        for variant in self._chance.choices(self._variants, cum_weights=self._popularity, k=count):
            yield RequestArrived(at, RequestId(f"r{next(self._numbers)}"), variant)

    def _plan(self, at: Seconds, event: Event) -> None:
        heapq.heappush(self._agenda, (at, next(self._numbers), event))

    def _tell(self, event: Event) -> None:
        before = self.state
        began = time.thread_time()
        self.state, commands = step(before, event)
        took = time.thread_time() - began
        is_placing = any(isinstance(command, StartWorker | StopWorker | SizePlacement) for command in commands)
        (self.placing if is_placing else self.others).append(took)
        for command in commands:
            self._perform(command)

    def _perform(self, command: Command) -> None:
        now = self.state.now
        match command:
            case StartWorker(resident):
                self._plan(now + self._chance.uniform(1.0, 4.0), WorkerLoaded(now, resident))
            case StopWorker(resident):
                self._plan(now + 0.3, WorkerGone(now, resident))
            case GrantLease(request):
                took = self._chance.uniform(1.0, 20.0)
                self._plan(now + took, RequestEnded(now + took, request, Usage(500, 100, 200, 0.2 * took, 0.8 * took)))
            case MeasureMemory():
                self._plan(now, MemoryMeasured(now, self._devices()))
            case SizePlacement(variant, placement):
                self._plan(now + 0.1, PlacementSized(now + 0.1, variant.id, placement, _sized(variant, placement)))
            case RefuseRequest(request):
                raise AssertionError(f"{request} is refused: {command.reason}")
            case _:
                pass

    def _devices(self) -> tuple[Device, ...]:
        """As a driver that counts honestly tells them; a process takes 400 MiB besides."""
        cards = [DeviceId(f"cuda:{number}") for number in range(self._case.cards)]
        devices: list[Device] = []
        for device in (*cards, HOST):
            kind = DeviceKind.HOST if device == HOST else DeviceKind.GPU
            total = self._host if device == HOST else self._card
            held = self.state.held()[device]
            listed = tuple((r.id, r.takes(device)) for r in self.state.residents.values() if r.takes(device))
            devices.append(Device(device, device, kind, "made up", total, max(0, total - held), listed))
        return tuple(devices)


def _variant(number: int, chance: random.Random) -> Variant:
    """A dense model with its layers told one by one, as from a header; its cache and the rest take 1.5 GiB more."""
    weights = int(chance.uniform(0.5, 1.5) * (EACH - 1536 * MiB))
    each = weights // (LAYERS + 2)
    shape = Shape(
        "llama",
        LAYERS,
        4096,
        32,
        (8,) * LAYERS,
        128,
        128,
        128_256,
        131_072,
        weights,
        feed_forward=14_336,
        layer_weights=(each,) * LAYERS,
        host_weights=tuple(each * (1 + layers) for layers in range(LAYERS + 2)),
        output_weights=each,
    )
    name = f"model-{number}"
    return Variant(VariantId(name), name, f"/{name}.gguf", shape, 2048, 4)


def _sized(variant: Variant, placement: Placement) -> Footprint:
    said = arithmetic(variant, placement)
    return Footprint.of({**dict(said.parts), HOST: said[HOST] - process_bytes(variant)})


__all__ = ["Case", "Life", "main"]
