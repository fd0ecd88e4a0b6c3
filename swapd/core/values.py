"""`replace` for the core's values, as `dataclasses` has it and a dozen times as fast: a step calls it as often.

Knows nothing of what the values mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import replace as replace  # mypy knows this one, and checks names and types of the changes
else:
    from dataclasses import fields

    _COPIERS = {}

    def replace(value, /, **changes):
        """Of frozen dataclasses with slots whose `__init__` only stores. Raises AttributeError for an unknown name."""
        kind = type(value)
        copy = _COPIERS.get(kind) or _COPIERS.setdefault(kind, _copier(kind))
        new = copy(value)
        for name, changed in changes.items():
            setattr(new, name, changed)
        new.__class__ = kind
        return new

    def _copier(kind):
        """Makes a twin of a value: with the same slots, and not frozen until its class is set.

        Written out as `dataclasses` writes `__init__`: the interpreter does nothing faster than to store in slots.
        """
        names = [field.name for field in fields(kind)]
        twin = type(kind.__name__, (), {"__slots__": names})
        lines = ("def copy(value):", " new = twin()", *(f" new.{name} = value.{name}" for name in names), " return new")
        made = {"twin": twin}
        exec("\n".join(lines), made)  # noqa: S102 (of field names alone)
        return made["copy"]
