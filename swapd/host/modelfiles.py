"""From the files of one model and its settings to the Model that the catalog lists.

Called by `catalog.py` in a scan. Knows nothing of other models: who gets which name is decided there.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeAlias

from swapd.core.model import Adapter, Projector, Shape, Variant, VariantId
from swapd.host import gguf, projectors, shapes
from swapd.host.folders import Found
from swapd.host.gguf import Header, UnreadableModel
from swapd.served import Model, ModelEntry
from swapd.units import Bytes, Tokens

DEFAULT_CONTEXT: Final[Tokens] = 8192
"""Unless the model was trained on less."""
ENCODER_CONTEXT: Final[Tokens] = 2048
VECTOR_CONTEXT: Final[Tokens] = 512
"""Of vectors by a model that could write: llama.cpp keeps a row of logits for each token of the batch."""
DEFAULT_SLOTS: Final = 4
NO_PROJECTOR: Final = "none"
"""In an entry: whatever lies beside the model."""


@dataclass(frozen=True, slots=True)
class Identity:
    """When this is the same, so is the file, as far as can be told without reading it."""

    path: str
    """With symbolic links resolved."""
    inode: int
    size: Bytes
    modified_ns: int

    @staticmethod
    def of(path: str) -> Identity:
        """Raises UnreadableModel."""
        try:
            real = os.path.realpath(path)
            about = os.stat(real)
        except (OSError, ValueError) as error:
            raise UnreadableModel(f"cannot open it: {gguf.words(error)}") from error
        if not stat.S_ISREG(about.st_mode):
            raise UnreadableModel("not a regular file")
        return Identity(real, about.st_ino, about.st_size, about.st_mtime_ns)


Headers: TypeAlias = dict[Identity, Header]


class ModelFiles:
    """Reads headers for one scan; those in `known`, from the scan before, are not read again."""

    def __init__(self, known: Headers, flash_attention: bool | None) -> None:
        self.read: Headers = {}
        self.problems: list[str] = []
        """About projectors: their models are served without."""
        self._known, self._flash_attention = known, flash_attention

    def model(self, name: str, found: Found, entry: ModelEntry) -> Model:
        """Never raises: a model that cannot be used has no variant and says why."""
        parts: list[Identity] = []
        try:
            parts = [Identity.of(path) for path in found.paths]
            if found.reason:
                raise UnreadableModel(found.reason)
            headers = [self._header(path, part) for path, part in zip(found.paths, parts, strict=True)]
            if headers[0].split_count != len(headers):
                raise UnreadableModel(_wrong_count(headers[0].split_count, found))
            shape, pooling = shapes.shape(headers), shapes.pooling(headers[0], entry.embedding)
            adapters = tuple(each for each in self._adapters(entry, shape) if isinstance(each, Adapter))
        except UnreadableModel as error:
            return unusable(name, found, entry, str(error), parts)
        projector = self._projector(name, found, entry, shape)
        make = partial(_variant, name, found, parts, shape, entry, adapters, projector, self._flash_attention)
        variant = make(_context(shape, entry, pooling, shapes.is_encoder(headers[0])), pooling)
        return Model(
            name=name,
            path=found.paths[0],
            size=sum(part.size for part in parts) + (variant.projector.size if variant.projector else 0),
            modified=_modified(parts),
            digest=_digest(found, parts),
            variant=variant,
            embedder=None if pooling else _embedder(variant, make),
            entry=entry,
            family=shape.architecture,
            parameters=sum(header.parameters for header in headers),
            quantization=headers[0].quantization,
            template=headers[0].has_template,
        )

    def adapted(self, model: Model) -> list[Model]:
        """The model with each of the adapters that its entry names, in that order: one variant, several names."""
        if model.variant is None:
            return []
        found = self._adapters(model.entry, model.variant.shape)
        return [_adapted(model, name, adapter) for (name, _), adapter in zip(model.entry.lora, found, strict=True)]

    def _projector(self, name: str, found: Found, entry: ModelEntry, shape: Shape) -> Projector | None:
        """The one that the entry names, else one beside the model."""
        if entry.projector == NO_PROJECTOR:
            return None
        reasons: list[str] = []
        for path in [entry.projector] if entry.projector else projectors.beside(found.paths[0]):
            try:
                identity = Identity.of(path)
                header = self._header(path, identity)
                if reason := projectors.why_none(header, shape.embedding):
                    raise UnreadableModel(reason)
                about = header.weights, projectors.compute(header), projectors.sees_whole(header)
            except UnreadableModel as error:
                reasons.append(f"its projector {path}: {error}; it takes no pictures")
            else:
                return Projector(path, _content(identity), *about)
        self.problems += [f'[models."{name}"] projector: {reason}' for reason in reasons]
        return None

    def _adapters(self, entry: ModelEntry, shape: Shape) -> list[Adapter | str]:
        """For each that the entry names the adapter, or why it cannot be used."""
        found: list[Adapter | str] = []
        for name, path in entry.lora:
            try:
                identity = Identity.of(path)
                if reason := shapes.why_no_adapter(self._header(path, identity), shape.architecture):
                    raise UnreadableModel(reason)
            except UnreadableModel as error:
                found.append(f"its adapter {path}: {error}")
            else:
                found.append(Adapter(name, path, _content(identity), identity.size))
        return found

    def _header(self, path: str, part: Identity) -> Header:
        header = self._known.get(part) or self.read.get(part) or gguf.read(path)
        self.read[part] = header
        return header


def _content(identity: Identity) -> str:
    return hashlib.sha256(repr(identity).encode(errors="surrogateescape")).hexdigest()


def _adapted(model: Model, name: str, adapter: Adapter | str) -> Model:
    """The model as it is offered with that adapter, or with the reason why it is not."""
    aliases = tuple(f"{alias}+{name}" for alias in model.entry.aliases)
    entry = replace(model.entry, aliases=aliases, pin=False, preload=False, lora=())
    with_it = replace(model, name=f"{model.name}+{name}", embedder=None, entry=entry, adapter=name)
    if model.variant is not None and model.variant.pooling:
        adapter = "it makes vectors, for which adapters are not used"
    if isinstance(adapter, str):
        return replace(with_it, variant=None, reason=adapter)
    digest = hashlib.sha256(f"{model.digest} {adapter.content}".encode()).hexdigest()
    return replace(with_it, size=model.size + adapter.size, digest=digest)


def unusable(name: str, found: Found, entry: ModelEntry, reason: str, parts: list[Identity]) -> Model:
    """A model that is listed with its reason; `parts` are as many of its files as could be looked at."""
    return Model(
        name=name,
        path=found.paths[0] if found.paths else "",
        size=sum(part.size for part in parts),
        modified=_modified(parts),
        digest=_digest(found, parts),
        variant=None,
        entry=entry,
        reason=reason,
        template=False,
    )


def _wrong_count(count: int, found: Found) -> str:
    if found.split:
        return f"its name says {len(found.paths)} parts, its header {count}"
    return f"it is one of {count} parts, and its name does not end in -00001-of-{count:05}.gguf"


def _modified(parts: list[Identity]) -> float:
    return max((part.modified_ns for part in parts), default=0) / 1e9


def _digest(found: Found, parts: list[Identity]) -> str:
    return hashlib.sha256(repr((found.name, found.paths, parts)).encode(errors="surrogateescape")).hexdigest()


def _context(shape: Shape, entry: ModelEntry, pooling: str, is_encoder: bool) -> Tokens:
    if not pooling:
        return entry.context or min(DEFAULT_CONTEXT, shape.trained_context)
    if is_encoder:  # it has no positions beyond those that it was trained on
        return min(entry.context or ENCODER_CONTEXT, shape.trained_context)
    return entry.context or min(VECTOR_CONTEXT, shape.trained_context)


def _embedder(variant: Variant, make: Callable[[Tokens, str], Variant]) -> Variant:
    """Of a model that writes text: what makes vectors of texts as long as that is cheap."""
    return make(min(variant.context, VECTOR_CONTEXT), "last")


def drafting_id(variant: Variant, draft: Variant | None) -> VariantId:
    """Of this variant with a draft, or speculating without one."""
    what = (variant.id, draft and (draft.id, draft.path))
    readable, _, _ = variant.id.rpartition("-")
    return VariantId(f"{readable}-{hashlib.sha256(repr(what).encode(errors='surrogateescape')).hexdigest()[:12]}")


def _variant(
    name: str,
    found: Found,
    parts: list[Identity],
    shape: Shape,
    entry: ModelEntry,
    adapters: tuple[Adapter, ...],
    projector: Projector | None,
    flash_attention: bool | None,
    context: Tokens,
    pooling: str,
) -> Variant:
    """The id holds no name: one file asked for under two names in the same way is one variant, loaded once."""
    slots = entry.slots or DEFAULT_SLOTS
    adapters, projector = ((), None) if pooling else (adapters, projector)
    what: tuple[object, ...] = (
        *(parts, context, slots, entry.kv_type, flash_attention, entry.gpu_layers, entry.max_vram, pooling),
        *((adapter.name, adapter.content) for adapter in adapters),
        *([("projector", projector.content)] if projector is not None else []),
    )
    short = hashlib.sha256(repr(what).encode(errors="surrogateescape")).hexdigest()[:12]
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", found.name)[:32]
    return Variant(
        id=VariantId(f"{readable}-{short}"),
        name=name,
        path=found.paths[0],
        shape=shape,
        context=context,
        slots=slots,
        kv_type=entry.kv_type,
        flash_attention=flash_attention,
        gpu_layers=entry.gpu_layers,
        max_vram=entry.max_vram,
        adapters=adapters,
        content=hashlib.sha256(repr(parts).encode(errors="surrogateescape")).hexdigest(),
        pooling=pooling,
        projector=projector,
    )
