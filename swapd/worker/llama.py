"""llama.cpp's low-level API as the worker needs it: a model with its vocabulary; contexts of it are in `context`.

Used by `child` (load), `prompts` (tokens) and `sampling` (chains). One thread owns all of it. Knows no request, no
wire.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import llama_cpp.llama_cpp as C  # noqa: N812

from swapd.errors import InvalidRequest
from swapd.units import Tokens
from swapd.worker import backends
from swapd.worker.context import Context
from swapd.worker.parameters import VECTORS_AT_A_TIME, ModelParameters, Order, context_parameters, rows_of_logits

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
        piece = None if C.llama_vocab_is_eog(self._vocab, token) else self.ask(token)
        self[token] = piece
        return piece

    def ask(self, token: int, room: int = 64, special: bool = False) -> bytes:
        buffer = ctypes.create_string_buffer(room)
        length = C.llama_token_to_piece(self._vocab, token, buffer, room, 0, special)
        return self.ask(token, -length, special) if length < 0 else buffer.raw[:length]


@dataclass(frozen=True, slots=True)
class Infill:
    """The tokens for filling in the middle; None: the vocabulary has none for it."""

    prefix: int | None
    suffix: int | None
    middle: int | None
    repository: int | None
    file: int | None


_INFILL: Final = (
    C.llama_vocab_fim_pre,
    C.llama_vocab_fim_suf,
    C.llama_vocab_fim_mid,
    C.llama_vocab_fim_rep,
    C.llama_vocab_fim_sep,
)


def _known(token: int) -> int | None:
    return None if token == _NO_TOKEN else token


class Vocabulary:
    def __init__(self, model: Any) -> None:
        vocab = self._vocab = self.pointer = C.llama_model_get_vocab(model)
        self.size: int = C.llama_vocab_n_tokens(vocab)
        self.pieces = _Pieces(vocab)
        bos = C.llama_vocab_bos(vocab)
        self.bos = _known(bos)
        self.adds_bos: bool = C.llama_vocab_get_add_bos(vocab)
        self.adds_eos: bool = C.llama_vocab_get_add_eos(vocab)
        self.adds_separator: bool = C.llama_vocab_get_add_sep(vocab)
        self.separator = _known(C.llama_vocab_sep(vocab))
        self.eos = _known(C.llama_vocab_eos(vocab))
        self.bos_text = self._text(bos)
        self.eos_text = self._text(C.llama_vocab_eos(vocab))
        self.infill = Infill(*(_known(ask(vocab)) for ask in _INFILL))

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end an answer. 20 ms for 49k tokens, once."""
        return tuple(token for token in range(self.size) if C.llama_vocab_is_eog(self._vocab, token))

    def _text(self, token: int) -> str:
        return "" if token == _NO_TOKEN else C.llama_vocab_get_text(self._vocab, token).decode("utf-8", "replace")

    def silent(self, marks: Iterable[str]) -> dict[int, bytes]:
        """The tokens in these marks that have no text of their own, and how they are written."""
        tokens = {token for mark in marks for token in self.tokenize(mark, add_special=False)}
        return {token: self._text(token).encode() for token in tokens if self.pieces[token] == b""}

    def tokenize(self, text: str, add_special: bool, parse_special: bool = True) -> list[int]:
        """`add_special`: BOS, EOS as this vocabulary wants them; `parse_special`: markers in `text` become tokens."""
        given = text.encode()
        room = len(given) + 8
        buffer = (ctypes.c_int32 * room)()
        count = C.llama_tokenize(self._vocab, given, len(given), buffer, room, add_special, parse_special)
        if count < 0:
            room = -count
            buffer = (ctypes.c_int32 * room)()
            count = C.llama_tokenize(self._vocab, given, len(given), buffer, room, add_special, parse_special)
        return buffer[:count]

    def checked(self, tokens: Sequence[int], param: str) -> list[int]:
        """Raises InvalidRequest where one is none of this vocabulary."""
        unknown = next((token for token in tokens if not 0 <= token < self.size), None)
        if unknown is not None:
            raise InvalidRequest(
                f"cannot read {param!r}: {unknown} is no token of this model (0 to {self.size - 1})", param
            )
        return list(tokens)

    def spelled(self, token: int) -> bytes:
        """Bytes of a token, markers too."""
        return self.pieces.ask(token, special=True)


class VocabularyFile:
    """A model file's vocabulary and template, without its weights."""

    def __init__(self, path: str, log: backends.Log) -> None:
        """Raises CannotLoad."""
        log.lines.clear()
        params = C.llama_model_default_params()
        params.vocab_only = True
        params.n_gpu_layers = 0
        none = (ctypes.c_void_p * 1)(None)
        params.devices = ctypes.cast(none, ctypes.c_void_p)
        self._model = C.llama_model_load_from_file(path.encode(errors="surrogateescape"), params)
        if not self._model:
            raise CannotLoad(log.reason())
        self.vocabulary = Vocabulary(self._model)
        self.template = _template(self._model)
        self.tool_template = _template(self._model, b"tool_use")

    def close(self) -> None:
        C.llama_model_free(self._model)


def _template(model: Any, name: bytes | None = None) -> str | None:
    template = C.llama_model_chat_template(model, name)
    return template.decode("utf-8", "replace") if template else None


class Model:
    """Weights in memory. Close its context first."""

    def __init__(self, order: Order, progress: Callable[[float], None], log: backends.Log) -> None:
        """Raises CannotLoad. `progress` hears fractions from 0 to 1 and may end the process."""
        log.lines.clear()
        try:
            parameters = ModelParameters(order, progress)
        except LookupError as error:
            raise CannotLoad(str(error.args[0])) from error
        self._model = C.llama_model_load_from_file(order.path.encode(), parameters.value)
        if not self._model:
            raise CannotLoad(log.reason(), log.is_out_of_memory())
        self.pointer, self.path = self._model, order.path
        self.layers: int = C.llama_model_n_layer(self._model) + 1
        self.gpu_layers = min(order.gpu_layers, self.layers) if parameters.on_gpu else 0
        self.devices = parameters.devices
        """ggml's handles of the cards it is on, in the order that the daemon named them."""
        self._keep = parameters  # llama.cpp looks at them again when it makes a context
        self.vocabulary = Vocabulary(self._model)
        self.template = _template(self._model)
        self.tool_template = _template(self._model, b"tool_use")
        """Another one for requests with tools, in some files."""
        self.window: Tokens = C.llama_model_n_swa(self._model)
        """Of layers that see only so many tokens back and keep few more; 0: there are none."""
        self.is_recurrent: bool = C.llama_model_is_recurrent(self._model) or C.llama_model_is_hybrid(self._model)
        """Some of what a sequence holds is one state of all its tokens: it cannot be cut back."""
        self.pair_template = _template(self._model, b"rerank")
        """Of a query and a document, where the file has one."""
        self.width: int = C.llama_model_n_embd_out(self._model)
        """Of a vector."""
        if not order.pooling and (C.llama_model_has_encoder(self._model) or C.llama_model_is_diffusion(self._model)):
            self.close()
            raise CannotLoad("swapd cannot generate with it: it is an encoder or diffusion model")

    def close(self) -> None:
        C.llama_model_free(self._model)

    def adapter(self, path: str) -> Any:
        """Load a LoRA adapter, which lives as long as the model; false where llama.cpp cannot."""
        return C.llama_adapter_lora_init(self._model, path.encode())

    def context(self, order: Order, log: backends.Log) -> Context:
        """Raises CannotLoad."""
        log.lines.clear()
        params = context_parameters(order, offloads=self.gpu_layers > 0)
        context = C.llama_init_from_model(self._model, params)
        if not context:
            raise CannotLoad(log.reason(), log.is_out_of_memory())
        if order.pooling:
            made = Context(context, VECTORS_AT_A_TIME, self.vocabulary.size)
            made.length = min(made.length, order.context)  # llama.cpp rounds up, beyond the positions that BERT has
            return made
        if not C.llama_get_memory(context):
            C.llama_free(context)
            raise CannotLoad("swapd cannot generate with it: it makes embeddings only")
        return Context(context, order.slots, self.vocabulary.size, rows_of_logits(order))
