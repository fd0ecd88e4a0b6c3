"""How many tokens a prompt would have, for OpenAI's and llama-server's clients; nothing is loaded for it.

Anthropic's have a route of their own in `anthropic.py`.
"""

from __future__ import annotations

from aiohttp import web

from swapd.api.bodies import parse, read_object
from swapd.api.calls import GATEWAY, json_answer
from swapd.api.chosen import CHAT, model_for
from swapd.api.llamaserver_bodies import TemplateBody
from swapd.api.openai_messages import check_choice
from swapd.api.responses_bodies import read_responses
from swapd.generation import GenerationRequest

routes = web.RouteTableDef()


@routes.post("/chat/completions/input_tokens")
@routes.post("/v1/chat/completions/input_tokens")
async def chat(request: web.Request) -> web.Response:
    body = check_choice(parse(TemplateBody, await read_object(request)))
    name = await model_for(request.app[GATEWAY], body.model, CHAT)
    return await _counted(request, name, body.asked_in(GenerationRequest("")))


@routes.post("/responses/input_tokens")
@routes.post("/v1/responses/input_tokens")
async def responses(request: web.Request) -> web.Response:
    body = read_responses(await read_object(request))
    name = await model_for(request.app[GATEWAY], body.model, CHAT)
    return await _counted(request, name, body.asked(""))


async def _counted(request: web.Request, name: str, wanted: GenerationRequest) -> web.Response:
    rendered = await request.app[GATEWAY].questions.render(name, wanted)
    return json_answer({"object": "response.input_tokens", "input_tokens": len(rendered.tokens)})
