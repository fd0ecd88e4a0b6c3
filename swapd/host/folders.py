"""Finds GGUF files in folders and puts the parts of split models together.

Called by `catalog.py`. Looks at names only, never inside a file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MAX_DEPTH: Final = 16
MAX_ENTRIES: Final = 200_000
"""Of one configured folder, files and folders together: nobody keeps models in `/`, but somebody will name it."""

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.gguf)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Found:
    """The files of one model: one, or all the parts that are there, in order. `reason`: what is missing."""

    name: str
    paths: tuple[str, ...]
    split: bool = False
    reason: str = ""


def find(dirs: Sequence[Path]) -> tuple[tuple[Found, ...], tuple[str, ...]]:
    """All models under the folders, first come first, and what could not be looked at.

    A folder's own files come before those of its subfolders, each sorted by name. Names that begin with a
    dot are left out. Symbolic links are followed; a folder reached twice is looked at once.
    """
    found: list[Found] = []
    problems: list[str] = []
    seen: set[tuple[int, int]] = set()
    for folder in dirs:
        budget = MAX_ENTRIES
        for files, looked_at, trouble in _walk(str(folder), 0, seen):
            problems += trouble
            found += _models(files)
            budget -= looked_at
            if budget < 0:
                problems.append(f"cannot scan all of {folder}: it has more than {MAX_ENTRIES} files")
                break
    return tuple(found), tuple(problems)


def named(path: str) -> Found:
    """The model that an entry names by `path`; with its other parts if it is one of a split model."""
    folder, file = os.path.split(path)
    match = _PART.fullmatch(file)
    if match is None:
        return Found(_stem(file), (path,))
    try:
        beside = {path, *(os.path.join(folder, name) for name in os.listdir(folder) if _PART.fullmatch(name))}
    except OSError:
        beside = {path}
    return next(model for model in _models(sorted(beside)) if path in model.paths)


def _walk(folder: str, depth: int, seen: set[tuple[int, int]]) -> Iterator[tuple[list[str], int, list[str]]]:
    """For each folder: its GGUF files, how many entries it has, and what went wrong."""
    try:
        about = os.stat(folder)
        if (about.st_dev, about.st_ino) in seen:
            return
        seen.add((about.st_dev, about.st_ino))
        with os.scandir(folder) as listing:
            entries = [entry for _, entry in zip(range(MAX_ENTRIES + 1), listing, strict=False)]
    except OSError as error:
        yield [], 0, [f"cannot scan {folder}: {error.strerror or error}"]
        return
    entries.sort(key=lambda entry: entry.name)
    visible = [(entry, _is_folder(entry)) for entry in entries if not entry.name.startswith(".")]
    folders = [entry.path for entry, is_folder in visible if is_folder]
    too_deep = [f"cannot scan {folder}: it lies more than {MAX_DEPTH} folders deep"] if depth == MAX_DEPTH else []
    files = [entry.path for entry, is_folder in visible if not is_folder and entry.name.lower().endswith(".gguf")]
    named = [path for path in files if _is_text(path)]
    nameless = [f"cannot use {path!a}: its name is not UTF-8; rename it" for path in files if not _is_text(path)]
    yield named, len(entries), nameless + (too_deep if folders else [])
    if not too_deep:
        for subfolder in folders:
            yield from _walk(subfolder, depth + 1, seen)


def _is_text(path: str) -> bool:
    """Names are sent and shown; the bytes of one that is not UTF-8 could not be."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link in a circle: listed, with its reason, if it is named like a model


def _models(files: Sequence[str]) -> list[Found]:
    """One folder's files, sorted, as models."""
    parts: dict[tuple[str, int], dict[int, str]] = {}
    models: list[Found] = []
    for path in files:
        match = _PART.fullmatch(os.path.basename(path))
        if match is None or not int(match["count"]):
            models.append(Found(_stem(os.path.basename(path)), (path,)))
            continue
        parts.setdefault((match["stem"], int(match["count"])), {})[int(match["number"])] = path
    for (stem, count), there in parts.items():
        missing = [number for number in range(1, count + 1) if number not in there]
        reason = ""
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            reason = f"part {stem}-{missing[0]:05}-of-{count:05}.gguf{more} is missing"
        models.append(Found(stem, tuple(there[number] for number in sorted(there)), split=True, reason=reason))
    return sorted(models, key=lambda model: model.paths[0])


def _stem(file: str) -> str:
    return file[: -len(".gguf")] if file.lower().endswith(".gguf") and len(file) > len(".gguf") else file
