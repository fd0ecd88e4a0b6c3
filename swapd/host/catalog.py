"""The models this host knows, and what a name stands for.

`runtime/gateway.py` resolves names here, `api/` lists what is here, `daemon.py` scans. Finding files is
`folders.py` and, where other programs keep theirs, `stores.py`, reading them `modelfiles.py`; here it is decided
who gets a name. First to last: `[models]` entries with a path; files, in the order of the folders and then the
stores; aliases; the file names of files that an entry names otherwise (those are listed once: a file offered under
two names would be loaded twice); `[routes]` tasks.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from swapd.core.model import Variant
from swapd.errors import ModelNotFound, ModelUnusable
from swapd.host import folders, stores
from swapd.host.folders import Found
from swapd.host.modelfiles import Headers, ModelFiles, drafting_id, unusable
from swapd.host.names import Names
from swapd.host.stores import Store
from swapd.served import Model, ModelEntry

PROMPT_DRAFTS: Final = "prompt"
"""A draft of this name is no model: what a text repeats of itself is proposed."""
VOCABULARIES_APART: Final = 128
"""In tokens: those of one family may be padded otherwise."""
_NO_FILE: Final = "no file of that name in [catalog] dirs or sources"


@dataclass(frozen=True, slots=True)
class _Settings:
    dirs: tuple[Path, ...]
    entries: Mapping[str, ModelEntry]
    routes: Mapping[str, tuple[str, ...]]
    flash_attention: bool | None
    stores: tuple[Store, ...]


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """Never changed once made. `names` are of indices in `models`; `listed` are the same models, sorted."""

    models: tuple[Model, ...] = ()
    listed: tuple[Model, ...] = ()
    names: Names = field(default_factory=Names)
    problems: tuple[str, ...] = ()
    routes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def preset(self, asked: str) -> Model | None:
        """What `name:preset` stands for: the model of the name, with the preset's values."""
        model, preset = self._split(asked)
        entry = None if model is None else model.entry.with_preset(preset)
        return None if model is None or entry is None else replace(model, entry=entry)

    def nearest(self, asked: str) -> tuple[str, ...]:
        """At most three names that may have been meant: the presets of a model that is there, else what looks alike."""
        model, _ = self._split(asked)
        presets = () if model is None else model.entry.presets
        name = asked.rpartition(":")[0]
        return tuple(f"{name}:{preset}" for preset, _ in presets)[:3] or self.names.nearest(asked)

    def _split(self, asked: str) -> tuple[Model | None, str]:
        bare = asked[: -len(":latest")] if asked.lower().endswith(":latest") else asked
        name, _, preset = bare.rpartition(":")
        index = self.names.find(name) if name else None
        return None if index is None else self.models[index], preset


class Catalog:
    """Empty until the first `scan`. Every method may be called from any thread."""

    def __init__(
        self,
        dirs: Sequence[Path],
        entries: Mapping[str, ModelEntry],
        routes: Mapping[str, str | tuple[str, ...]],
        *,
        flash_attention: bool | None = None,
        stores: Sequence[Store] = (),
    ) -> None:
        self._scanning = threading.Lock()
        self._headers: Headers = {}
        self._snapshot = _Snapshot()
        self.configure(dirs, entries, routes, flash_attention=flash_attention, stores=stores)

    def configure(
        self,
        dirs: Sequence[Path],
        entries: Mapping[str, ModelEntry],
        routes: Mapping[str, str | tuple[str, ...]],
        *,
        flash_attention: bool | None = None,
        stores: Sequence[Store] = (),
    ) -> None:
        """These settings count from the next scan on; headers already read stay known."""
        self._settings = _Settings(tuple(dirs), dict(entries), _routes(routes), flash_attention, tuple(stores))

    def models(self) -> tuple[Model, ...]:
        """All, by name; unusable and shadowed ones too, with their reason."""
        return self._snapshot.listed

    def problems(self) -> tuple[str, ...]:
        """What the owner should know and what stops nobody: about folders, aliases, routes, contexts."""
        return self._snapshot.problems

    def resolve(self, name: str) -> Model:
        """The model that a name, an alias, a task, or one of these with a preset stands for.

        Raises ModelNotFound, ModelUnusable.
        """
        snapshot, asked = self._snapshot, name.strip()
        index = snapshot.names.find(asked) if asked else None
        model = snapshot.preset(asked) if index is None else snapshot.models[index]
        if model is None:
            raise ModelNotFound(name, snapshot.nearest(asked))
        if model.variant is None:
            raise ModelUnusable(model.name, model.reason)
        return model

    def route(self, name: str) -> tuple[str, ...]:
        """Names of the models that a task may go to, the first choice first; empty: this is no task."""
        return self._snapshot.routes.get(_folded(name), ())

    def scan(self) -> None:
        """Look at the folders again. Blocks: tens of milliseconds for each file that is new or has changed."""
        with self._scanning:
            scan = _Scan(self._settings, self._headers)
            self._snapshot = scan.snapshot()
            self._headers = scan.files.read


class _Scan:
    """Collects models and names once."""

    def __init__(self, settings: _Settings, known: Headers) -> None:
        self._settings = settings
        self.files = ModelFiles(known, settings.flash_attention)
        self._models: list[Model] = []
        self._names = Names()
        self._by_file: dict[str, int] = {}
        self._problems: list[str] = []
        self._routes: dict[str, tuple[str, ...]] = {}
        self._said: dict[str, ModelEntry] = {}
        """By path: what another program says of its model."""

    def snapshot(self) -> _Snapshot:
        found, problems = folders.find(self._settings.dirs)
        stored, troubles = stores.find(self._settings.stores)
        self._problems += [*problems, *troubles]
        self._said = {each.found.paths[0]: each.says for each in stored}
        self._add_entries()
        given_way = self._add_found([*found, *(each.found for each in stored)])
        for index, model in enumerate(self._models):
            self._warn_of_context(model)
            for alias in model.entry.aliases:
                self._name(alias, index, f'[models."{model.name}"] aliases')
        for name, index in given_way:
            self._names.add(name, index)
        self._add_routes()
        routed = {self._names.find(target) for targets in self._routes.values() for target in targets}
        named = [model.name in self._settings.entries or index in routed for index, model in enumerate(self._models)]
        self._models = [
            replace(self._with_draft(model), is_named=is_named)
            for model, is_named in zip(self._models, named, strict=True)
        ]
        self._problems += self.files.problems
        listed = sorted(self._models, key=lambda model: (model.name.casefold(), model.name, model.shadowed, model.path))
        return _Snapshot(tuple(self._models), tuple(listed), self._names, tuple(self._problems), self._routes)

    def _with_draft(self, model: Model) -> Model:
        """One that is to speculate does; without the model that was to draft for it, if that cannot be."""
        variant, wanted = model.variant, model.entry.draft
        if variant is None or variant.pooling or not wanted:
            return model
        draft = None if wanted == PROMPT_DRAFTS else self._draft(model.name, variant, wanted)
        made = replace(variant, id=drafting_id(variant, draft), speculates=True, draft=draft)
        return replace(model, variant=made)

    def _draft(self, name: str, variant: Variant, wanted: str) -> Variant | None:
        index = self._names.find(wanted)
        found = None if index is None else self._models[index].variant
        where = f'[models."{name}"] draft: {wanted!r}'
        if found is None:
            self._problems.append(f"{where} is no model that can be used; only its own text drafts for it")
        elif found.pooling or abs(found.shape.vocabulary - variant.shape.vocabulary) > VOCABULARIES_APART:
            self._problems.append(f"{where} has another vocabulary; only its own text drafts for it")
        else:
            return replace(
                found,
                context=variant.context,
                slots=variant.slots,
                kv_type=variant.kv_type,
                gpu_layers=None,
                max_vram="",
                adapters=(),
                projector=None,
            )
        return None

    def _add_entries(self) -> None:
        for name, entry in self._settings.entries.items():
            if entry.path is not None:
                self._add(self.files.model(name, folders.named(entry.path), entry))

    def _add_found(self, found: Sequence[Found]) -> list[tuple[str, int]]:
        """Answers the file names that give way to the names of entries."""
        entry_of = self._entries_without_path({file.name for file in found})
        winners = {model.name: model.path for model in self._models}
        given_way: list[tuple[str, int]] = []
        for file in found:
            name = entry_of.get(file.name, file.name)
            index = self._by_file.get(os.path.realpath(file.paths[0]))
            if index is not None and file.name not in entry_of:
                given_way.append((file.name, index))
            elif name in winners:
                self._models.append(self._shadowed(name, file, winners[name]))
            else:
                winners[name] = file.paths[0]
                entry = self._settings.entries.get(name, ModelEntry())
                self._add(self.files.model(name, file, entry.over(self._said.get(file.paths[0], ModelEntry()))))
        for name, entry in self._settings.entries.items():
            if entry.path is None and name not in entry_of.values():
                self._add(unusable(name, Found(name, ()), entry, _NO_FILE, []))
        return given_way

    def _entries_without_path(self, found: set[str]) -> dict[str, str]:
        """Entries by the found name that they mean: the same, or the only one but for the case."""
        entries = [name for name, entry in self._settings.entries.items() if entry.path is None]
        meant = {name: name for name in entries if name in found}
        for name in entries:
            alike = [other for other in found if other.casefold() == name.casefold()]
            if name not in meant and len(alike) == 1:
                meant.setdefault(alike[0], name)
        return meant

    def _add(self, model: Model) -> None:
        index = len(self._models)
        self._models.append(model)
        self._names.add(model.name, index)
        if model.path:
            self._by_file.setdefault(os.path.realpath(model.path), index)
        for (_, path), adapted in zip(model.entry.lora, self.files.adapted(model), strict=False):
            self._by_file.setdefault(os.path.realpath(path), len(self._models))
            self._add(adapted)

    def _shadowed(self, name: str, file: Found, winner: str) -> Model:
        reason = f"{winner} has the same name and comes first"
        return replace(self.files.model(name, file, ModelEntry()), variant=None, reason=reason, shadowed=True)

    def _add_routes(self) -> None:
        """A task stands for the first of its models that can be used, else for the first there is."""
        found: dict[str, list[int]] = {}
        for task, targets in self._settings.routes.items():
            indices = {target: self._names.find(target) for target in targets}
            self._problems += [f"[routes] {task}: there is no model {t!r}" for t, i in indices.items() if i is None]
            found[task] = [index for index in indices.values() if index is not None]
        for task, there in found.items():
            usable = [index for index in there if self._models[index].variant is not None]
            if there and self._name(task, (usable or there)[0], f"[routes] {task}"):
                self._routes[_folded(task)] = self._settings.routes[task]

    def _name(self, name: str, index: int, where: str) -> bool:
        is_new = self._names.add(name, index)
        if not is_new:
            self._problems.append(f"{where}: {name!r} already stands for another model, which keeps it")
        return is_new

    def _warn_of_context(self, model: Model) -> None:
        if model.variant and not model.adapter and model.variant.context > model.variant.shape.trained_context:
            trained = model.variant.shape.trained_context
            self._problems.append(
                f'[models."{model.name}"] context: {model.variant.context} is more than the {trained} tokens that '
                "the model was trained on; its answers may get worse there"
            )


def _routes(given: Mapping[str, str | tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {task: (targets,) if isinstance(targets, str) else targets for task, targets in given.items()}


def _folded(task: str) -> str:
    return task.strip().casefold().removesuffix(":latest")
