"""GET /v1/models, a path that the OpenAI and Anthropic dialects share: each client gets what it can parse.

Anthropic's clients are known by the `anthropic-version` header. Its lists have pages; here one page holds all.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from aiohttp import web

from swapd.api.calls import GATEWAY, json_answer
from swapd.api.failures import Dialect
from swapd.runtime.gateway import Gateway
from swapd.served import Model

routes = web.RouteTableDef()


@routes.get("/models")
@routes.get("/v1/models")
async def list_models(request: web.Request) -> web.Response:
    gateway = request.app[GATEWAY]
    await gateway.refresh()
    usable = [model for model in gateway.models() if model.variant is not None and not model.shadowed]
    served = [offer for model in usable for offer in model.offered]
    if Dialect.of(request) is Dialect.ANTHROPIC:
        names = [name for name, _ in served]
        ends = {"first_id": names[0] if names else None, "last_id": names[-1] if names else None}
        data = [_for_anthropic(model, name) for name, model in served]
        return json_answer({"data": data, "has_more": False, **ends})
    states = _states(gateway)
    return json_answer({"object": "list", "data": [_for_openai(model, name, states) for name, model in served]})


@routes.get("/v1/models/{id:.+}")
async def show_model(request: web.Request) -> web.Response:
    name = request.match_info["id"]
    gateway = request.app[GATEWAY]
    model = await gateway.find(name)
    if Dialect.of(request) is Dialect.ANTHROPIC:
        return json_answer(_for_anthropic(model, name))
    return json_answer(_for_openai(model, name, _states(gateway)))


def _states(gateway: Gateway) -> dict[str, str]:
    """Of the loaded ones, in llama-server's words."""
    told = {"loading": "loading", "ready": "loaded", "busy": "loaded"}
    return {resident.name: told.get(resident.state, "unloaded") for resident in gateway.residents()}


def _for_openai(model: Model, name: str, states: Mapping[str, str]) -> dict[str, object]:
    """OpenAI's fields, and those that llama-server has besides."""
    assert model.variant is not None
    shape = model.variant.shape
    inputs = ["text", *(["image"] if model.sees else [])]
    return {
        "id": name,
        "object": "model",
        "created": int(model.modified),
        "owned_by": "swapd",
        "aliases": list(model.entry.aliases) if name == model.name else [],
        "status": {"value": states.get(model.name, "unloaded")},
        "architecture": {"input_modalities": inputs, "output_modalities": ["text"]},
        "meta": {
            "n_vocab": shape.vocabulary,
            "n_ctx": model.variant.context,
            "n_ctx_train": shape.trained_context,
            "n_embd": shape.embedding,
            "n_params": model.parameters,
            "size": model.size,
        },
    }


def _for_anthropic(model: Model, name: str) -> dict[str, object]:
    assert model.variant is not None
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": datetime.fromtimestamp(int(model.modified), UTC),
        "lifecycle": "active",
        "max_input_tokens": model.variant.context,
        "max_tokens": model.variant.context,
    }
