"""llama.cpp's low-level API as the worker needs it: a model with its vocabulary, a context with its one batch.

Used by `child` (load), `prompts` (tokens), `sampling` (chains) and `slots` (batches). One thread owns all of
it. Knows no request, no wire.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, Final

import llama_cpp.llama_cpp as C  # noqa: N812

from swapd.units import Tokens
from swapd.wire import Load
from swapd.worker import backends

MIN_BATCH: Final[Tokens] = 512
"""A batch holds at least this much prompt; it is computed in micro-batches of the size asked for."""

_KV_TYPES = {"f16": C.GGML_TYPE_F16, "q8_0": C.GGML_TYPE_Q8_0, "q4_0": C.GGML_TYPE_Q4_0}
_FLASH = {
    None: C.LLAMA_FLASH_ATTN_TYPE_AUTO,
    True: C.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    False: C.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}
_NO_TOKEN = -1


class CannotLoad(Exception):
    """The reason for people; `out_of_memory` tells whether a smaller placement could work."""

    def __init__(self, reason: str, out_of_memory: bool = False) -> None:
        super().__init__(reason)
        self.out_of_memory = out_of_memory


class _Pieces(dict[int, bytes | None]):
    """Bytes of each token, asked of llama.cpp once; None ends the answer; markers (control tokens) are empty."""

    def __init__(self, vocab: Any) -> None:
        self._vocab = vocab

    def __missing__(self, token: int) -> bytes | None:
        piece = None if C.llama_vocab_is_eog(self._vocab, token) else self._ask(token, 64)
        self[token] = piece
        return piece

    def _ask(self, token: int, room: int) -> bytes:
        buffer = ctypes.create_string_buffer(room)
        length = C.llama_token_to_piece(self._vocab, token, buffer, room, 0, False)
        return self._ask(token, -length) if length < 0 else buffer.raw[:length]


class Vocabulary:
    def __init__(self, model: Any) -> None:
        vocab = self._vocab = C.llama_model_get_vocab(model)
        self.size: int = C.llama_vocab_n_tokens(vocab)
        self.pieces = _Pieces(vocab)
        bos = C.llama_vocab_bos(vocab)
        self.bos: int | None = None if bos == _NO_TOKEN else bos
        self.bos_text = self._text(bos)
        self.eos_text = self._text(C.llama_vocab_eos(vocab))

    def _text(self, token: int) -> str:
        return "" if token == _NO_TOKEN else C.llama_vocab_get_text(self._vocab, token).decode("utf-8", "replace")

    def tokenize(self, text: str, add_special: bool) -> list[int]:
        """Markers written in `text` become their tokens. `add_special`: BOS, EOS as this vocabulary wants them."""
        given = text.encode()
        room = len(given) + 8
        buffer = (ctypes.c_int32 * room)()
        count = C.llama_tokenize(self._vocab, given, len(given), buffer, room, add_special, True)
        if count < 0:
            room = -count
            buffer = (ctypes.c_int32 * room)()
            count = C.llama_tokenize(self._vocab, given, len(given), buffer, room, add_special, True)
        return buffer[:count]


class Model:
    """Weights in memory. Close its context first."""

    def __init__(self, load: Load, progress: Callable[[float], None], log: backends.Log) -> None:
        """Raises CannotLoad. `progress` hears fractions from 0 to 1 and may end the process."""
        log.lines.clear()
        on_gpu = bool(load.devices) and load.gpu_layers != 0
        try:
            chosen = backends.devices(load.devices) if on_gpu else []
        except LookupError as error:
            raise CannotLoad(str(error.args[0])) from error
        devices = (ctypes.c_void_p * (len(chosen) + 1))(*chosen, None)

        @C.llama_progress_callback  # type: ignore[untyped-decorator]
        def heard(fraction: float, _data: Any) -> bool:
            progress(fraction)
            return True

        params = C.llama_model_default_params()
        params.devices = ctypes.cast(devices, ctypes.c_void_p)
        params.n_gpu_layers = load.gpu_layers if on_gpu else 0
        params.split_mode = C.LLAMA_SPLIT_MODE_LAYER if len(chosen) > 1 else C.LLAMA_SPLIT_MODE_NONE
        params.load_mode = C.LLAMA_LOAD_MODE_MMAP
        params.progress_callback = heard
        self._model = C.llama_model_load_from_file(load.path.encode(), params)
        if not self._model:
            raise CannotLoad(log.reason(), log.is_out_of_memory())
        self.layers: int = C.llama_model_n_layer(self._model) + 1
        self.gpu_layers = min(load.gpu_layers, self.layers) if on_gpu else 0
        self.vocabulary = Vocabulary(self._model)
        template = C.llama_model_chat_template(self._model, None)
        self.template: str | None = template.decode("utf-8", "replace") if template else None
        self.can_trim = not (
            C.llama_model_n_swa(self._model)
            or C.llama_model_is_recurrent(self._model)
            or C.llama_model_is_hybrid(self._model)
        )
        """Whether a sequence may be cut back to a prefix. Not where old positions are already overwritten."""
        if C.llama_model_has_encoder(self._model) or C.llama_model_is_diffusion(self._model):
            self.close()
            raise CannotLoad("swapd cannot generate with it: it is an encoder or diffusion model")

    def close(self) -> None:
        C.llama_model_free(self._model)

    def context(self, load: Load, log: backends.Log) -> Context:
        """Raises CannotLoad."""
        log.lines.clear()
        params = C.llama_context_default_params()
        params.n_ctx = load.context * load.slots
        params.n_seq_max = load.slots
        params.n_batch = max(load.micro_batch, MIN_BATCH, load.slots)
        params.n_ubatch = load.micro_batch
        params.n_outputs_max = load.slots  # one row of logits a slot: else the compute buffer holds one for each token
        params.n_threads = params.n_threads_batch = load.threads
        params.flash_attn_type = _FLASH[load.flash_attention]
        params.type_k = params.type_v = _KV_TYPES[load.kv_type]
        params.offload_kqv = params.op_offload = self.gpu_layers > 0
        params.swa_full = False
        params.kv_unified = False  # a cache of its own for each slot: no attention over the cells of others
        context = C.llama_init_from_model(self._model, params)
        if not context:
            raise CannotLoad(log.reason(), log.is_out_of_memory())
        if not C.llama_get_memory(context):
            C.llama_free(context)
            raise CannotLoad("swapd cannot generate with it: it makes embeddings only")
        return Context(context, load.slots)


class Context:
    """The KV cache of all slots, and the batch that is filled, decoded and filled again.

    In a step: `clear`, `add` for each slot, `decode`, then logits are at the rows that `add` returned.
    """

    def __init__(self, pointer: Any, slots: int) -> None:
        self.pointer = pointer
        self._memory = C.llama_get_memory(pointer)
        self.slots = slots
        self.length: Tokens = C.llama_n_ctx_seq(pointer)
        """Per slot."""
        size = self.batch_size = C.llama_n_batch(pointer)
        self._tokens = (ctypes.c_int32 * size)()
        self._positions = (ctypes.c_int32 * size)()
        self._wanted = (ctypes.c_int8 * size)()
        self._sequences = (ctypes.c_int32 * size)()
        self._ones = (ctypes.c_int32 * size)(*[1] * size)
        start, step = ctypes.addressof(self._sequences), ctypes.sizeof(ctypes.c_int32)
        cells = (ctypes.c_void_p * size)(*range(start, start + size * step, step))
        self._cells = ctypes.cast(cells, ctypes.POINTER(ctypes.POINTER(ctypes.c_int32)))
        self._keep = cells
        self._batch = C.llama_batch(
            n_tokens=0,
            token=self._tokens,
            embd=None,
            pos=self._positions,
            n_seq_id=self._ones,
            seq_id=self._cells,
            logits=self._wanted,
        )
        self._filled = 0

    def clear(self) -> None:
        self._filled = 0

    def add(self, sequence: int, tokens: Sequence[int], position: int, wants_logits: bool) -> int:
        """Append to the batch; the row of the last token. The caller keeps within `batch_size`."""
        start = self._filled
        end = self._filled = start + len(tokens)
        row = end - 1
        if row == start:  # a decode step: the hot path
            self._tokens[start] = tokens[0]
            self._positions[start] = position
            self._sequences[start] = sequence
        else:
            count = end - start
            self._tokens[start:end] = tokens
            self._positions[start:end] = range(position, position + count)
            self._sequences[start:end] = [sequence] * count
            self._wanted[start:end] = [0] * count
        self._wanted[row] = wants_logits
        return row

    def decode(self) -> int:
        """llama.cpp's own answer: 0 done, 1 no room (nothing changed), otherwise fatal."""
        self._batch.n_tokens = self._filled
        return int(C.llama_decode(self.pointer, self._batch))

    def trim(self, sequence: int, length: Tokens) -> bool:
        """Forget what the sequence holds from `length` on; 0 always works, False: cut is not possible."""
        return bool(C.llama_memory_seq_rm(self._memory, sequence, length, -1))

    def set_threads(self, threads: int) -> None:
        C.llama_set_n_threads(self.pointer, threads, threads)

    def close(self) -> None:
        C.llama_free(self.pointer)
