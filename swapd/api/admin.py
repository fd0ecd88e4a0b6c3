"""swapd's own routes: health, status, the catalog, load, unload, pin, footprint, plan, yield, reload.

Used by `swapctl` and by people's scripts; the documents are promised in the contract.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final

from aiohttp import web
from pydantic import Field

from swapd.api.bodies import parse, read_object
from swapd.api.calls import GATEWAY, encode, json_answer, wants_progress
from swapd.api.fields import Body, KeepAlive, Size, Whole
from swapd.api.stream import NDJSON, Stream, stream
from swapd.errors import InvalidRequest
from swapd.runtime.status import ResidentStatus, resident_document
from swapd.served import Model
from swapd.units import Seconds

routes = web.RouteTableDef()

_NAME: Final = "/swapd/models/{name:.+}"
_YIELD: Final[Seconds] = 1800.0


class LoadBody(Body):
    keep_alive: KeepAlive = None
    gpu_layers: Annotated[Whole, Field(ge=0, le=2**31 - 1)] | None = None


class UnloadBody(Body):
    force: bool | None = None


class PlanBody(Body):
    models: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=16)]
    gpu: Annotated[list[Annotated[Size, Field(gt=0)]], Field(min_length=1, max_length=8)] | None = None
    context: Annotated[Whole, Field(ge=16, lt=2**31)] | None = None
    slots: Annotated[Whole, Field(ge=1, le=256)] | None = None


class YieldBody(Body):
    bytes: Size
    seconds: KeepAlive = None


@routes.get("/health")
@routes.get("/v1/health")
async def health(request: web.Request) -> web.Response:
    complaint = request.app[GATEWAY].unhealthy()
    if complaint is None:
        return json_answer({"status": "ok"})
    return json_answer({"status": "unhealthy", "reason": complaint}, status=503, headers={"Retry-After": "1"})


@routes.get("/swapd/status")
async def status(request: web.Request) -> web.Response:
    return json_answer(await request.app[GATEWAY].measured_status())


@routes.get("/swapd/models")
async def models(request: web.Request) -> web.Response:
    gateway = request.app[GATEWAY]
    await gateway.refresh()
    cached = await gateway.cached()
    residents = {resident.name: resident for resident in gateway.residents()}
    documents = [
        _catalog_document(model, residents.get(model.name), cached.get(model.name), gateway.is_pinned(model))
        for model in gateway.models()
    ]
    return json_answer({"models": documents})


@routes.post(f"{_NAME}/load")
async def load(request: web.Request) -> web.StreamResponse:
    gateway, name = request.app[GATEWAY], request.match_info["name"]
    body = parse(LoadBody, await read_object(request, optional=True))
    if not _waits(request):
        model = await gateway.find(name)  # who names nothing that exists is told so at once
        gateway.load_soon(name, body.keep_alive, body.gpu_layers)
        return json_answer({"name": model.name, "state": "loading"}, status=202)
    if not wants_progress(request):
        return json_answer(resident_document(await gateway.load(name, body.keep_alive, body.gpu_layers)))

    async def work(out: Stream) -> None:
        resident = await gateway.load(name, body.keep_alive, body.gpu_layers, out.watch)
        await out.open({})
        out.put(encode(resident_document(resident)) + b"\n")

    return await stream(request, NDJSON, work)


@routes.post(f"{_NAME}/unload")
async def unload(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    body = parse(UnloadBody, await read_object(request, optional=True))
    was_loaded = await request.app[GATEWAY].unload(name, force=bool(body.force), wait=_waits(request))
    return json_answer({"name": name, "unloaded": was_loaded})


@routes.post(f"{_NAME}/pin")
async def pin(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    await request.app[GATEWAY].pin(name)
    return json_answer({"name": name, "pinned": True})


@routes.post(f"{_NAME}/unpin")
async def unpin(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    await request.app[GATEWAY].unpin(name)
    return json_answer({"name": name, "pinned": False})


@routes.get(f"{_NAME}/footprint")
async def footprint(request: web.Request) -> web.Response:
    return json_answer(await request.app[GATEWAY].footprint(request.match_info["name"]))


@routes.post("/swapd/plan")
async def plan(request: web.Request) -> web.Response:
    body = parse(PlanBody, await read_object(request))
    cards = tuple(body.gpu) if body.gpu is not None else None
    return json_answer(await request.app[GATEWAY].plan(body.models, cards, body.context, body.slots))


@routes.post("/swapd/yield")
async def yield_memory(request: web.Request) -> web.Response:
    body = parse(YieldBody, await read_object(request))
    duration = _YIELD if body.seconds is None else body.seconds
    if duration <= 0:
        raise InvalidRequest("cannot read 'seconds': a time above 0 is expected; 0 bytes take it back", "seconds")
    return json_answer(await request.app[GATEWAY].yield_memory(body.bytes, duration))


@routes.post("/swapd/reload")
async def reload(request: web.Request) -> web.Response:
    await request.app[GATEWAY].reload()
    return json_answer({"reloaded": True})


def _catalog_document(
    model: Model, resident: ResidentStatus | None, cached: float | None, is_pinned: bool
) -> dict[str, object]:
    """`tier`: where its weights are; "warm" or "cold" (by the larger part, `cached`) while it is not loaded."""
    variant = model.variant
    if model.shadowed:
        resident = cached = None
    tier = None if cached is None else "warm" if cached >= 0.5 else "cold"
    return {
        "name": model.name,
        "aliases": list(model.entry.aliases),
        "path": model.path,
        "size": model.size,
        "state": None if resident is None else resident.state,
        "tier": tier if resident is None else resident.tier,
        "cached": None if cached is None else round(cached, 3),
        "usable": variant is not None and not model.shadowed,
        "reason": model.reason,
        "context": variant.context if variant is not None else None,
        "slots": variant.slots if variant is not None else None,
        "family": model.family,
        "parameters": model.parameters,
        "quantization": model.quantization,
        "template": model.template,
        "digest": model.digest,
        "modified": datetime.fromtimestamp(model.modified, UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "pinned": is_pinned,
    }


def _waits(request: web.Request) -> bool:
    """`?wait=false` answers at once. Raises InvalidRequest."""
    given = request.query.get("wait", "true").lower()
    if given not in ("true", "false"):
        raise InvalidRequest(f"cannot read 'wait': {given[:40]!r} is neither true nor false", "wait")
    return given == "true"
