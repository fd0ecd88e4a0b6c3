"""Tokens per second with proposals, over those without: of the same model and prompt, the answers compared by token.

Two ways: what a text repeats of itself (`draft = "prompt"`), on a text that goes round, one that has to be said again
with small changes, and a free one; and SmolLM2 at its own quantisation as the draft of SmolLM2 in 16 bits.
"""

from __future__ import annotations

import ctypes
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks import daemon, servers
from swapd.demo import models

ROUNDS: Final = 3
TOKENS: Final = 160
CONTEXT: Final = 2048
ALLOWED: Final = 1.3

RECORDS: Final = "\n".join(
    f'{{"number": {i}, "name": "Visitor {i}", "postcards": {i % 4}, "has_paid": true, "comment": "a friend"}},'
    for i in range(12)
)
ROUND: Final = " ".join(
    ["The wheel of the mill goes round and round, the river runs below it, and the miller counts his sacks of flour."]
    * 8
)
STORY: Final = "Once upon a time, in a village by the sea, there lived a fisherman who"
HALF: Final = "smollm2-135m-f16"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two names for one model file, and what they go on with."""

    what: str
    plain: str
    drafted: str
    prompt: str


@dataclass(slots=True)
class Seen:
    """Tokens per second, round by round."""

    plain: list[float] = field(default_factory=list)
    drafted: list[float] = field(default_factory=list)
    is_same: list[bool] = field(default_factory=list)
    proposed: int = 0
    right: int = 0

    @property
    def ratio(self) -> float:
        return statistics.median(ours / plain for ours, plain in zip(self.drafted, self.plain, strict=True))


PAIRS: Final = (
    Pair("prompt lookup, a text that goes round", "plain", "lookup", ROUND),
    Pair("the same, weights in 16 bits", "half", "half-lookup", ROUND),
    Pair("prompt lookup, records that differ", "plain", "lookup", RECORDS),
    Pair("prompt lookup, a story", "plain", "lookup", STORY),
    Pair("SmolLM2 in 4 bits drafts for itself in 16, a story", "half", "half-drafted", STORY),
)
"""The first two are what it is for; the others must at least not cost anything."""
REST: Final = 0.3
"""Seconds between two answers: threads of the one before spin for a moment longer."""


def main() -> None:
    small = models.fetch(print)[0]
    with tempfile.TemporaryDirectory(prefix="swapd-bench-") as folder:
        half = _in_16_bits(small, Path(folder) / f"{HALF}.gguf")
        found = _measure(small, half)
    daemon.write("speculation", "\n".join(_table(found)) + "\n")


def _in_16_bits(source: Path, target: Path) -> Path:
    """The same weights, so that the one guesses what the other says."""
    import llama_cpp.llama_cpp as llama

    quiet = llama.llama_log_callback(lambda level, text, data: None)
    llama.llama_log_set(quiet, None)
    params = llama.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = llama.LLAMA_FTYPE_MOSTLY_F16, True
    if llama.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)) != 0:
        raise RuntimeError(f"llama.cpp cannot write {target}")
    return target


def _measure(small: Path, half: Path) -> dict[Pair, Seen]:
    config = f"[engine]\nthreads = {servers.THREADS}\n"
    for name, path, draft in (
        ("plain", small, ""),
        ("lookup", small, "prompt"),
        ("half", half, ""),
        ("half-lookup", half, "prompt"),
        ("half-drafted", half, "plain"),
    ):
        config += f'[models."{name}"]\npath = "{path}"\ncontext = {CONTEXT}\nslots = 1\ndraft = "{draft}"\n'
    found = {pair: Seen() for pair in PAIRS}
    with daemon.swapd(config) as ours:
        client = ours.client()
        for number in range(ROUNDS + 1):
            for pair, seen in found.items():
                prompt = f"Part {number}.\n{pair.prompt}"
                plain = client.complete(pair.plain, prompt, TOKENS, ignore_eos=True)
                time.sleep(REST)
                drafted = client.complete(pair.drafted, prompt, TOKENS, ignore_eos=True)
                time.sleep(REST)
                if number:  # the first round loads, and learns what batches take
                    seen.plain.append(_rate(plain))
                    seen.drafted.append(_rate(drafted))
                    seen.is_same.append(plain.text == drafted.text)
                    seen.proposed += drafted.timings.get("draft_n", 0)
                    seen.right += drafted.timings.get("draft_n_accepted", 0)
    return found


def _rate(answer: daemon.Timed) -> float:
    """Tokens per second after the first one, as the client sees them."""
    return float((int(answer.usage["completion_tokens"]) - 1) / (answer.whole_s - answer.first_s))


def _table(found: dict[Pair, Seen]) -> Iterator[str]:
    yield "# Speculative decoding"
    yield ""
    yield f"Made by `python -m benchmarks speculation` on {daemon.processor()}: medians of {ROUNDS} greedy answers of"
    yield f"{TOKENS} tokens, in turn with and without proposals. Wanted on repetitive text: {ALLOWED} times the plain"
    yield "rate, and the same tokens."
    yield ""
    yield "| what | plain | with proposals | ratio | proposals right | answers |"
    yield "|---|---|---|---|---|---|"
    for pair, seen in found.items():
        text = "same" if all(seen.is_same) else f"same in {sum(seen.is_same)} of {len(seen.is_same)}"
        right = f"{seen.right / seen.proposed:.0%} of {seen.proposed}" if seen.proposed else "none made"
        yield (
            f"| {pair.what} | {statistics.median(seen.plain):.0f} tok/s | {statistics.median(seen.drafted):.0f} tok/s"
            f" | {seen.ratio:.2f} | {right} | {text} |"
        )
