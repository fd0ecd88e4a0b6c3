"""What one value of config.toml may be: sizes, durations, addresses, paths, keys.

Used by `tables.py`. Validators get a `Context` from `settings.py`, so that addresses, paths and key files are
checked with everything else and all problems are told at once. Their ValueErrors say what is allowed.
"""

from __future__ import annotations

import os
import re
import stat
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias
from urllib.parse import urlsplit

from pydantic import Field, PlainValidator, ValidationInfo

from swapd import __version__
from swapd.host.listen import TcpAddress, UnixAddress, parse
from swapd.units import FOREVER, GiB, parse_bytes, parse_duration, parse_share


@dataclass(frozen=True, slots=True)
class Context:
    environ: Mapping[str, str]
    folder: Path
    """Where relative paths begin: the configuration file's folder."""


def _size(given: object) -> int:
    if not isinstance(given, (str, int)):
        raise ValueError("a size, like 512MiB or 8GiB")
    return parse_bytes(given)


def _size_or_auto(given: object) -> int | None:
    if given == "auto":
        return None
    if not isinstance(given, (str, int)):
        raise ValueError('"auto" or a size, like 8GiB')
    return parse_bytes(given)


def _share(given: object) -> str:
    if not isinstance(given, (str, int)):
        raise ValueError("a share like 85%, or a size like 20GiB")
    parse_share(given, GiB)
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


_MOST_TARGETS = 16


def _targets(given: object) -> tuple[str, ...]:
    """One model, or several: the first that can be served."""
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list) or not 1 <= len(names) <= _MOST_TARGETS:
        raise ValueError(f"a model's name, or a list of at most {_MOST_TARGETS} names")
    return tuple(_name(name) for name in names)


def _preset_name(given: object) -> str:
    if not isinstance(given, str) or not re.fullmatch(r"[\w.-]+", given) or given.lower() == "latest":
        raise ValueError("a name of letters, digits, '.', '-' and '_', and not latest")
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


def _no_servers(given: object) -> tuple[()]:
    if given != []:
        raise ValueError(f"not in swapd {__version__} yet; only [] is allowed")
    return ()


def _projector(given: object, info: ValidationInfo) -> str:
    """Absolute, or one of the two words that are no file."""
    return given if given in ("", "none") and isinstance(given, str) else str(_path(given, info))


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
    if not any(lines):
        raise ValueError("a file with at least one key: an empty one would let everybody in")
    return tuple(_key(line) for line in lines if line)


def _text_in_file(given: object, info: ValidationInfo) -> str:
    """The text; none where no file is named."""
    if given == "":
        return ""
    try:
        return _path(given, info).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"a readable file: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise ValueError("a text file in UTF-8") from None


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
SizeOrAuto: TypeAlias = Annotated[int | None, PlainValidator(_size_or_auto)]
Duration: TypeAlias = Annotated[float, PlainValidator(_duration)]
FiniteDuration: TypeAlias = Annotated[float, PlainValidator(_finite_duration)]
FilePath: TypeAlias = Annotated[Path, PlainValidator(_path)]
ProjectorFile: TypeAlias = Annotated[str, PlainValidator(_projector)]
NoServers: TypeAlias = Annotated[tuple[()], PlainValidator(_no_servers)]
Name: TypeAlias = Annotated[str, PlainValidator(_name)]
PresetName: TypeAlias = Annotated[str, PlainValidator(_preset_name)]
TextFile: TypeAlias = Annotated[str, PlainValidator(_text_in_file)]
Count: TypeAlias = Annotated[int, Field(ge=0, lt=2**31)]
Penalty: TypeAlias = Annotated[float, Field(ge=-2, le=2)]
SomeDuration: TypeAlias = Annotated[float, PlainValidator(_some_duration)]
Share: TypeAlias = Annotated[str, PlainValidator(_share)]
Address: TypeAlias = Annotated[UnixAddress | TcpAddress, PlainValidator(_address)]
Key: TypeAlias = Annotated[str, PlainValidator(_key)]
KeysInFile: TypeAlias = Annotated[tuple[str, ...], PlainValidator(_keys_in_file)]
Host: TypeAlias = Annotated[str, PlainValidator(_host)]
Origin: TypeAlias = Annotated[str, PlainValidator(_origin)]
Targets: TypeAlias = Annotated[tuple[str, ...], PlainValidator(_targets)]
Texts: TypeAlias = Annotated[tuple[str, ...], PlainValidator(_texts)]
FlagOrAuto: TypeAlias = Annotated[bool | None, PlainValidator(_flag_or_auto)]
ThreadsOrAuto: TypeAlias = Annotated[int | None, PlainValidator(_number_or_auto(1, 1024))]
LayersOrAuto: TypeAlias = Annotated[int | None, PlainValidator(_number_or_auto(0, 1025))]
