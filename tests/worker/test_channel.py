"""The worker's end of its socket: what is told at once, and what waits for the next telling."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from swapd.wire import Frames, FromWorker, Progress, decode_from_worker
from swapd.worker.child import HOLD, Channel

AT_ONCE = -1e3
"""Seconds until the next step: by then nothing has waited for long, however slow this machine is."""


@pytest.fixture
def ends() -> Iterator[tuple[Channel, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Channel(theirs), ours


def told(end: socket.socket) -> list[FromWorker]:
    try:
        data = end.recv(65536, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return []
    return [decode_from_worker(body) for body in Frames().feed(data)]


ONE, TWO, THREE = Progress(0.1), Progress(0.2), Progress(0.3)


def test_what_the_next_step_can_tell_as_well_waits_for_it(ends: tuple[Channel, socket.socket]) -> None:
    channel, end = ends
    channel.send(ONE)
    assert told(end) == [ONE]
    channel.send_soon(TWO, within=AT_ONCE)
    assert told(end) == []
    channel.send_soon(THREE, within=HOLD)
    assert told(end) == [TWO, THREE]


def test_what_would_wait_too_long_is_told_now(ends: tuple[Channel, socket.socket]) -> None:
    channel, end = ends
    channel.send(ONE)
    channel.send_soon(TWO, within=HOLD)
    assert told(end) == [ONE, TWO]


def test_whatever_is_sent_takes_along_what_was_held_and_before_it(ends: tuple[Channel, socket.socket]) -> None:
    channel, end = ends
    channel.send(ONE)
    channel.send_soon(TWO, within=AT_ONCE)
    channel.send(THREE)
    assert told(end) == [ONE, TWO, THREE]
    channel.send()
    assert told(end) == []
