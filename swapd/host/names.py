"""A forgiving look-up of names: as written, then without `:latest`, then whatever the case if only one fits.

Used by `catalog.py`; knows nothing of models but their index.
"""

from __future__ import annotations

import difflib


class Names:
    def __init__(self) -> None:
        self._levels: tuple[dict[str, list[int]], ...] = ({}, {}, {})
        self._spelled: dict[str, list[str]] = {}

    def add(self, name: str, index: int) -> bool:
        """False: the name already stands for another one, and goes on to."""
        if self._levels[0].get(name, [index]) != [index]:
            return False
        for level, key in zip(self._levels, _keys(name), strict=True):
            if index not in (indices := level.setdefault(key, [])):
                indices.append(index)
        if name not in (spellings := self._spelled.setdefault(name.casefold(), [])):
            spellings.append(name)
        return True

    def find(self, name: str) -> int | None:
        as_written = self._levels[0].get(name, [])
        if len(as_written) == 1:
            return as_written[0]
        for level, key in zip(self._levels, _keys(name), strict=True):
            if len(indices := level.get(key, [])) == 1:
                return indices[0]
        return None

    def nearest(self, name: str) -> tuple[str, ...]:
        """At most three names that look like it, the likest first."""
        close = difflib.get_close_matches(name[:200].casefold(), self._spelled, n=3, cutoff=0.5)
        return tuple(spelling for folded in close for spelling in self._spelled[folded])[:3]


def _keys(name: str) -> tuple[str, str, str]:
    bare = name[: -len(":latest")] if name.lower().endswith(":latest") else name
    return name, bare, bare.casefold()
