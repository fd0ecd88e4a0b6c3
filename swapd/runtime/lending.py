"""Giving memory to other programs on the owner's word: told to the core, then waited for until it is seen free.

Called by `gateway.py`. Who has to leave is the core's decision.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from swapd.core import relief
from swapd.core.messages import YieldRequested
from swapd.core.model import DeviceId
from swapd.errors import InvalidRequest
from swapd.runtime.engine import Engine
from swapd.units import Bytes, Seconds, format_bytes

LIMIT: Final[Seconds] = 60.0
"""So long those at work are waited for."""


async def lend(engine: Engine, size: Bytes, duration: Seconds) -> DeviceId:
    """The device it comes from, once so much is seen free there, all have left that can, or LIMIT has passed.

    What was lent before is taken back; 0 bytes do only that. Raises InvalidRequest for more than the device has.
    """
    await wait_measured(engine)
    device = engine.state.yielding()
    assert device is not None  # a machine has memory
    if size > device.total:
        why = f"{device.id} has {format_bytes(device.total)}"
        raise InvalidRequest(f"cannot yield {format_bytes(size)}: {why}", "bytes")
    began = engine.now()
    engine.post(YieldRequested(began, size, duration))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LIMIT):
            while size and not relief.is_settled(engine.state, device.id, began):
                await engine.next_change()
    return device.id


async def wait_measured(engine: Engine) -> None:
    """Until this machine's memory has been looked at, as it is soon after the start."""
    while not engine.state.devices:
        await engine.next_change()
