"""All workers: one per resident, and a spare that has its imports done. Implements `runtime.ports.Workers`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from types import TracebackType
from typing import Any, Final, Self

import structlog

from swapd import wire
from swapd.core.model import Placement, ResidentId, Variant
from swapd.errors import Death, WorkerFailed
from swapd.generation import GenerationRequest
from swapd.pool.link import Stream
from swapd.pool.prompts import PromptStore
from swapd.pool.threads import Cores, Dealer
from swapd.pool.worker import Worker
from swapd.questions import Question, Reply, VocabularyQuestion
from swapd.units import Seconds

START: Final[Seconds] = 10.0
"""So long who asks for the cards waits for a spare that is starting."""
ANSWER: Final[Seconds] = 1.0
"""So long a spare may take to tell what is free on them."""
FIRST: Final[Seconds] = 1.0
"""So long the next spare waits for the newcomer's first token, if it is asked for one."""
AGAIN: Final[Seconds] = 60.0
"""A spare that cannot start is tried again after a second, each time after twice as long, at most after this."""
PING_EVERY: Final[Seconds] = 20.0
SAVE: Final[Seconds] = 1.0
"""So long a worker that leaves may save its conversations: others wait for its memory."""
SILENCE: Final[Seconds] = 300.0
"""A loaded worker that has not said a word for so long, though pinged, hangs."""

log = structlog.get_logger("swapd.pool")


class Pool:
    """Use as an async context manager: leaving it ends every worker."""

    def __init__(self, threads: int, cores: Cores, prompts: PromptStore | None = None) -> None:
        """`threads` at most of all workers together, fewer while other programs use the cores.

        `prompts`: where conversations are kept whose model leaves; None: nowhere.
        """
        self._prompts = prompts
        self._dealer = Dealer(threads, cores, lambda: self.pids().values(), self._is_starting_one)
        self._workers: dict[ResidentId, Worker] = {}
        self._loaded: set[ResidentId] = set()
        self._starting: dict[ResidentId, bool] = {}
        """Residents that get a process just now; False: stopped meanwhile."""
        self._spare: Worker | None = None
        self._sparing: asyncio.Task[None] | None = None
        """Ends when the spare is there, its imports done."""
        self._pause: Seconds = 0.0
        """Since the last spare that could not start until the next is tried; 0: the last one could."""
        self._again_at: Seconds = 0.0
        self._build: str | None = None
        self._cards: tuple[wire.Card, ...] = ()
        self._loop = asyncio.get_running_loop()
        self._died: Callable[[ResidentId, WorkerFailed], None] = lambda resident, failure: None
        self._tasks = asyncio.TaskGroup()
        self._is_closing = False

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._want_spare()
        self._watcher = self._tasks.create_task(self._watch(), name="watch workers")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_closing = True
        self._watcher.cancel()
        self._dealer.close()
        for worker in (*self._workers.values(), *filter(None, [self._spare])):
            worker.kill()
        await self._tasks.__aexit__(kind, error, trace)

    # --- the port

    async def start(
        self,
        resident: ResidentId,
        variant: Variant,
        placement: Placement,
        pci: tuple[str, ...],
        progressed: Callable[[float], None],
    ) -> None:
        worker = self._workers.get(resident)
        if worker is None:
            worker = await self._new(resident)
        else:
            await self._save(worker)
        build = (await worker.started).build
        order = wire.Load(
            path=variant.path,
            context=variant.context,
            slots=variant.slots,
            gpu_layers=placement.gpu_layers,
            devices=pci,
            micro_batch=placement.micro_batch,
            kv_type=variant.kv_type,
            flash_attention=variant.flash_attention,
            threads=self._dealer.threads,
            expert_layers_on_cpu=placement.experts_on_cpu,
            tensor_split=placement.split,
            adapters=tuple(wire.Adapter(each.name, each.path, each.content) for each in variant.adapters),
            prompts=self._prompts.order(variant, build) if self._prompts is not None else None,
            pooling=variant.pooling,
            speculates=variant.speculates,
            draft=variant.draft.path if variant.draft is not None else "",
            projector=variant.projector.path if variant.projector is not None else "",
            sees_whole=variant.projector is not None and variant.projector.sees_whole,
        )
        worker.saved = self._keep_prompt
        try:
            await worker.load(order, progressed)
            self._loaded.add(resident)
            worker.ended.add_done_callback(lambda ended: self._ended(resident, worker, ended))
        finally:
            if not self._is_closing:  # only now, so that the spare's imports do not slow the load
                self._want_spare(worker)

    async def _new(self, resident: ResidentId) -> Worker:
        self._starting[resident] = True
        try:
            worker = await self._take_spare()
        finally:
            is_wanted = self._starting.pop(resident)
        if not is_wanted:
            worker.kill()
            raise WorkerFailed(Death.CRASHED, "stopped before it started")
        self._workers[resident] = worker
        return worker

    def hand_on(self, resident: ResidentId, heir: ResidentId) -> None:
        self._loaded.discard(resident)
        if (worker := self._workers.pop(resident, None)) is not None:
            self._workers[heir] = worker

    async def stop(self, resident: ResidentId) -> None:
        worker = self._workers.get(resident)
        if worker is None:
            if resident in self._starting:
                self._starting[resident] = False
            return
        is_loaded = resident in self._loaded
        self._loaded.discard(resident)
        if is_loaded:
            await self._save(worker)
        await worker.stop()
        self._workers.pop(resident, None)

    async def generate(self, resident: ResidentId, request: GenerationRequest) -> Stream:
        worker = self._workers.get(resident)
        if worker is None:
            raise WorkerFailed(Death.CRASHED, "it is gone")
        if self._prompts is not None and worker.prompts is not None:
            await self._prompts.wait_sealed(worker.prompts)
        self._dealer.begin(worker)
        try:
            return worker.open(request, lambda: self._dealer.end(worker))
        except WorkerFailed:
            self._dealer.end(worker)
            raise

    async def ask(self, resident: ResidentId, question: Question) -> Reply:
        worker = self._workers.get(resident)
        if worker is None:
            raise WorkerFailed(Death.CRASHED, "it is gone")
        if isinstance(question, VocabularyQuestion):
            return await worker.ask(question, "")
        with self._dealer.computing(worker):
            return await worker.ask(question, "")

    def pids(self) -> Mapping[ResidentId, int]:
        return {resident: worker.pid for resident, worker in self._workers.items() if not worker.ended.done()}

    def notify_deaths(self, died: Callable[[ResidentId, WorkerFailed], None]) -> None:
        self._died = died

    # --- what workers tell of this machine

    def build(self) -> str | None:
        """llama.cpp's version; None until the first spare has started."""
        return self._build

    async def wait_build(self) -> str | None:
        """`build` once the first spare has started; None when it could not."""
        if self._build is None and self._sparing is not None:
            await asyncio.wait([self._sparing])
        return self._build

    def devices(self) -> tuple[wire.Card, ...] | None:
        """The cards that only ggml can measure (`wire.Started.cards`), asked of the spare now; None: no answer.

        Blocks for milliseconds, and longer while the spare is starting: call it in a thread. While a load has taken
        the spare, the last answer: the load under way is not in it.
        """
        if self._build is not None and not self._cards:
            return ()
        asking = asyncio.run_coroutine_threadsafe(self._ask_cards(), self._loop)
        try:
            return asking.result(START + ANSWER)
        except (TimeoutError, CancelledError):
            asking.cancel()
            return None

    async def _ask_cards(self) -> tuple[wire.Card, ...] | None:
        is_due = self._loop.time() >= self._again_at
        if self._spare is not None and self._spare.ended.done() and is_due and not self._is_closing:
            self._want_spare()
        if self._sparing is not None:
            await asyncio.wait([self._sparing], timeout=START)
        if self._cards and self._spare is not None:
            try:
                async with asyncio.timeout(ANSWER):
                    self._cards = (await self._spare.ping()).cards or self._cards
            except (TimeoutError, WorkerFailed):
                return None
        return self._cards if self._build is not None else None

    # --- inside

    def _is_starting_one(self) -> bool:
        return any(not worker.started.done() for worker in (*self._workers.values(), *filter(None, [self._spare])))

    def _want_spare(self, newcomer: Worker | None = None) -> None:
        """Soon: the imports take a core, which the newcomer needs for its first prompt."""
        if self._sparing is None or self._sparing.done():
            self._sparing = self._tasks.create_task(self._keep_spare(newcomer), name="spare")

    async def _save(self, worker: Worker) -> None:
        if self._prompts is not None and self._prompts.is_on:
            await worker.save(SAVE)

    def _keep_prompt(self, saved: wire.Saved) -> None:
        if self._prompts is not None and not self._is_closing:
            self._prompts.sealing(saved, self._tasks)

    def _ended(self, resident: ResidentId, worker: Worker, ended: asyncio.Future[WorkerFailed]) -> None:
        if resident in self._loaded and self._workers.get(resident) is worker and not self._is_closing:
            self._loaded.discard(resident)
            self._died(resident, ended.result())

    async def _spawn(self) -> Worker:
        worker = await Worker.spawn()
        self._tasks.create_task(worker.listen(), name=f"worker {worker.pid}")
        self._tasks.create_task(worker.overhear(), name=f"stderr of worker {worker.pid}")
        if self._is_closing:
            worker.kill()
        return worker

    async def _keep_spare(self, newcomer: Worker | None) -> None:
        if newcomer is not None and not self._cards:  # of which only a spare tells what is free there
            news: list[asyncio.Future[Any]] = [newcomer.spoke, newcomer.ended]
            await asyncio.wait(news, timeout=FIRST, return_when=asyncio.FIRST_COMPLETED)
        if self._is_closing or (self._spare is not None and not self._spare.ended.done()):
            return
        try:
            self._spare = spare = await self._spawn()
            started = await spare.started
        except (OSError, WorkerFailed) as error:
            self._pause = min(AGAIN, 2 * self._pause or 1.0)
            self._again_at = self._loop.time() + self._pause
            if not self._is_closing:
                log.warning("no spare worker", reason=str(error))
        else:
            self._pause = 0.0
            self._build, self._cards = started.build, started.cards

    async def _take_spare(self) -> Worker:
        """A worker without a model. Raises WorkerFailed."""
        spare, self._spare = self._spare, None
        if spare is not None and not spare.ended.done():
            return spare
        try:
            return await self._spawn()
        except OSError as error:
            raise WorkerFailed(Death.CRASHED, f"no process can be started: {error}") from error

    async def _watch(self) -> None:
        """Kill workers that hang: their death is then noticed as any other."""
        while True:
            await asyncio.sleep(PING_EVERY)
            now = asyncio.get_running_loop().time()
            for resident in self._loaded:
                worker = self._workers[resident]
                worker.send(wire.Ping())
                if now - worker.heard_at > SILENCE:
                    log.warning("worker hangs", pid=worker.pid, silent_s=round(now - worker.heard_at))
                    worker.kill()
