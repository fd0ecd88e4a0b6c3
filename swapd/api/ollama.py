"""The Ollama dialect: generate, chat and what its clients ask about models.

Bodies are checked in `ollama_bodies.py`, model documents are in `ollama_models.py`; this page has the
routes and the words of the answers.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from aiohttp import web
from msgspec.structs import replace

from swapd import __version__
from swapd.api.answers import Whole, give
from swapd.api.bodies import read_object
from swapd.api.calls import GATEWAY, encode, generation_ids, json_answer, priority, session
from swapd.api.constrained import told_all
from swapd.api.ollama_bodies import ChatBody, GenerateBody, Options, read_chat, read_generate, read_name
from swapd.api.ollama_memory import Memory
from swapd.api.ollama_messages import WholeCalls
from swapd.api.ollama_models import can_think, leaves_at, running_document, show_document, tag_document
from swapd.api.stream import NDJSON, Framing
from swapd.errors import InvalidRequest
from swapd.generation import CallPart, Chunk, Ending, GenerationRequest, Message, Sampling, StopReason, TokenLogprob
from swapd.runtime.asking import Answer, Ask
from swapd.units import Seconds

routes = web.RouteTableDef()

DEFAULTS: Final = Sampling(
    temperature=0.8,
    top_k=40,
    top_p=0.9,
    min_p=0.0,
    repeat_penalty=1.0,
    repeat_last_n=64,
    presence_penalty=0.0,
    frequency_penalty=0.0,
)
"""Ollama's: what its users get where neither request nor model says."""


OLLAMA: Final = "0.33.0"
"""The release of Ollama that these routes follow. Clients refuse a server that tells an older version than they need
(VS Code's Copilot wants 0.6.4, Codex 0.13.4), so they are told this one; swapd's own stands beside it."""


@routes.get("/")
async def root(request: web.Request) -> web.Response:
    """Some clients look for Ollama's sentence in it."""
    return web.Response(text=f"Ollama is running (swapd {__version__})")


@routes.get("/api/version")
async def version(request: web.Request) -> web.Response:
    return json_answer({"version": OLLAMA, "swapd": __version__})


@routes.get("/api/status")
async def cloud(request: web.Request) -> web.Response:
    """What Ollama's own CLI asks before it offers models of a cloud: there is none."""
    return json_answer({"cloud": {"disabled": True, "source": "none"}})


@routes.get("/api/tags")
async def tags(request: web.Request) -> web.Response:
    gateway = request.app[GATEWAY]
    await gateway.refresh()
    usable = [model for model in gateway.models() if model.variant is not None and not model.shadowed]
    return json_answer({"models": [tag_document(name, model) for model in usable for name, model in model.offered]})


@routes.get("/api/ps")
async def running(request: web.Request) -> web.Response:
    gateway, now = request.app[GATEWAY], datetime.now(UTC)
    known = {model.name: model for model in gateway.models() if not model.shadowed}
    longest_first = sorted(gateway.residents(), key=lambda one: leaves_at(one, now), reverse=True)
    return json_answer({"models": [running_document(one, known.get(one.name), now) for one in longest_first]})


@routes.post("/api/show")
async def show(request: web.Request) -> web.Response:
    name = read_name(await read_object(request))
    gateway = request.app[GATEWAY]
    model = await gateway.find(name)
    return json_answer(show_document(model, await gateway.questions.describe(name)))


@routes.post("/api/generate")
async def generate(request: web.Request) -> web.StreamResponse:
    body = read_generate(await read_object(request))
    await _check_context(request, body.model, body.options)
    if body.think and not body.is_verbatim:
        await _check_thinking(request, body.model, body.template)
    voice = GenerateVoice(body.model)
    if not body.prompt and not body.suffix:
        return await _load(request, body, voice)
    ask = _ask(request, body, messages=body.messages, prompt=body.shown if body.is_verbatim else "")
    images = body.images.images if body.is_verbatim else ()
    wanted = replace(ask.request, images=images, suffix=body.suffix or None, template=body.template or "")
    if body.is_verbatim:
        return await give(request, [replace(ask, request=wanted)], voice, streamed=body.is_streamed)
    memory = Memory(request.app[GATEWAY].questions, body.model)
    if body.context:
        wanted = await memory.wait_recalled(wanted, tuple(body.context))

    async def remember(text: str) -> None:
        voice.context = await memory.wait_kept(wanted, text)

    asks = [replace(ask, request=wanted)]
    return await give(request, asks, voice, streamed=body.is_streamed, epilogue=remember)


@routes.post("/api/chat")
async def chat(request: web.Request) -> web.StreamResponse:
    body = read_chat(await read_object(request))
    await _check_context(request, body.model, body.options)
    if body.think:
        await _check_thinking(request, body.model)
    voice = ChatVoice(body.model)
    if not body.messages:
        return await _load(request, body, voice)
    ask = _ask(request, body, messages=body.turns)
    wanted = replace(ask.request, tools=body.offered, continues=body.continues)
    return await give(request, [replace(ask, request=wanted)], voice, streamed=body.is_streamed)


async def _load(request: web.Request, body: GenerateBody | ChatBody, voice: _Voice) -> web.Response:
    """What an empty prompt means to Ollama: load the model, or, with a keep_alive of 0, let it go."""
    gateway = request.app[GATEWAY]
    if body.keep_alive == 0:
        await gateway.unload(body.model, wait=False)
        return json_answer(voice.nothing("unload"))
    await gateway.load(body.model, body.keep_alive)
    return json_answer(voice.nothing("load"))


async def _check_context(request: web.Request, name: str, options: Options) -> None:
    """Raises InvalidRequest where the request counts on a larger context than the model is given."""
    if options.num_ctx is None:
        return
    variant = (await request.app[GATEWAY].find(name)).variant
    if variant is not None and options.num_ctx > variant.context:
        raise InvalidRequest(
            f"cannot serve num_ctx {options.num_ctx}: swapd gives {variant.name!r} a context of {variant.context} "
            f'tokens; `context = {options.num_ctx}` under [models."{variant.name}"] changes that',
            "options.num_ctx",
        )


async def _check_thinking(request: web.Request, name: str, template: str | None = None) -> None:
    """Raises InvalidRequest, with the words that Ollama's clients look for, where the model knows of no thoughts."""
    if not can_think(template or (await request.app[GATEWAY].questions.describe(name)).template):
        raise InvalidRequest(f'"{name}" does not support thinking: its chat template knows nothing of it', "think")


def _ask(request: web.Request, body: GenerateBody | ChatBody, messages: tuple[Message, ...], prompt: str = "") -> Ask:
    (unique,) = generation_ids(request, 1)
    return Ask(
        model=body.model,
        request=GenerationRequest(
            id=unique,
            messages=messages,
            prompt=prompt,
            sampling=body.options.sampling,
            max_tokens=body.options.limit,
            stop=tuple(body.options.stop),
            logprobs=body.alternatives,
            schema=body.format,
            thinking=body.thinking,
            effort=body.effort,
        ),
        defaults=DEFAULTS,
        keep_alive=body.keep_alive,
        priority=priority(request),
        session=session(request),
    )


class _Voice(ABC):
    """What generate and chat have in common."""

    framing: Framing = NDJSON

    def __init__(self, model: str) -> None:
        self._model = model
        self._began = time.perf_counter()
        self._load_s: Seconds = 0.0

        self._calls = WholeCalls()

    @abstractmethod
    def content(self, text: str, thinking: str, calls: Sequence[dict[str, object]]) -> dict[str, object]:
        """The part that holds the text."""

    def whole(self, wholes: Sequence[Whole]) -> object:
        (whole,) = wholes
        self._load_s = whole.answer.load_s
        parts = [CallPart(index, call.id, call.name, call.arguments) for index, call in enumerate(whole.calls)]
        calls = self._calls.add(parts)
        text = whole.text + self._calls.rest()
        more = {**_told(whole.logprobs), **self._figures(whole.ending)}
        return self._line(text, more, whole.thinking, calls)

    def nothing(self, reason: str) -> dict[str, object]:
        """The answer to an empty prompt."""
        return self._line("", {"done": True, "done_reason": reason})

    def opening(self, answer: Answer, index: int) -> bytes:
        self._load_s = answer.load_s
        return b""

    def piece(self, chunk: Chunk, index: int) -> bytes:
        calls = self._calls.add(chunk.calls)
        if chunk.calls and not (calls or chunk.text or chunk.thinking):
            return b""  # parts of calls that are told when they are whole
        more = {"done": False, **_told(chunk.logprobs)}
        return encode(self._line(chunk.text, more, chunk.thinking, calls)) + b"\n"

    def ending(self, ending: Ending, index: int) -> bytes:
        return encode(self._line(self._calls.rest(), self._figures(ending))) + b"\n"

    def closing(self) -> bytes:
        return b""

    def _line(
        self,
        text: str,
        more: Mapping[str, object],
        thinking: str = "",
        calls: Sequence[dict[str, object]] = (),
    ) -> dict[str, object]:
        said = self.content(text, thinking, calls)
        return {"model": self._model, "created_at": datetime.now(UTC), **said, **more}

    def _figures(self, ending: Ending) -> dict[str, object]:
        usage = ending.usage
        return {
            "done": True,
            "done_reason": "length" if ending.reason is StopReason.LENGTH else "stop",
            "total_duration": _nanoseconds(time.perf_counter() - self._began),
            "load_duration": _nanoseconds(self._load_s),
            "prompt_eval_count": usage.evaluated,
            "prompt_eval_duration": _nanoseconds(usage.prompt_s),
            "eval_count": usage.completion,
            "eval_duration": _nanoseconds(usage.completion_s),
        }


class GenerateVoice(_Voice):
    context: tuple[int, ...] = ()
    """All tokens of the conversation, for the request that goes on with it."""

    def content(self, text: str, thinking: str, calls: Sequence[dict[str, object]]) -> dict[str, object]:
        return {"response": text, "thinking": thinking} if thinking else {"response": text}

    def _figures(self, ending: Ending) -> dict[str, object]:
        figures = super()._figures(ending)
        return {**figures, "context": self.context} if self.context else figures


class ChatVoice(_Voice):
    def content(self, text: str, thinking: str, calls: Sequence[dict[str, object]]) -> dict[str, object]:
        message: dict[str, object] = {"role": "assistant", "content": text}
        if thinking:
            message["thinking"] = thinking
        if calls:
            message["tool_calls"] = list(calls)
        return {"message": message}


def _told(logprobs: Sequence[TokenLogprob]) -> dict[str, object]:
    return {"logprobs": told_all(logprobs)} if logprobs else {}


def _nanoseconds(seconds: Seconds) -> int:
    return round(seconds * 1e9)
