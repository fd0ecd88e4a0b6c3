"""The routes by which Ollama's models come, change and go: here models are files, which the daemon only reads.

Each refuses with the reason; a pull of what is there already is done.
"""

from __future__ import annotations

from aiohttp import web

from swapd.api.bodies import read_object
from swapd.api.calls import GATEWAY, encode, json_answer
from swapd.api.guard import is_unix
from swapd.api.ollama_bodies import read_pull
from swapd.errors import Forbidden, InvalidRequest, ModelNotFound

routes = web.RouteTableDef()


@routes.post("/api/create")
@routes.post("/api/push")
@routes.post("/api/copy")
@routes.delete("/api/delete")
@routes.post("/api/blobs/{digest}")
@routes.head("/api/blobs/{digest}")
async def refuse_change(request: web.Request) -> web.Response:
    what = request.path.split("/")[2]
    verb = {"blobs": "store parts of"}.get(what, what)
    instead = {
        "create": '; a [models."name"] table of config.toml makes one of a file, with its own prompt and options',
        "copy": '; `aliases` of a [models."name"] table give one another name',
    }.get(what, "")
    raise Forbidden(f"cannot {verb} models here: they are files, which swapd only reads{instead}")


@routes.post("/api/pull")
async def pull(request: web.Request) -> web.Response:
    """Raises Forbidden over TCP, InvalidRequest for a model that is not here."""
    if not is_unix(request):
        raise Forbidden("cannot pull models over TCP; the Unix socket is for that ([server] allow_pull)")
    body = read_pull(await read_object(request))
    try:
        await request.app[GATEWAY].find(body.model)
    except ModelNotFound:
        raise InvalidRequest(
            f"cannot pull {body.model!r}: this release of swapd fetches nothing; put its file into a folder of "
            "[catalog] dirs and it is served under the file's name",
            "model",
        ) from None
    done = {"status": "success"}
    if body.stream is False:
        return json_answer(done)
    return web.Response(body=encode(done) + b"\n", content_type="application/x-ndjson")
