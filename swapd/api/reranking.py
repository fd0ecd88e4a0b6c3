"""Documents ranked by how well they answer a query, in the words of Jina and llama-server; TEI's with `texts`."""

from __future__ import annotations

from typing import Annotated, Any, Final

from aiohttp import web
from pydantic import BeforeValidator, Field, model_validator

from swapd.api.bodies import parse, read_object
from swapd.api.calls import GATEWAY, MODEL, answer_headers, generation_ids, json_answer, priority
from swapd.api.chosen import RERANK, model_for
from swapd.api.fields import Body, KeepAlive, ModelName, Whole
from swapd.questions import Rerank
from swapd.runtime.vectors import VectorAsk

routes = web.RouteTableDef()

MAX_DOCUMENTS: Final = 2048


def _documents(given: Any) -> Any:
    """Texts, or objects that have one."""
    if given is None:
        return None
    if not isinstance(given, list):
        raise ValueError('a list of strings, or of objects like {"text": "…"}, is expected')
    if len(given) > MAX_DOCUMENTS:
        raise ValueError(f"at most {MAX_DOCUMENTS} documents are allowed")
    texts = [one.get("text") if isinstance(one, dict) else one for one in given]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError('a list of strings, or of objects like {"text": "…"}, is expected')
    return texts


Documents = Annotated[
    list[str] | None, BeforeValidator(_documents, json_schema_input_type=list[str | dict[str, str]] | None)
]


class RerankBody(Body):
    model: ModelName = None
    query: Annotated[str, Field(min_length=1)]
    documents: Documents = None
    texts: Documents = None
    top_n: Annotated[Whole, Field(ge=1, le=2**31 - 1)] | None = None
    return_documents: bool | None = None
    return_text: bool | None = None
    truncate: bool | None = None
    """TEI's."""
    keep_alive: KeepAlive = None

    @model_validator(mode="after")
    def _has_documents(self) -> RerankBody:
        if not self.all_texts:
            raise ValueError("'documents' is required: at least one text")
        return self

    @property
    def all_texts(self) -> list[str]:
        return self.documents or self.texts or []


@routes.post("/rerank")
@routes.post("/reranking")
@routes.post("/v1/rerank")
@routes.post("/v1/reranking")
async def rerank(request: web.Request) -> web.Response:
    gateway, body = request.app[GATEWAY], parse(RerankBody, await read_object(request))
    name = request[MODEL] = await model_for(gateway, body.model, RERANK)
    (unique,) = generation_ids(request, 1)
    question = Rerank(body.query, tuple(body.all_texts), bool(body.truncate))
    answer, found = await gateway.vectors.rerank(VectorAsk(unique, name, question, body.keep_alive, priority(request)))
    best = sorted(range(len(found.scores)), key=lambda index: (-found.scores[index], index))[: body.top_n]
    headers = answer_headers(answer)
    if body.documents is None:
        told = [{"index": i, "score": found.scores[i], **_text("text", body, i, body.return_text)} for i in best]
        return json_answer(told, headers=headers)
    results = [
        {"index": i, "relevance_score": found.scores[i], **_text("document", body, i, body.return_documents)}
        for i in best
    ]
    usage = {"prompt_tokens": found.tokens, "total_tokens": found.tokens}
    return json_answer({"model": name, "object": "list", "usage": usage, "results": results}, headers=headers)


def _text(key: str, body: RerankBody, index: int, is_wanted: bool | None) -> dict[str, object]:
    if not is_wanted:
        return {}
    text = body.all_texts[index]
    return {key: text if key == "text" else {"text": text}}
