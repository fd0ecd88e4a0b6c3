"""The composition root: settings -> parts -> run -> drain. The only file that names every concrete class."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import structlog
from aiohttp import web

from swapd import __version__
from swapd.api.app import GUARD, RUNNER_OPTIONS, GuardSettings, make_app
from swapd.api.patience import ASKED, close_silent
from swapd.api.pulling import HUB
from swapd.config import Settings, load
from swapd.core.messages import LessonsRead, PolicyChanged, StopRequested, UnloadRequested
from swapd.errors import InvalidConfig
from swapd.host.catalog import Catalog
from swapd.host.cores import Cores
from swapd.host.hub import Hub
from swapd.host.listen import TcpAddress, UnixAddress, inherited, open_tcp, open_unix
from swapd.host.memory import MachineMemory
from swapd.host.pagecache import PageCache
from swapd.pool.clerk import Clerk
from swapd.pool.pool import Pool
from swapd.pool.prompts import PromptStore
from swapd.pool.sizer import Sizer
from swapd.runtime.engine import Engine
from swapd.runtime.gateway import Gateway
from swapd.runtime.journal import Journal
from swapd.runtime.learnt import Learnt
from swapd.runtime.lending import wait_measured
from swapd.runtime.recorder import Recorder
from swapd.runtime.sdnotify import notify, watchdog_interval
from swapd.units import Seconds

DRAIN: Final[Seconds] = 20.0
"""How long live answers may go on after SIGTERM."""
FORCE: Final[Seconds] = 8.0
"""How long ending the workers may take after that."""
_CLOSE: Final[Seconds] = 2.0
_GARBAGE: Final = 20_000
"""So many objects more than went are made before it is looked for cycles among them. An answer makes a thousand and
leaves none behind; looked for as often as Python does by itself, each request took a tenth longer."""

log = structlog.get_logger("swapd")


@dataclass(frozen=True)
class Daemon:
    """A running daemon, for whoever made it."""

    gateway: Gateway
    engine: Engine
    addresses: tuple[str, ...]
    """As a user would write them: `http://127.0.0.1:11435`, `unix:/run/…/swapd.sock`."""


@contextlib.contextmanager
def open_sockets(settings: Settings, environ: MutableMapping[str, str]) -> Iterator[list[socket.socket]]:
    """What the service manager hands over, else what the configuration says; closed, and ours removed, at the end.

    Raises CannotStart.
    """
    with contextlib.ExitStack() as stack:
        sockets = inherited(environ)
        for address in () if sockets else settings.listen:
            match address:
                case UnixAddress(path):
                    sockets.append(open_unix(path))
                    stack.callback(path.unlink, missing_ok=True)
                case TcpAddress(host, port):
                    sockets.append(open_tcp(host, port))
            stack.callback(sockets[-1].close)
        yield sockets


async def serve(
    path: Path | None, settings: Settings, sockets: Sequence[socket.socket], environ: Mapping[str, str]
) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reads the configuration at `path` again. A second SIGTERM hurries."""
    stop, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def end() -> None:
        (hurry if stop.is_set() else stop).set()

    async with running(settings, sockets, reread=lambda: load(path, environ), hurry=hurry) as daemon:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, end)
        loop.add_signal_handler(signal.SIGHUP, lambda: daemon.engine.spawn(_reload_on_signal(daemon), "reload"))
        gc.collect()
        gc.set_threshold(_GARBAGE, 20, 20)
        gc.freeze()  # what is there now stays: looking through it again would hold up answers for 20 ms each time
        notify("READY=1", f"STATUS=serving on {', '.join(daemon.addresses)}")
        log.info("serving", version=__version__, on=list(daemon.addresses), models=len(daemon.gateway.models()))
        daemon.gateway.preload()
        await stop.wait()
        notify("STOPPING=1")
        log.info("stopping", drain_s=DRAIN)


@contextlib.asynccontextmanager
async def running(
    settings: Settings,
    sockets: Sequence[socket.socket],
    *,
    reread: Callable[[], Settings] | None = None,
    hurry: asyncio.Event | None = None,
) -> AsyncIterator[Daemon]:
    """A daemon that serves for as long as the block runs and then drains.

    A bug in the core or a part that breaks ends the block with its exception.
    """
    prompts = PromptStore(settings.cache_dir, settings.prompt_cache)
    pool, sizer, clerk = Pool(settings.threads, Cores(), prompts), Sizer(), Clerk()
    memory = MachineMemory(extra=pool.devices)
    catalog, hub = make_catalog(settings), Hub(settings.models_dir)
    try:
        await asyncio.to_thread(catalog.scan)
        await asyncio.to_thread(prompts.prepare)
        for problem in catalog.problems():
            log.warning("catalog", problem=problem)
        async with (
            Learnt(settings.state_dir / "learnt.json") as learnt,
            Recorder(settings.state_dir, time.monotonic, time.time) as recorder,
            pool,
            sizer,
            clerk,
            asyncio.TaskGroup() as tasks,
        ):
            engine = Engine(
                pool, sizer, memory, learnt, PageCache(), time.monotonic, settings.policy, Journal(recorder)
            )
            started = asyncio.Event()
            engine_task = tasks.create_task(engine.run(started.set), name="engine")
            await started.wait()
            recall = tasks.create_task(_recall(learnt, pool, catalog, engine), name="recall lessons")
            current = settings

            async def reload() -> None:
                nonlocal current
                current = await _reload(reread, current, catalog, engine, gateway, app)
                await prompts.limit(current.prompt_cache)

            gateway = Gateway(engine, pool, clerk, catalog, reload)
            app = make_app(gateway, guard_settings(settings), hub)
            runner = web.AppRunner(app, shutdown_timeout=_CLOSE, **RUNNER_OPTIONS)
            await runner.setup()
            for listener in sockets:
                await web.SockSite(runner, listener).start()
            assert runner.server is not None
            silent = tasks.create_task(close_silent(runner.server, app[ASKED]), name="close silent connections")
            watchdog = tasks.create_task(_feed_watchdog(engine), name="watchdog")
            try:
                yield Daemon(gateway, engine, tuple(_address(listener) for listener in sockets))
            finally:
                try:
                    await _drain(engine, hurry or asyncio.Event())
                finally:
                    await runner.cleanup()
                    # recall may wait for what an ended engine never tells
                    for task in (silent, watchdog, recall, engine_task):
                        task.cancel()
    finally:
        memory.close()


def make_catalog(settings: Settings) -> Catalog:
    """Not yet scanned."""
    return Catalog(
        folders(settings),
        settings.entries,
        settings.routes,
        flash_attention=settings.flash_attention,
        stores=settings.stores,
    )


def folders(settings: Settings) -> tuple[Path, ...]:
    """Those that are scanned; where none is named, the one for what is pulled, which is made."""
    if not settings.catalog_dirs:
        with contextlib.suppress(OSError):
            settings.models_dir.mkdir(parents=True, exist_ok=True)
            return (settings.models_dir,)
    return settings.catalog_dirs


def guard_settings(settings: Settings) -> GuardSettings:
    return GuardSettings(
        allowed_hosts=settings.allowed_hosts,
        allowed_origins=settings.allowed_origins,
        api_keys=settings.api_keys,
        max_body=settings.max_body,
        allow_pull=settings.allow_pull,
    )


async def _reload(
    reread: Callable[[], Settings] | None,
    old: Settings,
    catalog: Catalog,
    engine: Engine,
    gateway: Gateway,
    app: web.Application,
) -> Settings:
    """Take the configuration over, all of it or nothing. Raises InvalidConfig."""
    new = old if reread is None else await asyncio.to_thread(reread)
    catalog.configure(folders(new), new.entries, new.routes, flash_attention=new.flash_attention, stores=new.stores)
    app[GUARD].settings = guard_settings(new)
    app[HUB].folder = new.models_dir
    engine.post(PolicyChanged(engine.now(), new.policy))
    await gateway.rescan()
    _retire_unreachable(catalog, engine)
    for problem in catalog.problems():
        log.warning("catalog", problem=problem)
    kept = replace(new, listen=old.listen, threads=old.threads, cache_dir=old.cache_dir)
    if kept != new:
        log.warning("[server] listen, [engine] threads and [paths] cache count only after a restart")
    log.info("reloaded", source=str(new.source or "defaults"), models=len(gateway.models()))
    return kept


def _retire_unreachable(catalog: Catalog, engine: Engine) -> None:
    """Unload, after their answers, what no name stands for any more: its settings or its file have changed.

    But for idle ones whose weights another context can be made for: the next request has that done.
    """
    reachable = {variant.id: variant for model in catalog.models() for variant in model.variants}
    for resident in tuple(engine.state.residents.values()):
        if resident.variant.id in reachable:
            continue
        has_heir = any(variant.has_weights_of(resident.variant) for variant in reachable.values())
        if not (has_heir and engine.state.is_idle(resident)):
            engine.post(UnloadRequested(engine.now(), resident.variant.id))


async def _recall(learnt: Learnt, pool: Pool, catalog: Catalog, engine: Engine) -> None:
    """Tell the engine what earlier runs have learnt of today's models with this build of llama.cpp."""
    build = await pool.wait_build()
    if build is not None:
        variants = {variant.id for model in catalog.models() for variant in model.variants}
        await wait_measured(engine)
        learnt.recognise(engine.state.devices)
        engine.post(
            LessonsRead(
                engine.now(),
                learnt.lessons(variants, build),
                tuple(learnt.overheads(build).items()),
                learnt.measurements(variants, build),
                learnt.floors(variants, build),
                learnt.loads(variants),
            )
        )


async def _reload_on_signal(daemon: Daemon) -> None:
    notify("STATUS=reading the configuration again")
    try:
        await daemon.gateway.reload()
    except InvalidConfig as error:
        log.error("cannot reload; the running configuration stays", problems=list(error.problems))
    notify(f"STATUS=serving on {', '.join(daemon.addresses)}")


async def _drain(engine: Engine, hurry: asyncio.Event) -> None:
    """Nothing new; live answers may finish; then every worker ends, by force if it must be."""
    if not engine.is_running:
        return
    engine.post(StopRequested(engine.now()))
    await _wait_empty(engine, DRAIN, hurry)
    if engine.state.residents:
        log.warning("ending live answers")
        for resident in tuple(engine.state.residents.values()):
            engine.post(UnloadRequested(engine.now(), resident.variant.id, force=True))
        await _wait_empty(engine, FORCE, asyncio.Event())


async def _wait_empty(engine: Engine, limit: Seconds, hurry: asyncio.Event) -> None:
    """Until no resident is left, the limit has passed, or somebody hurries."""

    async def empty() -> None:
        while engine.state.residents:
            await engine.next_change()

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit), asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(empty())
            hurried = tasks.create_task(hurry.wait())
            await asyncio.wait({waiting, hurried}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            hurried.cancel()


async def _feed_watchdog(engine: Engine) -> None:
    """Tell the service manager that we live for as long as the engine does."""
    interval = watchdog_interval(os.environ)
    while interval is not None and engine.is_running:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval)


def _address(listener: socket.socket) -> str:
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
