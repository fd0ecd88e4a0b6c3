"""What a name that users ask for stands for: a variant, and how its owner wants it served.

Made by `host/catalog.py` from files and settings; used by `runtime/gateway.py` and shown by `api/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from msgspec import structs

from swapd.core.model import Variant
from swapd.core.values import replace
from swapd.generation import GenerationRequest, Message, Role, Sampling
from swapd.units import Bytes, Seconds, Tokens


@dataclass(frozen=True, slots=True)
class Preset:
    """One `[models."name".presets.…]` table: what requests get that ask for `name:preset` and do not say themselves."""

    sampling: Sampling = field(default=Sampling())
    max_tokens: Tokens | None = None
    stop: tuple[str, ...] = ()
    system: str = ""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One `[models."name"]` table; None: the daemon's default."""

    path: str | None = None
    aliases: tuple[str, ...] = ()
    context: Tokens | None = None
    slots: int | None = None
    keep_alive: Seconds | None = None
    pin: bool = False
    preload: bool = False
    priority: int = 0
    gpu_layers: int | None = None
    max_vram: str = ""
    """Cap on each card: bytes, or a share of its total as a percentage; empty: none."""
    kv_type: str = "f16"
    embedding: bool = False
    """It is to make vectors, though it could write text."""
    draft: str = ""
    """Name of the model that drafts for it; "prompt": only its own text does; empty: none."""
    projector: str = ""
    """File with which it takes pictures; "none": it takes none; empty: the one beside it, if there is one."""
    sampling: Sampling = field(default=Sampling())
    max_tokens: Tokens | None = None
    stop: tuple[str, ...] = ()
    lora: tuple[tuple[str, str], ...] = ()
    """Names and paths of adapters."""
    system: str = ""
    """The system prompt of conversations that bring none."""
    template: str = ""
    """A chat template (Jinja2) instead of the file's own."""
    presets: tuple[tuple[str, Preset], ...] = ()

    def over(self, said: ModelEntry) -> ModelEntry:
        """This entry, and where it leaves them open, the context, the options and the projector of another."""
        return replace(
            self,
            context=self.context or said.context,
            sampling=self.sampling.over(said.sampling),
            max_tokens=said.max_tokens if self.max_tokens is None else self.max_tokens,
            stop=self.stop or said.stop,
            system=self.system or said.system,
            projector=self.projector or said.projector,
        )

    def with_preset(self, name: str) -> ModelEntry | None:
        """This entry with the preset's values before its own; None: there is no such preset."""
        known = [preset for known, preset in self.presets if known == name]
        known = known or [preset for known, preset in self.presets if known.casefold() == name.casefold()]
        if len(known) != 1:
            return None
        preset = known[0]
        return replace(
            self,
            sampling=preset.sampling.over(self.sampling),
            max_tokens=self.max_tokens if preset.max_tokens is None else preset.max_tokens,
            stop=preset.stop or self.stop,
            system=preset.system or self.system,
        )

    def applied(
        self, request: GenerationRequest, defaults: Sampling, unique: str | None = None, adapter: str = ""
    ) -> GenerationRequest:
        """The request with the owner's word, and then the defaults, where it says nothing itself.

        `unique`: its id from now on; None: its own.
        """
        turns = request.messages
        if turns and self.system and not any(turn.role in (Role.SYSTEM, Role.DEVELOPER) for turn in turns):
            turns = (Message(Role.SYSTEM, self.system), *turns)
        return structs.replace(
            request,
            id=request.id if unique is None else unique,
            adapter=adapter or request.adapter,
            messages=turns,
            template=request.template or (self.template if turns else ""),
            sampling=request.sampling.over(self.sampling, defaults),
            max_tokens=self.max_tokens if request.max_tokens is None else request.max_tokens,
            stop=request.stop or self.stop,
        )


@dataclass(frozen=True, slots=True)
class Model:
    """One model of the catalog. `variant` None: the file cannot be used, and `reason` says why."""

    name: str
    path: str
    size: Bytes
    modified: float
    """Of the file, seconds since the epoch."""
    digest: str
    """64 hex digits that change when the file does (identity, size and time; not a hash of the weights)."""
    variant: Variant | None
    entry: ModelEntry
    reason: str = ""
    is_named: bool = False
    """The configuration has an entry of this name, or a task is routed to it."""
    shadowed: bool = False
    """Listed only: another file of the same name comes first."""
    family: str = ""
    parameters: int = 0
    quantization: str = ""
    embedder: Variant | None = None
    """Of a model that writes: the same file loaded beside, to make vectors."""
    template: bool = True
    """The file has a chat template."""
    adapter: str = ""
    """The variant is answered with this one of its adapters."""

    @property
    def offered(self) -> Iterator[tuple[str, Model]]:
        """The names to list it under, its own and those of its presets, with what each stands for."""
        yield self.name, self
        for preset, _ in self.entry.presets:
            if (entry := self.entry.with_preset(preset)) is not None:
                yield f"{self.name}:{preset}", replace(self, entry=entry)

    @property
    def vectors(self) -> Variant | None:
        """The variant that makes its vectors, or scores pairs; None where `variant` is None."""
        return self.variant if self.variant is not None and self.variant.pooling else self.embedder

    @property
    def sees(self) -> bool:
        """It takes pictures."""
        return self.variant is not None and self.variant.projector is not None

    @property
    def variants(self) -> tuple[Variant, ...]:
        """All as which it may be loaded."""
        return tuple(variant for variant in (self.variant, self.embedder) if variant is not None)
