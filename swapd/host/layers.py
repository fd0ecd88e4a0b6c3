"""What a model's single layers take, from its headers: weights, cache elements, recurrent state.

Called by `shapes.py`. Follows llama.cpp where the header leaves something to the architecture; what is not known
here counts as full attention, which errs on the large side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from swapd.host.gguf import Header, Part, UnreadableModel
from swapd.units import Bytes, Tokens

_WINDOWED: Final[dict[str, tuple[int, bool]]] = {
    "afmoe": (4, False),
    "cohere2": (4, False),
    "cohere2moe": (4, True),
    "exaone-moe": (4, False),
    "exaone4": (4, False),
    "gemma2": (2, False),
    "gemma3": (6, False),
    "gemma3n": (5, False),
    "gpt-oss": (2, False),
    "laguna": (4, True),
    "llama4": (4, False),
    "mellum": (4, False),
    "muse-glimmer": (4, False),
    "olmo2": (4, False),
    "plamo3": (8, False),
    "smallthinker": (4, True),
}
"""Of so many layers one has full attention; True: the first of them, else the last."""
_WINDOWS: Final[dict[str, Tokens]] = {"gemma2": 4096, "smallthinker": 4096, "llama4": 8192, "exaone-moe": 128}
"""Where the header need not say it."""
_IGNORES_ITS_WINDOW: Final = frozenset({"phi3"})
_RECURRENT: Final = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})
_BOTH: Final = frozenset({"falcon-h1"})
_INTERVAL: Final = frozenset({"qwen3next", "qwen35", "qwen35moe", "qwen4exp"})
_FLOAT: Final[Bytes] = 4
_NOTHING: Final = Part()


def number(header: Header, key: str, default: int | None = None, least: int = 0) -> int:
    """Of the architecture's keys; of a per-layer list the largest. Without a default it must be there."""
    full = f"{header.architecture}.{key}"
    given = header.values.get(full, default)
    if given is None:
        raise UnreadableModel(f"its header lacks {full}")
    value = max(given, default=None) if isinstance(given, tuple) else given
    if type(value) is not int or not least <= value < 2**31:
        raise UnreadableModel(f"its header has an impossible {full}: {str(value)[:40]}")
    return value


def window(header: Header) -> Tokens | None:
    """Of the layers that have a sliding one; None: none has."""
    if header.architecture in _IGNORES_ITS_WINDOW:
        return None
    return number(header, "attention.sliding_window", default=_WINDOWS.get(header.architecture, 0)) or None


def windowed(header: Header, layers: int) -> tuple[bool, ...]:
    """Which layers have a sliding window."""
    key = f"{header.architecture}.attention.sliding_window_pattern"
    given = header.values.get(key)
    if window(header) is None or (header.architecture not in _WINDOWED and not isinstance(given, tuple)):
        return (False,) * layers
    if isinstance(given, tuple):
        return tuple(bool(value) for value in given[:layers]) + (False,) * (layers - len(given))
    every, is_first = _WINDOWED[header.architecture]
    if type(given) is int and given >= 0:
        every = given
    full = 0 if is_first else every - 1
    return tuple(every == 0 or layer % every != full for layer in range(layers))


def caches(
    header: Header, kv_heads: Sequence[int], lengths: tuple[int, int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Elements that one token takes in each layer's cache: with full attention, and with a sliding window.

    `lengths`: of a key and of a value. Latent attention (MLA) keeps no values beside its compressed keys.
    """
    layers = len(kv_heads)
    key, value = lengths
    window_key = number(header, "attention.key_length_swa", default=key)
    window_value = number(header, "attention.value_length_swa", default=value)
    if number(header, "attention.key_length_mla", default=0):
        value = window_value = 0
    with_cache = _with_cache(header, layers)
    slides = windowed(header, layers)
    has = [heads if layer < with_cache else 0 for layer, heads in enumerate(kv_heads)]
    if header.architecture in _RECURRENT or header.architecture in _INTERVAL:
        has = [0 if recurs else heads for heads, recurs in zip(has, _recurrent(header, kv_heads), strict=True)]
    pairs = list(zip(has, slides, strict=True))
    full = tuple(0 if slide else heads * (key + value) for heads, slide in pairs)
    return full, tuple(heads * (window_key + window_value) if slide else 0 for heads, slide in pairs)


def _with_cache(header: Header, layers: int) -> int:
    """The first so many layers have a cache of their own; the others share it or are not used."""
    if header.architecture == "gemma3n":
        return min(20, layers)
    shared = number(header, "attention.shared_kv_layers", default=0)
    unused = number(header, "nextn_predict_layers", default=0)
    return max(0, layers - shared - unused)


def states(header: Header, kv_heads: Sequence[int], embedding: int, heads: int) -> tuple[Bytes, ...]:
    """Of each recurrent layer, for one sequence."""
    recurs = _recurrent(header, kv_heads)
    if not any(recurs):
        return (0,) * len(kv_heads)
    wkv = number(header, "wkv.head_size", default=0)
    short = number(header, "shortconv.l_cache", default=0)
    delta = number(header, "kda.head_dim", default=0)
    inner, size = number(header, "ssm.inner_size", default=0), number(header, "ssm.state_size", default=0)
    before = max(0, number(header, "ssm.conv_kernel", default=0) - 1)
    if wkv:
        elements = number(header, "token_shift_count", default=2) * embedding + embedding * wkv
    elif short:
        elements = (short - 1) * embedding
    elif delta:
        elements = 3 * (before or 3) * heads * delta + delta * delta * heads
    else:
        elements = before * (inner + 2 * number(header, "ssm.group_count", default=0) * size) + size * inner
    return tuple(elements * _FLOAT if recur else 0 for recur in recurs)


def _recurrent(header: Header, kv_heads: Sequence[int]) -> tuple[bool, ...]:
    layers = len(kv_heads)
    if header.architecture in _RECURRENT or header.architecture in _BOTH:
        return (True,) * layers
    if header.architecture in _INTERVAL:
        every = number(header, "full_attention_interval", default=4, least=1)
        used = layers - number(header, "nextn_predict_layers", default=0)
        return tuple(layer < used and (layer + 1) % every != 0 for layer in range(layers))
    return tuple(heads == 0 for heads in kv_heads)


def feed_forward(header: Header, embedding: int) -> int:
    """Elements that the widest feed-forward makes of one token, in all experts that the token uses."""
    dense = number(header, "feed_forward_length", default=4 * embedding)
    used = number(header, "expert_used_count", default=0)
    if not used:
        return dense
    each = number(header, "expert_feed_forward_length", default=dense)
    shared = number(header, "expert_shared_feed_forward_length", default=0)
    return max(used * each + shared + used * embedding // 3, dense if each != dense else 0)


def weights(headers: Sequence[Header], layers: int) -> tuple[tuple[Bytes, ...], tuple[Bytes, ...], Bytes]:
    """On a card: of each layer; of these, the experts'; of the output, which may be the embeddings once more."""
    parts = [[header.parts.get(f"blk.{layer}", _NOTHING) for header in headers] for layer in range(layers)]
    used = layers - number(headers[0], "nextn_predict_layers", default=0)
    each = tuple(sum(p.weights for p in of) if layer < used else 0 for layer, of in enumerate(parts))
    experts = tuple(sum(p.experts for p in of) if layer < used else 0 for layer, of in enumerate(parts))
    outer = {name: part for header in headers for name, part in header.parts.items() if not name.startswith("blk.")}
    output = sum(part.weights for name, part in outer.items() if not _is_input(name))
    if "output.weight" not in outer:
        output += outer.get("token_embd.weight", _NOTHING).weights
    return each, experts, output


def host_weights(headers: Sequence[Header], layers: int) -> tuple[Bytes, ...]:
    """What stays resident on the host with 0, 1, ... all layers there, and with the output too.

    In each file everything from the first tensor used there to the last stays mapped; what the CPU uses in an
    order of its own comes on top.
    """
    is_shared = not any("output.weight" in header.parts for header in headers)
    copies = [0] * (layers + 2)
    spans = [0] * (layers + 2)
    for header in headers:
        used: list[list[Part]] = [[] for _ in range(layers + 2)]
        for name, part in header.parts.items():
            first = _needed_from(name, layers)
            used[first].append(part)
            if not _is_input(name):
                copies[first] += part.repacked
            elif is_shared and name == "token_embd.weight":
                copies[layers + 1] += part.repacked
        start, end = math.inf, 0
        for count, parts in enumerate(used):
            start = min([start, *(part.start for part in parts)])
            end = max([end, *(part.end for part in parts)])
            spans[count] += max(0, end - int(start)) if end else 0
    return tuple(span + copied for span, copied in zip(spans, accumulate(copies), strict=True))


def _is_input(name: str) -> bool:
    return name.startswith(("token_embd", "position_embd", "token_types", "per_layer_token_embd"))


def _needed_from(name: str, layers: int) -> int:
    """With so many layers on the host it is used there."""
    rest = name.removeprefix("blk.")
    if rest != name and rest.isdecimal():
        return min(int(rest), layers) + 1
    return 0 if _is_input(name) else layers + 1
