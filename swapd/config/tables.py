"""What config.toml may say: every table, every key, what is allowed and what holds when nothing is said.

The top-level config.toml documents these tables for people; a test compares the two. What a
single value may be is in `values.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

from pydantic import BaseModel, ConfigDict, Field

from swapd.config.values import (
    Address,
    Count,
    Duration,
    FilePath,
    FiniteDuration,
    FlagOrAuto,
    Host,
    Key,
    KeysInFile,
    LayersOrAuto,
    Name,
    NoServers,
    Origin,
    Penalty,
    PresetName,
    ProjectorFile,
    Share,
    Size,
    SizeOrAuto,
    SomeDuration,
    Targets,
    TextFile,
    Texts,
    ThreadsOrAuto,
)
from swapd.units import GiB, MiB


def _as_written(default: object, **limits: Any) -> Any:
    """A default in the file's own spelling, checked like a value from there."""
    return Field(default=default, **limits)


class Table(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class Server(Table):
    listen: list[Address] = _as_written(["unix:$XDG_RUNTIME_DIR/swapd/swapd.sock", "127.0.0.1:11435"], min_length=1)
    api_keys: list[Key] = []
    api_key_file: KeysInFile | None = Field(default=None, validate_default=False)
    allowed_hosts: list[Host] = []
    allowed_origins: list[Origin] = []
    allow_pull: bool = False
    max_body: Size = 32 * MiB
    max_queue: Annotated[int, Field(ge=1, lt=2**31)] = 512


class Memory(Table):
    vram_reserve: Size = 512 * MiB
    vram_limit: Share = "100%"
    host_reserve: Size = 2 * GiB
    prompt_cache: Size = 2 * GiB
    warm_cache: SizeOrAuto = _as_written("auto")
    rpc: NoServers = _as_written([])


class Engine(Table):
    threads: ThreadsOrAuto = _as_written("auto")
    flash_attention: FlagOrAuto = _as_written("auto")


class Scheduler(Table):
    keep_alive: Duration = _as_written("5m")
    policy: Literal["cost", "lru"] = "cost"
    overflow: Literal["evict", "offload", "auto"] = "auto"
    max_loaded: Count = 0
    max_wait: Duration = _as_written("30s")
    min_residency: FiniteDuration = _as_written("2s")
    prefetch: bool = True
    load_timeout: SomeDuration = _as_written("5m")


class Catalog(Table):
    dirs: list[FilePath] = []
    sources: list[Literal["huggingface", "ollama", "lmstudio", "llama.cpp"]] = [
        "huggingface",
        "ollama",
        "lmstudio",
        "llama.cpp",
    ]


class Paths(Table):
    state: FilePath = _as_written("$XDG_STATE_HOME/swapd")
    cache: FilePath = _as_written("$XDG_CACHE_HOME/swapd/prompts")


class Options(Table):
    """Sampling defaults by llama.cpp's and Ollama's names; -1 as in Ollama: any seed, no limit of tokens."""

    model_config = ConfigDict(validate_default=False)

    temperature: Annotated[float | None, Field(ge=0, le=100)] = None
    top_k: Count | None = None
    top_p: Annotated[float | None, Field(ge=0, le=1)] = None
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    repeat_penalty: Annotated[float | None, Field(gt=0, le=10)] = None
    repeat_last_n: Annotated[int | None, Field(ge=-1, lt=2**31)] = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Annotated[int | None, Field(ge=-1, lt=2**32)] = None
    typical_p: Annotated[float | None, Field(ge=0, le=1)] = None
    top_n_sigma: Annotated[float | None, Field(ge=-1, le=100)] = None
    min_keep: Count | None = None
    xtc_probability: Annotated[float | None, Field(ge=0, le=1)] = None
    xtc_threshold: Annotated[float | None, Field(ge=0, le=1)] = None
    dynatemp_range: Annotated[float | None, Field(ge=0, le=100)] = None
    dynatemp_exponent: Annotated[float | None, Field(ge=0, le=100)] = None
    mirostat: Annotated[int | None, Field(ge=0, le=2)] = None
    mirostat_tau: Annotated[float | None, Field(ge=0, le=100)] = None
    mirostat_eta: Annotated[float | None, Field(ge=0, le=1)] = None
    dry_multiplier: Annotated[float | None, Field(ge=0, le=100)] = None
    dry_base: Annotated[float | None, Field(ge=1, le=100)] = None
    dry_allowed_length: Count | None = None
    dry_penalty_last_n: Annotated[int | None, Field(ge=-1, lt=2**31)] = None
    dry_sequence_breakers: Texts | None = Field(default=None, validate_default=False)
    max_tokens: Annotated[int | None, Field(ge=-2, lt=2**31)] = None
    num_predict: Annotated[int | None, Field(ge=-2, lt=2**31)] = None
    stop: Texts = ()


class Preset(Options):
    system: str = ""


class Model(Table):
    path: FilePath | None = Field(default=None, validate_default=False)
    aliases: list[Name] = []
    context: Annotated[int | None, Field(ge=16, lt=2**31)] = None
    slots: Annotated[int | None, Field(ge=1, le=256)] = None
    keep_alive: Duration | None = Field(default=None, validate_default=False)
    pin: bool = False
    preload: bool = False
    priority: Annotated[int, Field(ge=-(2**31), lt=2**31)] = 0
    gpu_layers: LayersOrAuto = _as_written("auto")
    max_vram: Share | Literal[""] = ""
    kv_type: Literal["f16", "q8_0", "q4_0"] = "f16"
    embedding: bool = False
    draft: Literal[""] | Name = ""
    projector: ProjectorFile = ""
    system: str = ""
    template: TextFile = ""
    lora: dict[Name, FilePath] = {}
    options: Options = Options()
    presets: dict[PresetName, Preset] = {}


class Root(Table):
    server: Server
    memory: Memory
    engine: Engine
    scheduler: Scheduler
    catalog: Catalog
    paths: Paths
    models: dict[Name, Model]
    routes: dict[Name, Targets]


def kinds() -> dict[str, dict[str, type]]:
    """For each table its keys, and `list`, `str` or `object` for how a variable's text is to be read."""
    tables = {name: field.annotation for name, field in Root.model_fields.items()}
    tables["models"] = Model
    return {
        name: {key: _kind(field.annotation) for key, field in table.model_fields.items()}
        if isinstance(table, type) and issubclass(table, Table)
        else {}
        for name, table in tables.items()
    }


def _kind(annotation: object) -> type:
    if annotation in (str, Path, Path | None):
        return str
    return list if get_origin(annotation) is list else object
