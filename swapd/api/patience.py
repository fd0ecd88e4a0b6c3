"""Connections on which nothing is ever asked are closed: each holds a file descriptor, and a caller can open many.

Run by `daemon.py` beside the server. Requests that were read are none of its business, however long they take; what
comes after the first on a connection is aiohttp's keep-alive's.
"""

from __future__ import annotations

import asyncio
import weakref
from typing import Final

from aiohttp import web

from swapd.units import Seconds

PATIENCE: Final[Seconds] = 30.0
"""From the connection to the end of its first request's headers."""

Asked = weakref.WeakSet[asyncio.Transport]
"""The connections on which a request has come."""

ASKED: Final = web.AppKey("asked", Asked)


async def close_silent(server: web.Server, asked: Asked, patience: Seconds = PATIENCE) -> None:
    """Never returns."""
    known: weakref.WeakKeyDictionary[asyncio.Transport, Seconds] = weakref.WeakKeyDictionary()
    clock = asyncio.get_running_loop().time
    while True:
        now = clock()
        for connection in server.connections:
            transport = connection.transport
            if not isinstance(transport, asyncio.Transport) or transport in asked:
                continue
            if now - known.setdefault(transport, now) >= patience:
                transport.abort()
        await asyncio.sleep(patience / 4)
