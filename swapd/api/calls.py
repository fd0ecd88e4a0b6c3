"""What every route shares: the application's keys, the request's headers, answers in JSON.

Used by the dialects and by `app.py`; knows none of them.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import quote

import msgspec
from aiohttp import hdrs, web

from swapd.api.guard import Guard
from swapd.errors import InvalidRequest
from swapd.runtime.asking import Answer
from swapd.runtime.gateway import Gateway
from swapd.runtime.vectors import VectorAnswer

GATEWAY: Final = web.AppKey("gateway", Gateway)
GUARD: Final = web.AppKey("guard", Guard)
REQUEST_ID: Final = web.RequestKey("request_id", str)
MODEL: Final = web.RequestKey("model", str)
"""Which model a request asks; set when that is known."""
CANCELLED: Final = "cancelled"
OUTCOME: Final = web.RequestKey("outcome", str)
"""How an answer ended whose headers were sent: the code of the failure that was told inside it, or CANCELLED."""

_MAX_SESSION: Final = 256
_MAX_HEADER: Final = 2000
_OWN_ID = re.compile(r"[\x21-\x7e]{1,64}")

encode: Final[Callable[[object], bytes]] = msgspec.json.Encoder().encode


def new_request_id(request: web.BaseRequest) -> str:
    """The caller's own `X-Request-Id` if it is short and printable, else a fresh one."""
    given = request.headers.get("X-Request-Id", "")
    return given if _OWN_ID.fullmatch(given) else secrets.token_hex(8)


def generation_ids(request: web.Request, count: int) -> list[str]:
    """Never used again, and beginning with the request's id: callers may repeat theirs, the daemon must not."""
    ours = request[REQUEST_ID]
    if count == 1 and request.headers.get("X-Request-Id") != ours:
        return [ours]
    return [f"{ours}-{secrets.token_hex(4)}" for _ in range(count)]


def priority(request: web.BaseRequest) -> int | None:
    """Raises InvalidRequest."""
    given = request.headers.get("X-Swapd-Priority")
    if given is None:
        return None
    if re.fullmatch(r"\s*[+-]?[0-9]{1,9}\s*", given) is None:
        raise InvalidRequest(f"cannot read X-Swapd-Priority: {given[:40]!r} is not an integer", "X-Swapd-Priority")
    return int(given)


def session(request: web.BaseRequest) -> str | None:
    """Raises InvalidRequest."""
    given = request.headers.get("X-Swapd-Session")
    if given and (len(given) > _MAX_SESSION or not given.isprintable()):
        raise InvalidRequest(
            f"cannot read X-Swapd-Session: at most {_MAX_SESSION} printable characters are expected", "X-Swapd-Session"
        )
    return given or None


def wants_progress(request: web.BaseRequest) -> bool:
    return request.headers.get("X-Swapd-Progress", "").strip() == "1"


def answer_headers(answer: Answer | VectorAnswer) -> dict[str, str]:
    """Who answers, where it runs, and who was asked for but could not be served. No header can carry every name:
    such ones are percent-encoded."""
    headers = {"X-Swapd-Model": _printable(answer.model.name), "X-Swapd-Placement": answer.placement}
    if answer.passed:
        headers["X-Swapd-Fallback"] = _printable("; ".join(map(str, answer.passed)))[:_MAX_HEADER]
    return headers


def _printable(text: str) -> str:
    return text if text.isascii() and text.isprintable() else quote(text, safe="/ ;:,'()", errors="replace")


def json_answer(document: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        body=encode(document),
        status=status,
        headers={hdrs.CONTENT_TYPE: "application/json; charset=utf-8", **(headers or {})},
    )
