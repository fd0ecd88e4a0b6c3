"""The whole configuration as one frozen value, and how it comes about."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import psutil
from msgspec.structs import fields
from pydantic import ValidationError

from swapd import served
from swapd.config.problems import describe, problem
from swapd.config.sources import Sources
from swapd.config.tables import Model, Options, Preset, Root, kinds
from swapd.config.values import Context, with_base_folders
from swapd.core.messages import Overflow, Policy, Ranking
from swapd.errors import InvalidConfig
from swapd.generation import Sampling
from swapd.host import stores
from swapd.host.listen import TcpAddress, UnixAddress
from swapd.host.stores import Store
from swapd.served import ModelEntry
from swapd.units import Bytes, Tokens


@dataclass(frozen=True, slots=True)
class Settings:
    """Compared by content: a reload that changes nothing is equal."""

    policy: Policy
    listen: tuple[UnixAddress | TcpAddress, ...]
    api_keys: tuple[str, ...] = field(repr=False)
    """Of `api_keys` and `api_key_file` together; empty: nobody needs one."""
    allowed_hosts: tuple[str, ...]
    allowed_origins: tuple[str, ...]
    max_body: Bytes
    threads: int
    flash_attention: bool | None
    """None: llama.cpp decides."""
    catalog_dirs: tuple[Path, ...]
    stores: tuple[Store, ...]
    """Of the programs in `sources`, where they keep their models."""
    entries: Mapping[str, ModelEntry] = field(hash=False)
    routes: Mapping[str, tuple[str, ...]] = field(hash=False)
    models_dir: Path
    """Where models that are pulled go: the first of [catalog] dirs, or where programs keep their data."""
    allow_pull: bool
    state_dir: Path
    cache_dir: Path
    prompt_cache: Bytes
    """Saved prompt state, all of it; 0: nothing is saved."""
    source: Path | None = field(compare=False)
    """The file that was read; None: there is none."""


def load(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """The file (`path`, else SWAPD_CONFIG, else the default place, where absent is fine) and the environment.

    Raises InvalidConfig with every problem that was found.
    """
    named = path or (Path(environ["SWAPD_CONFIG"]) if environ.get("SWAPD_CONFIG") else None)
    file = (
        (named or Path(with_base_folders(environ)["XDG_CONFIG_HOME"], "swapd", "config.toml")).expanduser().absolute()
    )
    source = file if named or os.path.lexists(file) else None
    sources = Sources()
    if source is not None:
        sources.read_file(source)
    sources.read_environment(environ, kinds())
    context = Context(environ, source.parent if source else Path.cwd())
    tables = {table: {} for table in Root.model_fields} | sources.values
    try:
        root = Root.model_validate(tables, context=context)
    except ValidationError as error:
        raise InvalidConfig((*sources.problems, *describe(error, sources))) from None
    problems = [*sources.problems, *_contradictions(root, sources)]
    if problems:
        raise InvalidConfig(tuple(problems))
    return _settings(root, source, environ)


def _contradictions(root: Root, sources: Sources) -> list[str]:
    problems: list[str] = []
    for name, model in root.models.items():
        if model.kv_type != "f16" and root.engine.flash_attention is False:
            allowed = 'only "f16" while [engine] flash_attention is false: llama.cpp needs it for the others'
            problems.append(problem(("models", name, "kv_type"), model.kv_type, allowed, sources))
        of_presets = [(("presets", preset), options) for preset, options in model.presets.items()]
        for within, options in ((("options",), model.options), *of_presets):
            if options.max_tokens is not None and options.num_predict is not None:
                place = ("models", name, *within, "num_predict")
                problems.append(problem(place, options.num_predict, "the same as max_tokens; give one", sources))
    return problems


def _settings(root: Root, source: Path | None, environ: Mapping[str, str]) -> Settings:
    scheduler, memory, server = root.scheduler, root.memory, root.server
    return Settings(
        policy=Policy(
            keep_alive=scheduler.keep_alive,
            max_queue=server.max_queue,
            max_loaded=scheduler.max_loaded,
            max_wait=scheduler.max_wait,
            min_residency=scheduler.min_residency,
            load_timeout=scheduler.load_timeout,
            vram_reserve=memory.vram_reserve,
            vram_limit=memory.vram_limit,
            host_reserve=memory.host_reserve,
            overflow=Overflow(scheduler.overflow),
            ranking=Ranking(scheduler.policy),
            keeps_prompts=memory.prompt_cache > 0,
            prefetch=scheduler.prefetch,
            warm_cache=memory.warm_cache,
        ),
        listen=tuple(server.listen),
        api_keys=(*server.api_keys, *(server.api_key_file or ())),
        allowed_hosts=tuple(server.allowed_hosts),
        allowed_origins=tuple(server.allowed_origins),
        max_body=server.max_body,
        threads=root.engine.threads or _cores(),
        flash_attention=root.engine.flash_attention,
        catalog_dirs=tuple(root.catalog.dirs),
        stores=stores.places(root.catalog.sources, with_base_folders(environ)),
        entries=MappingProxyType({name: _entry(model) for name, model in root.models.items()}),
        routes=MappingProxyType(dict(root.routes)),
        models_dir=next(iter(root.catalog.dirs), Path(with_base_folders(environ)["XDG_DATA_HOME"], "swapd", "models")),
        allow_pull=server.allow_pull,
        state_dir=root.paths.state,
        cache_dir=root.paths.cache,
        prompt_cache=memory.prompt_cache,
        source=source,
    )


def _entry(model: Model) -> ModelEntry:
    return ModelEntry(
        path=str(model.path) if model.path else None,
        aliases=tuple(model.aliases),
        context=model.context,
        slots=model.slots,
        keep_alive=model.keep_alive,
        pin=model.pin,
        preload=model.preload,
        priority=model.priority,
        gpu_layers=model.gpu_layers,
        max_vram=model.max_vram,
        kv_type=model.kv_type,
        embedding=model.embedding,
        draft=model.draft,
        projector=model.projector,
        sampling=_sampling(model.options),
        max_tokens=_limit(model.options),
        stop=model.options.stop,
        lora=tuple((name, str(path)) for name, path in model.lora.items()),
        system=model.system,
        template=model.template,
        presets=tuple((name, _preset(preset)) for name, preset in model.presets.items()),
    )


def _preset(preset: Preset) -> served.Preset:
    return served.Preset(_sampling(preset), _limit(preset), preset.stop, preset.system)


def _limit(options: Options) -> Tokens | None:
    return _unless_negative(options.num_predict if options.max_tokens is None else options.max_tokens)


def _sampling(options: Options) -> Sampling:
    said = {field.name: getattr(options, field.name) for field in fields(Sampling)}
    return Sampling(**said | {"seed": _unless_negative(options.seed)})


def _unless_negative(number: int | None) -> int | None:
    return None if number is None or number < 0 else number


def _cores() -> int:
    """Physical cores this process may use: llama.cpp's threads spin, two on one core are slower than one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))
