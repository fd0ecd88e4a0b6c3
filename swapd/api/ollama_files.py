"""The routes by which Ollama's models change and go: here models are files, which the daemon only reads.

Each refuses with the reason. How they come is `pulling.py`'s.
"""

from __future__ import annotations

from aiohttp import web

from swapd.errors import Forbidden

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
