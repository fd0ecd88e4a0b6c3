"""Headers of good files are read to the byte; of bad ones comes a reason for people, and nothing else."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swapd.host.gguf import MAX_STRINGS, UnreadableModel, read
from swapd.host.quants import BLOCKS

Put = Callable[..., Path]
Gguf = Callable[..., bytes]


def reason(path: Path) -> str:
    with pytest.raises(UnreadableModel) as caught:
        read(path)
    return str(caught.value)


@pytest.mark.parametrize("version", [2, 3])
def test_a_header_tells_keys_parameters_and_weights(version: int, put: Put, gguf: Gguf) -> None:
    header = read(put("m.gguf", gguf({"x.flag": True, "x.rate": 0.5, "x.list": [1, -2]}, version=version)))
    assert header.architecture == "llama"
    assert header.quantization == "Q4_0"
    assert header.has_template
    assert (header.tensors, header.parameters, header.weights) == (3, 64 * 3 + 64 * 4 + 5, 384 + 144 + 20)
    assert header.values["x.flag"] is True
    assert header.values["x.rate"] == 0.5
    assert header.values["x.list"] == (1, -2)
    assert header.lengths == {"tokenizer.ggml.tokens": 3, "x.list": 2}
    assert "tokenizer.ggml.tokens" not in header.values


def test_large_arrays_are_stepped_over_and_what_follows_is_read(put: Put, gguf: Gguf) -> None:
    """Texts of every length, over several windows, some longer than a window; and numbers too many to keep."""
    tokens = ["x" * (number % 300) for number in range(20_000)] + ["y" * 3_000_000, "", "z"]
    header = read(put("m.gguf", gguf({"a.tokens": tokens, "a.scores": list(range(5000)), "a.last": 7})))
    assert header.lengths["a.tokens"] == 20_003
    assert header.lengths["a.scores"] == 5000
    assert "a.scores" not in header.values
    assert header.values["a.last"] == 7


def test_a_long_text_is_kept_by_its_beginning(put: Put, gguf: Gguf) -> None:
    header = read(put("m.gguf", gguf({"tokenizer.chat_template": "t" * 100_000, "a.last": 7})))
    assert header.values["tokenizer.chat_template"] == "t" * 1024
    assert header.values["a.last"] == 7


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty file"),
        (b"GGU", "not a GGUF file"),
        (b"PK\3\4" + bytes(100), "not a GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "GGUF version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), "keys; the limit"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "tensors; the limit"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1), "cut off"),
    ],
)
def test_what_is_no_gguf_says_so(content: bytes, words: str, put: Put) -> None:
    assert words in reason(put("m.gguf", content))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (struct.pack("<IQ", 8, 2**63), "cut off"),
        (struct.pack("<IIQ", 9, 8, MAX_STRINGS + 1), "texts"),
        (struct.pack("<IIQ", 9, 8, 1000), "cut off"),
        (struct.pack("<IIQ", 9, 4, 2**62), "cut off"),
        (struct.pack("<IIQ", 9, 9, 1), "array of unknown type 9"),
        (struct.pack("<IIQ", 9, 77, 1), "array of unknown type 77"),
        (struct.pack("<I", 99), "unknown type 99"),
    ],
)
def test_impossible_values_are_refused(value: bytes, words: str, put: Put, gguf: Gguf) -> None:
    assert words in reason(put("m.gguf", gguf({"x": value})))


@pytest.mark.parametrize("alignment", [0, 3, 2**31, "32", True])
def test_an_alignment_is_a_power_of_two(alignment: Any, put: Put, gguf: Gguf) -> None:
    assert "alignment" in reason(put("m.gguf", gguf({"general.alignment": alignment})))


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (("t", (32,), 4), "type 4"),
        (("t", (33,), 2), "does not fill its blocks"),
        (("t", (1, 1, 1, 1, 1), 0), "5 dimensions"),
        (("n" * 2000, (1,), 0), "bytes in a name"),
    ],
)
def test_impossible_tensors_are_refused(
    tensor: tuple[str, tuple[int, ...], int], words: str, put: Put, gguf: Gguf
) -> None:
    assert words in reason(put("m.gguf", gguf(tensors=[tensor])))


def test_huge_tensors_are_cut_off_not_overflowing(put: Put, gguf: Gguf) -> None:
    huge = gguf(tensors=[("t", (1, 1), 0)]).replace(
        struct.pack("<I2Q", 2, 1, 1), struct.pack("<I2Q", 2, *[2**64 - 1] * 2)
    )
    assert "cut off: its tensors need" in reason(put("m.gguf", huge))


def test_tensors_lie_one_after_the_other(put: Put, gguf: Gguf) -> None:
    assert "not where" in reason(put("m.gguf", gguf(shift=32)))


def test_a_key_comes_once(put: Put, gguf: Gguf) -> None:
    twice = gguf({"x.one": 1, "x.two": 2}).replace(b"x.two", b"x.one")
    assert "'x.one' twice" in reason(put("m.gguf", twice))


def test_a_file_cut_anywhere_is_refused(put: Put, gguf: Gguf) -> None:
    path = put("m.gguf")
    for length in reversed(range(len(gguf()))):
        os.truncate(path, length)
        assert reason(path)


def test_the_reason_of_a_cut_file_has_both_numbers(put: Put, gguf: Gguf) -> None:
    whole = gguf()
    assert reason(put("m.gguf", whole[:-1])) == (
        f"cut off: its tensors need {len(whole)} bytes and the file has {len(whole) - 1}"
    )


def test_a_sparse_file_of_nothing_but_texts_is_not_walked_for_ever(put: Put, gguf: Gguf) -> None:
    path = put("m.gguf", gguf({"x": struct.pack("<IIQQ", 9, 8, MAX_STRINGS - 3, 2**40)}, tensors=[]))
    os.truncate(path, 2**41)
    assert "header is larger" in reason(path)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.gguf")
    assert reason(tmp_path / "fifo.gguf") == "not a regular file"
    assert reason(tmp_path) == "not a regular file"
    assert "No such file" in reason(tmp_path / "absent.gguf")
    assert "null" in reason(Path("a\0b")).lower()


def test_a_file_without_permission_is_a_reason(put: Put) -> None:
    path = put("m.gguf")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    assert "Permission denied" in reason(path)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_spoilt_bytes_give_a_header_or_a_reason(gguf: Gguf, data: st.DataObject) -> None:
    """Bytes flipped, put in or taken out anywhere: never another exception."""
    content = bytearray(gguf())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        spoil = data.draw(st.binary(min_size=1, max_size=9) | st.sampled_from([b"\xff" * 8, bytes(8)]))
        content[at : at + data.draw(st.integers(0, len(spoil)))] = spoil
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(content)
        file.flush()
        with contextlib.suppress(UnreadableModel):
            assert read(file.name).weights <= len(content)


def test_block_sizes_are_those_of_the_installed_llama_cpp() -> None:
    """Asked of its smallest library: the package itself stays out of this process."""
    spec = importlib.util.find_spec("llama_cpp")
    assert spec is not None
    assert spec.origin is not None
    ggml = ctypes.CDLL(str(Path(spec.origin).parent / "lib" / "libggml-base.so.0"))
    ggml.ggml_type_size.restype = ctypes.c_size_t
    ggml.ggml_blck_size.restype = ctypes.c_int64
    theirs = {kind: (ggml.ggml_blck_size(kind), ggml.ggml_type_size(kind)) for kind in range(43)}
    assert {kind: sizes for kind, sizes in theirs.items() if sizes != (0, 0)} == BLOCKS


@pytest.mark.parametrize(
    ("name", "quantization", "parameters", "has_template"),
    [
        ("smollm2-135m.gguf", "Q4_1", 134_515_008, True),
        ("gemma3-270m.gguf", "Q4_K_M", 268_098_176, False),
    ],
)
def test_real_models_are_read(
    name: str, quantization: str, parameters: int, has_template: bool, real_model: Callable[[str], Path]
) -> None:
    path = real_model(name)
    header = read(path)
    assert (header.quantization, header.parameters, header.has_template) == (quantization, parameters, has_template)
    assert header.weights < path.stat().st_size
