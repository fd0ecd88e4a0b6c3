"""llama-server's own routes, for clients that were written for it: completion, infill, tokens, template, props, slots.

Bodies are checked in `llamaserver_bodies.py`, the words of an answer are in `llamaserver_voice.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aiohttp import web

from swapd import __version__
from swapd.api.answers import give
from swapd.api.bodies import parse, read_object
from swapd.api.calls import GATEWAY, generation_ids, json_answer, priority, session
from swapd.api.chosen import AUTOCOMPLETE, COMPLETION, adapters_for, model_for, need_infill
from swapd.api.llamaserver_bodies import (
    MEDIA_MARKER,
    CompletionBody,
    DetokenizeBody,
    Generated,
    InfillBody,
    Part,
    TemplateBody,
    TokenizeBody,
    read_completion,
    read_infill,
)
from swapd.api.llamaserver_voice import CompletionVoice, settings_document
from swapd.api.openai import DEFAULTS, seeded
from swapd.api.openai_messages import check_choice
from swapd.errors import InvalidRequest, Overloaded
from swapd.generation import GenerationRequest
from swapd.runtime.asking import Ask
from swapd.runtime.gateway import Gateway

routes = web.RouteTableDef()

_BUILD: Final = f"swapd-{__version__}"
_ROUTER: Final[Mapping[str, object]] = {
    "role": "router",
    "models_autoload": True,
    "model_alias": "swapd",
    "model_path": "none",
    "default_generation_settings": {"params": {}, "n_ctx": 0},
    "build_info": _BUILD,
}
"""Said where no model is named and none stands out, as llama-server does that has several."""


@routes.post("/completion")
@routes.post("/completions")
async def complete(request: web.Request) -> web.StreamResponse:
    gateway, body = request.app[GATEWAY], read_completion(await read_object(request))
    name = await model_for(gateway, body.model, COMPLETION)
    adapters = await adapters_for(gateway, name, body)
    prompts = [await _prompt(gateway, name, prompt.parts) for prompt in body.prompt]
    bias = await _bias(gateway, name, body)
    ids = generation_ids(request, len(prompts) * body.choices)
    asks = [
        _ask(
            request,
            name,
            body,
            GenerationRequest(ids.pop(0), prompt=prompt, images=given.images, adapters=adapters),
            bias,
            index,
        )
        for prompt, given in zip(prompts, body.prompt, strict=True)
        for index in range(body.choices)
    ]
    voice = CompletionVoice(name, body, [ask.request for ask in asks], await _ends(gateway, name, body))
    return await give(request, asks, voice, streamed=bool(body.stream))


@routes.post("/infill")
async def infill(request: web.Request) -> web.StreamResponse:
    gateway, body = request.app[GATEWAY], read_infill(await read_object(request))
    name = await model_for(gateway, body.model, AUTOCOMPLETE)
    adapters = await adapters_for(gateway, name, body)
    await need_infill(gateway, name)
    (unique,) = generation_ids(request, 1)
    wanted = GenerationRequest(
        unique,
        prompt=body.input_prefix + (body.prompt or ""),
        suffix=body.input_suffix,
        files=body.files,
        adapters=adapters,
    )
    ask = _ask(request, name, body, wanted, await _bias(gateway, name, body))
    voice = CompletionVoice(name, body, [ask.request], await _ends(gateway, name, body))
    return await give(request, [ask], voice, streamed=bool(body.stream))


@routes.post("/tokenize")
async def tokenize(request: web.Request) -> web.Response:
    gateway, body = request.app[GATEWAY], parse(TokenizeBody, await read_object(request))
    name = await model_for(gateway, body.model, COMPLETION)
    found = await gateway.questions.tokenize(
        name, body.parts, add_special=bool(body.add_special), parse_special=body.parse_special is not False
    )
    if not body.with_pieces:
        return json_answer({"tokens": found.tokens})
    told = [{"id": token, "piece": _piece(raw)} for token, raw in zip(found.tokens, found.pieces, strict=True)]
    return json_answer({"tokens": told})


@routes.post("/detokenize")
async def detokenize(request: web.Request) -> web.Response:
    gateway, body = request.app[GATEWAY], parse(DetokenizeBody, await read_object(request))
    name = await model_for(gateway, body.model, COMPLETION)
    return json_answer({"content": await gateway.questions.detokenize(name, body.tokens)})


@routes.post("/apply-template")
async def apply_template(request: web.Request) -> web.Response:
    gateway, body = request.app[GATEWAY], check_choice(parse(TemplateBody, await read_object(request)))
    name = await model_for(gateway, body.model, COMPLETION)
    wanted = body.asked_in(GenerationRequest(""))
    return json_answer({"prompt": (await gateway.questions.render(name, wanted)).text})


@routes.get("/props")
async def props(request: web.Request) -> web.Response:
    gateway = request.app[GATEWAY]
    try:
        name = await model_for(gateway, request.query.get("model"), COMPLETION)
    except InvalidRequest:
        return json_answer(_ROUTER)
    model = await gateway.find(name)
    assert model.variant is not None
    described = await gateway.questions.describe(name)
    sampling = model.entry.sampling.over(DEFAULTS)
    settings = settings_document(sampling, GenerationRequest("", max_tokens=model.entry.max_tokens))
    return json_answer(
        {
            "default_generation_settings": {"params": settings, "n_ctx": model.variant.context},
            "total_slots": model.variant.slots,
            "model_alias": model.name,
            "model_path": model.path,
            "model_ftype": model.quantization,
            "modalities": {"vision": model.sees, "audio": False, "video": False},
            "media_marker": MEDIA_MARKER,
            "endpoint_slots": True,
            "endpoint_props": False,
            "endpoint_metrics": True,
            "chat_template": described.template,
            "bos_token": described.bos,
            "eos_token": described.eos,
            "build_info": _BUILD,
            "is_sleeping": all(resident.name != model.name for resident in gateway.residents()),
        }
    )


@routes.get("/slots")
async def slots(request: web.Request) -> web.Response:
    gateway = request.app[GATEWAY]
    name = await model_for(gateway, request.query.get("model"), COMPLETION)
    model = await gateway.find(name)
    told = [
        {"id": number, "n_ctx": resident.context, "speculative": False, "is_processing": number < resident.slots_busy}
        for resident in gateway.residents()
        if model.variant is not None and resident.variant == model.variant.id
        for number in range(resident.slots)
    ]
    if request.query.get("fail_on_no_slot") and told and all(slot["is_processing"] for slot in told):
        raise Overloaded("no slot is free")
    return json_answer(told)


async def _prompt(gateway: Gateway, name: str, parts: list[Part]) -> str | tuple[int, ...]:
    """As the model reads it: a text as it is, token numbers, or what a mixture comes to in tokens."""
    if len(parts) == 1 and isinstance(parts[0], str):
        return parts[0]
    if all(isinstance(part, int) for part in parts):
        return tuple(part for part in parts if isinstance(part, int))
    return (await gateway.questions.tokenize(name, parts, add_special=True)).tokens


async def _ends(gateway: Gateway, name: str, body: Generated) -> tuple[int, ...]:
    """The tokens that may not be drawn because the answer is not to end."""
    return (await gateway.questions.describe(name, with_ends=True)).ends if body.ignore_eos else ()


async def _bias(gateway: Gateway, name: str, body: Generated) -> tuple[tuple[int, float], ...]:
    """Of a text: of each of its tokens."""
    bias: list[tuple[int, float]] = []
    for what, amount in body.logit_bias:
        tokens = (what,) if isinstance(what, int) else (await gateway.questions.tokenize(name, [what])).tokens
        bias += [(token, amount) for token in tokens]
    return tuple(bias)


def _ask(
    request: web.Request,
    name: str,
    body: CompletionBody | InfillBody,
    wanted: GenerationRequest,
    bias: tuple[tuple[int, float], ...],
    index: int = 0,
) -> Ask:
    """`index`: which of a prompt's answers."""
    streams = bool(body.stream)
    return Ask(
        model=name,
        request=GenerationRequest(
            id=wanted.id,
            prompt=wanted.prompt,
            images=wanted.images,
            suffix=wanted.suffix,
            files=wanted.files,
            adapters=wanted.adapters,
            sampling=seeded(body.sampling, index),
            max_tokens=body.limit,
            stop=tuple(body.stop),
            ignore_eos=bool(body.ignore_eos),
            logit_bias=bias,
            logprobs=body.logprobs,
            grammar=body.grammar or "",
            schema=body.json_schema,
            caches=body.cache_prompt is not False,
            samplers=body.samplers,
            after_filters=bool(body.post_sampling_probs),
            tells_tokens=streams or bool(body.return_tokens),
            tells_reading=streams and bool(body.return_progress),
            tells_usage=streams and bool(body.timings_per_token),
            line_limit=body.line_limit,
            indent=body.n_indent or 0,
        ),
        defaults=DEFAULTS,
        keep_alive=body.keep_alive,
        priority=priority(request),
        session=session(request),
    )


def _piece(raw: bytes) -> str | list[int]:
    """As llama-server tells it: the text, or the bytes where they are no whole characters."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return list(raw)
