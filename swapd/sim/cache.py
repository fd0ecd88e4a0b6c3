"""The machine's page cache: what of which model's files is in memory that nobody else wants. True, whatever is told."""

from __future__ import annotations

from collections.abc import Mapping

from swapd.core.model import VariantId
from swapd.units import Bytes


class PageCache:
    """Least recently read first, as the kernel gives it up."""

    def __init__(self, sizes: Mapping[VariantId, Bytes]) -> None:
        self._sizes = sizes
        self._cached: dict[VariantId, Bytes] = {}

    def share(self, variant: VariantId) -> float:
        return self._cached.get(variant, 0) / self._sizes[variant]

    def read(self, variant: VariantId, size: Bytes, free: Bytes) -> None:
        """So much of the file, from its start, where so much memory is free."""
        there = self._cached.pop(variant, 0)
        self._cached[variant] = max(there, min(size, self._sizes[variant]))
        self.squeeze(free)

    def squeeze(self, free: Bytes) -> None:
        """Others have taken memory: only so much is left."""
        while (over := sum(self._cached.values()) - max(0, free)) > 0:
            first = next(iter(self._cached))
            self._cached[first] -= min(over, self._cached[first])
            if not self._cached[first]:
                del self._cached[first]

    def drop(self, variant: VariantId) -> None:
        self._cached.pop(variant, None)
