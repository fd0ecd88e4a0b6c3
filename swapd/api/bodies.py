"""Request bodies: bytes to JSON to typed fields, and every doubt refused here as InvalidRequest.

Used by the dialects; knows none of them. What passes is finite, well-formed Unicode, of the declared types.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError
from pydantic import BaseModel, ValidationError

from swapd.api.calls import GUARD
from swapd.errors import BodyTooLarge, InvalidRequest
from swapd.units import Bytes, Seconds

B = TypeVar("B", bound=BaseModel)

MAX_DEPTH: Final = 64
_TOO_DEEP: Final = f"cannot read the body: it is nested too deeply; at most {MAX_DEPTH} levels are allowed"
STALLED_AFTER: Final[Seconds] = 60.0
"""A body of which nothing comes for so long is given up."""
_BOM: Final = b"\xef\xbb\xbf"


async def read_object(request: web.Request, *, optional: bool = False) -> dict[str, Any]:
    """The JSON object of the body; an empty body is `{}` where it is `optional`.

    Raises InvalidRequest, BodyTooLarge.
    """
    raw = await _read(request, request.app[GUARD].settings.max_body)
    if not raw.strip():
        if optional:
            return {}
        raise InvalidRequest("the request has no body; a JSON object is expected")
    try:
        # The decoder refuses NaN, infinities, numbers beyond double range and lone surrogates.
        body = msgspec.json.decode(raw.removeprefix(_BOM))
    except RecursionError:
        raise InvalidRequest(_TOO_DEEP) from None
    except UnicodeDecodeError:
        raise InvalidRequest("cannot read the body: it is not UTF-8") from None
    except (msgspec.DecodeError, ValueError) as error:
        raise InvalidRequest(f"cannot read the body: {error}") from None
    if not isinstance(body, dict):
        raise InvalidRequest("cannot read the body: a JSON object is expected")
    if _is_deeper(body, MAX_DEPTH):
        raise InvalidRequest(_TOO_DEEP)
    return body


def parse(kind: type[B], body: Mapping[str, Any]) -> B:
    """The body's fields, typed. Raises InvalidRequest that names the first field that is wrong, and why."""
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
        why = first["msg"].removeprefix("Value error, ").replace(" after validation", "")
        what = repr(name) if name else "the body"
        raise InvalidRequest(f"cannot read {what}: {why[:1].lower()}{why[1:]}", name or None) from None


def refuse(body: Mapping[str, Any], unserved: Mapping[str, Callable[[Any], bool]]) -> None:
    """Raises InvalidRequest for a parameter that would change the answer and is not served.

    `unserved` says of each such parameter which values change nothing.
    """
    for name, is_harmless in unserved.items():
        value = body.get(name)
        if value is not None and not is_harmless(value):
            raise InvalidRequest(f"cannot serve {name!r} with this value: this release of swapd does not have it", name)


def is_empty(value: Any) -> bool:
    return not value


def is_among(*harmless: object) -> Callable[[Any], bool]:
    return lambda value: any(value == known and type(value) is type(known) for known in harmless)


async def _read(request: web.Request, limit: Bytes) -> bytes:
    if request.content_length is not None and request.content_length > limit:
        raise BodyTooLarge(limit)
    body = bytearray()
    try:
        if request.content.is_eof():  # all of it is here, as it mostly is: no timer is needed
            await _add(body, request.content, limit)
        else:
            now = asyncio.get_running_loop().time
            async with asyncio.timeout(None) as patience:
                await _add(body, request.content, limit, lambda: patience.reschedule(now() + STALLED_AFTER))
    except TimeoutError:
        raise InvalidRequest(
            f"cannot read the body: it stopped after {len(body)} bytes, and nothing came for {STALLED_AFTER:g} s"
        ) from None
    except (web.RequestPayloadError, HttpProcessingError):
        raise InvalidRequest("cannot read the body: its transfer or content encoding is broken") from None
    return bytes(body)


async def _add(
    body: bytearray, content: StreamReader, limit: Bytes, before_each: Callable[[], None] = lambda: None
) -> None:
    """All that comes. Raises BodyTooLarge."""
    while not content.at_eof():
        before_each()
        body += await content.readany()
        if len(body) > limit:
            raise BodyTooLarge(limit)


def _is_deeper(value: Any, allowed: int) -> bool:
    level = [value]
    for _ in range(allowed):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True
