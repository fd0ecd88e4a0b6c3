"""The document of POST /swapd/plan: what of these models fits where, on this machine or on one with other cards.

A view over one state of the engine, made by `gateway.py` in a thread; asks the core and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from swapd.core import combine, footprint, placement
from swapd.core.arithmetic import arithmetic
from swapd.core.combine import Combination, Placed
from swapd.core.model import HOST, Device, DeviceId, DeviceKind, Footprint, Placement, Variant, VariantId
from swapd.core.state import State
from swapd.units import Bytes, MiB, Tokens, format_bytes

MADE_UP: Final = "made up"
"""The source of devices that nobody has measured."""
STEP: Final[Tokens] = 1024
"""Of the largest context that is told."""
WITH_CONTEXT: Final = 12
"""Of so many sets that could not be larger it is told: each takes some milliseconds to find."""
CONTEXT: Final[Bytes] = 400 * MiB
"""What a process takes on a card besides its model, where no card has shown it yet: about a CUDA context."""


@dataclass(frozen=True, slots=True)
class Question:
    """`models` as the owner configured them, named as they were asked for; `cards` None: this machine's.

    `context` (per slot) and `slots`, where given, count instead of what is configured.
    """

    models: tuple[Variant, ...]
    cards: tuple[Bytes, ...] | None = None
    context: Tokens | None = None
    slots: int | None = None

    def variants(self) -> tuple[Variant, ...]:
        return tuple(self._adjusted(model) for model in self.models)

    def with_most(self, most: Tokens, models: Iterable[Variant]) -> tuple[Variant, ...]:
        """These with so much context each, or as much as they were trained for; what makes vectors as it is."""
        return tuple(
            self._adjusted(model) if model.pooling else self._adjusted(model, min(most, longest(model)))
            for model in models
        )

    def _adjusted(self, model: Variant, context: Tokens | None = None) -> Variant:
        context = context or self.context or model.context
        slots = self.slots or model.slots
        if (context, slots) == (model.context, model.slots):
            return model
        return replace(model, id=VariantId(f"{model.id}?{slots}x{context}"), context=context, slots=slots)


def longest(model: Variant) -> Tokens:
    return model.shape.trained_context or model.context


def document(state: State, question: Question) -> dict[str, object]:
    """Sizes in bytes, by device. The models stand in the order asked; each is placed where all of them find a place,
    or, where they do not, in its turn into what the ones before have left.
    """
    variants = question.variants()
    seen = frozenset() if question.cards is not None else frozenset({*state.lessons, *state.sizes})
    machine = _stage(state, question, question.models, variants)
    placed = combine.together(machine, variants)
    rows = placed or combine.one_after_another(machine, variants)
    room = machine.room()
    shown = {device.id: device for device in (state if question.cards is None else machine).devices}
    known = _with_known(state, zip(question.models, variants, strict=True))
    leave = () if question.cards is not None else combine.leaving(known, variants)
    return {
        "devices": [_device(machine, shown[device.id], room) for device in machine.devices],
        "models": [_model(machine, variant, row, seen) for variant, row in zip(variants, rows, strict=True)],
        "together": placed is not None,
        "context": _most_context(state, question, question.models),
        "bytes": _bytes(_sum(machine, variants, placed)),
        "max_loaded": state.policy.max_loaded,
        "leave": [{"name": resident.variant.name, "reason": reason} for resident, reason in leave],
        "combinations": _combinations(state, question, machine, variants),
    }


def _stage(state: State, question: Question, models: Iterable[Variant], variants: Sequence[Variant]) -> State:
    """The machine that is asked about, with what is known of the models retold for the variants of them."""
    known = _with_known(state, zip(models, variants, strict=True))
    return combine.emptied(known, variants) if question.cards is None else _made_up(known, question.cards)


def _most_context(state: State, question: Question, models: Sequence[Variant]) -> Tokens | None:
    """The most per slot with which all of them would fit wholly beside each other; None: not even the least would."""

    def fits(number: int) -> bool:
        variants = question.with_most(number * STEP, models)
        return combine.together(_stage(state, question, models, variants), variants) is not None

    low, high = 0, -(-max(longest(model) for model in models) // STEP)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return min(low * STEP, max(longest(model) for model in models)) or None


def _device(machine: State, device: Device, room: Mapping[DeviceId, Bytes]) -> dict[str, object]:
    return {
        "id": device.id,
        "name": device.name,
        "kind": str(device.kind),
        "total": device.total,
        "reserve": machine.reserve(device),
        "limit": machine.limit(device),
        "free": device.free,
        "room": max(0, room[device.id]),
    }


def _model(
    machine: State, variant: Variant, placed: Placed | None, seen: frozenset[tuple[VariantId, Placement]]
) -> dict[str, object]:
    """Of a model that has no place: what it would take if it had. `seen`: of what sizes are more than estimates."""
    place = _first_choice(machine, variant).placement if placed is None else placed.placement
    need = footprint.predict(machine, variant, place) if placed is None else placed.need
    return {
        "name": variant.name,
        "placement": "none" if placed is None else str(place),
        "gpu_layers": 0 if placed is None else place.gpu_layers,
        "layers": place.layers,
        "micro_batch": place.micro_batch,
        "experts_on_cpu": place.experts_on_cpu,
        "devices": [] if placed is None else list(place.devices),
        "context": variant.context,
        "slots": variant.slots,
        "bytes": _bytes(need),
        "exact": (variant.id, place) in seen,
        "fits": _fits(placed),
    }


def _fits(placed: Placed | None) -> str:
    if placed is None:
        return "no"
    place = placed.placement
    if not place.devices:
        return "cpu"
    return "whole" if place.share >= 1 and place.micro_batch >= placement.micro_batches(placed.variant)[0] else "part"


def _combinations(
    state: State, question: Question, machine: State, variants: Sequence[Variant]
) -> list[dict[str, object]]:
    """Of two models and more: those that fit and could not be larger first, then by size."""
    models = dict(zip(variants, question.models, strict=True))
    if len(variants) < 2:
        return []

    def order(combination: Combination) -> tuple[bool, bool, int]:
        return not combination.is_maximal, combination.placed is None, -len(combination.variants)

    sets = sorted(combine.subsets(machine, variants), key=order)
    return [
        {
            "models": [variant.name for variant in found.variants],
            "bytes": _bytes(_sum(machine, found.variants, found.placed)),
            "fits": found.placed is not None,
            "maximal": found.is_maximal,
            "context": (
                _most_context(state, question, [models[variant] for variant in found.variants])
                if found.is_maximal and number < WITH_CONTEXT
                else None
            ),
        }
        for number, found in enumerate(sets)
    ]


def _sum(machine: State, variants: Iterable[Variant], placed: Iterable[Placed] | None) -> Footprint:
    """What they take as they are placed; if they are not, what each would take if it had the machine to itself."""
    return Footprint.total(p.need for p in placed or (_first_choice(machine, variant) for variant in variants))


def _first_choice(machine: State, variant: Variant) -> Placed:
    place = placement.wholes(machine, variant, None)[0]
    return Placed(variant, place, footprint.predict(machine, variant, place))


def _bytes(need: Footprint) -> dict[str, Bytes]:
    return {str(device): size for device, size in need.parts}


# --- what is known, retold for variants and cards that nobody has tried


def _with_known(state: State, pairs: Iterable[tuple[Variant, Variant]]) -> State:
    """What is known of a model goes for the same one with another context too, shifted by the arithmetic."""
    changed = {model.id: (model, variant) for model, variant in pairs if model.id != variant.id}

    def retold(
        known: Mapping[tuple[VariantId, Placement], Footprint],
    ) -> dict[tuple[VariantId, Placement], Footprint]:
        more: dict[tuple[VariantId, Placement], Footprint] = {}
        for (name, place), size in known.items():
            if name in changed:
                model, variant = changed[name]
                was, will = arithmetic(model, place), arithmetic(variant, place)
                more[variant.id, place] = Footprint.of({d: size[d] + will[d] - was[d] for d in {*size, *was, *will}})
        return {**known, **more}

    return replace(state, sizes=retold(state.sizes), lessons=retold(state.lessons))


def _made_up(state: State, cards: Sequence[Bytes]) -> State:
    """A machine with these empty cards and this one's host memory, where what is known of one card goes for each."""
    gpus = tuple(
        Device(DeviceId(f"gpu:{n}"), f"{format_bytes(total)} card", DeviceKind.GPU, MADE_UP, total, total)
        for n, total in enumerate(cards)
    )
    hosts = tuple(replace(d, free=state.obtainable(d), held=()) for d in state.devices if d.id == HOST)
    seen = [size for device, size in state.overheads.items() if device != HOST]
    context = max(seen, default=CONTEXT)
    return State(
        policy=state.policy,
        devices=(*gpus, *hosts),
        sizes=dict(_elsewhere(state.sizes, gpus)),
        lessons=dict(_elsewhere(state.lessons, gpus)),
        unsizable=state.unsizable,
        overheads={gpu.id: context for gpu in gpus},
    )


def _elsewhere(
    known: Mapping[tuple[VariantId, Placement], Footprint], gpus: Sequence[Device]
) -> Iterator[tuple[tuple[VariantId, Placement], Footprint]]:
    """What was seen on one card or none, as if it had been seen on each of these."""
    for (variant, place), size in known.items():
        if not place.devices:
            yield (variant, place), size
        elif len(place.devices) == 1:
            (card,) = place.devices
            for gpu in gpus:
                moved = {gpu.id if device == card else device: held for device, held in size.parts}
                yield (variant, replace(place, devices=(gpu.id,))), Footprint.of(moved)
