"""llama.cpp's own way to read a prompt with pictures, for comparison: `python -m … MODEL PROJECTOR PROMPT IMAGE…`.

Prints the tokens drawn greedily after it. In a process of its own, as it makes a context of its own.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import llama_cpp.llama_cpp as C  # noqa: N812
import llama_cpp.mtmd_cpp as M  # noqa: N812
import numpy as np

CONTEXT, BATCH, COUNT = 512, 512, 8


def tokens(model_path: str, projector: str, prompt: str, images: list[str]) -> list[int]:
    C.llama_backend_init()
    params = C.llama_model_default_params()
    params.n_gpu_layers = 0
    model = C.llama_model_load_from_file(model_path.encode(), params)
    wanted = C.llama_context_default_params()
    wanted.n_ctx, wanted.n_batch, wanted.n_ubatch, wanted.n_threads = CONTEXT, BATCH, BATCH, 1
    context = C.llama_init_from_model(model, wanted)
    options = M.mtmd_context_params_default()
    options.use_gpu, options.n_threads = False, 1
    reader = M.mtmd_init_from_file(projector.encode(), model, options)
    bitmaps = (ctypes.c_void_p * len(images))(*(_bitmap(reader, path) for path in images))
    text = M.mtmd_input_text(prompt.encode(), len(prompt.encode()), True, True)
    chunks = M.mtmd_input_chunks_init()
    assert M.mtmd_tokenize(reader, chunks, ctypes.byref(text), bitmaps, len(images)) == 0
    past = ctypes.c_int32()
    assert M.mtmd_helper_eval_chunks(reader, context, chunks, 0, 0, BATCH, True, ctypes.byref(past)) == 0
    size = C.llama_vocab_n_tokens(C.llama_model_get_vocab(model))
    drawn: list[int] = []
    for _ in range(COUNT):
        row = np.ctypeslib.as_array(C.llama_get_logits_ith(context, -1), (size,))
        drawn.append(int(row.argmax()))
        one: Any = (ctypes.c_int32 * 1)(drawn[-1])
        place, owner = ctypes.c_int32(past.value), ctypes.c_int32(0)
        batch = C.llama_batch(
            n_tokens=1,
            token=one,
            embd=None,
            pos=ctypes.pointer(place),
            n_seq_id=(ctypes.c_int32 * 1)(1),
            seq_id=(ctypes.POINTER(ctypes.c_int32) * 1)(ctypes.pointer(owner)),
            logits=(ctypes.c_int8 * 1)(1),
        )
        assert C.llama_decode(context, batch) == 0
        past.value += 1
    return drawn


def _bitmap(reader: Any, path: str) -> Any:
    with open(path, "rb") as file:
        data = file.read()
    return M.mtmd_helper_bitmap_init_from_buf(
        reader, (ctypes.c_uint8 * len(data)).from_buffer_copy(data), len(data), False
    )


if __name__ == "__main__":
    print(*tokens(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]))  # noqa: T201
