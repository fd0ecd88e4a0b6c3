"""Which projector belongs to which model: by names, by what the file is for, and as the owner says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from swapd.core.model import Projector
from swapd.host.catalog import Catalog
from swapd.host.projectors import choose, is_projector
from swapd.served import ModelEntry
from tests.gguf_models import tiny_projector

Put = Callable[..., Path]
WIDTH = 64
"""Of the small models that `put` writes."""


@pytest.mark.parametrize(
    ("model", "beside", "expected"),
    [
        ("gemma-3-4b-it-Q4_K_M.gguf", ["mmproj-gemma-3-4b-it-f16.gguf"], "mmproj-gemma-3-4b-it-f16.gguf"),
        ("google_gemma-3-4b-it-UD-Q4_K_XL.gguf", ["mmproj-google_gemma-3-4b-it-bf16.gguf"], "mmproj-google_gemma"),
        ("llava-phi-3-mini-int4.gguf", ["llava-phi-3-mini-mmproj-f16.gguf"], "llava-phi-3-mini-mmproj-f16.gguf"),
        ("Qwen3-VL-8B-00001-of-00002.gguf", ["mmproj-F16.gguf", "Qwen3-VL-8B-00002-of-00002.gguf"], "mmproj-F16.gguf"),
        ("a-Q4_0.gguf", ["mmproj-model-f16.gguf", "a-Q8_0.gguf"], "mmproj-model-f16.gguf"),
        ("a.gguf", ["mmproj-F32.gguf", "mmproj-BF16.gguf", "mmproj-F16.gguf"], "mmproj-F16.gguf"),
        ("a.gguf", ["mmproj-F16.gguf", "mmproj-a-Q8_0.gguf"], "mmproj-a-Q8_0.gguf"),
        ("a.gguf", ["mmproj-F16.gguf", "b.gguf"], None),
        ("a.gguf", ["mmproj-b-f16.gguf"], None),
        ("a.gguf", ["commproject.gguf", "b.gguf"], None),
        ("a.gguf", [], None),
    ],
)
def test_a_name_decides(model: str, beside: list[str], expected: str | None) -> None:
    found = choose(model, [model, *beside])
    assert found[0].startswith(expected) if expected else found == []


def test_only_files_that_are_called_so_are_projectors() -> None:
    assert is_projector("mmproj-a.gguf")
    assert is_projector("a.mmproj-f16.gguf")
    assert not is_projector("mmproj-a.txt")
    assert not is_projector("summproj.gguf")


def found(folder: Path, **entries: ModelEntry) -> tuple[Projector | None, tuple[str, ...]]:
    catalog = Catalog([folder], entries, {})
    catalog.scan()
    variant = catalog.resolve("a").variant
    assert variant is not None
    return variant.projector, catalog.problems()


def test_the_projector_beside_a_model_makes_it_another_variant(tmp_path: Path, put: Put) -> None:
    put("a.gguf")
    blind = Catalog([tmp_path], {}, {})
    blind.scan()
    path = tiny_projector(tmp_path / "mmproj-a.gguf", width=WIDTH)
    seeing = Catalog([tmp_path], {}, {})
    seeing.scan()
    one, other = blind.resolve("a"), seeing.resolve("a")
    assert (one.sees, other.sees) == (False, True)
    assert one.variant is not None
    assert other.variant is not None
    assert one.variant.id != other.variant.id
    assert other.variant.projector is not None
    assert other.variant.projector.path == str(path)
    assert 0.9 * path.stat().st_size < other.variant.projector.size < path.stat().st_size
    assert other.size == one.size + other.variant.projector.size
    assert other.embedder is not None
    assert other.embedder.projector is None
    assert seeing.problems() == ()


def test_one_made_for_another_width_is_told_and_left_out(tmp_path: Path, put: Put) -> None:
    put("a.gguf")
    tiny_projector(tmp_path / "mmproj-a.gguf", width=WIDTH * 3)
    projector, problems = found(tmp_path)
    assert projector is None
    assert f"nothing in it is {WIDTH} wide" in problems[0]


def test_the_owner_may_name_one_or_want_none(tmp_path: Path, put: Put) -> None:
    put("a.gguf")
    put("b.gguf")
    path = tiny_projector(tmp_path / "eyes.gguf", width=WIDTH)
    tiny_projector(tmp_path / "mmproj-a.gguf", width=WIDTH)
    named, problems = found(tmp_path, a=ModelEntry(projector=str(path)))
    assert named is not None
    assert (named.path, problems) == (str(path), ())
    assert found(tmp_path, a=ModelEntry(projector="none")) == (None, ())


@pytest.mark.parametrize(("content", "words"), [(b"", "empty file"), (None, "no projector")])
def test_a_wrong_file_is_told_and_its_model_served_without(
    tmp_path: Path, put: Put, content: bytes | None, words: str
) -> None:
    put("a.gguf")
    wrong = put("other/wrong.gguf", content) if content is not None else put("other/wrong.gguf")
    projector, problems = found(tmp_path, a=ModelEntry(projector=str(wrong)))
    assert projector is None
    assert words in problems[0]
    projector, problems = found(tmp_path, a=ModelEntry(projector=str(tmp_path / "gone.gguf")))
    assert projector is None
    assert "cannot open it" in problems[0]


def test_one_whose_pictures_are_seen_whole_is_told_apart(tmp_path: Path, put: Put) -> None:
    put("a.gguf")
    tiny_projector(tmp_path / "mmproj-a.gguf", width=WIDTH, kind="gemma3")
    projector, _ = found(tmp_path)
    assert projector is not None
    assert projector.sees_whole
