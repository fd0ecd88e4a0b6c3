"""Every route in one table: what it is for, what its body may hold. Checked against the application by a test.

Used by `openapi.py` and `reference.py`, which tell it to programs and to people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from pydantic import BaseModel

from swapd.api import (
    admin,
    anthropic_bodies,
    embeddings,
    llamaserver_bodies,
    llamaserver_models,
    ollama_bodies,
    openai_bodies,
    reranking,
    responses_bodies,
)
from swapd.api.failures import Dialect


@dataclass(frozen=True, slots=True)
class Operation:
    dialect: Dialect
    summary: str
    body: type[BaseModel] | None = None
    is_optional: bool = False
    """The body may be empty."""
    streams: str = ""
    """Content type of a streamed answer; empty: there is none."""
    content: str = "application/json"
    query: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Parameters of the query, and what they do."""
    success: int = 200


_SSE: Final = "text/event-stream"
_NDJSON: Final = "application/x-ndjson"
_O, _A, _L, _S, _P = Dialect.OPENAI, Dialect.ANTHROPIC, Dialect.OLLAMA, Dialect.LLAMA_SERVER, Dialect.SWAPD
_WAIT: Final = {"wait": "false: answer at once"}
_MODEL: Final = {"model": "which; without it the one used last"}
_DETAIL: Final = {"model": "only of this one", "request": "only of this one", "limit": "how many at most"}
_EVENTS: Final = {"since": "start or now", "follow": "false: end with the last one known"}
_REFUSED: Final = "Refused: models are files, which swapd only reads."

OPERATIONS: Final[Mapping[tuple[str, str], Operation]] = {
    ("GET", "/v1/models"): Operation(_O, "The models, in OpenAI's or Anthropic's words."),
    ("GET", "/v1/models/{id}"): Operation(_O, "One model."),
    ("POST", "/v1/chat/completions"): Operation(_O, "Answer a conversation.", openai_bodies.ChatBody, streams=_SSE),
    ("POST", "/chat/completions"): Operation(_O, "As /v1/chat/completions.", openai_bodies.ChatBody, streams=_SSE),
    ("POST", "/chat/completions/input_tokens"): Operation(
        _O, "As /v1/chat/completions/input_tokens.", llamaserver_bodies.TemplateBody
    ),
    ("POST", "/v1/chat/completions/input_tokens"): Operation(
        _O, "Count a prompt's tokens.", llamaserver_bodies.TemplateBody
    ),
    ("POST", "/v1/completions"): Operation(_O, "Go on with a text.", openai_bodies.CompletionBody, streams=_SSE),
    ("POST", "/v1/responses"): Operation(_O, "Answer items.", responses_bodies.ResponsesBody, streams=_SSE),
    ("POST", "/responses"): Operation(_O, "As /v1/responses.", responses_bodies.ResponsesBody, streams=_SSE),
    ("POST", "/responses/input_tokens"): Operation(
        _O, "As /v1/responses/input_tokens.", responses_bodies.ResponsesBody
    ),
    ("POST", "/v1/responses/input_tokens"): Operation(_O, "Count a prompt's tokens.", responses_bodies.ResponsesBody),
    ("POST", "/v1/embeddings"): Operation(_O, "Vectors of texts.", embeddings.EmbeddingsBody),
    ("POST", "/v1/messages"): Operation(_A, "Answer a conversation.", anthropic_bodies.MessagesBody, streams=_SSE),
    ("POST", "/v1/messages/count_tokens"): Operation(_A, "Count a prompt's tokens.", anthropic_bodies.CountBody),
    ("GET", "/"): Operation(_L, "A sign of life.", content="text/plain"),
    ("GET", "/ui"): Operation(_P, "Leads to the page.", content="text/html", success=308),
    ("GET", "/ui/"): Operation(_P, "The page for people.", content="text/html"),
    ("GET", "/ui/page.css"): Operation(_P, "How it looks.", content="text/css"),
    ("GET", "/ui/page.js"): Operation(_P, "What it does.", content="text/javascript"),
    ("GET", "/api/version"): Operation(_L, "The release of Ollama that is followed, and swapd's version."),
    ("GET", "/api/status"): Operation(_L, "That there is no cloud."),
    ("GET", "/api/tags"): Operation(_L, "The models."),
    ("GET", "/api/ps"): Operation(_L, "The loaded models."),
    ("POST", "/api/show"): Operation(_L, "One model.", ollama_bodies.NameBody),
    ("POST", "/api/generate"): Operation(_L, "Answer a prompt.", ollama_bodies.GenerateBody, streams=_NDJSON),
    ("POST", "/api/chat"): Operation(_L, "Answer a conversation.", ollama_bodies.ChatBody, streams=_NDJSON),
    ("POST", "/api/embed"): Operation(_L, "Vectors of texts.", embeddings.EmbedBody),
    ("POST", "/api/embeddings"): Operation(_L, "The vector of a text.", embeddings.OldEmbeddingsBody),
    ("POST", "/api/pull"): Operation(_L, "Fetch a model, unless it is there.", ollama_bodies.PullBody, streams=_NDJSON),
    ("POST", "/api/create"): Operation(_L, _REFUSED, success=403),
    ("POST", "/api/push"): Operation(_L, _REFUSED, success=403),
    ("POST", "/api/copy"): Operation(_L, _REFUSED, success=403),
    ("DELETE", "/api/delete"): Operation(_L, _REFUSED, success=403),
    ("POST", "/api/blobs/{digest}"): Operation(_L, _REFUSED, success=403),
    ("POST", "/completion"): Operation(_S, "Go on with a text.", llamaserver_bodies.CompletionBody, streams=_SSE),
    ("POST", "/completions"): Operation(_S, "As /completion.", llamaserver_bodies.CompletionBody, streams=_SSE),
    ("POST", "/infill"): Operation(_S, "Fill in between two texts.", llamaserver_bodies.InfillBody, streams=_SSE),
    ("POST", "/tokenize"): Operation(_S, "A text in tokens.", llamaserver_bodies.TokenizeBody),
    ("POST", "/detokenize"): Operation(_S, "Tokens as text.", llamaserver_bodies.DetokenizeBody),
    ("POST", "/apply-template"): Operation(_S, "The prompt of a conversation.", llamaserver_bodies.TemplateBody),
    ("POST", "/embedding"): Operation(_S, "Vectors of texts.", embeddings.ContentBody),
    ("POST", "/embeddings"): Operation(_S, "As /embedding.", embeddings.ContentBody),
    ("POST", "/rerank"): Operation(_S, "Documents, the best answer first.", reranking.RerankBody),
    ("POST", "/reranking"): Operation(_S, "As /rerank.", reranking.RerankBody),
    ("POST", "/v1/rerank"): Operation(_S, "As /rerank.", reranking.RerankBody),
    ("POST", "/v1/reranking"): Operation(_S, "As /rerank.", reranking.RerankBody),
    ("GET", "/props"): Operation(_S, "What a model is and does by default.", query=_MODEL),
    ("GET", "/slots"): Operation(_S, "Which slots are busy.", query={**_MODEL, "fail_on_no_slot": "503 if all are"}),
    ("GET", "/models"): Operation(_S, "As /v1/models."),
    ("POST", "/models/load"): Operation(_S, "Load it.", llamaserver_models.LoadBody),
    ("POST", "/models/unload"): Operation(_S, "Unload it.", llamaserver_models.LoadBody),
    ("GET", "/lora-adapters"): Operation(_S, "A model's adapters.", query=_MODEL),
    ("POST", "/lora-adapters"): Operation(_S, "Refused: each request names its own.", success=501),
    ("POST", "/props"): Operation(_S, "Refused: the configuration does that.", success=501),
    ("POST", "/slots/{id}"): Operation(_S, "Refused: conversations are saved by themselves.", success=501),
    ("GET", "/metrics"): Operation(_S, "For Prometheus.", content="text/plain"),
    ("GET", "/health"): Operation(_P, "200: all is well; 503: why not."),
    ("GET", "/v1/health"): Operation(_P, "As /health."),
    ("GET", "/openapi.json"): Operation(_P, "This document."),
    ("GET", "/swapd/status"): Operation(_P, "Devices, loaded models, queue and counters."),
    ("GET", "/swapd/models"): Operation(_P, "The catalog, with what cannot be used and why."),
    ("POST", "/swapd/models/{name}/load"): Operation(
        _P, "Load it.", admin.LoadBody, is_optional=True, streams=_NDJSON, query=_WAIT
    ),
    ("POST", "/swapd/models/{name}/unload"): Operation(
        _P, "Unload it.", admin.UnloadBody, is_optional=True, query=_WAIT
    ),
    ("POST", "/swapd/models/{name}/pin"): Operation(_P, "Never unload it to make room."),
    ("POST", "/swapd/models/{name}/unpin"): Operation(_P, "It may be unloaded again."),
    ("GET", "/swapd/models/{name}/footprint"): Operation(_P, "What it would take."),
    ("POST", "/swapd/plan"): Operation(_P, "What fits together.", admin.PlanBody),
    ("POST", "/swapd/yield"): Operation(_P, "Give memory to other programs.", admin.YieldBody),
    ("POST", "/swapd/reload"): Operation(_P, "Read the configuration again."),
    ("GET", "/swapd/decisions"): Operation(_P, "What was decided, and why.", query=_DETAIL),
    ("GET", "/swapd/queue"): Operation(_P, "Who waits."),
    ("GET", "/swapd/events"): Operation(_P, "What happens.", content=_SSE, query=_EVENTS),
}
"""By method and path, as aiohttp writes it."""
