"""What a step remembers for later ones: who comes after whom, where weights were, what is in the page cache.

The part of `facts` that guesses and prices are made of.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final

from swapd.core.messages import FileWarmed, RequestArrived
from swapd.core.model import Tier, VariantId
from swapd.core.past import Past
from swapd.core.resident import STAYING, Resident
from swapd.core.turn import Turn
from swapd.core.values import replace
from swapd.units import Seconds

NONE: Final = 0.1
ALL: Final = 0.9
"""Less, or more, of a file in the page cache than this counts as none, or all, of it."""
FILES: Final = 256
"""So many files' shares are remembered."""


class Hindsight(Turn):
    def remember_asked(self, event: RequestArrived) -> None:
        """How often, after whom; and one that was loaded ahead for this is now a resident like others."""
        variant = event.variant.id
        self.remember(variant, self.past(variant).asked(self.state.now))
        succession = self.state.succession.asked(event.variant, event.owner_keep_alive, self.state.now)
        self.state = replace(self.state, succession=succession)
        resident = self.state.staying(variant)
        if resident is not None and resident.is_foreseen:
            self.put(replace(resident, expected_after=None))

    def own_pinned(self) -> None:
        """One that was loaded ahead and is pinned now is there because the owner wants it."""
        for resident in self.state.in_phases(STAYING):
            if resident.is_foreseen and self.state.is_pinned(resident):
                self.put(replace(resident, expected_after=None))

    def see_files(self, files: Mapping[VariantId, float]) -> None:
        cached = {variant: share for variant, share in self.state.cached.items() if variant not in files}
        cached.update(files)
        while len(cached) > FILES:
            del cached[next(iter(cached))]
        self.state = replace(self.state, cached=cached)

    def see_read(self, event: FileWarmed) -> None:
        """To its end, and what came of it."""
        if event.cached is not None:
            self.see_files({event.variant: event.cached})
        if self.state.reading == event.variant:
            read_at = {v: at for v, at in self.state.read_at.items() if v in self.state.cached}
            read_at[event.variant] = self.state.now
            self.state = replace(self.state, reading=None, read_at=read_at)

    def see_tier(self, loading: Resident, cached: float | None) -> Resident:
        """The same, knowing where its weights were; between two the nearer. `cached` None: nobody knows."""
        same = [r for r in self.state.residents.values() if r.variant.id == loading.variant.id and r.id != loading.id]
        was_here = loading.variant.id in self.state.left or bool(same)
        if was_here and cached is not None and cached >= ALL:
            return replace(loading, tier=Tier.HOST)
        return replace(loading, tier=None if cached is None else Tier.WARM if cached >= 0.5 else Tier.COLD)

    def remember_load(self, resident: Resident, took: Seconds, cached: float | None) -> None:
        """Where only a part of the file was cached, its time tells nothing of either tier."""
        is_clear = cached is not None and not NONE < cached < ALL
        past = self.past(resident.variant.id).loaded(took, resident.tier if is_clear else None)
        self.remember(resident.variant.id, past)

    def recall_loads(self, loads: Iterable[tuple[VariantId, Tier, Seconds]]) -> None:
        """What this run has learnt already is newer."""
        for variant, tier, seconds in loads:
            past = self.state.pasts.get(variant) or Past(-math.inf)
            self.remember(variant, replace(past, loads={tier: seconds, **past.loads}))
