"""Which models there are, how they are called, and what a name stands for."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swapd.errors import ModelNotFound, ModelUnusable
from swapd.generation import Sampling
from swapd.host.catalog import Catalog
from swapd.served import Model, ModelEntry, Preset

Put = Callable[..., Path]
Routes = Mapping[str, str | tuple[str, ...]]
Gguf = Callable[..., bytes]


def scanned(
    *dirs: Path,
    entries: Mapping[str, ModelEntry] | None = None,
    routes: Routes | None = None,
    **more: Any,
) -> Catalog:
    catalog = Catalog(dirs, entries or {}, routes or {}, **more)
    catalog.scan()
    return catalog


def listed(catalog: Catalog) -> list[str]:
    return [model.name for model in catalog.models()]


def the(catalog: Catalog, name: str) -> Model:
    (model,) = [model for model in catalog.models() if model.name == name]
    return model


def test_it_is_empty_before_the_first_scan(tmp_path: Path) -> None:
    catalog = Catalog([tmp_path], {}, {})
    assert catalog.models() == ()
    with pytest.raises(ModelNotFound):
        catalog.resolve("m")


def test_files_are_found_in_subfolders_and_called_like_them(tmp_path: Path, put: Put) -> None:
    put("b/c/small.Q4_0.gguf"), put("a.gguf"), put("notes.txt", b"x"), put(".hidden.gguf")
    assert listed(scanned(tmp_path)) == ["a", "small.Q4_0"]


def test_a_found_model_tells_about_itself(tmp_path: Path, put: Put) -> None:
    path = put("m.gguf")
    model = scanned(tmp_path).resolve("m")
    assert (model.family, model.parameters, model.quantization, model.template) == ("llama", 453, "Q4_0", True)
    assert (model.path, model.size) == (str(path), path.stat().st_size)
    assert model.modified == pytest.approx(path.stat().st_mtime)
    assert len(model.digest) == 64
    assert model.variant is not None
    assert (model.variant.context, model.variant.slots, model.variant.name) == (512, 4, "m")
    assert (model.reason, model.shadowed) == ("", False)


def test_unreadable_files_are_listed_with_the_reason_and_disturb_nobody(tmp_path: Path, put: Put, gguf: Gguf) -> None:
    put("good.gguf"), put("junk.gguf", b"junk"), put("cut.gguf", gguf()[:-1])
    put("adapter.gguf", gguf({"general.type": "adapter"}))
    os.mkfifo(tmp_path / "fifo.gguf")
    (tmp_path / "loop.gguf").symlink_to("loop.gguf")
    catalog = scanned(tmp_path)
    assert catalog.resolve("good").variant
    assert the(catalog, "junk").reason == "not a GGUF file"
    assert the(catalog, "cut").reason.startswith("cut off")
    assert the(catalog, "adapter").reason == "of type 'adapter', not a model"
    assert the(catalog, "fifo").reason == "not a regular file"
    assert "symbolic links" in the(catalog, "loop").reason
    with pytest.raises(ModelUnusable, match="cannot load 'junk': not a GGUF file"):
        catalog.resolve("junk")


def test_of_two_files_of_one_name_the_first_folder_wins(tmp_path: Path, put: Put) -> None:
    first, second = put("x/m.gguf"), put("y/m.gguf")
    catalog = scanned(second.parent, first.parent)
    assert catalog.resolve("m").path == str(second)
    winner, other = catalog.models()
    assert not winner.shadowed
    assert other.shadowed
    assert other.variant is None
    assert other.reason == f"{second} has the same name and comes first"


def test_a_folders_own_files_come_before_its_subfolders(tmp_path: Path, put: Put) -> None:
    put("a/m.gguf")
    assert scanned(tmp_path, tmp_path / "a").resolve("m").path == str(tmp_path / "a/m.gguf")
    own = put("m.gguf")
    assert scanned(tmp_path).resolve("m").path == str(own)


# --- split files


def split(put: Put, gguf: Gguf, *numbers: int, count: int = 2, said: int | None = None) -> None:
    said = count if said is None else said
    for number in numbers:
        whole = gguf({"split.count": said}) if number == 1 else gguf({"split.count": said}, only=True)
        put(f"big-{number:05}-of-{count:05}.gguf", whole)


def test_split_files_are_one_model(tmp_path: Path, put: Put, gguf: Gguf) -> None:
    split(put, gguf, 1, 2)
    catalog = scanned(tmp_path)
    assert listed(catalog) == ["big"]
    model = catalog.resolve("big")
    assert model.path.endswith("big-00001-of-00002.gguf")
    assert model.size == sum(file.stat().st_size for file in tmp_path.iterdir())
    assert model.parameters == 2 * 453
    assert model.variant is not None
    assert model.variant.shape.weights == 2 * 548


@pytest.mark.parametrize(
    ("there", "count", "words"),
    [
        ((1,), 2, "part big-00002-of-00002.gguf is missing"),
        ((2,), 2, "part big-00001-of-00002.gguf is missing"),
        ((2,), 99, "part big-00001-of-00099.gguf and 97 more is missing"),
    ],
)
def test_a_missing_part_is_named(
    there: tuple[int, ...], count: int, words: str, tmp_path: Path, put: Put, gguf: Gguf
) -> None:
    split(put, gguf, *there, count=count)
    assert the(scanned(tmp_path), "big").reason == words


def test_names_and_headers_agree_about_parts(tmp_path: Path, put: Put, gguf: Gguf) -> None:
    split(put, gguf, 1, 2, said=3)
    put("lone.gguf", gguf({"split.count": 2}))
    catalog = scanned(tmp_path)
    assert the(catalog, "big").reason == "its name says 2 parts, its header 3"
    assert "its name does not end in -00001-of-00002.gguf" in the(catalog, "lone").reason


def test_a_spoilt_part_spoils_the_model(tmp_path: Path, put: Put, gguf: Gguf) -> None:
    split(put, gguf, 1)
    put("big-00002-of-00002.gguf", b"junk")
    assert the(scanned(tmp_path), "big").reason == "not a GGUF file"


def test_an_entry_may_name_a_split_model_by_its_first_file(tmp_path: Path, put: Put, gguf: Gguf) -> None:
    split(put, gguf, 1, 2)
    entry = ModelEntry(path=str(tmp_path / "big-00001-of-00002.gguf"))
    assert scanned(entries={"large": entry}).resolve("large").parameters == 2 * 453


# --- folders


def test_links_are_followed_and_circles_are_not(tmp_path: Path, put: Put) -> None:
    put("models/deep/m.gguf")
    (tmp_path / "models/deep/up").symlink_to(tmp_path / "models")
    (tmp_path / "linked").symlink_to(tmp_path / "models")
    catalog = scanned(tmp_path / "linked", tmp_path / "models")
    assert listed(catalog) == ["m"]
    assert catalog.problems() == ()


def test_a_file_with_two_names_is_listed_once_and_answers_to_both(tmp_path: Path, put: Put) -> None:
    put("blobs/m.gguf")
    (tmp_path / "blobs/n.gguf").symlink_to("m.gguf")
    catalog = scanned(tmp_path)
    assert listed(catalog) == ["m"]
    assert catalog.resolve("n") == catalog.resolve("m")


def test_a_folder_that_is_not_there_is_a_problem_and_no_more(tmp_path: Path, put: Put) -> None:
    put("m.gguf")
    catalog = scanned(tmp_path / "absent", tmp_path)
    assert listed(catalog) == ["m"]
    assert catalog.problems() == (f"cannot scan {tmp_path / 'absent'}: No such file or directory",)


def test_a_closed_folder_is_a_problem_and_no_more(tmp_path: Path, put: Put) -> None:
    put("m.gguf"), put("closed/n.gguf")
    (tmp_path / "closed").chmod(0)
    if os.access(tmp_path / "closed", os.R_OK):
        pytest.skip("this user may read everything")
    try:
        catalog = scanned(tmp_path)
    finally:
        (tmp_path / "closed").chmod(0o700)
    assert listed(catalog) == ["m"]
    assert "Permission denied" in catalog.problems()[0]


def test_folders_too_deep_are_left_and_told(tmp_path: Path, put: Put) -> None:
    put("/".join(["d"] * 20) + "/m.gguf"), put("n.gguf")
    catalog = scanned(tmp_path)
    assert listed(catalog) == ["n"]
    assert "folders deep" in catalog.problems()[0]


def test_a_name_that_is_no_text_is_told_and_left(tmp_path: Path, gguf: Gguf) -> None:
    with open(os.fsencode(tmp_path) + b"/caf\xe9.gguf", "wb") as file:
        file.write(gguf())
    catalog = scanned(tmp_path)
    assert catalog.models() == ()
    assert "not UTF-8" in catalog.problems()[0]
    catalog.problems()[0].encode()


# --- entries


def test_an_entry_names_its_own_file_and_how_it_is_served(tmp_path: Path, put: Put) -> None:
    path = put("some-file.gguf")
    entry = ModelEntry(path=str(path), context=100, slots=2, kv_type="q8_0", gpu_layers=3, sampling=Sampling(seed=1))
    model = scanned(entries={"qwen:9b": entry}, flash_attention=True).resolve("qwen:9b")
    assert model.entry is entry
    assert model.variant is not None
    assert (model.variant.context, model.variant.slots) == (100, 2)
    assert (model.variant.kv_type, model.variant.gpu_layers, model.variant.flash_attention) == ("q8_0", 3, True)


def test_a_file_that_an_entry_names_is_listed_by_that_name_only(tmp_path: Path, put: Put) -> None:
    """Offered under both names it would be loaded twice; the file's name still finds it."""
    path = put("some-file.gguf")
    catalog = scanned(tmp_path, entries={"qwen": ModelEntry(path=str(path), slots=1)})
    assert listed(catalog) == ["qwen"]
    assert catalog.resolve("some-file").name == "qwen"


def test_an_entry_without_a_path_is_about_the_found_file(tmp_path: Path, put: Put) -> None:
    put("m.gguf"), put("Other.gguf")
    catalog = scanned(tmp_path, entries={"m": ModelEntry(slots=1), "other": ModelEntry(slots=2)})
    assert listed(catalog) == ["m", "other"]
    assert [model.entry.slots for model in catalog.models()] == [1, 2]


def test_an_entry_without_a_path_or_a_file_is_unusable(tmp_path: Path) -> None:
    catalog = scanned(tmp_path, entries={"m": ModelEntry()})
    with pytest.raises(ModelUnusable, match=r"no file of that name in \[catalog\] dirs"):
        catalog.resolve("m")


def test_an_entry_whose_file_is_gone_is_unusable(tmp_path: Path) -> None:
    catalog = scanned(entries={"m": ModelEntry(path=str(tmp_path / "gone.gguf"))})
    assert the(catalog, "m").reason == "cannot open it: No such file or directory"


def test_an_entry_with_a_path_comes_before_a_found_file_of_its_name(tmp_path: Path, put: Put) -> None:
    put("dir/m.gguf")
    catalog = scanned(tmp_path / "dir", entries={"m": ModelEntry(path=str(put("else.gguf")))})
    assert catalog.resolve("m").path.endswith("else.gguf")
    assert [model.shadowed for model in catalog.models()] == [False, True]


def test_two_names_for_one_file_served_alike_are_one_variant(put: Put) -> None:
    path = str(put("m.gguf"))
    entries = {"a": ModelEntry(path=path), "b": ModelEntry(path=path, pin=True), "c": ModelEntry(path=path, slots=1)}
    a, b, c = (model.variant for model in scanned(entries=entries).models())
    assert a == b
    assert a is not None
    assert c is not None
    assert a.id != c.id


def test_a_context_above_the_trained_one_is_kept_and_told(put: Put) -> None:
    catalog = scanned(entries={"m": ModelEntry(path=str(put("m.gguf")), context=4096)})
    variant = catalog.resolve("m").variant
    assert variant is not None
    assert variant.context == 4096
    assert "4096 is more than the 512 tokens" in catalog.problems()[0]


# --- names


@pytest.fixture
def named(tmp_path: Path, put: Put) -> Catalog:
    put("Qwen.gguf"), put("twin.gguf"), put("TWIN.gguf"), put("smol.gguf")
    entries = {"smol": ModelEntry(aliases=("chat", "Qwen", "small one"))}
    return scanned(tmp_path, entries=entries, routes={"code": "chat", "smol": "Qwen", "fim": "absent"})


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("Qwen", "Qwen"),
        ("qwen", "Qwen"),
        ("QWEN:latest", "Qwen"),
        (" Qwen ", "Qwen"),
        ("chat", "smol"),
        ("Chat:LATEST", "smol"),
        ("small one", "smol"),
        ("code", "smol"),
        ("CODE:latest", "smol"),
        ("twin", "twin"),
        ("TWIN", "TWIN"),
        ("TWIN:latest", "TWIN"),
    ],
)
def test_names_aliases_and_tasks_stand_for_models(asked: str, name: str, named: Catalog) -> None:
    assert named.resolve(asked).name == name


@pytest.mark.parametrize(
    ("asked", "name", "temperature"),
    [
        ("smol:precise", "smol", 0.1),
        ("chat:Precise", "smol", 0.1),
        ("SMOL:precise:latest", "smol", 0.1),
        ("smol", "smol", 0.7),
        ("code:precise", "smol", 0.1),
        ("smol:9b", "smol:9b", None),
    ],
)
def test_a_preset_of_a_name_is_its_model_with_other_options(
    tmp_path: Path, put: Put, asked: str, name: str, temperature: float | None
) -> None:
    put("smol.gguf"), put("smol:9b.gguf")
    presets = (("precise", Preset(Sampling(temperature=0.1))), ("9b", Preset()))
    entries = {"smol": ModelEntry(aliases=("chat",), sampling=Sampling(temperature=0.7), presets=presets)}
    catalog = scanned(tmp_path, entries=entries, routes={"code": "chat"})
    model = catalog.resolve(asked)
    assert (model.name, model.entry.sampling.temperature) == (name, temperature)
    assert listed(catalog) == ["smol", "smol:9b"]
    if name == "smol":
        assert model.variant == catalog.resolve("smol").variant


def test_the_presets_that_there_are_are_suggested(tmp_path: Path, put: Put) -> None:
    put("smol.gguf")
    catalog = scanned(tmp_path, entries={"smol": ModelEntry(presets=(("precise", Preset()), ("pirate", Preset())))})
    with pytest.raises(ModelNotFound) as caught:
        catalog.resolve("Smol:exact")
    assert caught.value.nearest == ("Smol:precise", "Smol:pirate")


@pytest.mark.parametrize("asked", ["", "  ", ":latest", "Twin", "nothing like it", "qwen:9b:latest", "x" * 1_000_000])
def test_other_names_are_not_found(asked: str, named: Catalog) -> None:
    with pytest.raises(ModelNotFound):
        named.resolve(asked)


def test_the_nearest_names_are_suggested(named: Catalog) -> None:
    with pytest.raises(ModelNotFound) as caught:
        named.resolve("Quen")
    assert caught.value.nearest == ("Qwen",)
    with pytest.raises(ModelNotFound) as caught:
        named.resolve("Twin")
    assert set(caught.value.nearest[:2]) == {"twin", "TWIN"}


def test_names_given_twice_and_tasks_for_nobody_are_problems(named: Catalog) -> None:
    assert named.problems() == (
        "[models.\"smol\"] aliases: 'Qwen' already stands for another model, which keeps it",
        "[routes] fim: there is no model 'absent'",
        "[routes] smol: 'smol' already stands for another model, which keeps it",
    )


def test_a_name_that_ends_in_latest_answers_without_it(tmp_path: Path, put: Put) -> None:
    assert scanned(entries={"m:latest": ModelEntry(path=str(put("m.gguf")))}).resolve("M").name == "m:latest"


# --- scanning again


def test_a_scan_sees_what_came_and_went(tmp_path: Path, put: Put) -> None:
    put("a.gguf")
    catalog = scanned(tmp_path)
    put("b.gguf")
    (tmp_path / "a.gguf").unlink()
    assert listed(catalog) == ["a"]
    catalog.scan()
    assert listed(catalog) == ["b"]


def test_a_changed_file_is_another_variant_and_an_unchanged_one_the_same(tmp_path: Path, put: Put, gguf: Gguf) -> None:
    put("a.gguf"), put("b.gguf")
    catalog = scanned(tmp_path)
    a, b = catalog.models()
    put("b.gguf", gguf({"llama.context_length": 1024}))
    catalog.scan()
    same, other = catalog.models()
    assert same == a
    assert other.digest != b.digest
    assert other.variant is not None
    assert b.variant is not None
    assert other.variant.id != b.variant.id
    assert other.variant.context == 1024


def test_a_header_is_read_once(tmp_path: Path, put: Put) -> None:
    """Seen by spoiling the file in a way that its size and time do not show."""
    path = put("m.gguf")
    catalog = scanned(tmp_path)
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"JUNK")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    catalog.scan()
    assert catalog.resolve("m").variant


def test_new_settings_count_from_the_next_scan_on(tmp_path: Path, put: Put) -> None:
    put("m.gguf")
    catalog = scanned(tmp_path)
    catalog.configure([tmp_path], {"m": ModelEntry(aliases=("n",))}, {})
    with pytest.raises(ModelNotFound):
        catalog.resolve("n")
    catalog.scan()
    assert catalog.resolve("n").name == "m"


# --- adapters


def adapter(gguf: Gguf, **changes: str) -> bytes:
    """A file that says that it is a LoRA adapter for a llama."""
    keys = {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora"} | {
        key.replace("_", "."): value for key, value in changes.items()
    }
    return gguf(keys, only=True, tensors=(("blk.0.attn_q.weight.lora_a", (64, 8), 0),))


def test_adapters_are_models_of_one_variant(put: Put, gguf: Gguf) -> None:
    base, sql = put("base.gguf"), put("sql.gguf", adapter(gguf))
    entry = ModelEntry(path=str(base), aliases=("chat",), pin=True, lora=(("sql", str(sql)),))
    catalog = Catalog([], {"m": entry}, {"db": "m+sql"})
    catalog.scan()

    assert [model.name for model in catalog.models()] == ["m", "m+sql"]
    plain, adapted = catalog.resolve("m"), catalog.resolve("M+SQL:latest")
    assert plain.variant is not None
    assert plain.variant == adapted.variant
    assert (plain.adapter, adapted.adapter) == ("", "sql")
    assert [each.size for each in plain.variant.adapters] == [sql.stat().st_size]
    assert catalog.resolve("chat+sql") == catalog.resolve("db") == adapted
    assert plain.digest != adapted.digest
    assert not adapted.entry.pin, "the model is pinned, or not, by its own name"


def test_adapters_come_and_go_with_the_settings(put: Put, gguf: Gguf) -> None:
    base, sql = put("base.gguf"), put("sql.gguf", adapter(gguf))
    entry = ModelEntry(path=str(base))
    catalog = Catalog([], {"m": entry}, {})
    catalog.scan()
    without = catalog.resolve("m").variant
    catalog.configure([], {"m": replace(entry, lora=(("sql", str(sql)),))}, {})
    catalog.scan()
    assert catalog.resolve("m+sql").variant != without
    catalog.configure([], {"m": entry}, {})
    catalog.scan()
    assert catalog.resolve("m").variant == without
    with pytest.raises(ModelNotFound):
        catalog.resolve("m+sql")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"nonsense", "not a GGUF file"),
        ({"general_type": "model"}, "no LoRA adapter"),
        ({"general_architecture": "gemma3"}, "made for 'gemma3', and the model is 'llama'"),
        (None, "cannot open it"),
    ],
)
def test_a_broken_adapter_disturbs_neither_the_model_nor_other_adapters(
    put: Put, gguf: Gguf, content: bytes | dict[str, str] | None, words: str
) -> None:
    base, good = put("base.gguf"), put("good.gguf", adapter(gguf))
    bad = base.parent / "bad.gguf"
    if content is not None:
        put("bad.gguf", content if isinstance(content, bytes) else adapter(gguf, **content))
    entry = ModelEntry(path=str(base), lora=(("bad", str(bad)), ("good", str(good))))
    catalog = Catalog([], {"m": entry}, {})
    catalog.scan()

    with pytest.raises(ModelUnusable, match=words) as caught:
        catalog.resolve("m+bad")
    assert caught.value.name == "m+bad"
    variant = catalog.resolve("m+good").variant
    assert variant is not None
    assert [each.name for each in variant.adapters] == ["good"]
    assert catalog.resolve("m").variant == variant


def test_a_task_goes_to_the_first_of_its_models_that_can_be_used(tmp_path: Path, put: Put) -> None:
    put("good.gguf")
    put("broken.gguf", b"no model")
    catalog = scanned(tmp_path, routes={"code": ("absent", "broken", "good"), "chat": "good"})
    assert catalog.resolve("code").name == "good"
    assert catalog.route("Code") == ("absent", "broken", "good")
    assert catalog.route("chat:latest") == ("good",)
    assert catalog.route("good") == ()
    assert [problem for problem in catalog.problems() if "absent" in problem]


def test_a_model_of_a_task_s_name_keeps_it(tmp_path: Path, put: Put) -> None:
    put("code.gguf")
    put("other.gguf")
    catalog = scanned(tmp_path, routes={"code": ("other",)})
    assert catalog.resolve("code").name == "code"
    assert catalog.route("code") == ()


def test_a_draft_is_a_model_the_text_itself_or_told_to_be_neither(tmp_path: Path, put: Put) -> None:
    for name in ("big", "small"):
        put(f"{name}.gguf")
    entries = {
        "big": ModelEntry(draft="small", context=64, slots=2),
        "small": ModelEntry(draft="prompt"),
    }
    catalog = Catalog([tmp_path], entries, {})
    catalog.scan()
    big, small = catalog.resolve("big").variant, catalog.resolve("small").variant
    assert big is not None
    assert big.speculates
    assert big.draft is not None
    assert (big.draft.path, big.draft.context, big.draft.slots) == (str(tmp_path / "small.gguf"), 64, 2)
    assert small is not None
    assert (small.speculates, small.draft) == (True, None)
    assert catalog.problems() == ()
    plain = Catalog([tmp_path], {"big": ModelEntry(context=64, slots=2)}, {})
    plain.scan()
    assert plain.resolve("big").variant.id != big.id  # type: ignore[union-attr]
    lost = Catalog([tmp_path], {"big": ModelEntry(draft="nowhere")}, {})
    lost.scan()
    assert "nowhere" in lost.problems()[0]
    assert lost.resolve("big").variant.draft is None  # type: ignore[union-attr]
