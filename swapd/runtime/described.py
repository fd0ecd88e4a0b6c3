"""What a replay needs to know of a machine and its models, as far as the core has learnt it.

Pure questions over the state for `recorder`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from swapd.core import costs, footprint, placement
from swapd.core.messages import Policy, RequestArrived
from swapd.core.model import HOST, DeviceKind, Placement, Variant
from swapd.core.state import State
from swapd.trace import VECTORS, TraceModel
from swapd.units import Bytes, Seconds

DECODE: Final = 30.0
"""Tokens a second of a model that has not answered yet."""
NEWS: Final = 0.2
"""A speed that has changed by less is not told again."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What residents may hold, and how it is decided who does. No cards: the host stands in."""

    card: Bytes
    host: Bytes
    cards: int
    policy: Policy


def name(variant: Variant) -> str:
    """What makes vectors is loaded beside what writes, though people have one name for both."""
    return variant.name + (VECTORS if variant.pooling else "")


def model(
    state: State, asked: RequestArrived, loads: tuple[Seconds, Seconds] | None, reading: float | None
) -> TraceModel:
    """The variant asked for. `loads`: its shortest and longest; `reading`: tokens a second of answers that wrote
    nothing, of which the core does not learn; None: there were none.
    """
    variant = asked.variant
    whole = placement.wholes(state, variant, None)[0]
    known = costs.load(state, variant)
    least, most = loads or (known, known)
    return TraceModel(
        name=name(variant),
        size=_size(state, variant, whole),
        layers=variant.shape.offloadable,
        slots=variant.slots,
        load_s=round(least, 3),
        cold_load_s=round(most, 3),
        prefill=_speed(costs.past(state, variant).prefill or reading or costs.PREFILL),
        decode=_speed(_decode(state, variant, whole)),
        pin=variant.id in state.pins,
        keep_alive=asked.owner_keep_alive,
        context=variant.context,
    )


def machine(state: State) -> Machine:
    """What residents may hold: of the cards together, and of the host, which stands in where there is no card."""
    budgets = state.budgets()
    cards = [device for device in state.devices if device.kind is DeviceKind.GPU and not device.is_stale]
    host = max(0, budgets.get(HOST, 0))
    card = sum(max(0, budgets[device.id]) for device in cards) if cards else host
    return Machine(card, host, len(cards), state.policy)


def _size(state: State, variant: Variant, whole: Placement) -> Bytes:
    """On the cards, all of it there. One that its owner keeps on the CPU takes no room from the others."""
    need = footprint.predict(state, variant, whole)
    devices = whole.devices if state.has_gpu() else (HOST,)
    return max(1, sum(need[device] for device in devices))


def _decode(state: State, variant: Variant, whole: Placement) -> float:
    """Tokens a second, written by one sequence with all of it where it belongs."""
    token = costs.past(state, variant).token
    if whole.gpu_layers in token:
        return 1.0 / token[whole.gpu_layers]
    for gpu_layers, seconds in token.items():
        return costs.slowdown(state, variant, replace(whole, gpu_layers=gpu_layers)) / seconds
    return DECODE


def _speed(tokens: float) -> float:
    return round(min(1e9, max(0.01, tokens)), 3)


def is_news(told: TraceModel | None, now: TraceModel) -> bool:
    if told is None:
        return True
    pairs = ((told.load_s, now.load_s), (told.prefill, now.prefill), (told.decode, now.decode), (told.size, now.size))
    same = replace(
        now, load_s=told.load_s, cold_load_s=told.cold_load_s, prefill=told.prefill, decode=told.decode, size=told.size
    )
    return same != told or any(abs(new - old) > NEWS * max(new, old) for old, new in pairs)
