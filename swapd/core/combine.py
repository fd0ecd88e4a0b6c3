"""What fits beside what: several models put on one machine at once, this one or a made-up one. Pure.

Asked by `runtime/plan.py` for people; no decision rests on it. Placements and sizes are those of the scheduler.
A made-up machine is a State of made-up devices; this one counts as `emptied`: as if all who can leave had left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from swapd.core import eviction, footprint, placement, planner
from swapd.core.group import Group, Waiting
from swapd.core.model import (
    Device,
    DeviceId,
    DeviceKind,
    Footprint,
    Placement,
    RequestId,
    ResidentId,
    Variant,
    VariantId,
)
from swapd.core.resident import Phase, Resident
from swapd.core.state import State
from swapd.core.values import replace
from swapd.units import FOREVER, Bytes, format_bytes

EXACT_MODELS: Final = 6
EXACT_CARDS: Final = 4
"""Up to so many of both, `together` finds an arrangement if there is one."""
TRIES: Final = 2000
"""Beyond them it looks at so many beginnings of one."""
MAX_LISTED: Final = 8
"""Models of which `subsets` are listed."""
NOBODY: Final = VariantId("")


@dataclass(frozen=True, slots=True)
class Placed:
    variant: Variant
    placement: Placement
    need: Footprint


@dataclass(frozen=True, slots=True)
class Combination:
    """`placed` None: they do not all fit wholly beside each other."""

    variants: tuple[Variant, ...]
    placed: tuple[Placed, ...] | None
    is_maximal: bool
    """It fits, and with any other of the models it would not."""


def emptied(state: State, variants: Iterable[Variant]) -> State:
    """This machine as if all had left that can: everybody but the pinned ones who are not asked for."""
    asked = {variant.id for variant in variants}
    room = eviction.ceiling(state, NOBODY)
    back = Footprint.total(r.footprint for r in eviction.pinned_beside(state, NOBODY) if r.variant.id in asked)
    free = {d.id: room[d.id] + back[d.id] + state.configured_reserve(d) for d in state.devices}
    devices = tuple(replace(device, free=free[device.id], held=()) for device in state.devices)
    return replace(state, devices=devices, residents={}, leases={}, waiting={}, yields=())


def together(state: State, variants: Sequence[Variant]) -> tuple[Placed, ...] | None:
    """All of them wholly on the GPUs beside each other (or on the host, where that is where they go); None: no way.

    As they would be loaded in this order, if all find a place so and none is divided over cards; else as they do,
    each undivided if the others let it.
    """
    if _are_too_many(state, len(variants)):
        return None
    in_turn = _wholes_in_turn(state, variants)
    if in_turn is not None and all(len(placed.placement.devices) <= 1 for placed in in_turn):
        return in_turn
    room = state.room()
    options = {v.id: [p for p in _options(state, v) if p.need.fits(room)] for v in variants}
    if not all(options.values()):
        return in_turn
    largest_first = sorted(options.values(), key=lambda ways: -min(_on_cards(state, p.need) for p in ways))
    cards = sum(device.kind is DeviceKind.GPU for device in state.devices)
    is_exact = cards <= 1 or (len(variants) <= EXACT_MODELS and cards <= EXACT_CARDS)
    found = _Search(state, largest_first, None if is_exact else TRIES).arrange(room)
    if found is None:
        return in_turn
    by_variant = {placed.variant.id: placed for placed in found}
    return tuple(by_variant[variant.id] for variant in variants)


def one_after_another(state: State, variants: Sequence[Variant]) -> tuple[Placed | None, ...]:
    """Each in its turn: wholly where it fits in what is left, else in part, else on the CPU; None: not at all."""
    placed: list[Placed | None] = []
    for variant in variants:
        found = None if _are_too_many(state, 1 + sum(p is not None for p in placed)) else _next(state, variant)
        if found is not None:
            state = _less(state, found.need)
        placed.append(found)
    return tuple(placed)


def subsets(state: State, variants: Sequence[Variant]) -> tuple[Combination, ...]:
    """Every set of them, single ones first, up to MAX_LISTED models; of more none: nobody would read it."""
    if len(variants) > MAX_LISTED:
        return ()
    found: dict[frozenset[int], tuple[Placed, ...] | None] = {}
    sets = [members for size in range(1, len(variants) + 1) for members in combinations(range(len(variants)), size)]
    for members in sets:
        smaller = [frozenset(members) - {member} for member in members]
        may_fit = all(found[each] is not None for each in smaller if each)
        found[frozenset(members)] = together(state, [variants[m] for m in members]) if may_fit else None
    fitting = {members for members, placed in found.items() if placed is not None}

    def is_maximal(members: frozenset[int]) -> bool:
        return members in fitting and not any(
            members | {m} in fitting for m in range(len(variants)) if m not in members
        )

    return tuple(
        Combination(tuple(variants[m] for m in members), found[frozenset(members)], is_maximal(frozenset(members)))
        for members in sets
    )


def leaving(state: State, variants: Sequence[Variant]) -> tuple[tuple[Resident, str], ...]:
    """Who would have to leave, and why, if they were asked for in this order and none for another of them."""
    asked = frozenset(variant.id for variant in variants)
    state = replace(
        state, pins=state.pins | asked, unsizable=state.unsizable | asked
    )  # nothing is sized for a question
    gone: list[tuple[Resident, str]] = []
    for variant in variants:
        if state.staying(variant.id) is not None:
            continue
        group = Group.of(Waiting(RequestId("plan"), variant, -FOREVER, None, None, 0, slotless=True, gpu_layers=None))
        verdict = planner.decide(state, group, None)
        if not isinstance(verdict, planner.Go):
            continue
        needs = ", ".join(f"{format_bytes(size)} on {device}" for device, size in verdict.plan.need.parts)
        gone += [(resident, f"for {variant.name}, which needs {needs}") for resident in verdict.plan.leaving]
        place, need, now = verdict.plan.placement, verdict.plan.need, state.now
        new = Resident(state.next_resident, variant, place, Phase.RESERVED, need, 0.0, now, now, now)
        left = {resident.id: replace(resident, phase=Phase.UNLOADING) for resident in verdict.plan.leaving}
        residents = {**state.residents, **left, new.id: new}
        state = replace(state, residents=residents, next_resident=ResidentId(new.id + 1))
    return tuple(gone)


class _Search:
    """Depth first over the models, tightest place first; what has failed once is not tried again."""

    def __init__(self, state: State, options: Sequence[Sequence[Placed]], tries: int | None) -> None:
        self._options, self._tries = options, tries
        self._cards = [device.id for device in state.devices if device.kind is DeviceKind.GPU]
        self._failed: set[tuple[int, tuple[Bytes, ...]]] = set()
        least = [min(_on_cards(state, placed.need) for placed in ways) for ways in options]
        self._least = [sum(least[turn:]) for turn in range(len(least) + 1)]
        """What those from this turn on take on the cards at least."""

    def arrange(self, room: Mapping[DeviceId, Bytes], turn: int = 0) -> list[Placed] | None:
        if turn == len(self._options):
            return []
        here = (turn, tuple(room.values()))
        if here in self._failed or self._least[turn] > sum(max(0, room[card]) for card in self._cards):
            return None
        ways = [placed for placed in self._options[turn] if placed.need.fits(room)]
        ways.sort(key=lambda p: (len(p.placement.devices), sum(room[d] for d in p.placement.devices)))
        for placed in ways:
            if self._tries is not None:
                if not self._tries:
                    return None
                self._tries -= 1
            rest = self.arrange({d: size - placed.need[d] for d, size in room.items()}, turn + 1)
            if rest is not None:
                return [placed, *rest]
        self._failed.add(here)
        return None


def _options(state: State, variant: Variant) -> list[Placed]:
    """Every way to have all of it on the GPUs within its cap: on each card, on each set of cards."""
    places = list(placement.wholes(state, variant, None))
    cards = [device for device in state.devices if device.kind is DeviceKind.GPU]
    if places[0].devices and len(cards) <= EXACT_CARDS:
        for number in range(2, len(cards)):
            for chosen in combinations(cards, number):
                devices, split = placement.together(state, chosen)
                places.append(replace(places[0], devices=devices, split=split))
    cap = state.cap(variant)
    ways = [Placed(variant, place, footprint.predict(state, variant, place)) for place in dict.fromkeys(places)]
    return [placed for placed in ways if placed.need.fits(cap)]


def _wholes_in_turn(state: State, variants: Sequence[Variant]) -> tuple[Placed, ...] | None:
    placed: list[Placed] = []
    for variant in variants:
        found = _whole(state, variant)
        if found is None:
            return None
        state = _less(state, found.need)
        placed.append(found)
    return tuple(placed)


def _whole(state: State, variant: Variant) -> Placed | None:
    room = _room(state, variant)
    for place in placement.wholes(state, variant, None):
        need = footprint.predict(state, variant, place)
        if need.fits(room):
            return Placed(variant, place, need)
    if placement.wanted_layers(variant, None) is not None:
        return None
    by_room = placement.whole_by_room(state, footprint.predictor(state, variant), room)
    return None if by_room is None else Placed(variant, by_room, footprint.predict(state, variant, by_room))


def _next(state: State, variant: Variant) -> Placed | None:
    whole = _whole(state, variant)
    if whole is not None:
        return whole
    fixed = placement.wanted_layers(variant, None) if state.has_gpu() else None
    part = placement.largest(state, variant, _room(state, variant), fixed=fixed)
    return None if part is None else Placed(variant, part, footprint.predict(state, variant, part))


def _room(state: State, variant: Variant) -> dict[DeviceId, Bytes]:
    cap = state.cap(variant)
    return {device: min(size, cap[device]) for device, size in state.room().items()}


def _less(state: State, taken: Footprint) -> State:
    def smaller(device: Device) -> Device:
        """Also where the limit, and not what is free, is what holds."""
        return replace(device, free=state.budget(device) + state.configured_reserve(device) - taken[device.id])

    return replace(state, devices=tuple(smaller(device) for device in state.devices))


def _on_cards(state: State, need: Footprint) -> Bytes:
    return sum(need[device.id] for device in state.devices if device.kind is DeviceKind.GPU)


def _are_too_many(state: State, number: int) -> bool:
    return 0 < state.policy.max_loaded < number
