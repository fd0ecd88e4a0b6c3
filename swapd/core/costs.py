"""Seconds: what loading, losing, waiting and computing elsewhere would cost, from what was seen before.

Pure questions over the state for `planner`, `eviction` and `queueing`; guesses stand in until something was
measured. A price is the waiting of all requests concerned, in seconds, added up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from swapd.core.group import Group
from swapd.core.model import Placement, ResidentId, Tier, Variant
from swapd.core.past import Past
from swapd.core.resident import Phase, Resident
from swapd.core.state import State, remembered
from swapd.units import GiB, Seconds

START: Final[Seconds] = 0.8
"""Of a worker until it reads the file, as long as nothing was measured."""
RATE: Final = 3 * GiB
"""Bytes a second from the file to the card, until it was measured."""
DISK: Final = 1 * GiB
"""Bytes a second from a disk, until it was measured: between a SATA and an NVMe one."""
UNLOAD: Final[Seconds] = 0.5
"""Until the memory of a worker told to leave is seen free."""
ANSWER: Final[Seconds] = 4.0
"""One answer."""
PREFILL: Final = 1500.0
"""Tokens of a prompt a second."""
CPU_SLOWER: Final = 12.0
"""A token takes so many times longer on the CPU: memory bandwidth of cards and hosts compared."""
BATCHED: Final = 3
"""Answers at a time that cost hardly more than one."""
MOST_BUSY: Final = 0.95
"""Whoever has more work than time is counted as this busy: the queue that grows ends with the horizon."""
HORIZON: Final[Seconds] = 120.0
"""Whether a victim is wanted again counts for so long ahead; after that somebody else may have taken its room."""


def past(state: State, variant: Variant) -> Past:
    return state.pasts.get(variant.id) or Past(asked_at=-math.inf)


def load(state: State, variant: Variant, share: float = 1.0) -> Seconds:
    """From the start of its worker until it answers; the longer, the less of its files is known to be cached."""
    known = past(state, variant)
    full = START + variant.shape.weights / RATE if known.load is None else known.load
    cached = state.cached.get(variant.id)
    if cached is not None and (known.loads or known.load is None):
        warm, cold = by_tier(known, variant)
        full = warm + (1.0 - cached) * max(0.0, cold - warm)
    return full if share >= 1 else min(full, START + share * max(0.0, full - START))


def by_tier(known: Past, variant: Variant) -> tuple[Seconds, Seconds]:
    """A load from the page cache and one from disk; of what was never measured a guess from the other."""
    reading = variant.shape.weights / DISK
    warm, cold = known.loads.get(Tier.WARM, known.loads.get(Tier.HOST)), known.loads.get(Tier.COLD)
    if warm is None:
        guess = START + variant.shape.weights / RATE
        warm = guess if cold is None else min(guess, cold)
    return warm, warm + reading if cold is None else cold


def answer(state: State, variant: Variant) -> Seconds:
    """One answer with all of it on the GPU."""
    known = past(state, variant).answer
    return ANSWER if known is None else known


def rate(state: State, variant: Variant) -> float:
    """Requests a second lately."""
    return past(state, variant).rate(state.now)


def slowdown(state: State, variant: Variant, placement: Placement) -> float:
    """How many times longer a token takes than with all on the GPU: as measured there, else by bandwidth."""
    if placement.share >= 1:
        return 1.0
    known = past(state, variant).token
    whole, here = known.get(placement.layers), known.get(placement.gpu_layers)
    if whole and here and not placement.experts_on_cpu:
        return max(1.0, here / whole)
    return placement.share + (1.0 - placement.share) * CPU_SLOWER


def slower_answers(state: State, variant: Variant, placement: Placement, waiting: int) -> Seconds:
    """What those who wait and those expected lose by a placement in part: their tokens are slower, and where they
    keep it busy they also wait for each other.
    """
    times = slowdown(state, variant, placement)
    if times <= 1:
        return 0.0
    each, often = answer(state, variant), rate(state, variant)
    busy = min(MOST_BUSY, often * each * times / min(variant.slots, BATCHED))
    return (waiting + often * HORIZON) * (times / (1.0 - busy) - 1.0) * each


def rebuild(state: State, resident: Resident) -> Seconds:
    """Computing again what it keeps of its last conversation, where that is not saved."""
    if state.policy.keeps_prompts:
        return 0.0  # reading the file takes what unloading takes, and that is counted
    return resident.kept / (past(state, resident.variant).prefill or PREFILL)


def regret(state: State, resident: Resident) -> Seconds:
    """What an idle resident's leaving costs: being loaded again, if it is wanted again soon."""
    chance = past(state, resident.variant).chance(state.now, HORIZON)
    return chance * (load(state, resident.variant) + UNLOAD + rebuild(state, resident))


@remembered
def regrets(state: State) -> Mapping[ResidentId, Seconds]:
    """Of everybody who is there."""
    return {resident.id: regret(state, resident) for resident in state.residents.values()}


def idle_in(state: State, resident: Resident) -> Seconds:
    """How long one at work will go on having work, if requests come as they did: the rest of a busy period of a
    server with many slots. Never more than the wait that is bounded anyway.
    """
    each = answer(state, resident.variant)
    if resident.phase is not Phase.READY:
        each += load(state, resident.variant, resident.placement.share)
    often = rate(state, resident.variant)
    if often <= 0:
        return each
    busy = min(50.0, often * each)
    return min(state.policy.max_wait, max(each, math.expm1(busy) / often))


@remembered
def ends(state: State) -> Mapping[ResidentId, Seconds]:
    """`idle_in` of everybody who is there."""
    return {resident.id: idle_in(state, resident) for resident in state.residents.values()}


def service(state: State, group: Group) -> Seconds:
    """Until all who wait now have been answered, once it is there."""
    variant = group.variant
    rounds = -(-len(group) // max(1, variant.slots))
    return rounds * answer(state, variant)
