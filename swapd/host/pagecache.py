"""How much of a model's files the kernel keeps in its page cache, and reading them into it before they are needed.

Plugged into the engine's `Files` port by `daemon.py`. Everything here blocks: call it in a thread. Linux only;
where the kernel does not tell, nothing is known, and nothing is read.

`cachestat` (Linux 6.5) counts exactly and at once. `mincore`, before that, looks at single pages: of a large file a
sample. It says "all" of a file that is not ours to write, so there its word is not taken.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import platform
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Final

from swapd.host import folders
from swapd.units import Bytes, MiB

WINDOW: Final[Bytes] = 8 * MiB
"""Read at a time; one that is cached already is passed over."""
SAMPLES: Final = 64
SAMPLE: Final[Bytes] = 1 * MiB
_BUFFER: Final[Bytes] = 1 * MiB
_PAGE: Final = mmap.PAGESIZE

_CACHESTAT: Final = 451
_IOPRIO_SET: Final = {"x86_64": 251, "aarch64": 30}
_THIS_THREAD: Final = (1, 0)
_IDLE: Final = 3 << 13
"""Of the classes of I/O priority: only when nobody else wants the disk."""
_NICE: Final = 10
_FAILED: Final = ctypes.c_void_p(-1).value


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Counts(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("cached", "dirty", "writing", "evicted", "lately"))


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    libc.mmap.restype = ctypes.c_void_p
    size, number = ctypes.c_size_t, ctypes.c_int
    libc.mmap.argtypes = (ctypes.c_void_p, size, number, number, number, ctypes.c_int64)
    libc.munmap.argtypes = (ctypes.c_void_p, size)
    libc.mincore.argtypes = (ctypes.c_void_p, size, ctypes.c_char_p)
    return libc


class PageCache:
    """Of the model whose first file is named; its other parts are found beside it."""

    def __init__(self, *, exactly: bool = True) -> None:
        """`exactly` False does without cachestat."""
        self._is_linux = sys.platform == "linux"
        self._libc = _libc() if self._is_linux else None
        self._has_cachestat = exactly

    def share(self, path: str) -> float | None:
        """From 0 to 1; None: the kernel does not tell, or the files cannot be opened."""
        total = cached = 0
        try:
            for part in folders.named(path).paths:
                with _opened(part) as file:
                    size = os.fstat(file).st_size
                    there = self._cached(file, 0, size)
                if there is None:
                    return None
                total, cached = total + size, cached + there
        except OSError:
            return None
        return min(1.0, cached / total) if total else None

    def read(self, path: str, size: Bytes, is_wanted: Callable[[], bool]) -> None:
        """Have the first `size` bytes in the page cache, with the calling thread at the lowest priority from now on.

        Ends early when it is not wanted any more, asked every megabyte. Raises OSError.
        """
        self._step_back()
        buffer = bytearray(_BUFFER)
        for part in folders.named(path).paths:
            with _opened(part) as file:
                length = min(size, os.fstat(file).st_size)
                os.posix_fadvise(file, 0, length, os.POSIX_FADV_SEQUENTIAL)
                for start in range(0, length, WINDOW):
                    end = min(start + WINDOW, length)
                    if self._cached(file, start, end - start) == end - start:
                        continue
                    # Asked for at once so that the disk is busy while we copy; the copy waits until it is there.
                    os.posix_fadvise(file, start, end - start, os.POSIX_FADV_WILLNEED)
                    for offset in range(start, end, _BUFFER):
                        if not is_wanted():
                            return
                        os.preadv(file, [memoryview(buffer)[: min(_BUFFER, end - offset)]], offset)
            size -= length
            if size <= 0:
                return

    def _step_back(self) -> None:
        thread = threading.get_native_id()
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, _NICE)
        number = _IOPRIO_SET.get(platform.machine())
        if self._libc is not None and number is not None:
            self._libc.syscall(number, *_THIS_THREAD, _IDLE)

    def _cached(self, file: int, start: Bytes, length: Bytes) -> Bytes | None:
        """Of this part of the file; None: not known."""
        if self._libc is None:
            return None
        if self._has_cachestat:
            counts = _Counts()
            where = _Range(start, length)
            if self._libc.syscall(_CACHESTAT, file, ctypes.byref(where), ctypes.byref(counts), 0) == 0:
                return min(length, int(counts.cached) * _PAGE)
            self._has_cachestat = False
        if not _is_ours(file):
            return None
        if length <= SAMPLES * SAMPLE:
            return self._resident(file, start, length)
        found = looked_at = 0
        for number in range(SAMPLES):
            offset = start + (length - SAMPLE) * number // (SAMPLES - 1) // _PAGE * _PAGE
            there = self._resident(file, offset, SAMPLE)
            if there is None:
                return None
            found, looked_at = found + there, looked_at + SAMPLE
        return length * found // looked_at

    def _resident(self, file: int, start: Bytes, length: Bytes) -> Bytes | None:
        """By mincore. `start` is a whole number of pages."""
        assert self._libc is not None
        if not length:
            return 0
        pages = -(-length // _PAGE)
        address = self._libc.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, file, start)
        if address == _FAILED:
            return None
        try:
            seen = ctypes.create_string_buffer(pages)
            if self._libc.mincore(address, length, seen) != 0:
                return None
            return min(length, sum(page & 1 for page in seen.raw) * _PAGE)
        finally:
            self._libc.munmap(address, length)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield file
    finally:
        os.close(file)


def _is_ours(file: int) -> bool:
    """Whether the kernel tells us the truth about it: to owners and those who may write."""
    about = os.fstat(file)
    return os.geteuid() in (0, about.st_uid) or os.access(f"/proc/self/fd/{file}", os.W_OK)
