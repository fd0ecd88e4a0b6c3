"""What a name that users ask for stands for: a variant, and how its owner wants it served.

Made by `host/catalog.py` from files and settings; used by `runtime/gateway.py` and shown by `api/`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from swapd.core.model import Variant
from swapd.generation import Sampling
from swapd.units import Bytes, Seconds, Tokens


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
    sampling: Sampling = field(default=Sampling())
    max_tokens: Tokens | None = None
    stop: tuple[str, ...] = ()


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
    shadowed: bool = False
    """Listed only: another file of the same name comes first."""
    family: str = ""
    parameters: int = 0
    quantization: str = ""
    template: bool = True
    """The file has a chat template."""
