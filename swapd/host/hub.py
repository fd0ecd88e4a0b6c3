"""Model files from a hub that answers as Hugging Face's does: what a repository has, and the files.

Used by `api/pulling.py`. A file is written beside its final name, goes on where an earlier attempt ended, and gets
its name when its size and SHA-256 are those that the hub tells. Names of the hub are never taken for paths.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import quote, urljoin

import aiohttp

from swapd.errors import HubFailed, InvalidRequest
from swapd.units import Bytes, GiB, MiB, format_bytes

ENDPOINT: Final = "https://huggingface.co"
"""Where `HF_ENDPOINT` names no other."""
USUAL: Final = ("Q4_K_M", "Q4_0", "Q8_0", "F16")
"""Of which quantisation somebody is glad who names none; the first that is there."""
_LEFT_FREE: Final[Bytes] = 1 * GiB
_PIECE: Final[Bytes] = 4 * MiB
_MOST_PAGES: Final = 50
_MOST_NAMED: Final = 20
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_PREFIX = re.compile(r"(?:https://)?(?:hf\.co|huggingface\.co)/")
_FILE = re.compile(r"[A-Za-z0-9][\w.+ -]{0,200}\.gguf", re.IGNORECASE)
_PART = re.compile(r"-(\d{5})-of-(\d{5})$")
_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, connect=30, sock_read=60)


@dataclass(frozen=True, slots=True)
class Wish:
    repository: str
    quantisation: str = ""

    @staticmethod
    def of(text: str) -> Wish:
        """`USER/REPO` or `USER/REPO:QUANT`, also with the hub's name before it. Raises InvalidRequest."""
        repository, _, quantisation = _PREFIX.sub("", text.strip(), count=1).partition(":")
        if _REPOSITORY.fullmatch(repository) is None or not re.fullmatch(r"[\w.-]{0,64}", quantisation):
            raise InvalidRequest(
                f"cannot pull {text!r}: a repository of GGUF files is written USER/REPO or USER/REPO:QUANT, like "
                "someone/Some-Model-GGUF:Q4_K_M",
                "model",
            )
        return Wish(repository, "" if quantisation == "latest" else quantisation)

    def __str__(self) -> str:
        return f"{self.repository}:{self.quantisation}" if self.quantisation else self.repository


@dataclass(frozen=True, slots=True)
class Remote:
    """A file of a repository. `sha256` empty: the hub does not tell."""

    path: str
    size: Bytes
    sha256: str

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name


def choose(wish: Wish, files: Sequence[Remote]) -> tuple[Remote, ...]:
    """The file, or all parts of it, that the wish means. Raises InvalidRequest that tells what there is."""
    models: dict[str, list[Remote]] = {}
    for file in sorted(files, key=lambda file: file.path):
        if _FILE.fullmatch(file.name) and not file.name.lower().startswith("mmproj"):
            models.setdefault(_PART.sub("", file.name[: -len(".gguf")]), []).append(file)
    if not models:
        raise InvalidRequest(f"cannot pull {str(wish)!r}: the repository has no GGUF files", "model")
    wanted = [wish.quantisation] if wish.quantisation else USUAL
    for quantisation in wanted:
        found = [stem for stem in models if _is_of(stem, quantisation)]
        if found:
            return _complete(models[min(found, key=lambda stem: (len(stem), stem))], wish)
    if len(models) == 1 and not wish.quantisation:
        return _complete(next(iter(models.values())), wish)
    names = ", ".join(list(models)[:_MOST_NAMED]) + (", …" if len(models) > _MOST_NAMED else "")
    raise InvalidRequest(
        f"cannot pull {str(wish)!r}: no file of it is of {' or '.join(wanted)}; it has {names}", "model"
    )


def _is_of(stem: str, quantisation: str) -> bool:
    """Whether the name ends with it, as a word of its own: `K_M` is none, `Q4_K_M` is one."""
    before = "[-._]" if re.match(r"[a-z]+\d", quantisation, re.IGNORECASE) else "[-.]"
    return re.search(rf"(?:^|{before}){re.escape(quantisation)}$", stem, re.IGNORECASE) is not None


def _complete(parts: Sequence[Remote], wish: Wish) -> tuple[Remote, ...]:
    numbered = [_PART.search(part.name[: -len(".gguf")]) for part in parts]
    count = int(numbered[0][2]) if numbered[0] else 1
    if len(parts) != count:
        raise InvalidRequest(f"cannot pull {str(wish)!r}: it has {len(parts)} of {count} parts", "model")
    return tuple(parts)


class Hub:
    """`folder`: where files go; it may be replaced while nothing is fetched."""

    def __init__(self, folder: Path, environ: Mapping[str, str] = os.environ) -> None:
        self.folder = folder
        self._endpoint = (environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")
        self._token = environ.get("HF_TOKEN", "")
        self._busy: set[Path] = set()

    async def files(self, wish: Wish) -> tuple[Remote, ...]:
        """Raises InvalidRequest: no such repository; HubFailed."""
        found: list[Remote] = []
        url = f"{self._endpoint}/api/models/{quote(wish.repository)}/tree/main?recursive=true"
        async with self._session() as session:
            for _ in range(_MOST_PAGES):
                try:
                    async with session.get(url) as answer:
                        if answer.status in (401, 403, 404):
                            raise InvalidRequest(
                                f"cannot pull {str(wish)!r}: there is no such repository, or it is not open to "
                                "everybody (HF_TOKEN in the daemon's environment holds a key)",
                                "model",
                            )
                        answer.raise_for_status()
                        found += map(_remote, await answer.json(content_type=None))
                        following = answer.links["next"]["url"] if "next" in answer.links else None
                except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
                    raise HubFailed(f"cannot list {wish.repository}: {_why(error)}") from error
                if following is None:
                    break
                url = urljoin(url, str(following))
                if not url.startswith(self._endpoint):
                    raise HubFailed(f"cannot list {wish.repository}: the hub sends elsewhere for the rest")
        return tuple(found)

    async def fetch(self, wish: Wish, remote: Remote) -> AsyncGenerator[Bytes, None]:
        """How much of the file is there, again and again, until all of it is, under its name.

        What is there is kept when this is left early. Raises HubFailed, InvalidRequest: it is being fetched already, or
        another file has its name.
        """
        target = self.folder / remote.name
        if target in self._busy:
            raise InvalidRequest(f"cannot pull {str(wish)!r}: it is being pulled already", "model")
        if target.exists():
            if target.stat().st_size != remote.size:
                raise InvalidRequest(f"cannot pull {str(wish)!r}: {target} is there, and is another file", "model")
            yield remote.size
            return
        part = target.with_name(f".{remote.name}.part")
        self._busy.add(target)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            async with contextlib.aclosing(self._fill(wish, remote, part)) as sizes:
                async for size in sizes:
                    yield size
            part.rename(target)
        except OSError as error:
            raise HubFailed(f"cannot write {target}: {error.strerror or error}") from error
        finally:
            self._busy.discard(target)

    async def _fill(self, wish: Wish, remote: Remote, part: Path) -> AsyncGenerator[Bytes, None]:
        digest = hashlib.sha256()
        size = await asyncio.to_thread(_read_into, digest, part, remote.size)
        free = shutil.disk_usage(part.parent).free
        if free - (remote.size - size) < _LEFT_FREE:
            raise HubFailed(
                f"cannot pull {str(wish)!r}: it needs {format_bytes(remote.size - size)}, and {part.parent} has "
                f"{format_bytes(free)} left, of which {format_bytes(_LEFT_FREE)} are to stay free"
            )
        yield size
        url = f"{self._endpoint}/{quote(wish.repository)}/resolve/main/{quote(remote.path)}"
        with part.open("ab") as out:
            if size < remote.size:
                try:
                    async with self._session() as session, session.get(url, headers=_from(size)) as answer:
                        answer.raise_for_status()
                        if size and answer.status != 206:
                            raise HubFailed(f"cannot go on with {remote.name}: the hub sends it from its beginning")
                        while size < remote.size and (piece := await _some(answer.content)):
                            size += len(piece)
                            await asyncio.to_thread(_write, out, digest, piece)
                            yield size
                        if await answer.content.readany():
                            size += 1  # more than was promised
                except (aiohttp.ClientError, TimeoutError) as error:
                    raise HubFailed(f"cannot fetch {remote.name}: {_why(error)}; pull again to go on") from error
            await asyncio.to_thread(os.fsync, out.fileno())
        if size < remote.size:
            raise HubFailed(f"cannot fetch {remote.name}: the hub ended after {size} of {remote.size} bytes")
        if size > remote.size or (remote.sha256 and digest.hexdigest() != remote.sha256):
            os.unlink(part)
            raise HubFailed(f"cannot fetch {remote.name}: what came is not what the hub promised, and is removed")

    def _session(self) -> aiohttp.ClientSession:
        headers = {"Accept-Encoding": "identity"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        return aiohttp.ClientSession(timeout=_TIMEOUT, headers=headers, trust_env=True, auto_decompress=False)


def _remote(entry: Any) -> Remote:
    """Raises KeyError, TypeError, ValueError for what no hub says. Folders are files of no size."""
    large = entry.get("lfs") or {}
    return Remote(str(entry["path"]), int(large.get("size", entry.get("size", 0))), str(large.get("oid", "")).lower())


def _from(size: Bytes) -> dict[str, str]:
    return {"Range": f"bytes={size}-"} if size else {}


def _read_into(digest: Any, part: Path, most: Bytes) -> Bytes:
    """What an earlier attempt has left, or 0; more than there can be is thrown away."""
    size = 0
    try:
        if part.stat().st_size > most:
            part.unlink()
            return 0
        with part.open("rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
                size += len(piece)
    except FileNotFoundError:
        return 0
    return size


async def _some(content: aiohttp.StreamReader) -> bytes:
    """So much that telling of it, and a thread for it, are worth while; nothing at the end."""
    gathered = bytearray()
    while len(gathered) < _PIECE and (piece := await content.readany()):
        gathered += piece
    return bytes(gathered)


def _write(out: Any, digest: Any, piece: bytes) -> None:
    out.write(piece)
    digest.update(piece)


def _why(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientResponseError):
        return f"the hub answers {error.status}"
    return str(error) or type(error).__name__
