"""Where a variant could be put: exact placements that fit a given room. Reads the state, decides nothing.

The order is fixed: all of it on one card, on several cards, then in part: a smaller micro-batch, the experts
of a mixture on the CPU, fewer layers; at last the CPU alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from swapd.core import footprint
from swapd.core.model import HOST, Device, DeviceId, DeviceKind, Placement, Variant
from swapd.core.state import State, remembered
from swapd.core.values import replace
from swapd.units import Bytes, Tokens

MICRO_BATCH: Final[Tokens] = 512
SMALL_BATCH: Final[Tokens] = 128

Room = Mapping[DeviceId, Bytes]


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
    return tuple(Placement(devices, fixed or layers, layers, batch, 0, split) for devices, split in _sets(state))


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
    # All cards first: they mostly hold the most, and of the others it is then quickly said that they hold less.
    sets = sorted(_sets(state), key=lambda cards: -len(cards[0])) if fixed is None else ()
    for devices, split in sets:
        place = _largest_on(predict, room, devices, split, 1 if best is None else best.gpu_layers)
        if place is not None and (best is None or _is_better(place, best)):
            best = place
    return best or next((p for p in alone(variant) if predict(p).fits(room)), None)


def may_hold(state: State, predict: footprint.Predictor, room: Room, least: float) -> bool:
    """Whether `largest` could have so large a share on the GPU: asked first, for it is mostly no, and quickly said.

    Of a mixture of experts it is not said so quickly.
    """
    shape = predict.variant.shape
    layers = shape.offloadable
    if shape.expert_layers:
        return True
    fewest = next(n for n in range(layers + 1) if n / layers >= least or n == layers)
    batch = micro_batches(predict.variant)[-1]
    tries = (Placement(devices, fewest, layers, batch, 0, split) for devices, split in _sets(state))
    return any(predict(place).fits_on(place.devices, room) for place in tries)


def _is_better(one: Placement, other: Placement) -> bool:
    """More of it, or as much on fewer cards."""
    return (one.share, -len(one.devices)) > (other.share, -len(other.devices))


def _largest_on(
    predict: footprint.Predictor, room: Room, devices: tuple[DeviceId, ...], split: tuple[float, ...], least: int
) -> Placement | None:
    """With `least` layers or more: else nothing, or less. Of a mixture of experts fewer layers may be more of it."""
    shape = predict.variant.shape
    layers = shape.offloadable

    def fits(place: Placement) -> bool:
        return predict(place).fits(room)

    def is_on(place: Placement) -> bool:  # as far as the cards go: less there is more on the host
        return predict(place).fits_on(devices, room)

    def place(gpu_layers: int, batch: Tokens, experts: int = 0) -> Placement:
        return Placement(devices, gpu_layers, layers, batch, experts, split)

    def on_host(place: Placement) -> bool:
        return predict(place).fits_on((HOST,), room)

    batches = micro_batches(predict.variant)
    small, experts = batches[-1], shape.expert_layers
    if not experts and not is_on(place(least, small)):
        return None
    for batch in batches:
        if fits(place(layers, batch)):
            return place(layers, batch)
    if experts and is_on(place(layers, small, experts)):
        most = place(layers, small, _first(lambda n: is_on(place(layers, small, n)), 1, experts))
        return most if fits(most) else None
    on, off = 1 if experts else least, layers
    if experts and not is_on(place(on, small, 1)):
        return None
    while off - on > 1:
        middle = (on + off) // 2
        if is_on(place(middle, small, min(experts, middle))):
            on = middle
        elif not on_host(place(middle, small, min(experts, middle))):
            return None  # with fewer layers on the cards there are more here
        else:
            off = middle
    most = place(on, small, min(experts, on))
    return most if fits(most) else None


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


@remembered
def usable(state: State) -> tuple[Device, ...]:
    """Cards, most room first. Where the driver does not answer nothing would ever be seen free."""
    room = state.room()
    cards = [device for device in state.devices if device.kind is DeviceKind.GPU and not device.is_stale]
    return tuple(sorted(cards, key=lambda card: (-room[card.id], card.id)))


@remembered
def _sets(state: State) -> tuple[tuple[tuple[DeviceId, ...], tuple[float, ...]], ...]:
    """Cards to use together, with their shares: each alone, then the two with most room, the three, …"""
    cards = usable(state)
    alone = [((card.id,), ()) for card in cards]
    return (*alone, *(together(state, cards[:number]) for number in range(2, len(cards) + 1)))
