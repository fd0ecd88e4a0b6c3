"""Where the daemon is, and how to ask it: one connection per question, over the Unix socket or TCP.

Called by every command. It knows HTTP and the daemon's shapes of errors; it prints nothing and knows no
command. Standard library only: a client that starts slowly is not used.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import socket
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import IntEnum
from typing import Any, Final, NamedTuple, TypeAlias
from urllib.parse import quote, urlsplit

from swapd.units import Seconds

Json: TypeAlias = dict[str, Any]

CONNECT_TIMEOUT: Final[Seconds] = 5.0
_TURN: Final[Seconds] = 0.2
START_HINT: Final = "start it with `systemctl --user start swapd`, or in a terminal with `swapd serve`"


class Exit(IntEnum):
    """What swapctl's exit status means."""

    DONE = 0
    REFUSED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_FOUND = 4
    DOES_NOT_FIT = 5
    INTERRUPTED = 130
    BROKEN_PIPE = 141


class Failure(Exception):
    """The command cannot be done: `str()` says why, `exit` is the status to leave with."""

    def __init__(self, exit: Exit, message: str) -> None:  # noqa: A002 (the word of the contract)
        super().__init__(message)
        self.exit = exit


class Address(NamedTuple):
    """A Unix socket's path, or a TCP host and port."""

    path: str | None = None
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.path is not None:
            return self.path
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


def default_socket(environ: Mapping[str, str] = os.environ) -> str:
    """Where the daemon listens when nobody says otherwise: the same rule as host/listen.py's. Raises Failure."""
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    folder = runtime if os.path.isabs(runtime) else _stand_in_for_runtime(environ)
    return os.path.join(folder, "swapd", "swapd.sock")


def _stand_in_for_runtime(environ: Mapping[str, str]) -> str:
    usual = f"/run/user/{os.getuid()}"
    if os.path.isdir(usual) and os.access(usual, os.W_OK):
        return usual
    import tempfile  # here: it costs as much as all the rest of the start

    private = os.path.join(os.path.abspath(environ.get("TMPDIR") or tempfile.gettempdir()), f"swapd-{os.getuid()}")
    if os.path.lexists(private) and os.lstat(private).st_uid != os.getuid():
        why = f"XDG_RUNTIME_DIR is not set, and {private} belongs to someone else"
        raise Failure(Exit.UNREACHABLE, f"cannot tell where the daemon is: {why}")
    return private


def parse_address(url: str) -> Address:
    """Of `http://host:port` or `unix:/path`. Raises Failure (usage)."""
    problem = f"cannot use the address {url!r}: write it as http://HOST:PORT or unix:/PATH"
    if url.startswith("unix:"):
        path = url.removeprefix("unix:")
        path = path.removeprefix("//") if path.startswith("///") else path
        if not path.startswith("/"):
            raise Failure(Exit.USAGE, problem)
        return Address(path=path)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise Failure(Exit.USAGE, problem) from error
    if parts.scheme != "http" or not host or parts.path not in ("", "/") or parts.query or parts.username is not None:
        raise Failure(Exit.USAGE, problem)
    return Address(host=host, port=port or http.client.HTTP_PORT)


def model_route(name: str, verb: str) -> str:
    """`/swapd/models/{name}/{verb}`, whatever characters the name has."""
    return f"/swapd/models/{quote(name, safe='')}/{verb}"


class _Socket(socket.socket):
    """Waits in short turns: a Ctrl-C that comes just before a wait would be seen only at the wait's end."""

    def recv_into(self, *arguments: Any) -> int:
        while not select.select([self], [], [], _TURN)[0]:
            pass
        return super().recv_into(*arguments)


class _Connection(http.client.HTTPConnection):
    """Connecting is bounded, answers are not: a load may take minutes, and Ctrl-C always works."""

    def __init__(self, address: Address) -> None:
        super().__init__(address.host or "localhost", address.port or None)
        self._address = address

    def connect(self) -> None:
        if self._address.path is not None:
            self.sock = _Socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(CONNECT_TIMEOUT)
            self.sock.connect(self._address.path)
        else:
            opened = socket.create_connection((self._address.host, self._address.port), CONNECT_TIMEOUT)
            self.sock = _Socket(fileno=opened.detach())
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.sock.settimeout(None)


class Client:
    """Asks one daemon. Every method raises Failure."""

    def __init__(self, address: Address, key: str | None = None) -> None:
        """`key` goes along over TCP only; the socket is guarded by its mode."""
        self.address, self.key = address, key or ""
        self._headers = {"Content-Type": "application/json", "Connection": "close"}
        if key and address.path is None:
            if not (key.isascii() and key.isprintable()):
                raise Failure(Exit.USAGE, "cannot use SWAPD_API_KEY: a key is printable ASCII without line breaks")
            self._headers["Authorization"] = f"Bearer {key}"

    def get(self, route: str) -> Json:
        with self._open("GET", route) as response:
            return self._document(response.read())

    def post(self, route: str, body: Json | None = None) -> Json:
        with self._open("POST", route, body) as response:
            return self._document(response.read())

    def stream(self, route: str, body: Json) -> Generator[Json, None, None]:
        """The lines of an NDJSON answer as they come, progress lines included; a line with `error` raises.

        Closing the iterator closes the connection, which frees the slot. The caller knows which line is the last.
        """
        with self._open("POST", route, body, progress=True) as response:
            for line in response:
                if line.strip():
                    document = self._document(line)
                    if "error" in document:
                        raise refusal(document, response.status)
                    yield document

    def events(self, route: str) -> Generator[Json, None, None]:
        """The data of an SSE answer's events as they come; ends with the answer."""
        with self._open("GET", route) as response:
            for line in response:
                if line.startswith(b"data:"):
                    yield self._document(line.removeprefix(b"data:"))

    def cut_off(self) -> Failure:
        """For callers whose stream ended before its last line."""
        return Failure(Exit.UNREACHABLE, f"the daemon at {self.address} went away in the middle of its answer")

    @contextmanager
    def _open(
        self, method: str, route: str, body: Json | None = None, progress: bool = False
    ) -> Iterator[http.client.HTTPResponse]:
        connection = _Connection(self.address)
        headers = self._headers | ({"X-Swapd-Progress": "1"} if progress else {})
        response: http.client.HTTPResponse | None = None
        try:
            try:
                connection.connect()
            except OSError as error:
                raise self._unreachable(error) from error
            sent = json.dumps(body or {}).encode() if method == "POST" else None
            with suppress(BrokenPipeError, ConnectionResetError):  # a body too large is refused before it is all read
                connection.request(method, route, sent, headers)
            response = connection.getresponse()
            if response.status >= 400:
                raise self._error(response)
            yield response
        except (OSError, http.client.HTTPException) as error:
            raise self.cut_off() from error
        finally:
            if response is not None:
                response.close()
            connection.close()

    def _unreachable(self, error: OSError) -> Failure:
        why = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
        hint = ""
        if self.address.path is None:
            hint = "\nis swapd running there, and listening on that address?"
        elif isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
            hint = f"\n{START_HINT}"
        elif isinstance(error, PermissionError):
            hint = "\nit belongs to another user"
        return Failure(Exit.UNREACHABLE, f"cannot reach the daemon at {self.address}: {why}{hint}")

    def _error(self, response: http.client.HTTPResponse) -> Failure:
        try:
            document = json.loads(response.read())
        except ValueError:
            document = None
        if isinstance(document, dict) and document.get("error"):
            return refusal(document, response.status)
        where = f"{self.address} answers {response.status} {response.reason}"
        return Failure(Exit.REFUSED, f"{where}: is that a swapd of this version?")

    def _document(self, body: bytes) -> Json:
        try:
            document = json.loads(body)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise Failure(
                Exit.REFUSED, f"{self.address} does not answer as swapd does: is that a swapd of this version?"
            )
        return document


def refusal(document: Json, status: int) -> Failure:
    """What an error document means: swapd's `{"error": {"code", "message"}}` or Ollama's `{"error": "…"}`."""
    error = document["error"]
    if isinstance(error, dict):
        code, message = error.get("code"), str(error.get("message") or error.get("code"))
    else:
        code, message = document.get("code"), str(error)
    if code == "model_not_found" or (code is None and status == 404):
        return Failure(Exit.NOT_FOUND, message)
    if code == "does_not_fit" or (code is None and status == 507):
        return Failure(Exit.DOES_NOT_FIT, message)
    if code == "unauthorized" or status == 401:
        return Failure(Exit.REFUSED, f"{message}\nswapctl sends the key that SWAPD_API_KEY holds")
    return Failure(Exit.REFUSED, message)
