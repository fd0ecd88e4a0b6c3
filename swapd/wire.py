"""Messages between the daemon and a worker, and their framing; both ends import this page.

One worker speaks over one stream socket. A frame is a 4-byte little-endian length and a msgpack body.
End of file on either end means that the other is gone.
"""

from __future__ import annotations

import struct
from typing import Final, TypeAlias

import msgspec

from swapd.generation import CallPart, Chunk, Ending, GenerationRequest, TokenLogprob, Usage
from swapd.questions import Question, Reply
from swapd.units import Bytes, Seconds, Tokens

MAX_FRAME: Final[Bytes] = 256 * 2**20
_HEAD = struct.Struct("<I")


class _Frame(msgspec.Struct, frozen=True, tag=True):
    pass


# --- daemon -> worker


class Prompts(msgspec.Struct, frozen=True):
    """Where a worker saves conversations and finds saved ones."""

    folder: str
    key: str
    """Of all that has to be the same for their use; names of files begin with it."""
    limit: Bytes
    """Of all of them together: what is larger need not be saved."""


class Adapter(msgspec.Struct, frozen=True, array_like=True):
    """A LoRA adapter. Requests call it by its name; what is saved is for its `content`."""

    name: str
    path: str
    content: str


class Load(_Frame, frozen=True, tag=True):
    """Load this model; answered by Progress and then Loaded or LoadFailed.

    Sent again, when nobody is answered: of the same weights, in the same place, for which it makes another context.
    """

    path: str
    """First file of a split model."""
    context: Tokens
    """Per slot."""
    slots: int
    gpu_layers: int
    """As llama.cpp counts them: repeating layers and one for the output; 0 is CPU only."""
    devices: tuple[str, ...]
    """PCI ids (`0000:01:00.0`) of the cards to use, or ggml device names; empty: none."""
    micro_batch: Tokens
    kv_type: str
    flash_attention: bool | None
    """None: llama.cpp decides."""
    threads: int
    expert_layers_on_cpu: int = 0
    """Of a mixture of experts: of so many layers on the cards, the first ones, the experts stay on the CPU."""
    tensor_split: tuple[float, ...] = ()
    """Of several devices: the share of the layers that each gets; empty: by what is free on them just then."""
    prompts: Prompts | None = None
    """None: no conversation is saved."""
    pooling: str = ""
    """Make vectors, and so pooled: "mean", "cls", "last" or "rank"; empty: write text."""
    adapters: tuple[Adapter, ...] = ()
    speculates: bool = False
    """Whether tokens are proposed and several tried in one step: from the text itself, and by the draft."""
    draft: str = ""
    """First file of the model that drafts, with the same context, slots and KV type; empty: none does."""
    projector: str = ""
    """File of what turns pictures into what the model reads; empty: it reads text alone."""
    sees_whole: bool = False
    """A picture's tokens are computed together: it may have no more than a micro-batch."""


class Size(_Frame, frozen=True, tag=True):
    """Say what a Load of these values would take, and load nothing; answered by Sized or LoadFailed.

    Only while no model is loaded, as often as wanted; a Load may follow.
    """

    path: str
    context: Tokens
    slots: int
    gpu_layers: int
    devices: tuple[str, ...]
    micro_batch: Tokens
    kv_type: str
    flash_attention: bool | None
    expert_layers_on_cpu: int = 0
    tensor_split: tuple[float, ...] = ()
    pooling: str = ""
    speculates: bool = False
    draft: str = ""
    projector: str = ""


class Generate(_Frame, frozen=True, tag=True):
    request: GenerationRequest


class Ask(_Frame, frozen=True, tag=True):
    """Answered by Answered or Failed of the same id. What a vocabulary is enough for is answered between two steps."""

    request: str
    question: Question
    path: str = ""
    """Of the file to read the vocabulary from where no model is loaded."""


class Stop(_Frame, frozen=True, tag=True):
    """End this answer; its slot is free at the next token. Unknown ids are fine (it ended by itself)."""

    request: str


class Save(_Frame, frozen=True, tag=True):
    """Save what the slots hold, and begin no file after so long; answered by a Saved for each file, then SaveEnded."""

    limit: Seconds


class SetThreads(_Frame, frozen=True, tag=True):
    threads: int


class Ping(_Frame, frozen=True, tag=True):
    pass


# --- worker -> daemon


class Card(msgspec.Struct, frozen=True, array_like=True):
    """A GPU as ggml sees it."""

    name: str
    """Of the backend and a number: `Vulkan0`."""
    description: str
    pci: str
    """Address on the bus (`0000:01:00.0`); empty where the backend does not tell."""
    free: Bytes
    total: Bytes


class Started(_Frame, frozen=True, tag=True):
    """Imports done, no model and no GPU context yet: a spare."""

    pid: int
    build: str
    """llama.cpp's version, for keys of whatever depends on it."""
    cards: tuple[Card, ...] = ()
    """Those that can be asked without a context on them: no CUDA cards."""


class Progress(_Frame, frozen=True, tag=True):
    fraction: float


Parts: TypeAlias = tuple[tuple[str, str, Bytes], ...]
"""(device, kind, bytes): the device as the order named it, or "host"; the kind is "model", "context" or "compute"."""


class Sized(_Frame, frozen=True, tag=True):
    parts: Parts
    """What the process takes besides is not in it. No part of kind "model": only compute buffers could be told."""


class Loaded(_Frame, frozen=True, tag=True):
    layers: int
    """As `Load.gpu_layers` counts them."""
    gpu_layers: int
    context: Tokens
    """Per slot, as llama.cpp made it."""
    slots: int
    seconds: Seconds
    template: str
    """Whose chat template answers: "model" or, where the file has none, "chatml"."""
    parts: Parts = ()
    """As `Sized.parts`, of what was really loaded; empty: this llama.cpp does not tell."""


class LoadFailed(_Frame, frozen=True, tag=True):
    """The process stays, empty and useless; the daemon ends it."""

    out_of_memory: bool
    reason: str


class Piece(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """A `Chunk` of one request's answer."""

    request: str
    text: str
    tokens: Tokens
    thinking: str = ""
    calls: tuple[CallPart, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt: tuple[Tokens, Tokens] | None = None
    usage: Usage | None = None
    read: Tokens | None = None

    @property
    def chunk(self) -> Chunk:
        said = self.text, self.tokens, self.thinking, self.calls, self.logprobs
        return Chunk(*said, self.prompt, self.usage, self.read)


class Pieces(_Frame, frozen=True, tag=True):
    """All that one decode step gave, of every slot: one frame a step keeps the cost per token small."""

    pieces: tuple[Piece, ...]


class Finished(_Frame, frozen=True, tag=True):
    """The last frame of a request."""

    request: str
    ending: Ending


class Failed(_Frame, frozen=True, tag=True):
    """The last frame of a request that cannot be served; the worker goes on."""

    request: str
    code: str
    """"context_length_exceeded", "invalid_request" or, of a question about a file, "model_unusable"."""
    message: str
    prompt: Tokens = 0
    context: Tokens = 0


class Answered(_Frame, frozen=True, tag=True):
    request: str
    reply: Reply


class Saved(_Frame, frozen=True, tag=True):
    """A conversation is in this file of the folder, which is whole but for its seal (`savedstate.seal`)."""

    name: str
    replaces: tuple[str, ...] = ()
    """Older files that hold nothing else."""


class SaveEnded(_Frame, frozen=True, tag=True):
    pass


class Pong(_Frame, frozen=True, tag=True):
    cards: tuple[Card, ...] = ()
    """As `Started.cards`, now; a worker that is loading does not ask."""


ToWorker: TypeAlias = Load | Size | Generate | Ask | Stop | Save | SetThreads | Ping
FromWorker: TypeAlias = (
    Started | Progress | Sized | Loaded | LoadFailed | Pieces | Finished | Answered | Failed | Saved | SaveEnded | Pong
)

_encoder = msgspec.msgpack.Encoder()
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_from_worker: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)


class WireError(Exception):
    """The other end sent what no swapd sends."""


def encode(message: ToWorker | FromWorker) -> bytes:
    body = _encoder.encode(message)
    return _HEAD.pack(len(body)) + body


class Frames:
    """Cuts a byte stream into frame bodies: `feed` what was read, iterate what is whole."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Whole bodies, oldest first. Raises WireError."""
        buffer = self._buffer
        buffer += data
        bodies: list[bytes] = []
        start = 0
        while len(buffer) - start >= _HEAD.size:
            (length,) = _HEAD.unpack_from(buffer, start)
            if length > MAX_FRAME:
                raise WireError(f"a frame of {length} bytes; the limit is {MAX_FRAME}")
            end = start + _HEAD.size + length
            if len(buffer) < end:
                break
            bodies.append(bytes(buffer[start + _HEAD.size : end]))
            start = end
        del buffer[:start]
        return bodies


def decode_to_worker(body: bytes) -> ToWorker:
    """Raises WireError."""
    try:
        return _to_worker.decode(body)
    except msgspec.MsgspecError as error:
        raise WireError(str(error)) from error


def decode_from_worker(body: bytes) -> FromWorker:
    """Raises WireError."""
    try:
        return _from_worker.decode(body)
    except msgspec.MsgspecError as error:
        raise WireError(str(error)) from error
