"""swapd's own routes that tell what is decided and what happens: decisions, queue, events.

Used by `swapctl explain`, `queue` and `events`, and by the page.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import hdrs, web

from swapd.api.calls import GATEWAY, encode, json_answer
from swapd.errors import InvalidRequest
from swapd.runtime.explain import happening
from swapd.runtime.happenings import Happening
from swapd.units import Seconds

routes = web.RouteTableDef()

HEARTBEAT: Final[Seconds] = 15.0
_MOST: Final = 1000
_USUAL: Final = 50


@routes.get("/swapd/decisions")
async def decisions(request: web.Request) -> web.Response:
    query = request.query
    limit = _whole(query.get("limit", str(_USUAL)), "limit", 1, _MOST)
    gateway = request.app[GATEWAY]
    return json_answer(await gateway.decisions(query.get("model"), query.get("request"), limit))


@routes.get("/swapd/queue")
async def queue(request: web.Request) -> web.Response:
    return json_answer(request.app[GATEWAY].queue())


@routes.get("/swapd/events")
async def events(request: web.Request) -> web.StreamResponse:
    """SSE: from `Last-Event-ID`, or else from the oldest still known (`?since=now`: only what comes).

    `?follow=false` ends with the last one known. A reader too slow for the ring sees a gap in the ids.
    """
    happenings = request.app[GATEWAY].happenings
    follows = request.query.get("follow", "true").lower()
    if follows not in ("true", "false"):
        raise InvalidRequest(f"cannot read 'follow': {follows[:40]!r} is neither true nor false", "follow")
    since = request.query.get("since", "start").lower()
    if since not in ("start", "now"):
        raise InvalidRequest(f"cannot read 'since': {since[:40]!r} is neither start nor now", "since")
    last = happenings.last if since == "now" else 0
    if given := request.headers.get("Last-Event-ID"):
        last = min(_whole(given, "Last-Event-ID", 0, 2**63), happenings.last)
    response = web.StreamResponse(
        headers={hdrs.CONTENT_TYPE: "text/event-stream; charset=utf-8", hdrs.CACHE_CONTROL: "no-cache"}
    )
    await response.prepare(request)
    known = happenings.after(last)
    await response.write(b"".join(_sse(each) for each in known) or b": nothing yet\n\n")
    last = known[-1].id if known else last
    while follows == "true":
        try:
            async with asyncio.timeout(HEARTBEAT):
                news = await happenings.wait_after(last)
        except TimeoutError:
            await response.write(b": still here\n\n")
            continue
        last = news[-1].id
        await response.write(b"".join(_sse(each) for each in news))
    return response


def _sse(each: Happening) -> bytes:
    return f"id: {each.id}\nevent: {each.kind}\ndata: ".encode() + encode(happening(each)) + b"\n\n"


def _whole(given: str, name: str, least: int, most: int) -> int:
    """Raises InvalidRequest."""
    number = int(given) if given.isascii() and given.isdigit() and len(given) < 20 else -1
    if not least <= number <= most:
        raise InvalidRequest(f"cannot read {name!r}: {given[:40]!r} is no whole number from {least} to {most}", name)
    return number
