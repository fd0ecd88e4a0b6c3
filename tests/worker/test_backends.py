"""Cards are found by any spelling of their address; llama.cpp's log becomes a reason for people."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from swapd.units import MiB
from swapd.worker.backends import explain, pci_id
from tests.softgpu.fixtures import MakeSoftGPU

TOUCH = """
import sys
from swapd.worker import backends
backends.load()
for card in ("50f7:01:00.0", "50f7:02:00.0"):
    backends.touch(*backends.devices([card]))
print("done", flush=True)
sys.stdin.read()
"""


def test_a_card_that_is_touched_has_this_process_context_if_there_is_room_for_it(soft_gpu: MakeSoftGPU) -> None:
    gpu = soft_gpu("64MiB", "8MiB", context="16MiB")
    command, pipe = [sys.executable, "-c", TOUCH], subprocess.PIPE
    with subprocess.Popen(command, env={**os.environ, **gpu.env}, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"done\n"
        assert gpu.holders(0) == {process.pid: 16 * MiB}
        assert gpu.holders(1) == {}


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
