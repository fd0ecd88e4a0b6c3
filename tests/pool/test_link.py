"""What the end of a worker's socket says about the worker."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator

import pytest

from swapd.pool.link import Link
from swapd.wire import Ping

_RESET = struct.pack("ii", 1, 0)
"""Linger no moment: closing resets."""


@pytest.fixture
async def ends() -> AsyncIterator[tuple[Link, socket.socket]]:
    """A link, and the worker's end of its connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    link = Link(lambda message: None, lambda: None)
    transport, _ = await asyncio.get_running_loop().create_connection(lambda: link, sock=ours)
    yield link, theirs
    theirs.close()
    transport.abort()


async def test_a_worker_that_dies_with_words_unread_has_only_ended(ends: tuple[Link, socket.socket]) -> None:
    """How it died is told by its process, not by its socket."""
    link, theirs = ends
    link.send(Ping())
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    theirs.close()
    assert await asyncio.wait_for(link.closed, 10) == ""


async def test_a_worker_that_talks_nonsense_is_told_of(ends: tuple[Link, socket.socket]) -> None:
    link, theirs = ends
    theirs.sendall(b"\xff" * 64)
    assert await asyncio.wait_for(link.closed, 10) != ""
