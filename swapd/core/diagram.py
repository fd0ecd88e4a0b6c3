"""The picture of the state machine in README.md, made from its table. A test compares the two.

Run as `python -m swapd.core.diagram` it prints what belongs between the markers.
"""

from __future__ import annotations

import sys
from typing import Final

from swapd.core.resident import LEGAL, Phase

MARKERS: Final = ("<!-- made by python -m swapd.core.diagram -->", "<!-- end -->")


def mermaid() -> str:
    """The table as a mermaid state diagram: one arrow for each pair of phases, its triggers joined."""
    arrows: dict[tuple[Phase, Phase], list[str]] = {}
    for (before, trigger), after in LEGAL.items():
        arrows.setdefault((before, after), []).append(trigger.value)
    lines = [f"    {before} --> {after}: {' or '.join(triggers)}" for (before, after), triggers in arrows.items()]
    body = [f"    [*] --> {Phase.RESERVED}", *lines, f"    {Phase.GONE} --> [*]"]
    return "\n".join(["```mermaid", "stateDiagram-v2", *body, "```"])


if __name__ == "__main__":
    sys.stdout.write(mermaid() + "\n")
