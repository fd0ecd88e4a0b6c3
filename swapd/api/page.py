"""`/ui/`: the page for people, three files that ask the daemon for everything.

Used by `app.py`. The files tell nothing of this daemon, so no key guards them; what the page asks for is guarded as
ever.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from aiohttp import hdrs, web

routes = web.RouteTableDef()

ROOT: Final = "/ui/"
_KINDS: Final = {"index.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
_FILES: Final = {name: files("swapd.api").joinpath("ui", name).read_bytes() for name in _KINDS}
_HEADERS: Final = {
    # Its own files and its own daemon, nothing else; and nobody shows it inside another page.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    hdrs.CACHE_CONTROL: "no-cache",
}


@routes.get("/ui")
async def beside(request: web.Request) -> web.Response:
    return web.Response(status=308, headers={hdrs.LOCATION: ROOT})


@routes.get("/ui/")
async def index(request: web.Request) -> web.Response:
    return _file("index.html")


@routes.get("/ui/page.css")
@routes.get("/ui/page.js")
async def part(request: web.Request) -> web.Response:
    return _file(request.path.removeprefix(ROOT))


def _file(name: str) -> web.Response:
    return web.Response(body=_FILES[name], content_type=_KINDS[name], charset="utf-8", headers=_HEADERS)
