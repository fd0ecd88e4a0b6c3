"""Errors in each dialect's words: one table of statuses, five shapes.

Used by `app.py` for answers that have not begun and by `stream.py` for those that have. Knows no route.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

import structlog
from aiohttp import web

from swapd.errors import (
    BodyTooLarge,
    CannotStart,
    ContextLengthExceeded,
    DoesNotFit,
    Forbidden,
    HubFailed,
    InvalidConfig,
    InvalidRequest,
    ModelNotFound,
    ModelUnusable,
    NotSupported,
    Overloaded,
    Stopping,
    SwapdError,
    Unauthorized,
    Unloaded,
    WorkerCrashed,
    WorkerFailed,
)

_log = structlog.get_logger(__name__)

STATUS: Final[Mapping[type[SwapdError], int]] = {
    InvalidRequest: 400,
    ContextLengthExceeded: 400,
    InvalidConfig: 400,
    Unauthorized: 401,
    Forbidden: 403,
    ModelNotFound: 404,
    BodyTooLarge: 413,
    ModelUnusable: 422,
    CannotStart: 500,
    NotSupported: 501,
    HubFailed: 502,
    WorkerCrashed: 502,
    WorkerFailed: 502,
    Overloaded: 503,
    Stopping: 503,
    Unloaded: 503,
    DoesNotFit: 507,
}

_LASTING: Final = frozenset({422, 501, 507})
"""Statuses that the official clients would take for passing weather: asking again does not help."""

_OPENAI_TYPES: Final = {401: "authentication_error", 403: "permission_error"}


_ANTHROPIC_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    503: "overloaded_error",
}
_ANTHROPIC_ROUTE: Final = "/v1/messages"
_LLAMA_SERVER_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "not_found_error",
    501: "not_supported_error",
    503: "unavailable_error",
}
_LLAMA_SERVER_ROUTES: Final = frozenset(
    {
        "/completion",
        "/completions",
        "/infill",
        "/tokenize",
        "/detokenize",
        "/apply-template",
        "/embedding",
        "/embeddings",
        "/rerank",
        "/reranking",
        "/v1/rerank",
        "/v1/reranking",
        "/props",
        "/slots",
        "/metrics",
        "/lora-adapters",
        "/models",
        "/models/load",
        "/models/unload",
    }
)
_OPENAI_ROUTES: Final = ("/v1/", "/chat/", "/responses")
"""llama-server has some of them without the version too."""


class Dialect(Enum):
    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    OLLAMA = "ollama"
    LLAMA_SERVER = "llama-server"
    SWAPD = "swapd"

    @staticmethod
    def of(request: web.BaseRequest) -> Dialect:
        """Whose words the caller expects."""
        path = request.path
        if path == _ANTHROPIC_ROUTE or path.startswith(f"{_ANTHROPIC_ROUTE}/"):
            return Dialect.ANTHROPIC
        if path in _LLAMA_SERVER_ROUTES or path.startswith("/slots/"):
            return Dialect.LLAMA_SERVER
        if path.startswith(_OPENAI_ROUTES):
            # Of the paths that two of them share: Anthropic's clients tell their version.
            return Dialect.ANTHROPIC if "anthropic-version" in request.headers else Dialect.OPENAI
        return Dialect.OLLAMA if path.startswith("/api/") else Dialect.SWAPD


@dataclass(frozen=True, slots=True)
class Failure:
    """What goes wrong for a caller: `data` is what a program may act on."""

    status: int
    code: str
    message: str
    param: str | None = None
    data: Mapping[str, object] = field(default_factory=dict)
    retry_after: int | None = None
    """Whole seconds; None: do not say."""
    request_id: str = ""

    @property
    def headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        if self.status in _LASTING:
            headers["x-should-retry"] = "false"
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers

    def body(self, dialect: Dialect) -> dict[str, object]:
        match dialect:
            case Dialect.OPENAI:
                kind = "invalid_request_error" if self.status < 500 else "server_error"
                words = {
                    "message": self.message,
                    "type": _OPENAI_TYPES.get(self.status, kind),
                    "param": self.param,
                    "code": self.code,
                }
                return {"error": {**words, **self._sizes()}}
            case Dialect.ANTHROPIC:
                kind = "invalid_request_error" if self.status < 500 else "api_error"
                told = {"type": _ANTHROPIC_TYPES.get(self.status, kind), "message": self._in_anthropics_words()}
                return {"type": "error", "error": told, "request_id": self.request_id}
            case Dialect.OLLAMA:
                return {"error": self.message}
            case Dialect.LLAMA_SERVER:
                return {"error": self._in_llama_servers_words()}
            case Dialect.SWAPD:
                return {"error": {"code": self.code, "message": self.message, **self.data}}

    def _in_llama_servers_words(self) -> dict[str, object]:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        told: dict[str, object] = {"code": self.status, "message": self.message}
        if self.code == ContextLengthExceeded.code:
            return {**told, "type": "exceed_context_size_error", **self._sizes()}
        return {**told, "type": _LLAMA_SERVER_TYPES.get(self.status, kind)}

    def _sizes(self) -> dict[str, object]:
        """Of a prompt over the context, as llama-server's clients look for them in both of its dialects."""
        if self.code != ContextLengthExceeded.code:
            return {}
        return {"n_prompt_tokens": self.data["prompt"], "n_ctx": self.data["context"]}

    def _in_anthropics_words(self) -> str:
        if self.code == ContextLengthExceeded.code:
            # Claude Code knows these words, and makes the conversation shorter by itself.
            return f"prompt is too long: {self.data['prompt']} tokens > {self.data['context']} maximum"
        return self.message


def failure_of(error: Exception, request_id: str) -> Failure:
    """The failure that a caller is told; an error that is not ours is logged, and told without its words."""
    if not isinstance(error, SwapdError):
        _log.error("request_failed", request=request_id, exc_info=error)
        message = f"internal error; the daemon's log has it under request {request_id}"
        return Failure(500, "internal_error", message, request_id=request_id)
    status = next((STATUS[known] for known in type(error).__mro__ if known in STATUS), 500)
    retry_after: float | None = getattr(error, "retry_after", None)
    data = _data(error)
    param = data.get("param")
    return Failure(
        status=status,
        code=error.code,
        message=error.message,
        param=param if isinstance(param, str) else None,
        data=data,
        retry_after=None if retry_after is None else max(1, math.ceil(retry_after)),
        request_id=request_id,
    )


def _data(error: SwapdError) -> dict[str, object]:
    match error:
        case InvalidRequest(param=param):
            return {"param": param} if param is not None else {}
        case ContextLengthExceeded(prompt=prompt, context=context):
            return {"prompt": prompt, "context": context}
        case ModelNotFound(name=name, nearest=nearest):
            return {"param": "model", "name": name, "nearest": list(nearest)}
        case BodyTooLarge(limit=limit):
            return {"limit": limit}
        case ModelUnusable(name=name, reason=reason) | WorkerCrashed(name=name, reason=reason):
            return {"name": name, "reason": reason}
        case DoesNotFit():
            return {
                "name": error.name,
                "device": error.device,
                "needed": error.needed,
                "available": max(0, error.available),
                "pinned": list(error.pinned),
            }
        case InvalidConfig(problems=problems):
            return {"problems": list(problems)}
        case _:
            return {}
