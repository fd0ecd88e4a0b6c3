"""Vectors in the words of OpenAI, Ollama and llama-server.

Texts and token numbers in, one vector each out; what is longer than the model's context is refused, unless Ollama's
`truncate` says otherwise (as it does there by default).
"""

from __future__ import annotations

import base64
import sys
import time
from array import array
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from aiohttp import web
from pydantic import BeforeValidator, Field

from swapd.api.bodies import parse, read_object
from swapd.api.calls import GATEWAY, MODEL, answer_headers, generation_ids, json_answer, priority
from swapd.api.chosen import EMBEDDING, model_for
from swapd.api.fields import Body, KeepAlive, ModelName, Whole
from swapd.errors import InvalidRequest
from swapd.questions import Embed, Embedded
from swapd.runtime.vectors import VectorAnswer, VectorAsk
from swapd.units import Seconds

routes = web.RouteTableDef()

MAX_INPUTS: Final = 2048
_MAX_DIMENSIONS: Final = 2**16

Input = str | tuple[int, ...]


def _text_of(given: Any) -> Any:
    """Of llama-server's objects, the text; anything else as it is. Raises ValueError."""
    if not isinstance(given, dict):
        return given
    if isinstance(given.get("prompt_string"), str) and not given.get("multimodal_data"):
        return given["prompt_string"]
    parts = given.get("content")
    if not isinstance(parts, list) or not all(isinstance(part, dict) and part.get("type") == "text" for part in parts):
        raise ValueError("an object as input needs 'prompt_string', or 'content': a list of parts of the type 'text'")
    texts = [part.get("text") for part in parts]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError("each part of the type 'text' needs a string 'text'")
    return "".join(text for text in texts if isinstance(text, str))


def _inputs(given: Any) -> Any:
    """One input or several, each a string, a list of token numbers, or an object with text."""
    given = [_text_of(one) for one in given] if isinstance(given, list) else _text_of(given)
    if isinstance(given, str):
        return (given,)
    if not isinstance(given, list):
        raise ValueError("a string, a list of token numbers, or a list of these is expected")
    several = [given] if given and _is_tokens(given) else given
    if len(several) > MAX_INPUTS:
        raise ValueError(f"at most {MAX_INPUTS} inputs are allowed")
    if not all(isinstance(one, str) or (_is_tokens(one) and one) for one in several):
        raise ValueError("a string, a list of token numbers, or a list of these is expected")
    return tuple(one if isinstance(one, str) else tuple(one) for one in several)


def _is_tokens(given: Any) -> bool:
    return isinstance(given, list) and all(type(token) is int and 0 <= token < 2**31 for token in given)


Inputs = Annotated[
    tuple[Input, ...], BeforeValidator(_inputs, json_schema_input_type=str | list[int] | list[str] | list[list[int]])
]
Name = Annotated[str, Field(min_length=1, max_length=1024)]
Dimensions = Annotated[Whole, Field(ge=1, le=_MAX_DIMENSIONS)]


class EmbeddingsBody(Body):
    """OpenAI's."""

    model: ModelName = None
    input: Inputs
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Dimensions | None = None
    keep_alive: KeepAlive = None


class EmbedBody(Body):
    """Ollama's; `options` of the load change nothing."""

    model: Name
    input: Inputs = ()
    truncate: bool | None = None
    dimensions: Annotated[Whole, Field(ge=0, le=_MAX_DIMENSIONS)] | None = None
    keep_alive: KeepAlive = None


class OldEmbeddingsBody(Body):
    """Ollama's older one."""

    model: Name
    prompt: str | None = None
    keep_alive: KeepAlive = None


class ContentBody(Body):
    """llama-server's own."""

    model: ModelName = None
    content: Inputs | None = None
    input: Inputs | None = None
    embd_normalize: Whole | None = None
    keep_alive: KeepAlive = None

    @property
    def inputs(self) -> tuple[Input, ...]:
        return self.content or self.input or ()


@routes.post("/v1/embeddings")
async def openai(request: web.Request) -> web.Response:
    body = parse(EmbeddingsBody, await read_object(request))
    if not body.input:
        raise InvalidRequest("cannot read 'input': at least one input is expected", "input")
    question = Embed(body.input, dimensions=body.dimensions)
    name = await model_for(request.app[GATEWAY], body.model, EMBEDDING)
    answer, found = await _embed(request, name, question, body.keep_alive)
    is_packed = body.encoding_format == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _packed(raw) if is_packed else _numbers(raw)}
        for index, raw in enumerate(found.vectors)
    ]
    count = sum(found.tokens)
    usage = {"prompt_tokens": count, "total_tokens": count}
    return json_answer({"object": "list", "data": data, "model": name, "usage": usage}, headers=answer_headers(answer))


@routes.post("/api/embed")
async def ollama(request: web.Request) -> web.Response:
    began = time.perf_counter()
    body = parse(EmbedBody, await read_object(request))
    truncates = body.truncate is not False
    question = Embed(body.input, truncates=truncates, dimensions=body.dimensions or None)
    answer, found = await _embed(request, body.model, question, body.keep_alive)
    document = {
        "model": body.model,
        "embeddings": [_numbers(raw) for raw in found.vectors],
        "total_duration": _nanoseconds(time.perf_counter() - began),
        "load_duration": _nanoseconds(answer.load_s),
        "prompt_eval_count": sum(found.tokens),
    }
    return json_answer(document, headers=answer_headers(answer))


@routes.post("/api/embeddings")
async def ollama_of_old(request: web.Request) -> web.Response:
    body = parse(OldEmbeddingsBody, await read_object(request))
    inputs = (body.prompt,) if body.prompt else ()
    question = Embed(inputs, truncates=True, is_normalised=False)
    answer, found = await _embed(request, body.model, question, body.keep_alive)
    vector = _numbers(found.vectors[0]) if found.vectors else []
    return json_answer({"embedding": vector}, headers=answer_headers(answer))


@routes.post("/embedding")
@routes.post("/embeddings")
async def llama_server(request: web.Request) -> web.Response:
    body = parse(ContentBody, await read_object(request))
    if not body.inputs:
        raise InvalidRequest("cannot read 'content': at least one text is expected", "content")
    if body.embd_normalize not in (None, -1, 2):
        raise InvalidRequest("cannot serve 'embd_normalize': 2 (length 1) and -1 (as they are) are", "embd_normalize")
    name = await model_for(request.app[GATEWAY], body.model, EMBEDDING)
    question = Embed(body.inputs, is_normalised=body.embd_normalize != -1)
    answer, found = await _embed(request, name, question, body.keep_alive)
    documents = [{"index": index, "embedding": [_numbers(raw)]} for index, raw in enumerate(found.vectors)]
    return json_answer(documents, headers=answer_headers(answer))


async def _embed(
    request: web.Request, model: str, question: Embed, keep_alive: Seconds | None
) -> tuple[VectorAnswer, Embedded]:
    (unique,) = generation_ids(request, 1)
    request[MODEL] = model
    ask = VectorAsk(unique, model, question, keep_alive, priority(request))
    return await request.app[GATEWAY].vectors.embed(ask)


def _numbers(raw: bytes) -> Sequence[float]:
    numbers = array("f", raw)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


def _packed(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _nanoseconds(seconds: Seconds) -> int:
    return round(seconds * 1e9)
