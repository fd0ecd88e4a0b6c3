"""What an examination finds, and how it is told.

Made by `doctor`; knows nothing of what is examined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import assert_never

from swapd.ctl.client import Json
from swapd.ctl.terminal import cell, count


class Level(Enum):
    FINE = "fine"
    NOTE = "note"
    """Worth knowing; may be as it should be."""
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    about: str
    level: Level
    says: str
    do: str = ""
    """What the user can do about it."""


def document(findings: Sequence[Finding]) -> Json:
    return {
        "healthy": not any(finding.level is Level.WRONG for finding in findings),
        "findings": [asdict(finding) | {"level": finding.level.value} for finding in findings],
    }


def page(findings: Sequence[Finding]) -> str:
    width = max(len(finding.about) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{_mark(finding.level)} {finding.about:<{width}}  {cell(finding.says)}")
        if finding.do:
            lines.append(f"  {'':<{width}}  -> {cell(finding.do)}")
    wrong = sum(finding.level is Level.WRONG for finding in findings)
    lines += ["", f"{count(wrong, 'thing')} to mend." if wrong else "Nothing is wrong."]
    return "\n".join(lines)


def _mark(level: Level) -> str:
    match level:
        case Level.FINE:
            return "+"
        case Level.NOTE:
            return "."
        case Level.WRONG:
            return "!"
        case _:
            assert_never(level)
