"""What a switch cannot do without: load, context, prefill and first token, in a bare process that waits for the order.

`python -m benchmarks.floor` is that process: llama.cpp's low-level API is imported and its backends are there before
it says that it is ready. Its parameters are those that swapd gives the same model. It answers one order and ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, Final

from benchmarks import servers

BATCH: Final = 512


class Floor:
    """The waiting process, as the measurement sees it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def first_token_s(self, path: str, prompt: str, context: int, slots: int) -> float:
        """From the order to the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"path": path, "prompt": prompt, "context": context, "slots": slots, "threads": servers.THREADS}
        began = time.perf_counter()
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        took = time.perf_counter() - began
        if not answer:
            raise RuntimeError("the bare process died")
        return took


@contextlib.contextmanager
def waiting() -> Iterator[Floor]:
    command = [sys.executable, "-m", "benchmarks.floor"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield Floor(process)
        finally:
            process.kill()


def main() -> None:
    import llama_cpp.llama_cpp as llama
    import numpy as np

    quiet = llama.llama_log_callback(lambda level, text, data: None)
    llama.llama_log_set(quiet, None)
    llama.llama_backend_init()
    ctypes.CDLL("libggml.so.0").ggml_backend_load_all()
    print("ready", flush=True)
    token = _first_token(llama, np, json.loads(sys.stdin.readline()))
    print(token, flush=True)
    sys.stdin.read()


def _first_token(llama: Any, np: Any, order: dict[str, Any]) -> int:
    params = llama.llama_model_default_params()
    params.n_gpu_layers = 0
    model = llama.llama_model_load_from_file(order["path"].encode(), params)
    options = llama.llama_context_default_params()
    options.n_ctx, options.n_seq_max = order["context"] * order["slots"], order["slots"]
    options.n_batch = options.n_ubatch = BATCH
    options.swa_full = False
    options.n_outputs_max = order["slots"]
    options.n_threads = options.n_threads_batch = order["threads"]
    context = llama.llama_init_from_model(model, options)
    vocabulary = llama.llama_model_get_vocab(model)
    text = order["prompt"].encode()
    tokens = (ctypes.c_int32 * (len(text) + 8))()
    count = llama.llama_tokenize(vocabulary, text, len(text), tokens, len(tokens), True, True)
    if llama.llama_decode(context, llama.llama_batch_get_one(tokens, count)) != 0:
        raise RuntimeError("llama.cpp cannot decode the prompt")
    logits = np.ctypeslib.as_array(llama.llama_get_logits_ith(context, -1), (llama.llama_vocab_n_tokens(vocabulary),))
    return int(logits.argmax())


if __name__ == "__main__":
    main()
