"""Words to the service manager: ready, stopping, reloading, alive.

Lives beside the shell because the daemon alone calls it. Without a manager (NOTIFY_SOCKET unset)
every call is a no-op. Must not know what the daemon does, only how the protocol spells it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Final

from swapd.units import Seconds

_PATIENCE: Final[Seconds] = 1.0  # the manager's queue may be full for a moment; READY=1 must not get lost for that


def notify(*lines: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Send assignments such as `"READY=1"`, `"STATUS=two models"` as one message.

    A line break inside a line becomes a space, so that a text can never forge an assignment.
    Returns whether a manager took the message; never raises for a manager that is gone.
    """
    address = environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@") or len(address) < 2:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    message = "\n".join(" ".join(line.splitlines()) for line in lines).encode("utf-8", "replace")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.settimeout(_PATIENCE)
        try:
            sender.sendto(message, address)
        except OSError:
            return False
    return True


def watchdog_interval(environ: Mapping[str, str] = os.environ) -> Seconds | None:
    """Seconds between two `"WATCHDOG=1"`: half of what the manager allows; None when it does not watch this process."""
    allowed, watched = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if watched and watched != str(os.getpid()):
        return None
    if not (allowed.isascii() and allowed.isdigit()) or int(allowed) == 0:
        return None
    return int(allowed) / 1e6 / 2
