"""What a model would take if it were asked for now, beside what loads of it took: GET /swapd/models/{name}/footprint.

A view over one state of the engine, made by `gateway.py`; asks the core and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, assert_never

from swapd.core import footprint, placement, planner
from swapd.core.group import Group, Waiting
from swapd.core.model import Footprint, Placement, RequestId, Variant, VariantId
from swapd.core.resident import Resident
from swapd.core.state import Measurement, State
from swapd.runtime import lending
from swapd.runtime.engine import Engine
from swapd.served import Model
from swapd.units import Bytes

NOBODY: Final = RequestId("foresight")


async def wait_document(engine: Engine, model: Model) -> dict[str, object]:
    """Of a usable model, once this machine's memory has been looked at."""
    await lending.wait_measured(engine)
    assert model.variant is not None
    return document(engine.state, model.variant)


def document(state: State, variant: Variant) -> dict[str, object]:
    """Sizes in bytes, by device.

    `now`: as it is placed (`outcome` "loaded"), or would be if it were asked for now ("loads", "waits"), and who would
    leave for it, or is waited for; "refused": what the nearest miss, or the whole of it, would take. `last`: what its
    last load took, so placed or, where it was never placed so, as it was then; None: never loaded.
    """
    resident = state.staying(variant.id)
    place, now = _ahead(state, variant) if resident is None else _as_it_is(state, resident)
    return {"name": variant.name, "now": now, "last": _last(state, variant, place)}


def _as_it_is(state: State, resident: Resident) -> tuple[Placement, dict[str, object]]:
    variant, place = resident.variant, resident.placement
    return place, _now(state, variant, place, footprint.predict(state, variant, place), "loaded")


def _ahead(state: State, variant: Variant) -> tuple[Placement, dict[str, object]]:
    """What the scheduler would decide with what is known: nothing is sized for a question."""
    guessing = replace(state, unsizable=state.unsizable | {variant.id})
    asker = Waiting(NOBODY, variant, state.now, None, None, 0, slotless=True, gpu_layers=None)
    verdict = planner.decide(guessing, Group.of(asker), None)
    whole = placement.wholes(state, variant, None)[0]
    match verdict:
        case planner.Go(plan) | planner.Wait(planner.Plan() as plan):
            outcome = "loads" if isinstance(verdict, planner.Go) else "waits"
            leaving = [resident.variant.name for resident in plan.leaving]
            return plan.placement, _now(state, variant, plan.placement, plan.need, outcome) | {"leaving": leaving}
        case planner.Never(need):
            return whole, _now(state, variant, whole, need, "refused")
        case planner.NoPlace():
            return whole, _now(state, variant, whole, footprint.predict(state, variant, whole), "refused")
        case planner.Wait() | planner.Size():
            return whole, _now(state, variant, whole, footprint.predict(state, variant, whole), "waits")
        case _:
            assert_never(verdict)


def _now(state: State, variant: Variant, place: Placement, need: Footprint, outcome: str) -> dict[str, object]:
    """`exact`: more than an estimate, because llama.cpp has sized it so placed or a load has shown it."""
    key = (variant.id, place)
    exact = key in state.lessons or key in state.sizes
    return {"outcome": outcome, **_placed(place), "predicted": _bytes(need), "exact": exact, "leaving": []}


def _last(state: State, variant: Variant, place: Placement) -> dict[str, object] | None:
    """A lesson without a measurement beside it was learnt by a swapd that kept no more."""
    learnt = {known: Measurement(None, lesson) for known, lesson in state.lessons.items()}
    found = _latest(state.measurements, variant, place) or _latest(learnt, variant, place)
    if found is None:
        return None
    there, seen = found
    predicted, error = None, None
    if seen.predicted is not None:
        predicted = _bytes(seen.predicted)
        devices = sorted({*seen.predicted, *seen.measured})
        error = {str(device): seen.measured[device] - seen.predicted[device] for device in devices}
    return {**_placed(there), "predicted": predicted, "measured": _bytes(seen.measured), "error": error}


def _latest(
    known: Mapping[tuple[VariantId, Placement], Measurement], variant: Variant, place: Placement
) -> tuple[Placement, Measurement] | None:
    same = known.get((variant.id, place))
    if same is not None:
        return place, same
    mine = [(there, seen) for (name, there), seen in known.items() if name == variant.id]
    return mine[-1] if mine else None


def _placed(place: Placement) -> dict[str, object]:
    return {
        "placement": str(place),
        "gpu_layers": place.gpu_layers,
        "layers": place.layers,
        "micro_batch": place.micro_batch,
        "experts_on_cpu": place.experts_on_cpu,
        "devices": [str(device) for device in place.devices],
    }


def _bytes(need: Footprint) -> dict[str, Bytes]:
    return {str(device): size for device, size in need.parts}
