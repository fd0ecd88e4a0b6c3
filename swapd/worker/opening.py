"""How an answer begins: its slot, and all that it is made with from its first token to its last.

Used by `slots`, when a slot is free for a request.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

from swapd.generation import GenerationRequest
from swapd.units import Seconds
from swapd.worker import sharing
from swapd.worker.adapters import Adapters
from swapd.worker.answering import Answer, Slot
from swapd.worker.budget import Budget
from swapd.worker.constraints import Constraints
from swapd.worker.context import Context
from swapd.worker.drafting import Lookup
from swapd.worker.echoing import Echo
from swapd.worker.lines import Lines
from swapd.worker.llama import Model
from swapd.worker.prompts import Prompt
from swapd.worker.sampling import Sampler
from swapd.worker.states import Keeper
from swapd.worker.telling import Teller
from swapd.worker.text import Text


class Opener:
    """Of one model's context. `proposes`: the text so far is looked up for what may come next."""

    def __init__(self, model: Model, context: Context, keeper: Keeper, adapters: Adapters, *, proposes: bool) -> None:
        self._vocabulary, self._context = model.vocabulary, context
        self._keeper, self._adapters, self._proposes = keeper, adapters, proposes
        self._constraints = Constraints(model.vocabulary)

    def can_open(self, request: GenerationRequest, prompt: Prompt) -> bool:
        """Without waiting for what its constraint takes, which is being built then."""
        return self._constraints.can_make(request, prompt.rules)

    def wait(self, limit: Seconds) -> None:
        """For that, at most so long."""
        self._constraints.wait(limit)

    def open(
        self, slots: Sequence[Slot], free: Sequence[Slot], request: GenerationRequest, prompt: Prompt
    ) -> tuple[Slot, Answer]:
        """One of the free slots, made to hold what can be had of the prompt, and the answer that goes there.

        Raises InvalidRequest, AdapterUnusable.
        """
        began = perf_counter()
        echo = None
        if request.echo and request.logprobs is not None:
            echo = Echo(request, prompt, self._vocabulary)
        adapter = self._adapters.wanted(request)
        constraint = self._constraints.make(request, prompt.rules)
        sampler = Sampler(request, self._vocabulary, self._context.length, prompt.said, constraint)
        caches = request.caches and echo is None
        seat = self._keeper.seat(free, prompt.tokens, adapter, caches)
        room = self._context.length - len(prompt.tokens)
        limit = room if request.max_tokens is None else min(room, request.max_tokens)
        text = Text(prompt.stops)
        parser = None if prompt.reading is None else prompt.reading.parser()
        teller = Teller(request.id, parser, request.parallel_calls)
        answer = Answer(request, prompt, sampler, text, teller, limit, seat.cached, seat.restored, began)
        answer.echo, answer.budget = echo, self._budget(request, prompt)
        if request.indent or request.line_limit is not None:
            answer.lines = Lines(request.indent, request.line_limit)
        if caches and not prompt.pictures:
            answer.follows = sharing.leader(slots, prompt.tokens, adapter, seat.cached, self._keeper)
        if self._proposes:
            answer.lookup = Lookup(() if prompt.pictures else prompt.tokens)
        return seat.slot, answer

    def _budget(self, request: GenerationRequest, prompt: Prompt) -> Budget | None:
        reading, vocabulary = prompt.reading, self._vocabulary
        if request.thinking_budget is None or reading is None or reading.thinking is None:
            return None
        end = vocabulary.tokenize(request.thinking_end + reading.thinking.closes, add_special=False)
        return Budget(request.thinking_budget, reading.thinking, reading.primer, end, vocabulary.spelled)
