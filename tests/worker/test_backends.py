"""Cards are found by any spelling of their address; llama.cpp's log becomes a reason for people."""

from __future__ import annotations

import pytest

from swapd.worker.backends import explain, pci_id


@pytest.mark.parametrize("address", ["0000:c1:00.0", "00000000:C1:00.0", "c1:00.0", "0000:C1:00.0"])
def test_one_card_has_one_address(address: str) -> None:
    assert pci_id(address) == "0000:c1:00.0"


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (
            ["gguf_init_from_reader: invalid magic characters: 'abcd', expected 'GGUF'", "x: failed to load model"],
            "it is no GGUF file (invalid magic characters: 'abcd', expected 'GGUF')",
        ),
        (
            ["llama_model_load: error loading model: tensor 't' data is not within the file bounds"],
            "the file is cut off (tensor 't' data is not within the file bounds)",
        ),
        (
            ["a: something before", "ggml_backend_cuda: cudaMalloc failed: out of memory"],
            "cudaMalloc failed: out of memory",
        ),
        (["llama_model_load: error loading model: unknown model architecture: 'x'"], "unknown model architecture: 'x'"),
        ([], "llama.cpp cannot load it and does not say why"),
    ],
)
def test_the_reason_is_the_most_telling_line(lines: list[str], reason: str) -> None:
    assert explain(lines) == reason
