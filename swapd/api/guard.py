"""Who may talk to the daemon: Host (against DNS rebinding), Origin (against other people's pages), keys.

Asked by `app.py` before every route. The Unix socket is guarded by its file mode and needs no key.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import socket
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from aiohttp import hdrs, web

from swapd.errors import Forbidden, Unauthorized
from swapd.units import Bytes, MiB

_OPEN_TO_ALL: Final = frozenset({"/health", "/v1/health", "/ui", "/ui/", "/ui/page.css", "/ui/page.js"})
"""Supervisors probe without a key, and are told nothing else; browsers fetch the page without one: it tells nothing."""

_EXPOSED: Final = "X-Request-Id, X-Swapd-Model, X-Swapd-Placement, X-Swapd-Fallback, Retry-After"

_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:/@\[\]]+?)\.?(?::[0-9]{1,5})?")
"""Of a Host header in lower case: the name or address, without a final dot and without the port."""


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """Part of `[server]`. Hosts are names with or without a port; origins are `scheme://host[:port]`, "*" is any."""

    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    api_keys: tuple[str, ...] = ()
    max_body: Bytes = 32 * MiB
    allow_pull: bool = False
    """Also over TCP."""


class Guard:
    """`settings` may be replaced while requests run: the next request meets the new ones."""

    def __init__(self, settings: GuardSettings) -> None:
        self.settings = settings

    def check(self, request: web.BaseRequest) -> None:
        """Raises Forbidden for a foreign Host or Origin, Unauthorized for a key that is missing or wrong."""
        local = is_unix(request)
        self._check_host(request, local)
        self._check_origin(request)
        # A preflight cannot carry the key: what it asks for is checked when it comes.
        if self.settings.api_keys and not local and request.path not in _OPEN_TO_ALL and not is_preflight(request):
            self._check_key(request)

    def cors_headers(self, request: web.BaseRequest) -> dict[str, str]:
        """What lets the page of an allowed origin read an answer; nothing for callers that are no browsers."""
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is None or not self._is_welcome(origin, request.headers.get(hdrs.HOST)):
            return {}
        headers = {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": _EXPOSED,
            "Vary": "Origin",
        }
        if is_preflight(request):
            headers["Access-Control-Allow-Methods"] = "GET, HEAD, POST, DELETE"
            headers["Access-Control-Allow-Headers"] = request.headers.get("Access-Control-Request-Headers", "*")
            headers["Access-Control-Max-Age"] = "600"
        return headers

    def _check_host(self, request: web.BaseRequest, local: bool) -> None:
        hosts = request.headers.getall(hdrs.HOST, [])
        if not hosts and local:
            return
        if len(hosts) != 1 or not _is_ours(hosts[0], self.settings.allowed_hosts):
            given = hosts[0] if hosts else ""
            raise Forbidden(f"the host {given!r} is not allowed; [server] allowed_hosts names those that are")

    def _check_origin(self, request: web.BaseRequest) -> None:
        for origin in request.headers.getall(hdrs.ORIGIN, []):
            if not self._is_welcome(origin, request.headers.get(hdrs.HOST)):
                raise Forbidden(f"the origin {origin!r} is not allowed; [server] allowed_origins names those that are")

    def _is_welcome(self, origin: str, host: str | None) -> bool:
        allowed = self.settings.allowed_origins
        own = host is not None and origin.lower() == f"http://{host.lower()}"
        return own or "*" in allowed or origin.lower().rstrip("/") in {entry.lower().rstrip("/") for entry in allowed}

    def _check_key(self, request: web.BaseRequest) -> None:
        kind, _, bearer = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        # Anthropic's clients send the one or the other, some both.
        given = [bearer] if kind.lower() == "bearer" else []
        given += request.headers.getall("x-api-key", [])
        keys = [key.strip().encode(errors="surrogateescape") for key in given]
        # Every key is compared: how long the answer takes tells nothing.
        matches = [hmac.compare_digest(key, known.encode()) for key in keys for known in self.settings.api_keys]
        if not any(matches):
            raise Unauthorized(
                "an API key is needed: send the header `Authorization: Bearer KEY` (or, as Anthropic's clients do, "
                "`x-api-key: KEY`)"
            )


@lru_cache(maxsize=64)
def _is_ours(host: str, allowed_hosts: tuple[str, ...]) -> bool:
    host = host.lower()
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    name = match[1]
    if name == "localhost" or name.endswith(".localhost"):
        return True
    allowed = {entry.lower() for entry in allowed_hosts}
    if host in allowed or name in allowed:
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def is_preflight(request: web.BaseRequest) -> bool:
    return (
        request.method == hdrs.METH_OPTIONS
        and hdrs.ORIGIN in request.headers
        and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
    )


def is_unix(request: web.BaseRequest) -> bool:
    """It came by the Unix socket, whose mode says who may."""
    connection = request.transport.get_extra_info("socket") if request.transport is not None else None
    return connection is not None and connection.family == socket.AF_UNIX
