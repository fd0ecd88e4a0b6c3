"""A recorded day made ready to be lived again: what the daemon could not know is filled in, cards are exchanged.

Used by `swapctl replay` and `tune`. Pure functions of a trace.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median_low
from typing import Final

from swapd.core.messages import Policy
from swapd.trace import Call, Trace, TraceModel
from swapd.units import Bytes, Seconds, Tokens

TYPICAL: Final[tuple[Tokens, Tokens]] = (500, 100)
"""Prompt and output of a call of a model of which no answer is known."""


@dataclass(frozen=True, slots=True)
class Waits:
    """As they really were, from arrival to slot, or until the client left."""

    calls: int
    left: int
    mean: Seconds
    p50: Seconds
    p99: Seconds
    longest: Seconds


def waits(trace: Trace) -> Waits | None:
    """None: the day is made up, or nobody called."""
    if trace.policy is None or not trace.calls:
        return None
    known = sorted(call.patience or 0.0 if call.waited_s is None else call.waited_s for call in trace.calls)
    left = sum(call.patience is not None for call in trace.calls)
    half, most = (known[math.ceil(share * len(known)) - 1] for share in (0.5, 0.99))
    return Waits(len(known), left, sum(known) / len(known), half, most, known[-1])


def _is_unknown(call: Call) -> bool:
    return call.patience is not None and not call.output and not call.prompt


def complete(trace: Trace) -> Trace:
    """With guesses for calls whose client left: the model's usual prompt, and an answer as long as it went on, or of
    the usual length. Models that nobody called are left out.
    """
    prompts: defaultdict[str, list[Tokens]] = defaultdict(list)
    outputs: defaultdict[str, list[Tokens]] = defaultdict(list)
    for call in trace.calls:
        if not _is_unknown(call):
            prompts[call.model].append(call.prompt)
            outputs[call.model].append(call.output)
    models = {model.name: model for model in trace.models}
    usual = {
        name: (median_low(prompts[name]), median_low(outputs[name])) if name in prompts else TYPICAL for name in models
    }
    calls = tuple(
        _guessed(call, models[call.model], *usual[call.model]) if _is_unknown(call) else call for call in trace.calls
    )
    called = {call.model for call in calls}
    return replace(trace, calls=calls, models=tuple(model for model in trace.models if model.name in called))


def _guessed(call: Call, model: TraceModel, prompt: Tokens, output: Tokens) -> Call:
    if call.took_s is not None:
        written = (call.took_s - prompt / model.prefill) * model.decode
        output = min(10**6, max(1, round(written)))
    return replace(call, prompt=prompt, output=max(1, output))


def on_cards(trace: Trace, sizes: Sequence[Bytes]) -> Trace:
    """The same day on a machine with these cards, empty but for swapd."""
    reserve = Policy().vram_reserve
    return replace(trace, card=sum(max(0, size - reserve) for size in sizes), cards=len(sizes))


def latest(trace: Trace, most: int) -> Trace:
    """The last so many calls, from the first of them on."""
    return between(trace, max(0, len(trace.calls) - most), len(trace.calls))


def between(trace: Trace, first: int, end: int) -> Trace:
    """The calls from `first` to before `end`, as a day of their own."""
    calls = trace.calls[first:end]
    begin = calls[0].at if first and calls else 0.0
    return replace(trace, calls=tuple(replace(call, at=call.at - begin) for call in calls) if begin else calls)
