"""Another context for weights that are loaded: whose worker a newcomer could take over, and whether that fits.

Used by `scheduler`, before a place is looked for. After the configuration has changed a model's context, slots or KV
type, its resident is one that nobody can ask for any more, and holds the very weights that the new one needs.
"""

from __future__ import annotations

from swapd.core import placement
from swapd.core.group import Group
from swapd.core.model import Footprint
from swapd.core.resident import Phase, Resident
from swapd.core.state import State, work_device


def forebear(state: State, group: Group) -> Resident | None:
    """Whose worker the group's variant could inherit: idle, unknown by now, with the same weights placed as wished."""
    if state.known is None or group.particular or group.ooms:
        return None
    wanted = placement.wanted_layers(group.variant, None)
    for resident in state.in_phases([Phase.READY]):
        if (
            resident.variant.id not in state.known
            and resident.wanted_layers == wanted
            and group.variant.has_weights_of(resident.variant)
            and state.is_idle(resident)
        ):
            return resident
    return None


def fits(state: State, old: Resident, need: Footprint, group: Group) -> bool:
    """Whether the need fits in the place of the old one's: what is promised, held and allowed, nobody else leaving."""
    room, held, budgets, cap = state.room(), state.held(), state.budgets(), state.cap(group.variant)
    for device, size in need.parts:
        own = old.takes(device)
        most = min(room.get(device, 0) + own, budgets.get(device, 0) - held[device] + own, cap.get(device, 0))
        if size > most:
            return False
    return True


def is_turn(state: State, old: Resident) -> bool:
    """Loads on one device come one after the other."""
    loading = {d for r in state.in_phases([Phase.LOADING]) for d in work_device(r.placement)}
    return not loading & set(work_device(old.placement))
