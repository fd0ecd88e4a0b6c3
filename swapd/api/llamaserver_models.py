"""llama-server's routes about models, adapters and slots: what a server of several models takes by name.

What it changes by hand and swapd does by itself is refused with the way to have it; used by clients of its router.
"""

from __future__ import annotations

from typing import Annotated, Final

from aiohttp import web
from pydantic import Field

from swapd.api.bodies import parse, read_object
from swapd.api.calls import GATEWAY, json_answer
from swapd.api.chosen import COMPLETION, model_for
from swapd.api.fields import Body, KeepAlive
from swapd.errors import NotSupported

routes = web.RouteTableDef()
_DONE: Final = {"success": True}


class LoadBody(Body):
    model: Annotated[str, Field(min_length=1, max_length=1024)]
    keep_alive: KeepAlive = None


@routes.post("/models/load")
async def load(request: web.Request) -> web.Response:
    """Answers at once, as llama-server does; `/models` tells how it goes."""
    gateway, body = request.app[GATEWAY], parse(LoadBody, await read_object(request))
    await gateway.find(body.model)
    gateway.load_soon(body.model, body.keep_alive)
    return json_answer(_DONE)


@routes.post("/models/unload")
async def unload(request: web.Request) -> web.Response:
    body = parse(LoadBody, await read_object(request))
    await request.app[GATEWAY].unload(body.model, wait=False)
    return json_answer(_DONE)


@routes.get("/lora-adapters")
async def adapters(request: web.Request) -> web.Response:
    gateway = request.app[GATEWAY]
    model = await gateway.find(await model_for(gateway, request.query.get("model"), COMPLETION))
    told = [
        {"id": place, "name": name, "path": path, "scale": 1.0 if name == model.adapter else 0.0}
        for place, (name, path) in enumerate(model.entry.lora)
    ]
    return json_answer(told)


@routes.post("/lora-adapters")
async def scale_adapters(request: web.Request) -> web.Response:
    raise NotSupported(
        "cannot set adapters for everybody: each request names its own, as the model `name+adapter` or in 'lora'"
    )


@routes.post("/props")
async def change_props(request: web.Request) -> web.Response:
    raise NotSupported("cannot change properties here: `config.toml` and `swapctl reload` do that")


@routes.post("/slots/{id}")
async def change_slot(request: web.Request) -> web.Response:
    raise NotSupported(
        "cannot save, restore or erase a slot by hand: conversations are saved when their slot or model is given up, "
        "and found again by their text"
    )
