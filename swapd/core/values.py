"""`replace` for the core's values, as `dataclasses` has it and several times as fast: a step calls it a dozen times.

Knows nothing of what the values mean.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import replace as replace  # mypy knows this one, and checks names and types of the changes
else:
    from dataclasses import fields

    _KNOWN = {}
    """Of each class: its fields' names, how to read them all, and how to write each."""

    def replace(value, /, **changes):
        """Of frozen dataclasses with slots whose `__init__` only stores. Raises TypeError for an unknown name."""
        kind = type(value)
        known = _KNOWN.get(kind)
        if known is None:
            names = tuple(field.name for field in fields(kind))
            writers = tuple(getattr(kind, name).__set__ for name in names)
            known = _KNOWN[kind] = names, dict(zip(names, writers, strict=True)), attrgetter(*names), writers
        names, writer_of, read, writers = known
        new = object.__new__(kind)
        for write, old in zip(writers, read(value), strict=True):
            write(new, old)
        for name, changed in changes.items():
            if name not in writer_of:
                raise TypeError(f"{kind.__name__} has no {name!r}")
            writer_of[name](new, changed)
        return new
