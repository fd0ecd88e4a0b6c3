"""Gathers what the owner wrote, in the file and in the environment, and remembers where each value stands.

Called by `settings.py`. Judges no value; only what cannot be read at all, or has no place, is a problem here.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

Place: TypeAlias = tuple[str | int, ...]
"""Keys and list indices from the top to a value."""

NOT_SETTINGS: Final = frozenset({"SWAPD_API_KEY", "SWAPD_URL", "SWAPD_CONFIG", "SWAPD_TEST_MODELS", "SWAPD_LOG"})
"""Variables of ours that no configuration key hides behind."""

_KEY = re.compile(r"\s*((?:[A-Za-z0-9_.\s-]|\"[^\"]*\"|'[^']*')+?)\s*=")
_AT_LINE = re.compile(r" \(at (line (\d+).*|end of document)\)$")


class Sources:
    """`values` as TOML would give them; `problems` with what could not be taken."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.problems: list[str] = []
        self._file: Path | None = None
        self._lines: dict[Place, int] = {}
        self._variables: dict[Place, str] = {}

    def read_file(self, path: Path) -> None:
        self._file = path
        try:
            text = path.read_bytes().decode()
            self.values = tomllib.loads(text)
        except OSError as error:
            self.problems.append(f"{path}: cannot read it: {error.strerror or error}")
        except UnicodeDecodeError:
            self.problems.append(f"{path}: not UTF-8 text")
        except RecursionError:
            self.problems.append(f"{path}: nested too deeply")
        except ValueError as error:
            at = _AT_LINE.search(str(error))
            line = f":{at[2]}" if at and at[2] else ""
            self.problems.append(f"{path}{line}: not TOML: {_AT_LINE.sub('', str(error))}")
        else:
            self._lines = _lines(text)

    def read_environment(self, environ: Mapping[str, str], keys: Mapping[str, Mapping[str, type]]) -> None:
        """Take every SWAPD_<TABLE>__<KEY>; `keys` are the tables with their keys' types.

        The key of `SWAPD_MODELS__<NAME>__<KEY>` is that of the model's table; the name of one in the file may
        be written in any case.
        """
        fixed = {table: types for table, types in keys.items() if table not in ("models", "routes")}
        known = {f"SWAPD_{table}__{key}".upper(): (table, key) for table, types in fixed.items() for key in types}
        for variable, text in sorted(environ.items()):
            if not variable.startswith("SWAPD_") or variable in NOT_SETTINGS:
                continue
            table, _, rest = variable.removeprefix("SWAPD_").partition("__")
            place: tuple[str, ...] | None = known.get(variable)
            if table == "ROUTES" and rest:
                place = ("routes", rest.lower())
            elif table == "MODELS" and "__" in rest:
                name, _, key = rest.rpartition("__")
                place = ("models", self._model(name), key.lower())
            if place is None:
                hint = nearest(variable, [*known, *NOT_SETTINGS])
                self.problems.append(f"{variable}: no such setting{hint}; write SWAPD_<TABLE>__<KEY>")
            else:
                self._set(place, _value(text, keys[place[0]].get(place[1], object)), variable)

    def where(self, place: Place) -> str:
        """`FILE:LINE`, or the variable, that set the value or the nearest thing around it."""
        for end in range(len(place), 0, -1):
            if place[:end] in self._variables:
                return self._variables[place[:end]]
            if place[:end] in self._lines:
                return f"{self._file}:{self._lines[place[:end]]}"
        return str(self._file) if self._file else "default"

    def _model(self, name: str) -> str:
        models = self.values.get("models")
        there = models if isinstance(models, dict) else {}
        return name if name in there else next((other for other in there if other.upper() == name.upper()), name)

    def _set(self, place: tuple[str, ...], value: object, variable: str) -> None:
        table = self.values
        for key in place[:-1]:
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                return  # a problem of the file, told when it is checked
        table[place[-1]] = value
        self._variables[place] = variable


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?`, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _value(text: str, kind: type) -> object:
    """As TOML; what is no TOML is a plain string. Lists may be written with commas alone."""
    try:
        value = _one_value(text)
    except (ValueError, RecursionError):
        value = text
    if kind is list and not isinstance(value, list):
        return [part.strip() for part in text.split(",") if part.strip()]
    return text if kind is str and not isinstance(value, str) else value


def _one_value(text: str) -> object:
    parsed = tomllib.loads(f"value = {text}")
    if parsed.keys() != {"value"}:
        raise ValueError("more than one value")
    return parsed["value"]


def _lines(text: str) -> dict[Place, int]:
    """Line numbers of tables and keys. Best effort: what looks like a key inside a long text counts as one."""
    lines: dict[Place, int] = {}
    table: Place = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("["):
            if path := _path_of(line):
                table = path
                lines.setdefault(table, number)
        elif match := _KEY.match(line):
            path = _path_of(f"{match[1]} = 0")
            for end in range(1, len(path) + 1):
                lines.setdefault((*table, *path[:end]), number)
    return lines


def _path_of(line: str) -> Place:
    """The keys that one line of TOML names; empty if it is not a whole piece of TOML."""
    try:
        value: object = tomllib.loads(line)
    except ValueError:
        return ()
    path: list[str] = []
    while isinstance(value, dict) and value:
        key, value = next(iter(value.items()))
        path.append(key)
    return tuple(path)
