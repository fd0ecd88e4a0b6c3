"""What is counted of answers, loads and deaths, for Prometheus; labels are names of the catalog's models.

Fed by `gateway.py` and `journal.py`, read by `api/metrics.py`. Decides nothing.
"""

from __future__ import annotations

from swapd.generation import Usage
from swapd.metrics import Counter, Histogram, Metric
from swapd.units import Seconds, Tokens


class Measures:
    def __init__(self) -> None:
        self.first_token = Histogram(
            "swapd_time_to_first_token_seconds", "From a request to the first token of its answer, waiting included."
        )
        self.queue = Histogram("swapd_queue_seconds", "How long requests waited for a slot, loads included.")
        self.loads = Histogram(
            "swapd_load_seconds", "How long loads took, by where the weights were before.", ("model", "tier")
        )
        self.evictions = Counter("swapd_evictions_total", "Models that left, by why.", ("reason",))
        self.tokens = Counter(
            "swapd_tokens_total",
            "Tokens of prompts that were evaluated (prompt) or not (cached), and of answers (completion).",
            ("model", "kind"),
        )
        self.restored = Counter(
            "swapd_prompt_tokens_restored_total", "Tokens of prompts that came from saved conversations.", ("model",)
        )
        self.crashes = Counter("swapd_worker_crashes_total", "Workers that died while nobody stopped them.", ("model",))

    @property
    def all(self) -> tuple[Metric, ...]:
        return (
            self.first_token,
            self.queue,
            self.loads,
            self.evictions,
            self.tokens,
            self.restored,
            self.crashes,
        )

    def began(self, queued: Seconds, first: Seconds) -> None:
        """An answer's first item is there; both since the request came."""
        self.queue.observe(queued)
        self.first_token.observe(first)

    def spent(self, model: str, usage: Usage) -> None:
        self.tokens.add(model, "prompt", by=usage.evaluated)
        self.tokens.add(model, "cached", by=usage.cached)
        self.tokens.add(model, "completion", by=usage.completion)
        self.restored.add(model, by=usage.restored)

    def embedded(self, model: str, tokens: Tokens, queued: Seconds) -> None:
        self.queue.observe(queued)
        self.tokens.add(model, "prompt", by=tokens)

    def loaded(self, model: str, tier: str, seconds: Seconds) -> None:
        self.loads.observe(seconds, model, tier)
