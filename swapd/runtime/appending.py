"""A file of lines that only grows, and begins anew when it is full: the one before is kept beside it.

Used by `recorder` in a thread: everything here blocks. Knows nothing of what the lines say, but that some are facts
that hold from then on: a new file begins with them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from swapd.units import Bytes, MiB

MOST_BYTES: Final[Bytes] = 16 * MiB
"""Of one file; there are two."""
_LONGEST: Final = 65536


class Appending:
    """Lines are gathered, then written together. Only the owner can read the file."""

    def __init__(self, path: Path, older: Path, most: Bytes = MOST_BYTES) -> None:
        self.path, self._older, self._most = path, older, most
        self._held: dict[str, str] = {}
        """The facts that are written, the head first."""
        self._facts: dict[str, str] = {}
        """Those gathered."""
        self._lines: list[str] = []
        self._was_opened = False

    def fact(self, about: str, line: str) -> None:
        """It holds until the next one about the same. The first one ever stays first."""
        self._facts[about] = line
        self._lines.append(line)

    def add(self, line: str) -> None:
        self._lines.append(line)

    def forget(self) -> None:
        """What was gathered is not to be written."""
        self._lines.clear()
        self._facts.clear()

    def write(self) -> None:
        """All that was gathered, or nothing of it. Raises OSError."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._is_full(_bytes(self._lines)):
            self.path.replace(self._older)
        file = self._open()
        try:
            size = os.fstat(file).st_size
            # A file that is new, or that somebody has removed, tells first what holds.
            begun = [] if size else self._held.values()
            _append(file, _bytes([*begun, *self._lines]), size)
        finally:
            os.close(file)
        self._held.update(self._facts)
        self.forget()

    def _is_full(self, content: bytes) -> bool:
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            return False
        return size > 0 and size + len(content) > self._most

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(self.path, flags, 0o600)
        try:
            os.fchmod(file, 0o600)
            if not self._was_opened:
                _repair(file)
                self._was_opened = True
        except BaseException:
            os.close(file)
            raise
        return file


def _bytes(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _append(file: int, content: bytes, size: Bytes) -> None:
    """On a full disk the file is as it was."""
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(file, rest) :]
    except OSError:
        os.ftruncate(file, size)
        raise


def _repair(file: int) -> None:
    """Cut off a last line that was never finished: the machine, or the daemon, went down just then."""
    size = os.fstat(file).st_size
    start = max(0, size - _LONGEST)
    tail = os.pread(file, size - start, start)
    if tail and not tail.endswith(b"\n"):
        os.ftruncate(file, start + tail.rfind(b"\n") + 1)
