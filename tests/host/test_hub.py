"""Fetching from a hub: which files are meant, going on after an interruption, nothing kept that was not promised."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from swapd.errors import HubFailed, InvalidRequest
from swapd.host.hub import Hub, Remote, Wish, choose

DATA = bytes(range(256)) * 40_000
REPO = "someone/Some-Model-GGUF"
WISH = Wish(REPO)


def remote(path: str, size: int = 1) -> Remote:
    return Remote(path, size, "")


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("a/b", Wish("a/b")),
        ("a/b:Q4_K_M", Wish("a/b", "Q4_K_M")),
        ("hf.co/a/b-GGUF:IQ2_XXS", Wish("a/b-GGUF", "IQ2_XXS")),
        ("https://huggingface.co/a/b", Wish("a/b")),
        ("a/b:latest", Wish("a/b")),
    ],
)
def test_a_wish_names_a_repository(text: str, read: Wish) -> None:
    assert Wish.of(text) == read


@pytest.mark.parametrize(
    "text", ["", "llama3.2", "a/b/c", "../b", "a/..", "a/b:../x", "a b/c", "http://evil/a/b", "a/b?x"]
)
def test_what_is_no_repository_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="USER/REPO"):
        Wish.of(text)


@pytest.mark.parametrize(
    ("quantisation", "chosen"),
    [
        ("", ["m-Q4_K_M.gguf"]),
        ("q8_0", ["m-Q8_0.gguf"]),
        ("K_M", None),
        ("Q2_K", None),
        ("BF16", ["BF16/m-BF16-00001-of-00002.gguf", "BF16/m-BF16-00002-of-00002.gguf"]),
        ("F16", ["m.F16.gguf"]),
        ("Q6_K", None),
    ],
)
def test_a_quantisation_is_a_word_at_the_end_of_a_name(quantisation: str, chosen: list[str] | None) -> None:
    paths = [
        "README.md",
        "m-Q4_K_M.gguf",
        "m-Q8_0.gguf",
        "m.F16.gguf",
        "mmproj-m-F16.gguf",
        "BF16/m-BF16-00002-of-00002.gguf",
        "BF16/m-BF16-00001-of-00002.gguf",
        "m-Q6_K-00001-of-00003.gguf",
        ".m-Q2_K.gguf",
    ]
    files = [remote(path) for path in paths]
    if chosen is None:
        with pytest.raises(InvalidRequest, match=r"no file of it|1 of 3 parts"):
            choose(Wish(REPO, quantisation), files)
    else:
        assert [file.path for file in choose(Wish(REPO, quantisation), files)] == chosen


def test_a_single_file_needs_no_quantisation_and_none_is_told() -> None:
    assert choose(WISH, [remote("odd.gguf")]) == (remote("odd.gguf"),)
    with pytest.raises(InvalidRequest, match="no GGUF files"):
        choose(WISH, [remote("model.safetensors")])


class Served:
    """A hub with one file; `cut`: how much of it is sent before the connection breaks; `asked`: from where."""

    def __init__(self) -> None:
        self.data, self.cut, self.asked = DATA, len(DATA), list[str]()
        self.promised = {"oid": hashlib.sha256(DATA).hexdigest(), "size": len(DATA)}
        self.application = web.Application()
        self.application.router.add_get("/api/models/{user}/{repo}/tree/main", self._tree)
        self.application.router.add_get("/{user}/{repo}/resolve/main/{path:.*}", self._file)

    async def _tree(self, request: web.Request) -> web.Response:
        if request.match_info["repo"] == "absent":
            raise web.HTTPNotFound
        if "cursor" not in request.query:
            following = f'<{request.url.with_query(recursive="true", cursor="2")}>; rel="next"'
            return web.json_response([{"path": "x", "type": "directory"}], headers={"Link": following})
        return web.json_response([{"path": "m-Q4_0.gguf", "size": 9, "lfs": self.promised}])

    async def _file(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.headers.get("Range", ""))
        begin = request.http_range.start or 0
        response = web.StreamResponse(status=206 if begin else 200)
        response.content_length = len(self.data) - begin
        await response.prepare(request)
        await response.write(self.data[begin : self.cut])
        if self.cut < len(self.data):
            assert request.transport is not None
            request.transport.close()
        return response


@pytest.fixture
def served() -> Served:
    return Served()


@pytest.fixture
async def hub(served: Served, tmp_path: Path) -> AsyncIterator[Hub]:
    server = TestServer(served.application)
    await server.start_server()
    yield Hub(tmp_path / "models", {"HF_ENDPOINT": str(server.make_url("/")).rstrip("/")})
    await server.close()


async def pulled(hub: Hub) -> list[int]:
    (file,) = choose(WISH, await hub.files(WISH))
    return [size async for size in hub.fetch(WISH, file)]


async def test_a_file_comes_whole_and_is_there_afterwards(hub: Hub, served: Served) -> None:
    sizes = await pulled(hub)
    assert sizes == sorted(sizes)
    assert sizes[-1] == len(DATA)
    assert [path.name for path in hub.folder.iterdir()] == ["m-Q4_0.gguf"]
    assert (hub.folder / "m-Q4_0.gguf").read_bytes() == DATA
    assert await pulled(hub) == [len(DATA)]
    assert served.asked == [""]


async def test_what_broke_off_goes_on_where_it_was(hub: Hub, served: Served) -> None:
    served.cut = 5_000_000
    with pytest.raises(HubFailed, match="pull again to go on"):
        await pulled(hub)
    (part,) = hub.folder.iterdir()
    assert part.name.startswith(".")
    have = part.stat().st_size
    assert have > 0
    served.cut = len(DATA)
    await pulled(hub)
    assert served.asked == ["", f"bytes={have}-"]
    assert (hub.folder / "m-Q4_0.gguf").read_bytes() == DATA


@pytest.mark.parametrize("spoil", [lambda data: b"x" + data[1:], lambda data: data + b"more"])
async def test_what_was_not_promised_is_not_kept(hub: Hub, served: Served, spoil: Any) -> None:
    served.data = spoil(DATA)
    served.cut = len(served.data)
    with pytest.raises(HubFailed, match="is removed"):
        await pulled(hub)
    assert list(hub.folder.iterdir()) == []


async def test_another_file_of_that_name_is_left_alone(hub: Hub) -> None:
    hub.folder.mkdir()
    (hub.folder / "m-Q4_0.gguf").write_text("mine")
    with pytest.raises(InvalidRequest, match="another file"):
        await pulled(hub)
    assert (hub.folder / "m-Q4_0.gguf").read_text() == "mine"


async def test_one_file_is_fetched_once_at_a_time(hub: Hub) -> None:
    (file,) = choose(WISH, await hub.files(WISH))
    first = hub.fetch(WISH, file)
    await anext(first)
    with pytest.raises(InvalidRequest, match="already"):
        await anext(hub.fetch(WISH, file))
    await first.aclose()
    assert (await pulled(hub))[-1] == len(DATA)


async def test_a_disk_that_is_too_small_is_told_before_anything_comes(hub: Hub, served: Served) -> None:
    served.promised["size"] = 10**18
    with pytest.raises(HubFailed, match="left"):
        await pulled(hub)
    assert served.asked == []


async def test_no_repository_and_no_hub_are_told_apart(hub: Hub) -> None:
    with pytest.raises(InvalidRequest, match="no such repository"):
        await hub.files(Wish("someone/absent"))
    nobody = Hub(hub.folder, {"HF_ENDPOINT": "http://127.0.0.1:9"})
    with pytest.raises(HubFailed, match="cannot list"):
        await nobody.files(WISH)
