"""The HTTP application: every dialect's routes behind one guard, every answer with its request id.

Made by `daemon.py`; asks the gateway for everything.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from aiohttp import hdrs, web

from swapd import __version__
from swapd.api import (
    admin,
    anthropic,
    counting,
    embeddings,
    llamaserver,
    llamaserver_models,
    metrics,
    models,
    ollama,
    ollama_files,
    openai,
    openapi,
    page,
    pulling,
    reranking,
    responses,
    watching,
)
from swapd.api.calls import CANCELLED, GATEWAY, GUARD, REQUEST_ID, json_answer, new_request_id
from swapd.api.failures import Dialect, Failure, failure_of
from swapd.api.guard import Guard, GuardSettings, is_preflight
from swapd.api.metrics import REQUESTS, Requests
from swapd.api.patience import ASKED
from swapd.api.pulling import HUB
from swapd.host.hub import Hub
from swapd.runtime.gateway import Gateway

__all__ = ["GATEWAY", "GUARD", "RUNNER_OPTIONS", "GuardSettings", "make_app"]

_PAGES: Final = (
    models,
    openai,
    responses,
    anthropic,
    ollama,
    ollama_files,
    pulling,
    llamaserver,
    llamaserver_models,
    counting,
    embeddings,
    reranking,
    metrics,
    openapi,
    admin,
    watching,
    page,
)

RUNNER_OPTIONS: Final[Mapping[str, Any]] = {"handler_cancellation": True, "access_log": None}
"""What `web.AppRunner` must be given: a caller that goes away ends its handler, whatever that waits for."""

_SERVER: Final = f"swapd/{__version__}"
_CLIENT_CLOSED: Final = 499
"""Nobody reads it: the caller is gone."""


def make_app(gateway: Gateway, guard: GuardSettings, hub: Hub | None = None) -> web.Application:
    """The application, to be run with `RUNNER_OPTIONS`. `app[GUARD].settings` may be replaced while it runs.

    `hub`: where models are fetched from; None: from nowhere.
    """
    # Bodies are read, and limited, by `bodies.py`: the guard's limit may change.
    app = web.Application(middlewares=[_frame])
    app[GATEWAY] = gateway
    app[GUARD] = Guard(guard)
    app[REQUESTS] = Requests()
    app[ASKED] = weakref.WeakSet()
    if hub is not None:
        app[HUB] = hub
    for dialect in _PAGES:
        app.add_routes(dialect.routes)
    app.on_response_prepare.append(_finish_headers)
    return app


@web.middleware
async def _frame(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Names the request, asks the guard, and says every failure in the dialect of the path."""
    request[REQUEST_ID] = new_request_id(request)
    app, transport = request.app, request.transport
    if isinstance(transport, asyncio.Transport):
        app[ASKED].add(transport)
    began, outcome = time.perf_counter(), "ok"
    try:
        app[GUARD].check(request)
        if is_preflight(request):
            return web.Response(status=204)
        return await handler(request)
    except (ConnectionResetError, asyncio.CancelledError) as gone:
        outcome = CANCELLED
        if isinstance(gone, asyncio.CancelledError):
            raise
        return web.Response(status=_CLIENT_CLOSED)
    except web.HTTPException as refusal:
        failure, headers = _routing_failure(request, refusal)
        outcome = failure.code
    except Exception as error:
        failure = failure_of(error, request[REQUEST_ID])
        headers, outcome = failure.headers, failure.code
    finally:
        app[REQUESTS].ended(request, outcome, began)
    failure = replace(failure, request_id=request[REQUEST_ID])
    return json_answer(failure.body(Dialect.of(request)), status=failure.status, headers=headers)


def _routing_failure(request: web.Request, refusal: web.HTTPException) -> tuple[Failure, dict[str, str]]:
    if isinstance(refusal, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(refusal.allowed_methods))
        message = f"{request.path} does not take {request.method}; it takes {allowed}"
        return Failure(405, "method_not_allowed", message), {hdrs.ALLOW: allowed}
    if isinstance(refusal, web.HTTPNotFound):
        return Failure(404, "not_found", f"this release of swapd serves no {request.method} {request.path}"), {}
    return Failure(refusal.status, "invalid_request", f"cannot serve the request: {refusal.reason}"), {}


async def _finish_headers(request: web.Request, response: web.StreamResponse) -> None:
    name = request.get(REQUEST_ID) or new_request_id(request)
    headers = response.headers
    headers["X-Request-Id"] = name
    headers[hdrs.SERVER] = _SERVER
    if Dialect.of(request) is Dialect.ANTHROPIC:
        headers["Request-Id"] = name  # where its clients look for it
    if hdrs.ORIGIN in request.headers:
        headers.update(request.app[GUARD].cors_headers(request))
