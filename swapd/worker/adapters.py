"""LoRA adapters of one model: loaded with it, switched between batches.

Used by `slots`. A context computes a batch with one adapter or none, so requests of one adapter are batched together
and the adapters take turns. Switching costs nothing to speak of; what was computed with one is of no use to another.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Collection, Iterable
from typing import Any, ClassVar, Final

import llama_cpp.llama_cpp as C  # noqa: N812

from swapd.errors import InvalidRequest, ModelUnusable
from swapd.generation import GenerationRequest
from swapd.wire import Adapter
from swapd.worker import backends
from swapd.worker.context import Context
from swapd.worker.llama import Model

TURN: Final = 8
"""Batches in a row with one adapter, while requests of another wait."""
_MOST_KNOWN: Final = 1024
"""Of adapters and mixtures it is known when they were served last."""


class AdapterUnusable(Exception):
    """llama.cpp refuses the file; the argument says why."""

    code: ClassVar[str] = ModelUnusable.code

    @property
    def message(self) -> str:
        return str(self.args[0])


class Adapters:
    """`batch` says whose turn it is. An adapter is called by the `content` of its file; "" is the model itself, and
    several, or one of which only a part is added, are called by a JSON list of pairs."""

    def __init__(self, model: Model, context: Context, orders: Iterable[Adapter], log: backends.Log) -> None:
        """One that llama.cpp refuses is refused to whoever asks for it; the others are served."""
        self._context = context
        self._contents: dict[str, str] = {}
        self._loaded: dict[str, Any] = {}
        self._refused: dict[str, str] = {}
        for order in orders:
            log.lines.clear()
            self._contents[order.name] = order.content
            pointer = model.adapter(order.path)
            if pointer:
                self._loaded[order.content] = pointer
            else:
                self._refused[order.content] = log.reason()
        self._active = ""
        self._left = TURN
        self._served: dict[str, int] = {}
        self._batches = 0

    def use(self, context: Context) -> None:
        """Another context of the model."""
        self._context, self._active = context, ""

    def wanted(self, request: GenerationRequest) -> str:
        """What `batch` calls the adapters of a request: by the contents of their files, and how much of each is added.

        Raises InvalidRequest, AdapterUnusable.
        """
        asked = [(request.adapter, 1.0)] if request.adapters is None else request.adapters
        parts = sorted((self._find(name), scale) for name, scale in asked if name and scale)
        match parts:
            case []:
                return ""
            case [(content, 1.0)]:
                return content
            case _:
                return json.dumps(parts)

    def _find(self, name: str) -> str:
        content = self._contents.get(name)
        if content is None:
            known = ", ".join(sorted(self._contents)) or "none"
            raise InvalidRequest(f"the model has no adapter {name!r}; it has {known}", "model")
        if content in self._refused:
            raise AdapterUnusable(self._refused[content])
        return content

    def batch(self, wanted: Collection[str]) -> str:
        """With which of these the next batch is computed: the one at work, unless its turn is over and others wait."""
        if not wanted:
            return self._active
        self._batches += 1
        self._left -= 1
        if self._active not in wanted or (self._left <= 0 and len(set(wanted)) > 1):
            others = [content for content in wanted if content != self._active] or [self._active]
            self._use(min(others, key=lambda content: self._served.get(content, 0)))
            self._left = TURN
        if len(self._served) > _MOST_KNOWN:
            self._served = {content: at for content, at in self._served.items() if content in wanted}
        self._served[self._active] = self._batches
        return self._active

    def _use(self, content: str) -> None:
        if content == self._active:
            return
        if content:
            parts = json.loads(content) if content.startswith("[[") else [(content, 1.0)]
            pointers = (C.llama_adapter_lora_p_ctypes * len(parts))(*(self._loaded[each] for each, _ in parts))
            scales = (ctypes.c_float * len(parts))(*(scale for _, scale in parts))
            C.llama_set_adapters_lora(self._context.pointer, pointers, len(parts), scales)
        else:
            C.llama_set_adapters_lora(self._context.pointer, None, 0, None)
        self._active = content
