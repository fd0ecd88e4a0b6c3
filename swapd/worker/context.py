"""A context of llama.cpp's as the worker needs it: the cache of all slots, and the one batch that goes through it.

Made by `llama.Model.context`; used by `slots`, `states`, `vectors` and `draftmodel`. One thread owns it. Knows no
request, no wire.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as C  # noqa: N812
import numpy as np
import numpy.typing as npt

from swapd.units import Bytes, Tokens


class Context:
    """The KV cache of all slots, and the batch that is filled, decoded and filled again.

    In a step: `clear`, `add` for each slot, `decode`, then logits are at the rows that `add` returned.
    """

    def __init__(self, pointer: Any, slots: int, vocabulary: int, rows: int = 0) -> None:
        self.pointer = pointer
        self.rows = rows
        """Of logits, at most, in one batch."""
        self._row = ctypes.c_float * vocabulary
        self._memory = C.llama_get_memory(pointer)
        self.slots = slots
        self.length: Tokens = C.llama_n_ctx_seq(pointer)
        """Per slot."""
        self.micro_batch: Tokens = C.llama_n_ubatch(pointer)
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

    def add_whole(self, sequence: int, tokens: Sequence[int], position: int = 0) -> int:
        """As `add`, with a result for every token; the row of the last."""
        end = self.add(sequence, tokens, position, True)
        self._wanted[end + 1 - len(tokens) : end + 1] = [1] * len(tokens)
        return end

    @property
    def filled(self) -> Tokens:
        return self._filled

    def pooled(self, sequence: int, width: int) -> Any:
        """The vector of a sequence after `decode`, as a copy; None: llama.cpp made none."""
        found = C.llama_get_embeddings_seq(self.pointer, sequence)
        return np.ctypeslib.as_array(found, (width,)).copy() if found else None

    def forget(self) -> None:
        """All that all sequences hold."""
        if self._memory:
            C.llama_memory_clear(self._memory, True)

    def decode(self) -> int:
        """llama.cpp's own answer: 0 done, 1 no room (nothing changed), otherwise fatal."""
        self._batch.n_tokens = self._filled
        return int(C.llama_decode(self.pointer, self._batch))

    def look(
        self,
        sequence: int,
        embeddings: npt.NDArray[np.float32],
        positions: npt.NDArray[np.int32],
        *,
        is_whole: bool,
        wants_logits: bool,
    ) -> int:
        """Decode what is no text: (tokens, width) at (1 or 4, tokens); as `decode`, and the last row has the logits.

        `is_whole`: each sees all; then they must be within `micro_batch`.
        """
        count = len(embeddings)
        wanted, ones = (ctypes.c_int8 * count)(), (ctypes.c_int32 * count)(*[1] * count)
        wanted[count - 1], own = wants_logits, ctypes.c_int32(sequence)
        batch = C.llama_batch(
            n_tokens=count,
            token=None,
            embd=embeddings.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
            pos=positions.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            n_seq_id=ones,
            seq_id=(ctypes.POINTER(ctypes.c_int32) * count)(*[ctypes.pointer(own)] * count),
            logits=wanted,
        )
        if not is_whole:
            return int(C.llama_decode(self.pointer, batch))
        C.llama_set_causal_attn(self.pointer, False)
        try:
            return int(C.llama_decode(self.pointer, batch))
        finally:
            C.llama_set_causal_attn(self.pointer, True)

    def logits(self, row: int) -> npt.NDArray[np.float32]:
        """Of the batch just decoded: llama.cpp's own memory, until the next decode."""
        address = ctypes.addressof(C.llama_get_logits_ith(self.pointer, row).contents)
        return np.ctypeslib.as_array(self._row.from_address(address))

    def trim(self, sequence: int, length: Tokens) -> bool:
        """Forget what the sequence holds from `length` on; 0 always works, False: cut is not possible."""
        return bool(C.llama_memory_seq_rm(self._memory, sequence, length, -1))

    def copy(self, sequence: int, into: int) -> None:
        """Have another sequence hold what this one does; the bytes are copied when the next decode begins."""
        C.llama_memory_seq_cp(self._memory, sequence, into, -1, -1)

    def first(self, sequence: int) -> int:
        """The first position of which everything is still there; -1: the sequence is empty."""
        return int(C.llama_memory_seq_pos_min(self._memory, sequence))

    def last(self, sequence: int) -> int:
        """The last position that the sequence holds; -1: none."""
        return int(C.llama_memory_seq_pos_max(self._memory, sequence))

    def size(self, sequence: int) -> Bytes:
        """What `save` would write."""
        return int(C.llama_state_seq_get_size(self.pointer, sequence))

    def save(self, sequence: int, path: str) -> bool:
        """Write all that the sequence holds to a new file; False: it could not be written."""
        nothing = (ctypes.c_int32 * 1)()
        return bool(C.llama_state_seq_save_file(self.pointer, path.encode(), sequence, nothing, 0))

    def restore(self, sequence: int, path: str) -> bool:
        """Put what `save` wrote into the sequence, instead of what it holds; False: it is not for this context.

        What llama.cpp is handed must be sound: the caller has checked it.
        """
        nothing, count = (ctypes.c_int32 * 1)(), ctypes.c_size_t()
        return bool(C.llama_state_seq_load_file(self.pointer, path.encode(), sequence, nothing, 0, ctypes.byref(count)))

    def partial(self, sequence: int, into: ctypes.Array[ctypes.c_uint8] | None) -> ctypes.Array[ctypes.c_uint8] | None:
        """A copy of what cannot be cut back (windows, recurrent states), in `into` if it has the size of it.

        None: llama.cpp does not give it.
        """
        flags = C.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
        size = C.llama_state_seq_get_size_ext(self.pointer, sequence, flags)
        copy = into if into is not None and len(into) == size else (ctypes.c_uint8 * size)()
        return copy if C.llama_state_seq_get_data_ext(self.pointer, copy, size, sequence, flags) == size else None

    def set_partial(self, sequence: int, copy: ctypes.Array[ctypes.c_uint8]) -> bool:
        """Put what `partial` gave back into the sequence."""
        flags = C.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
        return bool(C.llama_state_seq_set_data_ext(self.pointer, copy, len(copy), sequence, flags))

    def set_threads(self, threads: int) -> None:
        C.llama_set_n_threads(self.pointer, threads, threads)

    def close(self) -> None:
        C.llama_free(self.pointer)
