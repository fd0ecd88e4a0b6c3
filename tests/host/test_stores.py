"""What other programs have downloaded is found, called as they call it, and never trusted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swapd.generation import Sampling
from swapd.host import stores
from swapd.host.catalog import Catalog
from swapd.host.stores import Store
from swapd.served import ModelEntry
from tests.gguf_models import tiny_projector

Put = Callable[..., Path]
KINDS = ("huggingface", "ollama", "lmstudio", "llama.cpp")


def names(kind: str, folder: Path) -> list[str]:
    found, problems = stores.find([Store(kind, folder)])
    assert problems == ()
    return [each.found.name for each in found]


def catalog(*where: Store, dirs: tuple[Path, ...] = (), entries: dict[str, ModelEntry] | None = None) -> Catalog:
    made = Catalog(dirs, entries or {}, {}, stores=where)
    made.scan()
    return made


@pytest.fixture
def ollama(tmp_path: Path, gguf: Callable[..., bytes]) -> Callable[..., Path]:
    """`ollama("library/llama3.2/3b", params={…})` puts a model into an Ollama folder and answers that folder."""
    folder = tmp_path / "ollama"
    (folder / "blobs").mkdir(parents=True)

    def put(
        name: str,
        *,
        host: str = "registry.example",
        number: int = 1,
        manifest: object = None,
        **layers: Any,
    ) -> Path:
        described = []
        for count, (kind, content) in enumerate({"model": gguf({"general.name": str(number)}), **layers}.items()):
            digest = f"{number:032x}{count:032x}"
            raw = content if isinstance(content, bytes) else json.dumps(content).encode()
            (folder / "blobs" / f"sha256-{digest}").write_bytes(raw)
            described.append({"mediaType": f"application/vnd.ollama.image.{kind}", "digest": f"sha256:{digest}"})
        path = folder / "manifests" / host / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"layers": described} if manifest is None else manifest))
        return folder

    return put


def test_places_follow_the_programs_own_variables(tmp_path: Path) -> None:
    base = {"HOME": "/home/ann", "XDG_CACHE_HOME": "/home/ann/.cache"}
    assert [(store.kind, str(store.folder)) for store in stores.places(KINDS, base)] == [
        ("huggingface", "/home/ann/.cache/huggingface/hub"),
        ("ollama", "/home/ann/.ollama/models"),
        ("ollama", "/usr/share/ollama/.ollama/models"),
        ("lmstudio", "/home/ann/.lmstudio/models"),
        ("lmstudio", "/home/ann/.cache/lm-studio/models"),
        ("llama.cpp", "/home/ann/.cache/llama.cpp"),
    ]
    moved = {**base, "HOME": str(tmp_path), "HF_HOME": "/hf", "OLLAMA_MODELS": "/o", "LLAMA_CACHE": "/l"}
    (tmp_path / ".lmstudio-home-pointer").write_text("/big/lm\n")
    found = [str(store.folder) for store in stores.places(KINDS, moved)]
    assert found == ["/hf/hub", "/o", "/big/lm/models", "/home/ann/.cache/lm-studio/models", "/l"]
    assert stores.places(["huggingface"], {**moved, "HF_HUB_CACHE": "/h"}) == (Store("huggingface", Path("/h")),)


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_that_is_not_there_is_no_problem(kind: str, tmp_path: Path) -> None:
    assert stores.find([Store(kind, tmp_path / "nowhere")]) == ((), ())


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_store_is_no_problem(kind: str, tmp_path: Path) -> None:
    assert stores.find([Store(kind, tmp_path)]) == ((), ())


# --- Hugging Face


def test_hugging_face_models_are_called_by_repository_and_quantisation(tmp_path: Path, put: Put) -> None:
    at = "models--org--Tiny-GGUF/snapshots"
    put(f"{at}/abc1234/Tiny-Q4_K_M.gguf"), put(f"{at}/abc1234/tiny.UD-IQ2_XXS.gguf")
    put(f"{at}/abc1234/tiny-bf16.gguf")
    put(f"{at}/abc1234/big/tiny-Q8_0-00001-of-00002.gguf"), put(f"{at}/abc1234/big/tiny-Q8_0-00002-of-00002.gguf")
    put(f"{at}/abc1234/mmproj-tiny-f16.gguf"), put(f"{at}/0ld0ld0/Old-Q4_0.gguf")
    put("models--org--Tiny-GGUF/refs/main", b"abc1234"), put("datasets--org--d/snapshots/abc1234/d-Q4_0.gguf")
    assert sorted(names("huggingface", tmp_path)) == [
        "org/Tiny-GGUF:BF16",
        "org/Tiny-GGUF:Q4_K_M",
        "org/Tiny-GGUF:Q8_0",
        "org/Tiny-GGUF:UD-IQ2_XXS",
    ]


def test_files_of_one_quantisation_are_told_apart_by_their_names(tmp_path: Path, put: Put) -> None:
    at = "models--org--Zoo/snapshots/abc1234"
    put(f"{at}/cat-Q4_0.gguf"), put(f"{at}/dog-Q4_0.gguf"), put(f"{at}/plain.gguf")
    assert names("huggingface", tmp_path) == ["org/Zoo:cat-Q4_0", "org/Zoo:dog-Q4_0", "org/Zoo:plain"]


def test_a_reference_cannot_lead_out_of_the_store(tmp_path: Path, put: Put) -> None:
    put("outside/x-Q4_0.gguf"), put("hub/models--org--m/refs/main", b"../../../outside")
    put("hub/models--org--m/snapshots/abc1234/in-Q4_0.gguf")
    assert names("huggingface", tmp_path / "hub") == ["org/m:Q4_0"]


# --- llama.cpp, LM Studio


def test_llama_cpp_models_of_both_layouts_are_found(tmp_path: Path, put: Put) -> None:
    put("models--org--New-GGUF/snapshots/abc1234/new-Q4_0.gguf")
    put("org_Old-GGUF_sub_old-Q8_0.gguf"), put("by-url.gguf"), put("org_Old-GGUF_mmproj-old.gguf")
    put("manifest=org=Old-GGUF=Q8_0.json", json.dumps({"ggufFile": {"rfilename": "sub/old-Q8_0.gguf"}}).encode())
    put("manifest=org=Bad=latest.json", b"{"), put("manifest=org=Odd=latest.json", b'{"ggufFile": 7}')
    assert names("llama.cpp", tmp_path) == ["org/New-GGUF:Q4_0", "by-url", "org/Old-GGUF:Q8_0"]


def test_lm_studio_models_are_called_like_their_folder_and_quantisation_where_needed(tmp_path: Path, put: Put) -> None:
    put("lm/Qwen-7B-GGUF/Qwen-7B-Q4_K_M.gguf"), put("lm/Qwen-7B-GGUF/mmproj-qwen.gguf")
    put("lm/Two-GGUF/Two-Q4_0.gguf"), put("lm/Two-GGUF/Two-Q8_0.gguf")
    assert names("lmstudio", tmp_path) == ["qwen-7b", "two@q4_0", "two@q8_0"]


# --- Ollama


def test_ollama_models_are_called_as_ollama_shows_them(ollama: Callable[..., Path]) -> None:
    ollama("library/llama3.2/3b"), ollama("ann/tuned/latest", number=2)
    folder = ollama("org/Tiny-GGUF/Q4_0", host="hf.example", number=3)
    assert sorted(names("ollama", folder)) == ["ann/tuned:latest", "hf.example/org/Tiny-GGUF:Q4_0", "llama3.2:3b"]


def test_an_ollama_model_is_served_with_its_own_parameters(ollama: Callable[..., Path]) -> None:
    params = {"temperature": 1, "top_k": 7, "stop": ["<|x|>", ""], "num_ctx": 256, "top_p": "high", "seed": True}
    folder = ollama("library/m/latest", params=params, system=b"Be brief.", license=b"...")
    model = catalog(Store("ollama", folder)).resolve("m")
    assert model.entry.sampling == Sampling(temperature=1, top_k=7)
    assert (model.entry.stop, model.entry.system) == (("<|x|>",), "Be brief.")
    assert model.variant is not None
    assert model.variant.context == 256


def test_what_the_owner_says_comes_before_what_ollama_says(ollama: Callable[..., Path]) -> None:
    folder = ollama("library/m/1b", params={"temperature": 0.2, "top_k": 7, "num_ctx": 256}, system=b"Be brief.")
    entry = ModelEntry(sampling=Sampling(temperature=0.9), context=128, system="Be long.", aliases=("chat",))
    model = catalog(Store("ollama", folder), entries={"m:1b": entry}).resolve("chat")
    assert model.entry.sampling == Sampling(temperature=0.9, top_k=7)
    assert model.entry.system == "Be long."
    assert model.variant is not None
    assert model.variant.context == 128


@pytest.mark.parametrize(
    "manifest",
    [[], {}, {"layers": 3}, {"layers": [3, {"mediaType": "image.model"}]}, {"layers": [{"digest": "sha256:../../x"}]}],
    ids=str,
)
def test_a_manifest_that_makes_no_sense_is_a_problem_and_disturbs_nobody(
    manifest: object, ollama: Callable[..., Path]
) -> None:
    ollama("library/good/1b")
    folder = ollama("library/bad/1b", manifest=manifest)
    found, problems = stores.find([Store("ollama", folder)])
    assert [each.found.name for each in found] == ["good:1b"]
    assert len(problems) == 1
    assert "Ollama's bad:1b" in problems[0]


def test_a_model_whose_file_is_gone_is_listed_with_the_reason(ollama: Callable[..., Path]) -> None:
    folder = ollama("library/m/1b")
    for blob in (folder / "blobs").iterdir():
        blob.unlink()
    (model,) = catalog(Store("ollama", folder)).models()
    assert model.reason.startswith("cannot open it")


# --- among others


def test_folders_come_before_stores_and_one_file_is_listed_once(tmp_path: Path, put: Put) -> None:
    mine = put("mine/qwen-7b.gguf")
    put("lm/p/Qwen-7B-GGUF/qwen-Q4_0.gguf", b"other")
    found = catalog(Store("lmstudio", tmp_path / "lm"), dirs=(tmp_path / "mine",))
    assert found.resolve("qwen-7b").path == str(mine)
    at = "hub/models--org--m/snapshots/abc1234"
    (put(f"{at}/x").parent / "m-Q4_0.gguf").symlink_to(mine)
    found = catalog(Store("huggingface", tmp_path / "hub"), Store("llama.cpp", tmp_path / "hub"), dirs=(mine.parent,))
    assert [model.name for model in found.models()] == ["qwen-7b"]
    assert found.resolve("org/m:Q4_0").name == "qwen-7b"


def test_an_ollama_model_sees_with_its_own_projector(ollama: Callable[..., Path], tmp_path: Path) -> None:
    projector = tiny_projector(tmp_path / "projector.gguf", width=64).read_bytes()
    folder = ollama("library/seer/1b", projector=projector)
    model = catalog(Store("ollama", folder)).resolve("seer:1b")
    assert model.variant is not None
    assert model.variant.projector is not None
    assert Path(model.variant.projector.path).read_bytes() == projector
    blind = catalog(Store("ollama", folder), entries={"seer:1b": ModelEntry(projector="none")}).resolve("seer:1b")
    assert not blind.sees
