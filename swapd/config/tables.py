"""What config.toml may say: every table, every key, what is allowed and what holds when nothing is said.

The top-level config.toml documents these tables for people; a test compares the two. Validators get a
`Context` from `settings.py`, so that addresses, paths and key files are checked with everything else and all
problems are told at once. Their ValueErrors say what is allowed.
"""

from __future__ import annotations

import os
import re
import stat
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias, get_origin
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationInfo

from swapd.host.listen import TcpAddress, UnixAddress, parse
from swapd.units import FOREVER, GiB, MiB, parse_bytes, parse_duration, parse_share

LATER_KEYS: Final = frozenset(
    {
        ("memory", "prompt_cache"),
        ("memory", "warm_cache"),
        ("memory", "rpc"),
        ("models", "max_vram"),
        ("models", "draft"),
        ("models", "lora"),
        ("models", "embedding"),
    }
)
"""Keys that a later release will have."""

LATER_VALUES: Final[Mapping[tuple[str, str], tuple[Any, ...]]] = {
    ("server", "allow_pull"): (True,),
    ("scheduler", "policy"): ("cost",),
    ("scheduler", "overflow"): ("auto", "offload"),
    ("scheduler", "prefetch"): (True,),
    ("catalog", "sources"): ("huggingface", "ollama", "lmstudio", "llama.cpp"),
}
"""Values that a later release will have, of keys (or in lists) that are there today."""


@dataclass(frozen=True, slots=True)
class Context:
    environ: Mapping[str, str]
    folder: Path
    """Where relative paths begin: the configuration file's folder."""


def _size(given: object) -> int:
    if isinstance(given, (str, int)):
        try:
            return parse_bytes(given)
        except OverflowError:
            pass
    raise ValueError("a size, like 512MiB or 8GiB")


def _share(given: object) -> str:
    if not isinstance(given, (str, int)):
        raise ValueError("a share like 85%, or a size like 20GiB")
    try:
        parse_share(given, GiB)
    except OverflowError:
        raise ValueError("a share like 85%, or a size like 20GiB") from None
    return str(given)


def _duration(given: object) -> float:
    if not isinstance(given, (str, int, float)):
        raise ValueError("a duration, like 30s, 5m, 1h30m, 0 or -1")
    return parse_duration(given)


def _finite_duration(given: object) -> float:
    if (seconds := _duration(given)) == FOREVER:
        raise ValueError("a duration that ends, like 2s")
    return seconds


def _some_duration(given: object) -> float:
    if (seconds := _duration(given)) <= 0:
        raise ValueError("a duration above 0, like 5m; -1 is forever")
    return seconds


def _number_or_auto(least: int, most: int) -> Callable[[object], int | None]:
    def check(given: object) -> int | None:
        if given == "auto":
            return None
        if type(given) is not int or not least <= given <= most:
            raise ValueError(f'"auto" or a whole number from {least} to {most}')
        return given

    return check


def _flag_or_auto(given: object) -> bool | None:
    if given == "auto":
        return None
    if not isinstance(given, bool):
        raise ValueError('"auto", true or false')
    return given


def _address(given: object, info: ValidationInfo) -> UnixAddress | TcpAddress:
    if not isinstance(given, str):
        raise ValueError("an address, like 127.0.0.1:11435 or unix:/run/swapd.sock")
    return parse(given, _context(info).environ)


def _key(given: object) -> str:
    if not isinstance(given, str) or not re.fullmatch(r"[!-~]{1,512}", given):
        raise ValueError("a key of 1 to 512 visible ASCII characters")
    return given


def _host(given: object) -> str:
    if not isinstance(given, str) or not re.fullmatch(r"[A-Za-z0-9._-]+|\[?[0-9A-Fa-f:.]+\]?", given):
        raise ValueError("a host name or an address, without scheme, port or path")
    return given.strip("[]").lower()


def _origin(given: object) -> str:
    text = given.removesuffix("/").lower() if isinstance(given, str) else ""
    try:
        parts = urlsplit(text)
        is_exact = bool(parts.hostname) and text == f"{parts.scheme}://{parts.netloc}" and "@" not in parts.netloc
        is_exact = is_exact and "*" not in text and (parts.port is None or parts.port > 0)
    except ValueError:
        is_exact = False
    if not is_exact:
        raise ValueError("an exact origin, like https://chat.example.org or http://localhost:3000")
    return text


def _name(given: object) -> str:
    if not isinstance(given, str) or not given.strip() or not given.isprintable():
        raise ValueError("a name of visible characters")
    return given


def _path(given: object, info: ValidationInfo) -> Path:
    """Absolute; `~/` and `$VARIABLE` expanded."""
    if not isinstance(given, str) or not given or "\0" in given:
        raise ValueError("a path")
    context = _context(info)
    text = f"$HOME{given[1:]}" if given == "~" or given.startswith("~/") else given
    try:
        expanded = string.Template(text).substitute(with_base_folders(context.environ))
    except KeyError as error:
        raise ValueError(f"it uses ${error.args[0]}, which is not set") from error
    except ValueError as error:
        raise ValueError("a path; write $$ for the character $") from error
    return Path(os.path.normpath(context.folder / expanded))


def _keys_in_file(given: object, info: ValidationInfo) -> tuple[str, ...]:
    path = _path(given, info)
    try:
        with path.open(encoding="ascii") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise ValueError(f"a file that only you can read; chmod 600 {path}")
            lines = [line.strip() for line in file]
    except OSError as error:
        raise ValueError(f"a readable file: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise ValueError("a file with one key a line, in ASCII") from None
    return tuple(_key(line) for line in lines if line)


def _texts(given: object) -> tuple[str, ...]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise ValueError("a text, or a list of texts, none empty")
    return tuple(texts)


def _context(info: ValidationInfo) -> Context:
    assert isinstance(info.context, Context)
    return info.context


def with_base_folders(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment with HOME and the XDG base folders as they are when nobody sets them (or not absolutely)."""
    home = environ.get("HOME") or str(Path.home())
    defaults = {"CONFIG": ".config", "STATE": ".local/state", "CACHE": ".cache", "DATA": ".local/share"}
    known = {**environ, "HOME": home}
    for what, folder in defaults.items():
        if not os.path.isabs(known.get(f"XDG_{what}_HOME", "")):
            known[f"XDG_{what}_HOME"] = f"{home}/{folder}"
    return known


Size: TypeAlias = Annotated[int, PlainValidator(_size)]
Duration: TypeAlias = Annotated[float, PlainValidator(_duration)]
FiniteDuration: TypeAlias = Annotated[float, PlainValidator(_finite_duration)]
FilePath: TypeAlias = Annotated[Path, PlainValidator(_path)]
Name: TypeAlias = Annotated[str, PlainValidator(_name)]
Count: TypeAlias = Annotated[int, Field(ge=0, lt=2**31)]
Penalty: TypeAlias = Annotated[float, Field(ge=-2, le=2)]


class Table(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class Server(Table):
    listen: list[Annotated[UnixAddress | TcpAddress, PlainValidator(_address)]] = Field(
        default=["unix:$XDG_RUNTIME_DIR/swapd/swapd.sock", "127.0.0.1:11435"], min_length=1
    )
    api_keys: list[Annotated[str, PlainValidator(_key)]] = []
    api_key_file: Annotated[tuple[str, ...] | None, PlainValidator(_keys_in_file)] = Field(
        default=None, validate_default=False
    )
    allowed_hosts: list[Annotated[str, PlainValidator(_host)]] = []
    allowed_origins: list[Annotated[str, PlainValidator(_origin)]] = []
    allow_pull: Literal[False] = False
    max_body: Size = 32 * MiB
    max_queue: Annotated[int, Field(ge=1, lt=2**31)] = 512


class Memory(Table):
    vram_reserve: Size = 512 * MiB
    vram_limit: Annotated[str, PlainValidator(_share)] = "100%"
    host_reserve: Size = 2 * GiB


class Engine(Table):
    threads: Annotated[int | None, PlainValidator(_number_or_auto(1, 1024))] = Field(default="auto")
    flash_attention: Annotated[bool | None, PlainValidator(_flag_or_auto)] = Field(default="auto")


class Scheduler(Table):
    keep_alive: Duration = Field(default="5m")
    policy: Literal["lru"] = "lru"
    overflow: Literal["evict"] = "evict"
    max_loaded: Count = 0
    max_wait: Duration = Field(default="30s")
    min_residency: FiniteDuration = Field(default="2s")
    prefetch: Literal[False] = False
    load_timeout: Annotated[float, PlainValidator(_some_duration)] = Field(default="5m")


class Catalog(Table):
    dirs: list[FilePath] = []
    sources: Annotated[list[str], Field(max_length=0)] = []


class Paths(Table):
    state: FilePath = Field(default="$XDG_STATE_HOME/swapd")
    cache: FilePath = Field(default="$XDG_CACHE_HOME/swapd/prompts")


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
    max_tokens: Annotated[int | None, Field(ge=-2, lt=2**31)] = None
    num_predict: Annotated[int | None, Field(ge=-2, lt=2**31)] = None
    stop: Annotated[tuple[str, ...], PlainValidator(_texts)] = ()


class Model(Table):
    path: FilePath | None = Field(default=None, validate_default=False)
    aliases: list[Name] = []
    context: Annotated[int | None, Field(ge=16, lt=2**31)] = None
    slots: Annotated[int | None, Field(ge=1, le=256)] = None
    keep_alive: Duration | None = Field(default=None, validate_default=False)
    pin: bool = False
    preload: bool = False
    priority: Annotated[int, Field(ge=-(2**31), lt=2**31)] = 0
    gpu_layers: Annotated[int | None, PlainValidator(_number_or_auto(0, 1025))] = Field(default="auto")
    kv_type: Literal["f16", "q8_0", "q4_0"] = "f16"
    options: Options = Options()


class Root(Table):
    server: Server
    memory: Memory
    engine: Engine
    scheduler: Scheduler
    catalog: Catalog
    paths: Paths
    models: dict[Name, Model]
    routes: dict[Name, Name]


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
