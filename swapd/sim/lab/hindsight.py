"""Whether somebody who knew the whole day could have kept every wait below a limit: a schedule, or that there is none.

Used by the lab's table: where a policy's longest wait is not below somebody else's, it tells whether any could be.
`shorter` looks through all schedules of one class, on the machine that `card` simulates, to the moment:

1. Models are loaded whole, one copy of each; files are read by loads and nothing else. A load is begun for somebody who
   waits, and it is finished; its model does not leave before it has served anybody who waits for it. No call is
   interrupted.
2. Something is decided when something has happened: a call came, ended or left, a load or an unloading was over.
3. Of one model's calls the first that came is served first, and at once where the model is ready and has a slot free.
   Except while somebody waits for a model for which this one, or others, would have to leave: then it may be gated, and
   stays so until the next load begins or nobody waits for a load.
4. Who leaves is idle, and leaves for one who waits, together with no more than it takes, the last of them needed.
5. Nobody waits while the card does nothing: no call, no load, no unloading.

What such a schedule may choose is chosen with knowledge of all that comes, so no policy that keeps these rules does
better, nor one that loads only one model at a time. Who breaks them may: by letting a call wait beside an idle card for
one that is still to come, by loading in parts, by reading files ahead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum
from itertools import combinations, product
from typing import Final, TypeAlias

from swapd.sim.lab.card import BATCHED, UNLOAD
from swapd.sim.lab.moments import Moment, Resident
from swapd.sim.lab.orders import Order
from swapd.trace import Trace
from swapd.units import Bytes, Seconds

MOST: Final = 400_000
"""Moments that are looked at in all: some seconds."""
MARGIN: Final[Seconds] = 1e-6
"""What is less below the limit is not below it: sums of the same times in another order differ by as much."""
_CLOSE_AFTER: Final = (1.0, 0.7, 0.4, 0.0)
"""Shares of the limit. Of gating a model or not, the first is tried first once somebody has waited so long. In all
orders the same is looked through; some come upon a schedule sooner.
"""


class Answer(Enum):
    NOBODY = "nobody"
    """No schedule of the class has every wait below the limit."""
    UNKNOWN = "unknown"
    """None was found, and not everything was looked through."""


def shorter(trace: Trace, limit: Seconds, most: int = MOST) -> tuple[Order, ...] | Answer:
    """A schedule of the class in which everybody waits less than `limit`, if there is one."""
    failed: set[_Quiet] = set()
    for share in _CLOSE_AFTER:
        found = _Search(trace, limit, share, failed).run(most // len(_CLOSE_AFTER))
        if found is not Answer.UNKNOWN:
            return found
    return Answer.UNKNOWN


_Quiet: TypeAlias = tuple[int, tuple[tuple[str, bool, tuple[str, ...]], ...], tuple[tuple[str, Bytes], ...]]
"""All that matters later when nobody waits and nothing is under way: how many calls have come, who is resident with
which sessions' prompts, what is in page cache.
"""


class _Search:
    """Depth first: one way is gone to the end of the day or until somebody must wait too long; then back to the last
    choice. From a quiet moment from which all ways failed nobody goes again.
    """

    def __init__(self, trace: Trace, limit: Seconds, close_after: float, failed: set[_Quiet]) -> None:
        self._trace, self._close_after = trace, close_after * limit
        self._models = {model.name: model for model in trace.models}
        self._due = [call.at + limit - MARGIN for call in trace.calls]
        """Who has not been served then waits too long."""
        self._last = {(call.model, call.session): number for number, call in enumerate(trace.calls)}
        self._fits_in_host = sum(model.size for model in trace.models) <= trace.host
        self._failed = failed

    def run(self, most: int) -> tuple[Order, ...] | Answer:
        ways, passed = [[Moment(self._trace)]], list[list[_Quiet]]([[]])
        while ways:
            if not ways[-1]:
                ways.pop()
                self._failed.update(passed.pop())
                continue
            moment, seen, further = ways[-1].pop(), list[_Quiet](), list[Moment]()
            while True:
                quiet = self._quiet(moment)
                if quiet is not None:
                    if quiet in self._failed:
                        further = []
                        break
                    seen.append(quiet)
                if not moment.advance():
                    return moment.orders()
                most -= 1
                if most < 0:
                    return Answer.UNKNOWN
                further = self._decided(moment)
                if len(further) != 1:
                    break
                moment = further[0]
            ways.append(further[::-1])
            passed.append(seen)
        return Answer.NOBODY

    def _quiet(self, moment: Moment) -> _Quiet | None:
        if moment.waiting or not moment.is_idle:
            return None
        residents = tuple(
            (name, one.has_served, tuple(s for s in one.kept if self._last[name, s] >= moment.come))
            for name, one in sorted(moment.residents.items())
        )
        return moment.come, residents, tuple(sorted(moment.cached)) if self._fits_in_host else moment.cached

    # --- what can be decided

    def _decided(self, moment: Moment) -> list[Moment]:
        """What may be there after what is decided now, all there is to choose. What cannot go well is left out."""
        if any(self._due[numbers[0]] <= moment.now for numbers in moment.waiting.values()):
            return []
        found = [after for granted in self._granted(moment) for after in self._loaded(granted, frozenset())]
        return [after for after in found if not self._is_lost(after)]

    def _granted(self, moment: Moment) -> Iterator[Moment]:
        """Rule 3."""
        seekers = self._seekers(moment)
        wanted = self._wanted(moment, seekers)
        if not seekers:
            moment.open_gates()
        choices: list[list[tuple[str, int, bool]]] = []
        for name in tuple(moment.waiting):
            resident = moment.residents.get(name)
            if resident is None or not resident.is_ready or (name in wanted and resident.is_gated):
                continue
            count = min(resident.model.slots - len(resident.active), len(moment.waiting[name]))
            if count <= 0:
                continue
            if name in wanted:
                choices.append([(name, fewer, fewer < count) for fewer in range(count, -1, -1)])
            else:
                moment.grant(name, count)
        oldest = min((self._trace.calls[moment.waiting[name][0]].at for name in seekers), default=moment.now)
        if moment.now - oldest >= self._close_after:
            choices = [each[::-1] for each in choices]
        for chosen in product(*choices):
            after = moment.copy()
            for name, count, is_gated in chosen:
                after.residents[name].is_gated = is_gated
                after.grant(name, count)
            yield after

    def _loaded(self, moment: Moment, tried: frozenset[str]) -> Iterator[Moment]:
        """Rules 4 and 5: one seeker after the other is helped or not, those who came first first."""
        free, coming = moment.free, moment.room_coming
        for name in self._seekers(moment):
            if name in tried:
                continue
            tried |= {name}
            lack = self._models[name].size - free
            if lack <= 0:
                after = moment.copy()
                after.load(self._models[name])
                yield from self._loaded(after, tried)
            elif lack > coming:
                idle = [
                    one
                    for name, one in sorted(moment.residents.items())
                    if one.is_ready and not one.active and (one.has_served or name not in moment.waiting)
                ]
                for victims in _enough(idle, lack - coming):
                    after = moment.copy()
                    for victim in victims:
                        after.stop(victim.model.name)
                    yield from self._loaded(after, tried)
        if not (moment.waiting and moment.is_idle):
            yield moment

    def _seekers(self, moment: Moment) -> list[str]:
        """Models that somebody waits for and that are not there, in the order in which they were asked for."""
        return sorted(moment.waiting.keys() - moment.residents.keys(), key=lambda name: moment.waiting[name][0])

    def _wanted(self, moment: Moment, seekers: Sequence[str]) -> set[str]:
        """Whose room somebody waits for, who needs all of it besides that of others."""
        wanted: set[str] = set()
        there = [one for _, one in sorted(moment.residents.items())]
        for name in seekers:
            lack = self._models[name].size - moment.free
            if lack > sum(one.model.size for one in there):
                lack -= moment.room_coming
            for victims in _enough(there, lack) if lack > 0 else ():
                sizes = [victim.model.size for victim in victims]
                if sum(sizes) - min(sizes) < lack:
                    wanted.update(victim.model.name for victim in victims)
        return wanted

    # --- what cannot go well

    def _is_lost(self, moment: Moment) -> bool:
        """Somebody who waits for a load must wait too long, even if all that is in the way goes as soon as it can."""
        for name, numbers in moment.waiting.items():
            resident = moment.residents.get(name)
            if resident is not None:
                ready_at = resident.ready_at if not resident.is_ready else moment.now
            else:
                model = self._models[name]
                ready_at = self._room_at(moment, model.size) + moment.load_s(model)
            if ready_at >= self._due[numbers[0]]:
                return True
        return False

    def _room_at(self, moment: Moment, size: Bytes) -> Seconds:
        lack, at = size - moment.free, moment.now
        if lack > 0:
            coming = [*moment.leaving, *((self._gone_at(moment, r), r.model.size) for r in moment.residents.values())]
            for gone_at, room in sorted(coming):
                lack, at = lack - room, gone_at
                if lack <= 0:
                    break
        return at

    def _gone_at(self, moment: Moment, resident: Resident) -> Seconds:
        """At the soonest, with nobody served any more and the card to itself.

        Sequences that run beside each other to their ends take the longest of them, and BATCHED of all the others.
        A call whose client may leave takes nothing.
        """
        left = [one.left for one in resident.active if self._trace.calls[one.call].patience is None]
        takes = (1 - BATCHED) * max(left) + BATCHED * sum(left) if left else 0.0
        return max(moment.now, resident.ready_at) + takes + UNLOAD


def _enough(residents: Sequence[Resident], lack: Bytes) -> Iterator[tuple[Resident, ...]]:
    """Those whose room together is enough, and without one of them would not be."""
    for count in range(1, len(residents) + 1):
        for some in combinations(residents, count):
            sizes = [one.model.size for one in some]
            if sum(sizes) >= lack > sum(sizes) - max(sizes):
                yield some
