"""Going back to a conversation of 2,000 tokens whose model was evicted meanwhile, beside a plain swap.

Each round: the conversation is gone on with while its model is ready, and once more (what the text has to be, with as
little left to read as after the return: batches of other sizes round otherwise); another model comes, the conversation
is gone on with again; the other model comes again, and the first one gets a short new prompt.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from benchmarks import daemon, servers
from swapd.demo import models

CONTEXT: Final = 4096
ROUNDS: Final = 3
TOKENS: Final = 24
SHORT: Final = "Once upon a time, in a village by the sea, there lived a fisherman who"
STORY: Final = " ".join(
    f"Visitor {i} of the museum bought {i * 7 % 13} postcards and asked for painting number {i * 31 % 97}."
    for i in range(100)
)
"""About 2,000 tokens for SmolLM2 and 2,700 for Gemma."""
REST: Final = 1.5
ROOM_MIB: Final = 600
MOST_READ_AGAIN: Final = 0.02
MOST_LATER_S: Final = 0.1


@dataclass(slots=True)
class Seen:
    prompt: int = 0
    back: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    anew: list[float] = field(default_factory=list)
    """Seconds to the first token of the whole prompt read anew, in a ready model."""
    read_again: list[float] = field(default_factory=list)
    is_same: list[bool] = field(default_factory=list)

    @property
    def later(self) -> float:
        return statistics.median(back - plain for back, plain in zip(self.back, self.plain, strict=True))


def main() -> None:
    files = models.fetch(print)
    config = f"[engine]\nthreads = {servers.THREADS}\n" + daemon.catalog(*files, context=CONTEXT, slots=1)
    config += f'[memory]\nhost_reserve = "64MiB"\nvram_limit = "{ROOM_MIB + 64}MiB"\n'
    with daemon.swapd(config) as ours:
        client = ours.client()
        found = {
            path.stem: _measure(client, path.stem, other.stem)
            for path, other in zip(files, reversed(files), strict=True)
        }
    daemon.write("conversation", "\n".join(_table(found)) + "\n")


def _measure(client: daemon.Client, model: str, other: str) -> Seen:
    seen = Seen()
    for number in range(ROUNDS + 1):
        times = seen if number else Seen()  # the first round warms up
        start = f"Day {number}. {STORY}"
        first = client.complete(model, start, TOKENS)
        goes_on = f"{start}{first.text} Then"
        client.complete(model, goes_on, TOKENS)
        stayed = client.complete(model, goes_on, TOKENS)
        _swap(client, other)
        back = client.complete(model, goes_on, TOKENS)
        _swap(client, other)
        plain = client.complete(model, f"{SHORT} {number}", TOKENS)
        times.prompt = int(back.usage["prompt_tokens"])
        times.anew.append(first.first_s)
        times.back.append(back.first_s)
        times.plain.append(plain.first_s)
        times.read_again.append(back.evaluated)
        times.is_same.append(back.text == stayed.text)
        time.sleep(REST)
    return seen


def _swap(client: daemon.Client, other: str) -> None:
    """Have the other model loaded, and nothing going on any more."""
    client.complete(other, "One, two,", 1)
    time.sleep(REST)


def _table(found: dict[str, Seen]) -> Iterator[str]:
    yield "# Back in a conversation after its model was evicted"
    yield ""
    yield f"Made by `python -m benchmarks conversation` on {daemon.processor()}: medians of {ROUNDS}. A plain swap is"
    yield "the same model loaded for a short new prompt; both have to wait until another model has left."
    yield f"Allowed: {MOST_READ_AGAIN:.0%} of the prompt read again, first token {MOST_LATER_S * 1000:.0f} ms later"
    yield "than after a plain swap, the same greedy text."
    yield ""
    yield "| model | prompt | read again | first token | plain swap | later | text | prompt read anew |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, seen in found.items():
        text = "same" if all(seen.is_same) else f"same in {sum(seen.is_same)} of {len(seen.is_same)}"
        yield (
            f"| {name} | {seen.prompt} tokens | {max(seen.read_again):.1%} | {statistics.median(seen.back):.3f} s"
            f" | {statistics.median(seen.plain):.3f} s | {seen.later * 1000:+.0f} ms | {text}"
            f" | {statistics.median(seen.anew):.2f} s |"
        )
