"""How the worker's process is tied to the daemon's: it must never outlive it.

Used by `__main__` before anything slow is imported, and by `child`. End of file on the socket is the other half.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
from typing import Final, NoReturn

_PR_SET_PDEATHSIG: Final = 1
_PEER = struct.Struct("3i")


def tie(fd: int) -> socket.socket:
    """The daemon's socket, once the kernel has promised to kill us when the daemon dies."""
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # else an abort forks a debugger that keeps our pipes open
    os.dup2(2, 1)  # whatever a library prints goes to the log
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the daemon decides what it means
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.set_inheritable(fd, False)
    connection = socket.socket(fileno=fd)
    connection.setblocking(True)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    peer: int = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))[0]
    if peer not in (0, os.getppid()):  # it died before we asked; 0: it is in a namespace that we do not see
        leave()
    return connection


def leave() -> NoReturn:
    """End at once, without clean-up: the system takes memory, cards and sockets back faster than destructors."""
    os._exit(0)
