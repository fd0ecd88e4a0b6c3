"""Finds the models that other programs on this machine have downloaded. Read only: nothing is ever changed there.

`config/` asks `places` where these stores are, `catalog.py` asks `find` what is in them. A model is called as the
program that has it calls it. Layouts: each program's own documentation and source, as of 2026.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeAlias, get_args

from msgspec.structs import fields

from swapd.generation import Sampling
from swapd.host import folders
from swapd.host.folders import Found
from swapd.served import ModelEntry

MAX_MODELS: Final = 10_000
"""Of one store."""
MAX_DOCUMENT: Final = 1 << 20
"""Bytes of one of their descriptions; theirs have a few hundred."""

_QUANT: Final = re.compile(r"(?:^|[-._])((?:UD-)?(?:IQ|TQ|Q|MXFP|NVFP|BF|F)\d+(?:_[A-Z0-9]+)*)$", re.IGNORECASE)
_DIGEST: Final = re.compile(r"sha256[:-]([0-9a-f]{64})")
_BESIDE: Final = ("mtp-", "eagle3-", "dflash-", "dspark-")
"""Begin the names of files that are no models of their own."""


@dataclass(frozen=True, slots=True)
class Store:
    """One program's folder of models."""

    kind: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Stored:
    """A model in a store, and what its program says of how to serve it."""

    found: Found
    says: ModelEntry = field(default=ModelEntry())


Shelf: TypeAlias = tuple[list[Stored], list[str]]
"""Models, and what could not be looked at."""


def places(kinds: Sequence[str], environ: Mapping[str, str]) -> tuple[Store, ...]:
    """Where those programs keep their models on this machine, whether or not they are there.

    `environ` has HOME and XDG_CACHE_HOME.
    """
    return tuple(Store(kind, folder) for kind in kinds for folder in _PLACES[kind](environ))


def find(stores: Sequence[Store]) -> tuple[tuple[Stored, ...], tuple[str, ...]]:
    """All models in the stores, in their order, and what could not be looked at. A store may be absent."""
    models: list[Stored] = []
    problems: list[str] = []
    for store in stores:
        try:
            there, trouble = _READERS[store.kind](store.folder) if store.folder.is_dir() else ([], [])
        except OSError as error:
            there, trouble = [], [f"cannot look for {store.kind}'s models: {error.filename}: {error.strerror}"]
        models += there
        problems += trouble
    return tuple(models), tuple(problems)


# --- where


def _in_cache(environ: Mapping[str, str], *below: str) -> Path:
    return Path(environ["XDG_CACHE_HOME"], *below)


def _huggingface_places(environ: Mapping[str, str]) -> list[Path]:
    if hub := environ.get("HF_HUB_CACHE"):
        return [Path(hub)]
    home = environ.get("HF_HOME")
    return [Path(home, "hub") if home else _in_cache(environ, "huggingface", "hub")]


def _ollama_places(environ: Mapping[str, str]) -> list[Path]:
    if models := environ.get("OLLAMA_MODELS"):
        return [Path(models)]
    return [Path(environ["HOME"], ".ollama", "models"), Path("/usr/share/ollama/.ollama/models")]


def _lmstudio_places(environ: Mapping[str, str]) -> list[Path]:
    home = Path(environ["HOME"])
    try:
        moved = (home / ".lmstudio-home-pointer").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        moved = ""
    return [Path(moved or home / ".lmstudio", "models"), _in_cache(environ, "lm-studio", "models")]


def _llama_cpp_places(environ: Mapping[str, str]) -> list[Path]:
    cache = environ.get("LLAMA_CACHE")
    return [Path(cache) if cache else _in_cache(environ, "llama.cpp")]


# --- what


def _huggingface(hub: Path) -> Shelf:
    """`models--OWNER--REPO/snapshots/COMMIT/…`, of each repository what its main branch was when last fetched."""
    models: list[Stored] = []
    problems: list[str] = []
    for repository in _subfolders(hub):
        kind, *names = repository.name.split("--")
        snapshot = _snapshot(repository) if kind == "models" and names else None
        if snapshot is not None:
            there, trouble = folders.find([snapshot])
            models += _named(there, "/".join(names) + ":")
            problems += trouble
    return models, problems


def _snapshot(repository: Path) -> Path | None:
    try:
        commit = (repository / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        commit = ""
    if re.fullmatch(r"[0-9a-f]{7,64}", commit) and (repository / "snapshots" / commit).is_dir():
        return repository / "snapshots" / commit
    if not (repository / "snapshots").is_dir():
        return None
    return max(_subfolders(repository / "snapshots"), key=lambda folder: folder.stat().st_mtime, default=None)


def _llama_cpp(cache: Path) -> Shelf:
    """Since 2026 as Hugging Face's; before, `OWNER_REPO_FILE` with `manifest=OWNER=REPO=TAG.json` beside it."""
    models, problems = _huggingface(cache)
    called: dict[str, str] = {}
    for path in sorted(cache.glob("manifest=*=*=*.json"))[:MAX_MODELS]:
        _, owner, repository, tag = path.stem.split("=", 3)
        try:
            file = _document(path).get("ggufFile")
        except ValueError:
            continue  # the model goes by its file's name
        name = file.get("rfilename") if isinstance(file, dict) else None
        if isinstance(name, str):
            flat = f"{owner}_{repository}_{name}".replace("/", "_")
            called[flat] = f"{owner}/{repository}:{tag}"
    there, trouble = folders.find([cache])
    for found in there:
        path = Path(found.paths[0])
        if path.parent == cache and not _is_beside(found.name):
            models.append(Stored(replace(found, name=called.get(path.name, found.name))))
    return models, [*problems, *trouble]


def _lmstudio(folder: Path) -> Shelf:
    """`PUBLISHER/MODEL-GGUF/FILE.gguf`: `model`, and with its quantisation where there are several."""
    models: list[Stored] = []
    problems: list[str] = []
    for publisher in _subfolders(folder):
        for repository in _subfolders(publisher):
            there, trouble = folders.find([repository])
            name = re.sub(r"[-_.]gguf$", "", repository.name, flags=re.IGNORECASE).lower()
            of_it = _named(there, f"{name}@")
            alone = len(of_it) == 1
            models += [Stored(replace(each.found, name=name if alone else each.found.name.lower())) for each in of_it]
            problems += trouble
    return models, problems


def _ollama(folder: Path) -> Shelf:
    """`manifests/HOST/NAMESPACE/MODEL/TAG` lists layers; each is a file in `blobs`."""
    models: list[Stored] = []
    problems: list[str] = []
    for path in _files(folder / "manifests", depth=4):
        host, namespace, model, tag = path.relative_to(folder / "manifests").parts
        name = f"{model}:{tag}" if namespace == "library" else f"{namespace}/{model}:{tag}"
        name = name if host.startswith("registry.") else f"{host}/{name}"
        try:
            models.append(_from_manifest(folder, name, _document(path)))
        except ValueError as error:
            problems.append(f"cannot use Ollama's {name}: {error}")
    return models, problems


def _from_manifest(folder: Path, name: str, manifest: Mapping[str, Any]) -> Stored:
    """Raises ValueError."""
    layers: dict[str, list[str]] = {}
    listed = manifest.get("layers")
    for layer in listed if isinstance(listed, list) else ():
        if isinstance(layer, dict):
            digest = _DIGEST.fullmatch(str(layer.get("digest")))
            if digest is not None:
                kind = str(layer.get("mediaType")).rpartition(".")[2]
                layers.setdefault(kind, []).append(str(folder / "blobs" / f"sha256-{digest[1]}"))
    files = layers.get("model", [])
    if len(files) != 1:
        raise ValueError(f"its manifest names {len(files) or 'no'} model files")
    params = _document(Path(layers["params"][0])) if "params" in layers else {}
    system = _text(Path(layers["system"][0])) if "system" in layers else ""
    missing = "" if "adapter" not in layers else "it has an adapter; name both files under [models]"
    projector = layers.get("projector", [""])[0]
    return Stored(Found(name, (files[0],), reason=missing), replace(_says(params), system=system, projector=projector))


def _says(params: Mapping[str, Any]) -> ModelEntry:
    """An Ollama model's own parameters; values that make no sense are left out, as Ollama does with unknown ones."""
    values: dict[str, Any] = {}
    for each in fields(Sampling):
        value, kinds = params.get(each.name), get_args(each.type)
        if type(value) in (int, float) and (type(value) in kinds or float in kinds):
            values[each.name] = value
    stop, context, most = params.get("stop"), params.get("num_ctx"), params.get("num_predict")
    return ModelEntry(
        sampling=Sampling(**values),
        stop=tuple(text for text in stop if isinstance(text, str) and text) if isinstance(stop, list) else (),
        context=context if type(context) is int and context > 0 else None,
        max_tokens=most if type(most) is int and most >= 0 else None,
    )


# --- names and files


def _named(there: Sequence[Found], before: str) -> list[Stored]:
    """The models of one repository, called by their quantisation; by their file where that is not one model's alone."""
    usable = [found for found in there if not _is_beside(found.name)]
    quants = [match[1].upper() if (match := _QUANT.search(found.name)) else "" for found in usable]
    return [
        Stored(replace(found, name=before + (quant if quant and quants.count(quant) == 1 else found.name)))
        for found, quant in zip(usable, quants, strict=True)
    ]


def _is_beside(name: str) -> bool:
    """It belongs to a model: a projector, a draft."""
    return "mmproj" in name.lower() or name.lower().startswith(_BESIDE)


def _subfolders(folder: Path) -> list[Path]:
    visible = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(path for path in visible if path.is_dir())[:MAX_MODELS]


def _files(folder: Path, depth: int) -> Iterator[Path]:
    """Those exactly so deep, by name."""
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.name.startswith("."):
                continue
            if depth > 1 and path.is_dir():
                yield from _files(path, depth - 1)
            elif depth == 1 and path.is_file():
                yield path


def _text(path: Path) -> str:
    """Raises ValueError."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_DOCUMENT + 1)
        if len(content) > MAX_DOCUMENT:
            raise ValueError(f"{path.name} is too long")
        return content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path.name}: {error}") from None


def _document(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ValueError."""
    try:
        document = json.loads(_text(path))
    except RecursionError:
        raise ValueError(f"{path.name} is nested too deeply") from None
    if not isinstance(document, dict):
        raise ValueError(f"{path.name} is no JSON object")
    return document


_PLACES: Final[Mapping[str, Callable[[Mapping[str, str]], list[Path]]]] = {
    "huggingface": _huggingface_places,
    "ollama": _ollama_places,
    "lmstudio": _lmstudio_places,
    "llama.cpp": _llama_cpp_places,
}
_READERS: Final[Mapping[str, Callable[[Path], Shelf]]] = {
    "huggingface": _huggingface,
    "ollama": _ollama,
    "lmstudio": _lmstudio,
    "llama.cpp": _llama_cpp,
}
