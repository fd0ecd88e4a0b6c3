"""The books' page on what is done before anybody asks: that it is guessed from habits, costs nobody anything, and goes.

Asked by `books`; knows what was told and ordered, never what the core guesses.
"""

from __future__ import annotations

from collections import Counter

from swapd.core.messages import Policy, RequestArrived, WarmFile
from swapd.core.model import HOST, VariantId
from swapd.sim.memory import Memory
from swapd.sim.reasons import CALM, Reasons
from swapd.sim.records import NEARLY, Process
from swapd.units import Bytes, Seconds

AGAIN: Seconds = 3600.0
"""A file that was read, and for no guess, is left alone for so long."""


class Guesses(Reasons):
    def __init__(self, memory: Memory, policy: Policy) -> None:
        super().__init__(memory, policy)
        self.followed: Counter[tuple[VariantId, VariantId]] = Counter()
        """How often a request for one model was the next after those for another."""
        self._last: VariantId | None = None
        self.named: frozenset[VariantId] = frozenset()
        self.asked_for: set[VariantId] = set()
        self.reading: VariantId | None = None
        self._read_at: dict[VariantId, Seconds] = {}
        self.host_free: Bytes = 0
        """By the last measurement."""
        self.is_clear = False
        """Memory was measured in this step, and nothing had moved meanwhile."""

    def asked(self, event: RequestArrived) -> None:
        variant = event.variant.id
        if self._last not in (None, variant):
            self.followed[(self._last or variant, variant)] += 1
        self._last = variant
        self.asked_for.add(variant)
        for p in self.of(variant):
            if p.stays:
                p.may_be_guess = p.is_guess = False

    def pinned(self, pins: frozenset[VariantId]) -> None:
        self.pins = pins
        for p in self.staying():
            p.is_guess &= p.variant not in pins
            p.may_be_guess &= p.variant not in pins

    def check_guess(self, new: Process) -> None:
        """A worker was started that nobody waits for. Raises Broken."""
        who = f"a guess, {new.variant},"
        if not self.policy.prefetch:
            raise self.broken(f"started a worker of {new.variant} for nobody")
        if self.waiting():
            raise self.broken(f"{who} is loaded while others wait")
        if any(p.stays and p.is_guess for p in self.processes.values()):
            raise self.broken(f"{who} is loaded beside another")
        if any(not p.is_gone and not (p.is_ready and p.stays) for p in self.processes.values()):
            raise self.broken(f"{who} is loaded while others load or leave")
        if new.variant in self.pins:
            raise self.broken(f"{who} is pinned")
        if self._host_computes():
            raise self.broken(f"{who} is loaded while others compute on the host")
        if self.memory.cards and new.placement.share < 1 and new.variant not in self._fixed():
            raise self.broken(f"{who} is loaded in part")
        if any(p.placement.share < 1 and not self._was_placed_so(p) for p in self.staying()) and self.memory.cards:
            raise self.broken(f"{who} is loaded where others could be placed better")
        if self.now < self.last_short + CALM - NEARLY:
            raise self.broken(f"{who} is loaded soon after memory was short")
        if self._last is None or self.followed[(self._last, new.variant)] < 2:
            raise self.broken(f"{who} has not come after {self._last} twice")

    def _was_placed_so(self, p: Process) -> bool:
        return p.variant in self._fixed() or self._was_fixed(p.variant)

    def may_stop_guess(self, p: Process) -> bool:
        """Whether one that nobody has asked for has a reason to go."""
        homeless = [a for a in self.waiting() if not any(o.stays for o in self.of(a.event.variant.id))]
        wished = any(variant != p.variant for variant in self.wishes)
        short = any(self.memory.is_short(d, self.staying(), surely=False) for d, size in p.need.items() if size)
        has_expired = p.is_ready and p.used_at + p.keep_least <= self.now + NEARLY
        disturbs = not p.is_ready and self._host_computes()
        return bool(homeless) or wished or short or has_expired or disturbs or not self.policy.prefetch

    def check_guesses(self) -> None:
        """At the end of a step with a clear measurement: is a guess in anybody's way? Raises Broken."""
        guess = next((p for p in self.staying() if p.is_guess), None)
        if guess is None:
            return
        if not guess.is_ready and self._host_computes():
            raise self.broken(f"{guess.variant}, a guess, goes on loading while others compute on the host")
        if not self.is_clear or not self.memory.is_exact:
            return
        for ask in self.waiting():
            variant = ask.event.variant.id
            if any(p.stays for p in self.of(variant)) or ask.layers == 0 or self.memory.has_no_card(variant):
                continue
            if not guess.is_ready and len(self.memory.cards) < 2:
                raise self.broken(f"{guess.variant}, a guess, goes on loading while {ask.event.request} waits to load")
            is_asking = any(v == variant and (v, place) not in self.sized for v, place in self.asked_sizes)
            beside = [p for p in self.processes.values() if not p.is_gone]
            if not is_asking and not self.memory.could_be_beside(variant, ask.layers, beside):
                raise self.broken(f"{guess.variant}, a guess, has the room for which {ask.event.request} waits")

    def _host_computes(self) -> bool:
        busy = [p for p in self.processes.values() if p.leases]
        return any(not self.memory.cards or p.placement.share < 1 for p in busy)

    # --- files

    def check_reading(self, command: WarmFile) -> None:
        """Raises Broken."""
        variant = command.variant.id
        what = f"reads {variant} ahead"
        if self.reading is not None:
            raise self.broken(f"{what} while it reads {self.reading}")
        if self.policy.warm_cache == 0 or command.size <= 0:
            raise self.broken(f"{what}, which is not to be")
        if command.size > self.host_free - self.policy.host_reserve:
            raise self.broken(f"{what} into memory that is not free")
        if not self.waiting(variant) and variant not in self.wishes:
            if not self.policy.prefetch or self.waiting():
                raise self.broken(f"{what} for nobody")
            most = self.policy.warm_cache
            if command.size > (self.memory.hardware[HOST].total // 2 if most is None else most):
                raise self.broken(f"{what}, more than may be")
            if variant not in self.named | self.asked_for:
                raise self.broken(f"{what}, which is nobody's")
            is_guess = any(after == variant for _, after in self.followed)
            if not is_guess and self.now < self._read_at.get(variant, -AGAIN) + AGAIN - NEARLY:
                raise self.broken(f"{what} again")
        self.reading = variant

    def has_read(self, variant: VariantId) -> None:
        """To the end."""
        if self.reading == variant:
            self._read_at[variant] = self.now
            self.reading = None

    def check_disk(self) -> None:
        """Raises Broken."""
        loading = next((p for p in self.staying() if not p.is_ready), None)
        if self.reading is not None and loading is not None:
            raise self.broken(f"reads {self.reading} ahead while {loading.variant} loads")
