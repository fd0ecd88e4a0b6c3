"""The last part of a step: what is done before anybody asks, and how it gives way. Used by `scheduler`."""

from __future__ import annotations

from collections.abc import Iterable

from swapd.core import explain, foresee, placement, planner, reading
from swapd.core.facts import Facts
from swapd.core.group import Group, Waiting
from swapd.core.messages import Event, LoadProgressed, Note, RequestArrived, StopWarming, WarmFile
from swapd.core.model import DeviceId, RequestId
from swapd.core.resident import Cause
from swapd.core.values import replace


class Ahead(Facts):
    """One step, with what it does about guesses."""

    def make_way(self, group: Group, verdict: planner.Verdict) -> bool:
        """Who was loaded ahead leaves if the group is helped better without it; True: it has, and all is to be
        decided anew.
        """
        guess = foresee.unused(self.state)
        if guess is None or not foresee.is_in_the_way(guess, verdict):
            return False
        self.retire(guess, Cause.FORESEEN, f"loaded ahead and not used; {group.variant.name} is wanted")
        return True

    def make_way_for_others(self, devices: Iterable[DeviceId]) -> bool:
        """The same for other programs, that are short of memory there."""
        guess = foresee.unused(self.state)
        if guess is None or not any(guess.takes(device) for device in devices):
            return False
        self.retire(guess, Cause.FORESEEN, "loaded ahead and not used; other programs took memory")
        return True

    def look_ahead(self, event: Event) -> None:
        """After everything else: begin what nobody is harmed by, and end what somebody is."""
        if isinstance(event, LoadProgressed):
            return
        guess = foresee.unused(self.state)
        if guess is not None and (not self.state.policy.prefetch or foresee.disturbs(self.state, guess)):
            why = "others are answering" if self.state.policy.prefetch else "prefetch was switched off"
            self.retire(guess, Cause.FORESEEN, f"loaded ahead and not used; {why}")
        if isinstance(event, RequestArrived) and not self.state.is_fresh() and foresee.may_be_loaded(self.state):
            self.measure()
        self._load_ahead()
        self._read_ahead()

    def _load_ahead(self) -> None:
        found = foresee.loadable(self.state)
        if found is None:
            return
        habit, place, need = found
        last = self.state.succession.last
        assert last is not None
        before, chance = self.state.succession.habits[last], self.state.succession.habits[last].chance(habit.variant.id)
        reason = f"expected after {before.variant.name} ({chance:.0%})"
        wish = Waiting(
            RequestId(""),
            habit.variant,
            self.state.now,
            None,
            habit.owner_keep_alive,
            0,
            slotless=True,
            gpu_layers=None,
        )
        layers = placement.wanted_layers(habit.variant, None)
        resident = replace(self.reserve(wish, place, need, layers), expected_after=last)
        self.say(Note(explain.prefetched(resident, reason)))
        tried = self.state.succession.tried | {habit.variant.id}
        self.state = replace(self.state, succession=replace(self.state.succession, tried=tried))
        self.begin(resident, reason)

    def _read_ahead(self) -> None:
        wanted = reading.worth_reading(self.state)
        if self.state.reading is not None:
            if wanted is None or wanted[0].id != self.state.reading:
                self.state = replace(self.state, reading=None)
                self.say(StopWarming())
            return
        if wanted is None:
            return
        variant, size, reason = wanted
        succession = replace(self.state.succession, read=self.state.succession.read | {variant.id})
        self.state = replace(self.state, reading=variant.id, succession=succession)
        self.say(WarmFile(variant, size, reason))
