"""`/ui/`: three files of the daemon's own, which nothing foreign gets into."""

from __future__ import annotations

import re

import pytest

from swapd.api.app import GuardSettings
from tests.api.conftest import Client, Serve


async def test_the_page_is_served_and_may_load_nothing_foreign(client: Client) -> None:
    response = await client.get("/ui")
    assert (response.status, response.url.path, response.content_type) == (200, "/ui/", "text/html")
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    html = await response.text()
    assert re.findall(r'(?:src|href)="([^"]*)"', html) == ["page.css", "page.js"]
    assert not re.search(r"<script>|\son\w+=|style=|https?://", html)


@pytest.mark.parametrize(("name", "kind"), [("page.css", "text/css"), ("page.js", "text/javascript")])
async def test_its_parts_are_told_by_their_kind(client: Client, name: str, kind: str) -> None:
    response = await client.get(f"/ui/{name}")
    assert (response.status, response.content_type) == (200, kind)
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "innerHTML" not in await response.text()


async def test_nothing_else_is_there(client: Client) -> None:
    for path in ("/ui/other.js", "/ui/../api/app.py", "/ui/page.js/x"):
        assert (await client.get(path)).status == 404


async def test_the_page_needs_no_key_and_what_it_asks_for_does(serve: Serve) -> None:
    client = await serve(GuardSettings(api_keys=("secret",)))
    assert (await client.get("/ui/")).status == 200
    assert (await client.get("/ui/page.js")).status == 200
    assert (await client.get("/swapd/status")).status == 401


async def test_a_foreign_host_does_not_get_it(client: Client) -> None:
    assert (await client.get("/ui/", headers={"Host": "evil.example"})).status == 403
