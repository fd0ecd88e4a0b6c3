"""`/api/pull`: a model that is there already is done; another is fetched from the hub, in Ollama's words.

Used by `app.py`. Over TCP only where `[server] allow_pull` says so: a pull fills the disk.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Final

from aiohttp import web

from swapd.api.bodies import read_object
from swapd.api.calls import GATEWAY, GUARD, encode, json_answer
from swapd.api.guard import is_unix
from swapd.api.ollama_bodies import read_pull
from swapd.api.stream import NDJSON, Stream, stream
from swapd.errors import Forbidden, InvalidRequest, ModelNotFound
from swapd.host.hub import Hub, Remote, Wish, choose
from swapd.runtime.gateway import Gateway

routes = web.RouteTableDef()

HUB: Final = web.AppKey("hub", Hub)
_DONE: Final = {"status": "success"}


@routes.post("/api/pull")
async def pull(request: web.Request) -> web.StreamResponse:
    """Raises Forbidden over TCP, InvalidRequest, HubFailed. A caller that goes away ends it; the next goes on."""
    if not is_unix(request) and not request.app[GUARD].settings.allow_pull:
        raise Forbidden("cannot pull models over TCP; the Unix socket is for that ([server] allow_pull)")
    body = read_pull(await read_object(request))
    gateway, hub = request.app[GATEWAY], request.app.get(HUB)
    if await _is_here(gateway, body.model):
        return await _tell(request, body.stream, _nothing())
    if hub is None:
        raise InvalidRequest(f"cannot pull {body.model!r}: this daemon has no folder to put models into", "model")
    wish = Wish.of(body.model)
    files = choose(wish, await hub.files(wish))
    return await _tell(request, body.stream, _fetched(gateway, hub, wish, files))


async def _is_here(gateway: Gateway, name: str) -> bool:
    try:
        await gateway.find(name)
    except ModelNotFound:
        return False
    return True


async def _tell(
    request: web.Request, is_streamed: bool | None, lines: AsyncGenerator[object, None]
) -> web.StreamResponse:
    if is_streamed is False:
        last: object = _DONE
        async with contextlib.aclosing(lines):
            async for line in lines:
                last = line
        return json_answer(last)

    async def work(out: Stream) -> None:
        await out.open({})
        async with contextlib.aclosing(lines):
            async for line in lines:
                out.put(encode(line) + b"\n")
                await out.flush()

    return await stream(request, NDJSON, work)


async def _nothing() -> AsyncGenerator[object, None]:
    yield _DONE


async def _fetched(gateway: Gateway, hub: Hub, wish: Wish, files: tuple[Remote, ...]) -> AsyncGenerator[object, None]:
    yield {"status": "pulling manifest"}
    for file in files:
        about = {"status": f"pulling {file.sha256[:12] or file.name}", "digest": f"sha256:{file.sha256}"}
        async with contextlib.aclosing(hub.fetch(wish, file)) as sizes:
            async for size in sizes:
                yield about | {"total": file.size, "completed": size}
    yield {"status": "verifying sha256 digest"}
    await gateway.rescan()
    paths = {str(hub.folder / file.name) for file in files}
    names = [model.name for model in gateway.models() if model.path in paths and model.variant is not None]
    yield _DONE | {"models": names}
