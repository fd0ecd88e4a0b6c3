"""Which projector belongs to a model: the file that its entry names, else one that lies beside it.

Called by `modelfiles.py`. Beside a model there may be several, of other models too: a name decides, and then whether
it leads to the model's width. Names are those that llama.cpp's converter and the usual publishers give:
`mmproj-NAME-f16.gguf`, `NAME-mmproj-f16.gguf`, and in a folder of one model only `mmproj-F16.gguf`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Final

from swapd.host.gguf import Header
from swapd.host.layers import number
from swapd.units import Bytes

_MARK: Final = re.compile(r"(?:^|[-_.])mmproj(?=[-_.]|$)", re.IGNORECASE)
_PRECISION: Final = re.compile(
    r"[-_.](?:bf16|f16|fp16|f32|fp32|int\d|i?q\d\w*|tq\d\w*|mxfp4\w*|ud|i1|imat|gguf|\d{5}-of-\d{5})$", re.IGNORECASE
)
_PREFERRED: Final = ("f16", "bf16", "q8_0")
_OF_ANY: Final = frozenset({"", "model"})
"""What is left of names that name no model."""
_WHOLE: Final = frozenset({"gemma3", "gemma4v", "gemma4uv", "deepseek4v"})
_FLOAT: Final[Bytes] = 4


def is_projector(file: str) -> bool:
    """By its name."""
    return file.lower().endswith(".gguf") and _MARK.search(file[: -len(".gguf")]) is not None


def beside(path: str) -> list[str]:
    """The projectors in the model's folder that may be its own by their names, the likeliest first."""
    folder, own = os.path.split(path)
    try:
        files = [name for name in os.listdir(folder or ".") if name.lower().endswith(".gguf")]
    except OSError:
        return []
    return [os.path.join(folder, name) for name in choose(own, files)]


def choose(model: str, files: Iterable[str]) -> list[str]:
    """Of the GGUF files of one folder the projectors for that one, the likeliest first."""
    names = list(files)
    bases = {_base(name) for name in names if not is_projector(name)} | {_base(model)}
    found: list[tuple[bool, int, str]] = []
    for name in filter(is_projector, names):
        base = _base(name)
        is_named = base == _base(model)
        if is_named or (len(bases) == 1 and base in _OF_ANY):
            found.append((not is_named, _rank(name), name))
    return [name for _, _, name in sorted(found)]


def why_none(header: Header, embedding: int) -> str | None:
    """Why a readable file is no projector for a model of this width; None: it is one."""
    if header.architecture != "clip":
        return "no projector (mmproj)"
    if header.values.get("clip.has_vision_encoder") is not True:
        return "a projector, but none for pictures"
    if embedding != header.values.get("clip.vision.projection_dim") and embedding not in header.projections:
        return f"made for another model: nothing in it is {embedding} wide, as the model is"
    return None


def sees_whole(header: Header) -> bool:
    """Whether a picture's tokens see each other."""
    kind = header.text("clip.projector_type") or header.text("clip.vision.projector_type")
    return kind in _WHOLE


def compute(header: Header) -> Bytes:
    """About what it computes in; llama.cpp tells it exactly when it sizes a load."""
    side, patch = number(header, "vision.image_size", default=0), number(header, "vision.patch_size", default=1)
    width = number(header, "vision.embedding_length", default=0)
    feed = number(header, "vision.feed_forward_length", default=0)
    patches = (side // max(patch, 1)) ** 2
    return _FLOAT * (6 * side * side + patches * (4 * width + 2 * feed))


def _base(file: str) -> str:
    """The model's name in a file's name, for comparing."""
    stem = file[: -len(".gguf")] if file.lower().endswith(".gguf") else file
    stem = _MARK.sub("", stem).strip("-_.")
    while (shorter := _PRECISION.sub("", f"-{stem}")[1:]) != stem:
        stem = shorter.strip("-_.")
    return re.sub(r"[-_.]+", "-", stem).casefold()


def _rank(file: str) -> int:
    lowered = file.lower()
    ranks = [rank for rank, kind in enumerate(_PREFERRED) if re.search(rf"(?:^|[-_.]){kind}(?=[-_.])", lowered)]
    return min(ranks, default=len(_PREFERRED))
