"""Where a variant could be put: exact placements that fit a given room. Reads the state, decides nothing.

The order is fixed: all of it on one card, on several cards, then in part: a smaller micro-batch, the experts
of a mixture on the CPU, fewer layers; at last the CPU alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final, TypeAlias

from swapd.core import footprint
from swapd.core.model import HOST, Device, DeviceId, DeviceKind, Footprint, Placement, Variant
from swapd.core.state import State, remembered_with
from swapd.core.values import replace
from swapd.units import Bytes, Tokens

MICRO_BATCH: Final[Tokens] = 512
SMALL_BATCH: Final[Tokens] = 128
_GUESSES: Final = (True, True, True, *(False,) * 64)
"""How a number of layers is looked for: at first as if all were alike, then by halves."""

Room = Mapping[DeviceId, Bytes]
_Sets: TypeAlias = tuple[tuple[tuple[DeviceId, ...], tuple[float, ...]], ...]
"""Cards to use together, with their shares."""


def micro_batches(variant: Variant) -> tuple[Tokens, ...]:
    """What may be computed at a time, most first. Vectors are made of whole texts: as long as they may be."""
    if variant.projector is not None and variant.projector.sees_whole:
        return (MICRO_BATCH,)
    return (variant.context,) if variant.pooling else (MICRO_BATCH, SMALL_BATCH)


def on_cpu(variant: Variant) -> Placement:
    return Placement((), 0, variant.shape.offloadable, micro_batches(variant)[0])


def alone(variant: Variant) -> tuple[Placement, ...]:
    """The CPU alone, with less and less memory to compute in."""
    return tuple(replace(on_cpu(variant), micro_batch=batch) for batch in micro_batches(variant))


def wanted_layers(variant: Variant, gpu_layers: int | None) -> int | None:
    """What the request, else the owner, fixed; None: as many as fit."""
    wanted = gpu_layers if gpu_layers is not None else variant.gpu_layers
    return None if wanted is None or wanted < 0 else min(wanted, variant.shape.offloadable)


def wholes(state: State, variant: Variant, gpu_layers: int | None) -> tuple[Placement, ...]:
    """All of it on the GPU, or the fixed number of layers: on each card, most room first, then on several.

    Without a card, or with no layers wanted there, the CPU alone. At least one; whether it fits is not asked.
    """
    fixed = wanted_layers(variant, gpu_layers)
    layers, batch = variant.shape.offloadable, micro_batches(variant)[0]
    if fixed and state.has_gpu() and not usable(state):  # it is not met by the CPU because a driver is silent
        cards = [device.id for device in state.devices if device.kind is DeviceKind.GPU]
        return tuple(Placement((card,), fixed, layers, batch) for card in cards)
    if not usable(state) or fixed == 0:
        return (on_cpu(variant),)
    return _on_each(_sets(state), fixed or layers, layers, batch)


@lru_cache(maxsize=256)
def _on_each(sets: _Sets, gpu_layers: int, layers: int, batch: Tokens) -> tuple[Placement, ...]:
    return tuple(Placement(devices, gpu_layers, layers, batch, 0, split) for devices, split in sets)


def largest(
    state: State, variant: Variant, room: Room, *, fixed: int | None = None, predict: footprint.Predictor | None = None
) -> Placement | None:
    """The placement with most on the GPU that fits the room; the CPU alone if nothing else; None: not even that.

    `fixed`: so many layers were asked for. They are met, or nothing is; of none, the CPU alone with what buffers fit.
    """
    if fixed:
        return None
    predict = predict or footprint.predictor(state, variant)
    best: Placement | None = None
    if fixed is None and variant.shape.expert_layers:
        for devices, split in _sets(state):
            place = _largest_mixture(predict, room, devices, split)
            if place is not None and (best is None or place.share > best.share):
                best = place  # of equals the first: fewest cards, most room
    elif fixed is None:
        best = _filled_best(state, predict, room)
    return best or next((p for p in alone(variant) if predict(p).fits(room)), None)


def whole_by_room(state: State, predict: footprint.Predictor, room: Room) -> Placement | None:
    """All of it over several cards whose room differs more than their sizes; None: it does not fit so either."""
    cards = [device.id for device in usable(state)]
    if len(cards) < 2:
        return None
    layers, batch = predict.variant.shape.offloadable, micro_batches(predict.variant)[0]
    if not _may_fit(predict(Placement((cards[0],), layers, layers, batch)), room, cards):
        return None  # mostly, and quickly said
    place = _filled(predict, room, cards, batch)
    return place if place is not None and place.gpu_layers == layers and predict(place).fits(room) else None


def may_hold(state: State, predict: footprint.Predictor, room: Room, least: float) -> bool:
    """Whether `largest` could have so large a share on the GPU: asked first, for it is mostly no, and quickly said.

    Of a mixture of experts it is not said so quickly.
    """
    shape = predict.variant.shape
    layers, cards = shape.offloadable, [device.id for device in usable(state)]
    if shape.expert_layers or not cards:
        return True
    place = Placement((cards[0],), _fewest(layers, least), layers, micro_batches(predict.variant)[-1])
    return _may_fit(predict(place), room, cards)


@lru_cache(maxsize=256)
def _fewest(layers: int, share: float) -> int:
    """Of all layers, that are at least such a share."""
    return next(n for n in range(layers + 1) if n / layers >= share or n == layers)


def _may_fit(on_one: Footprint, room: Room, cards: Sequence[DeviceId]) -> bool:
    """Whether as much as this has together; over several cards it takes more than on one."""
    need = sum(size for device, size in on_one.parts if device != HOST)
    return need <= sum(max(0, room.get(card, 0)) for card in cards)


def _filled_best(state: State, predict: footprint.Predictor, room: Room) -> Placement | None:
    """With the larger micro-batch where all of it fits with that too."""
    cards, layers = [device.id for device in usable(state)], predict.variant.shape.offloadable
    first, small = micro_batches(predict.variant)[0], micro_batches(predict.variant)[-1]
    best = _filled(predict, room, cards, small)
    if best is not None and best.gpu_layers == layers and first != small:
        larger = _filled(predict, room, cards, first)
        if larger is not None and larger.gpu_layers == layers and predict(larger).fits(room):
            return larger
    return best if best is not None and predict(best).fits(room) else None


def _filled(predict: footprint.Predictor, room: Room, cards: Sequence[DeviceId], batch: Tokens) -> Placement | None:
    """The most layers that the cards hold together: on each as many as its room has, on the one with most room first.

    That one comes last: with the output, which may be as large as all else. None: not one layer. The host is not asked.
    """
    layers = predict.variant.shape.offloadable
    found: Placement | None = None
    for card in sorted(cards, key=lambda card: (-room.get(card, 0), card)):
        more = _with_card(predict, room.get(card, 0), found, card, batch)
        # What was sized on one card may have said that it takes less than is known of several.
        if more is None or (found is not None and not predict(more).fits_on(found.devices, room)):
            continue
        found = more
        if found.gpu_layers == layers:
            break
    return found


def _with_card(
    predict: footprint.Predictor, size: Bytes, place: Placement | None, card: DeviceId, batch: Tokens
) -> Placement | None:
    """With as many layers more as so many bytes of another card hold; None: not one."""
    layers = predict.variant.shape.offloadable

    def takes(count: int) -> Bytes:
        return predict(_before(place, card, count, layers, batch))[card]

    on, off = 1, layers - (0 if place is None else place.gpu_layers)
    least = takes(on)
    if least > size:
        return None  # of full cards, and quickly said
    most = takes(off)
    if most <= size:
        return _before(place, card, off, layers, batch)
    # Layers are mostly alike: the first guess is mostly right, and the next one says so.
    for is_guessed in _GUESSES:
        if off - on <= 1:
            break
        guess = on + int((size - least) * (off - on) / (most - least)) if is_guessed else (on + off) // 2
        middle = min(max(guess, on + 1), off - 1)
        taken = takes(middle)
        if taken <= size:
            on, least = middle, taken
        else:
            off, most = middle, taken
    return _before(place, card, on, layers, batch)


def _before(place: Placement | None, card: DeviceId, count: int, layers: int, batch: Tokens) -> Placement:
    """With so many layers more on another card, the ones before those that it has.

    llama.cpp rounds up where a share ends: half a layer less is safe from what floats make of whole numbers.
    """
    if place is None:
        return Placement((card,), count, layers, batch)
    others = (place.split[0] + 0.5, *place.split[1:]) if place.split else (place.gpu_layers + 0.5,)
    split = (count - 0.5, *others)
    return Placement((card, *place.devices), count + place.gpu_layers, layers, batch, 0, split)


def _largest_mixture(
    predict: footprint.Predictor, room: Room, devices: tuple[DeviceId, ...], split: tuple[float, ...]
) -> Placement | None:
    """Of a mixture of experts: those leave the cards first, of as few layers as possible, then whole layers."""
    shape = predict.variant.shape
    layers, experts = shape.offloadable, shape.expert_layers

    def is_on(place: Placement) -> bool:  # as far as the cards go: less there is more on the host
        return predict(place).fits_on(devices, room)

    def place(gpu_layers: int, batch: Tokens, experts: int = 0) -> Placement:
        return Placement(devices, gpu_layers, layers, batch, experts, split)

    batches = micro_batches(predict.variant)
    small = batches[-1]
    most = next((place(layers, batch) for batch in batches if is_on(place(layers, batch))), None)
    if most is None and is_on(place(layers, small, experts)):
        most = place(layers, small, _first(lambda n: is_on(place(layers, small, n)), 1, experts))
    elif most is None and is_on(place(1, small, 1)):
        less = _first(lambda n: is_on(place(layers - n, small, min(experts, layers - n))), 1, layers - 1)
        most = place(layers - less, small, min(experts, layers - less))
    return most if most is not None and predict(most).fits(room) else None


def together(state: State, cards: Iterable[Device]) -> tuple[tuple[DeviceId, ...], tuple[float, ...]]:
    """Several cards in the order that llama.cpp is told, and their shares of a model: as their sizes are to us."""
    sizes = {card.id: max(0, state.limit(card) - state.configured_reserve(card)) for card in cards}
    chosen = tuple(sorted(sizes))
    return chosen, tuple(round(sizes[card] / max(1, sum(sizes.values())), 2) for card in chosen)


def _first(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The least number for which a rising condition holds; it is known to hold for `high`."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


@remembered_with("residents", "devices", "policy", "yields", "now")
def usable(state: State) -> tuple[Device, ...]:
    """Cards, most room first. Where the driver does not answer nothing would ever be seen free."""
    room = state.room()
    cards = [device for device in state.devices if device.kind is DeviceKind.GPU and not device.is_stale]
    return tuple(sorted(cards, key=lambda card: (-room[card.id], card.id)))


@remembered_with("residents", "devices", "policy", "yields", "now")
def _sets(state: State) -> _Sets:
    """Cards to use together, with their shares: each alone, then the two with most room, the three, …"""
    cards = usable(state)
    alone = [((card.id,), ()) for card in cards]
    return (*alone, *(together(state, cards[:number]) for number in range(2, len(cards) + 1)))
