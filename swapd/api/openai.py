"""The OpenAI dialect: chat completions, completions.

Bodies are checked in `openai_bodies.py`; the words of the answers are in `openai_voice.py`.
"""

from __future__ import annotations

from typing import Final

from aiohttp import web
from msgspec.structs import replace

from swapd.api.answers import give
from swapd.api.bodies import read_object
from swapd.api.calls import GATEWAY, generation_ids, priority, session
from swapd.api.chosen import CHAT, COMPLETION, adapters_for, check_infill, model_for
from swapd.api.openai_bodies import GenerationBody, read_chat, read_completion
from swapd.api.openai_voice import ChatVoice, CompletionVoice
from swapd.generation import GenerationRequest, Sampling
from swapd.runtime.asking import Ask

routes = web.RouteTableDef()

DEFAULTS: Final = Sampling(
    temperature=0.8,
    top_k=40,
    top_p=0.95,
    min_p=0.05,
    repeat_penalty=1.0,
    repeat_last_n=64,
    presence_penalty=0.0,
    frequency_penalty=0.0,
)
"""llama-server's: what its users get where neither request nor model says."""

_SEEDS: Final = 2**32 - 1


@routes.post("/chat/completions")
@routes.post("/v1/chat/completions")
async def chat(request: web.Request) -> web.StreamResponse:
    body = read_chat(await read_object(request))
    name = await model_for(request.app[GATEWAY], body.model, CHAT)
    ids = generation_ids(request, body.choices)
    asks = [await _ask(request, name, body, unique, index) for index, unique in enumerate(ids)]
    asks = [replace(ask, request=body.asked_in(ask.request)) for ask in asks]
    return await give(request, asks, ChatVoice(asks[0].request.id, name, body), streamed=bool(body.stream))


@routes.post("/v1/completions")
async def complete(request: web.Request) -> web.StreamResponse:
    body = read_completion(await read_object(request))
    name = await model_for(request.app[GATEWAY], body.model, COMPLETION)
    tries = body.tries
    ids = generation_ids(request, len(body.prompt) * tries)
    asks = [
        await _ask(request, name, body, ids.pop(0), index, prompt=prompt, echo=bool(body.echo))
        for prompt in body.prompts
        for index in range(tries)
    ]
    if tries > body.choices:  # the best are those whose tokens were likeliest
        asks = [replace(ask, request=replace(ask.request, logprobs=ask.request.logprobs or 0)) for ask in asks]
    if body.suffix:
        await check_infill(request.app[GATEWAY], name)
        asks = [replace(ask, request=replace(ask.request, suffix=body.suffix)) for ask in asks]
    return await give(request, asks, CompletionVoice(asks[0].request.id, name, body), streamed=bool(body.stream))


def seeded(sampling: Sampling, index: int) -> Sampling:
    """Of a prompt's answers each with a seed draws otherwise, and the same again."""
    return sampling if sampling.seed is None else replace(sampling, seed=(sampling.seed + index) % _SEEDS)


async def _ask(
    request: web.Request,
    name: str,
    body: GenerationBody,
    unique: str,
    index: int,
    prompt: str | tuple[int, ...] = "",
    echo: bool = False,
) -> Ask:
    """`index`: which of a prompt's answers."""
    return Ask(
        model=name,
        request=GenerationRequest(
            id=unique,
            prompt=prompt,
            sampling=seeded(body.sampling, index),
            max_tokens=body.limit,
            stop=tuple(body.stop),
            echo=echo,
            ignore_eos=bool(body.ignore_eos),
            logit_bias=tuple(body.logit_bias),
            logprobs=body.alternatives,
            grammar=body.grammar or "",
            schema=body.schema_text,
            samplers=body.samplers,
            caches=body.cache_prompt is not False,
            after_filters=bool(body.post_sampling_probs),
            line_limit=body.line_limit,
            indent=body.n_indent or 0,
            adapters=await adapters_for(request.app[GATEWAY], name, body),
            tells_reading=bool(body.stream and body.return_progress),
            tells_usage=bool(body.stream and body.timings_per_token),
        ),
        defaults=DEFAULTS,
        keep_alive=body.keep_alive,
        priority=priority(request),
        session=session(request),
    )
