"""The books' data, and what they say of leaving and staying: who may be stopped, who may no longer be there.

`books` enters facts and orders into them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque

from swapd.core.messages import Overflow, Policy, Ranking
from swapd.core.model import HOST, Placement, RequestId, ResidentId, VariantId
from swapd.errors import Death
from swapd.sim.memory import Memory
from swapd.sim.records import NEARLY, Ask, Broken, Process, Wish, line_of
from swapd.units import FOREVER, Seconds

SIZE_AGAIN: Seconds = 60.0
"""So long after a failure, and the longer the more there were, nothing more is asked of its size."""
CALM: Seconds = 5.0
"""So long after a shortage nobody is placed better."""


class Reasons(ABC):
    def __init__(self, memory: Memory, policy: Policy) -> None:
        self.now: Seconds = 0.0
        self.memory = memory
        self.policy = policy
        self.keep_alives: list[tuple[Seconds, Seconds]] = [(0.0, policy.keep_alive)]
        self.is_bent = False
        """The policy has changed in life: what was reserved under the old one may still come."""
        self.pins: frozenset[VariantId] = frozenset()
        self.open: dict[RequestId, Ask] = {}
        self.asks: dict[RequestId, Ask] = {}
        self.group_since: dict[VariantId, Seconds] = {}
        self.told_off: set[VariantId] = set()
        """Unloaded while it was waited for: its next resident may have to leave at once."""
        self.processes: dict[ResidentId, Process] = {}
        self.used_ids: set[ResidentId] = set()
        self.wishes: dict[VariantId, Wish] = {}
        """Who may be started though no client waits for it."""
        self.replaced = 0
        """Wishes fulfilled since something changed outside."""
        self.last_short: Seconds = -FOREVER
        self.asked_sizes: set[tuple[VariantId, Placement]] = set()
        self.sized: set[tuple[VariantId, Placement]] = set()
        self.unsizable: dict[VariantId, tuple[int, Seconds]] = {}
        """How often in a row llama.cpp could not say what it takes, and when the last time."""
        self.guessed: set[VariantId] = set()
        """It could not at some time: what was reserved then rests on a guess, whatever it has said since."""
        self.is_measuring = self.is_outdated = False
        self.is_stopping = False
        self.story: deque[tuple[Seconds, object]] = deque(maxlen=60)

    def broken(self, what: str) -> Broken:
        return Broken(what, (f"{at:.3f} {line_of(line)}" for at, line in self.story))

    def waiting(self, variant: VariantId | None = None) -> list[Ask]:
        return [a for a in self.open.values() if a.is_waiting and (variant is None or a.event.variant.id == variant)]

    def of(self, variant: VariantId) -> list[Process]:
        return [p for p in self.processes.values() if p.variant == variant and not p.is_gone]

    def staying(self) -> list[Process]:
        return [p for p in self.processes.values() if p.stays and not p.is_gone]

    def is_idle(self, p: Process) -> bool:
        return p.is_ready and p.stays and not p.leases and not self.waiting(p.variant)

    def _likes(self, ask: Ask, placement: Placement, *, surely: bool) -> bool:
        """Whether it is placed as the request wants; or else, where in doubt, as could be for its wish."""
        if ask.layers is None or not self.memory.cards or self.memory.stale:
            return not surely or not self.memory.stale
        return placement.gpu_layers == ask.layers or (not surely and not placement.devices)

    def _free_server(self, ask: Ask) -> Process | None:
        for p in self.of(ask.event.variant.id):
            serves = p.is_ready and p.stays and not p.may_drain and self._likes(ask, p.placement, surely=True)
            if serves and (ask.event.slotless or len(p.leases) < p.slots):
                return p
        return None

    def _may_be_sized(self, variant: VariantId) -> bool:
        failures, last = self.unsizable.get(variant, (0, -FOREVER))
        return self.now >= last + min(3600.0, SIZE_AGAIN * 2.0 ** (min(failures, 20) - 1))

    # --- leaving

    def _may_stop(self, p: Process) -> bool:
        if self.is_stopping or p.must_leave or (p.may_be_guess and self.may_stop_guess(p)):
            return True
        if not p.is_ready:
            stalled = self.now - p.progress_at >= self.policy.load_timeout - NEARLY
            if stalled:
                self._load_failed(p.variant, Death.CRASHED)
            return stalled
        if p.may_drain:
            return True
        if p.variant in self.pins:
            return False
        has_expired = p.used_at + p.keep_least <= self.now + NEARLY and not self.waiting(p.variant)
        if has_expired or self._is_pressed(p) or self._may_be_promoted(p) or self._may_be_outgrown(p):
            return True
        return self._helps(p)

    @abstractmethod
    def may_stop_guess(self, p: Process) -> bool:
        """Whether one that nobody has asked for has a reason to go."""

    def _load_failed(self, variant: VariantId, death: Death) -> None:
        for ask in self.waiting(variant):
            ask.failures += 99 if death is Death.UNUSABLE else 1

    def _helps(self, p: Process) -> bool:
        """Whether a client waits for another model that can run once the evictable are gone, and not before."""
        others = [a for a in self.waiting() if a.event.variant.id != p.variant]
        if not self.memory.is_exact or any(not o.is_alive and not o.is_dead for o in self.processes.values()):
            return bool(others)  # also when one has died unnoticed
        pinned = [o for o in self.staying() if o.variant in self.pins]
        can_run = [a for a in others if self.memory.could_run(a.event.variant.id, a.layers, pinned, surely=False)]
        variants = {a.event.variant.id for a in others}
        if self.policy.overflow is Overflow.OFFLOAD and not self.policy.max_loaded and len(variants) == 1:
            held = [o for o in self.processes.values() if not o.is_gone]
            return any(not self.memory.could_run(a.event.variant.id, a.layers, held, surely=True) for a in can_run)
        return bool(can_run)

    def _is_pressed(self, p: Process) -> bool:
        """Whether it is the first to leave a device that is short by the last measurement."""
        staying = self.staying()
        idle = [o for o in staying if self.is_idle(o) and o.variant not in self.pins]
        idle = [o for o in idle if (not o.is_guess, o.used_at) < (not p.is_guess, p.used_at)]
        return p.variant not in self.pins and any(
            self.memory.is_short(d, staying, surely=False) and not any(o.need.get(d) for o in idle)
            for d, size in p.need.items()
            if size
        )

    def _may_be_promoted(self, p: Process) -> bool:
        is_calm = self.now >= self.last_short + CALM - NEARLY and not self.waiting()
        return is_calm and p.was_used and p.placement.share < 1 and p.variant not in self.pins | self._fixed()

    def _may_be_outgrown(self, p: Process) -> bool:
        """In part, used, and asked for again: a price may say that all of it is wanted on the card."""
        is_priced = self.policy.ranking is Ranking.COST and self.policy.overflow is Overflow.AUTO
        in_part = p.was_used and p.placement.share < 1 and p.variant not in self.pins | self._fixed()
        return is_priced and in_part and bool(self.waiting(p.variant))

    def _fixed(self) -> set[VariantId]:
        return {v for v, m in self.memory.models.items() if m.variant.gpu_layers is not None}

    def _was_fixed(self, variant: VariantId) -> bool:
        """Whether it may be placed as somebody wished."""
        return any(a.layers is not None for a in self.asks.values() if a.event.variant.id == variant)

    # --- marks

    def _mark_drains(self) -> None:
        waiting = self.waiting()
        for p in self.processes.values():
            if p.is_gone or not p.is_ready or p.may_drain:
                continue
            p.may_drain |= self._may_be_outgrown(p)
            for ask in waiting:
                since, variant = ask.event.at, ask.event.variant.id
                if variant == p.variant:
                    p.may_drain |= not self._likes(ask, p.placement, surely=True)
                elif p.variant not in self.pins:
                    is_overdue = self.now - since >= self.policy.max_wait - NEARLY
                    p.may_drain |= is_overdue and self.now - p.ready_at >= self.policy.min_residency - NEARLY

    def _mark_pressed(self) -> None:
        """Where the idle were not enough, those at work may be told to leave."""
        staying = self.staying()
        for device in (*self.memory.cards, HOST):
            there = [p for p in staying if p.need.get(device) and p.variant not in self.pins]
            if self.memory.is_short(device, staying, surely=False) and not any(self.is_idle(p) for p in there):
                for p in there:
                    p.may_drain |= p.is_ready

    def check_rest(self) -> None:
        """Whatever was to be said of memory has been said: is everybody where they should be?"""
        ready = [p for p in self.staying() if p.is_ready and p.variant not in self.pins]
        for device in self.memory.cards:
            there = [p for p in ready if p.need.get(device)]
            if there and self.memory.is_short(device, self.staying(), surely=True):
                raise self.broken(f"at rest {device} is short, and {there[0].variant} stays there")
        for p in ready:
            others = [o for o in self.processes.values() if o is not p and not o.is_guess]
            is_partial = p.placement.share < 1 and not self._was_fixed(p.variant)
            could = is_partial and self._may_be_promoted(p) and p.variant not in self.guessed
            if could and self.memory.is_exact and self.memory.could_be_whole(p, others):
                raise self.broken(f"at rest {p.variant} is placed in part though all of it would fit")
