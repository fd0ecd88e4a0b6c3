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
4. Who leaves is idle, and leaves for one who waits, together with no more than it takes, the last of them needed. A
   model that fits as it is is loaded at once, or after a load or an unloading that is under way.
5. Nobody waits while the card does nothing: no call, no load, no unloading.

What such a schedule may choose is chosen with knowledge of all that comes, so no policy that keeps these rules does
better; resident-first keeps them. Who breaks them may: by letting a call wait beside an idle card for one that is still
to come, by loading in parts, by reading files ahead.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from enum import Enum
from itertools import product
from typing import Final, TypeAlias

from swapd.sim.lab.card import BATCHED, UNLOAD
from swapd.sim.lab.moments import Moment, Resident
from swapd.sim.lab.orders import Order
from swapd.sim.lab.quiet import UNHEARD, enough, fits_in_host, quiet_arrivals, states
from swapd.trace import Trace
from swapd.units import Bytes, Seconds

MOST: Final = 400_000
"""Moments that are looked at in all: some seconds."""
MARGIN: Final[Seconds] = 1e-6
"""What is less below the limit is not below it: sums of the same times in another order differ by as much."""
_QUIET: Final = 6
"""So many quiet moments before it are tried."""
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
    """A schedule of the class in which everybody waits less than `limit`, if there is one.

    Where nothing is found it may be proved from what is near the moment at which all ways ended: from whatever could be
    there before it, when it is quiet for certain, none goes on.
    """
    failed: set[_Quiet] = set()
    latest = 0.0
    for share in _CLOSE_AFTER:
        search = _Search(trace, limit, share, failed)
        found = search.run([Moment(trace)], math.inf, most // len(_CLOSE_AFTER))
        if found is not Answer.UNKNOWN:
            return found
        latest = max(latest, search.latest)
    before = [number for number in quiet_arrivals(trace, limit) if trace.calls[number].at <= latest]
    for number in before[: -_QUIET - 1 : -1]:
        starts = states(trace, number, limit)
        search = _Search(trace, limit, 1.0, failed)
        if starts is not None and search.run(starts, latest + limit, most // _QUIET) is Answer.NOBODY:
            return Answer.NOBODY
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
        self._sizes = {model.name: model.size for model in trace.models}
        self._due = [call.at + limit - MARGIN for call in trace.calls]
        """Who has not been served then waits too long."""
        self._last = {(call.model, call.session): number for number, call in enumerate(trace.calls)}
        self._fits_in_host = fits_in_host(trace)
        self._failed = failed
        self.latest: Seconds = 0.0
        """No way went on for longer."""

    def run(self, starts: Sequence[Moment], until: Seconds, most: int) -> tuple[Order, ...] | Answer:
        """A way from one of these to this moment or to the end of the day: the orders on it."""
        ways, passed = [list(starts)], list[list[_Quiet]]([[]])
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
                if not moment.advance() or moment.now > until:
                    return moment.orders()
                self.latest = max(self.latest, moment.now)
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
            (name, one.has_served, self._kept(name, one, moment.come)) for name, one in sorted(moment.residents.items())
        )
        return moment.come, residents, tuple(sorted(moment.cached)) if self._fits_in_host else moment.cached

    def _kept(self, name: str, resident: Resident, come: int) -> tuple[str, ...]:
        """As far as it matters: who is not heard of again only makes others older."""
        kept = [session if self._last.get((name, session), -1) >= come else UNHEARD for session in resident.kept]
        oldest = next((place for place, session in enumerate(kept) if session != UNHEARD), len(kept))
        return tuple(kept[oldest:])

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
                    other
                    for other, one in sorted(moment.residents.items())
                    if one.is_ready and not one.active and (one.has_served or other not in moment.waiting)
                ]
                for victims in enough(idle, self._sizes, lack - coming):
                    after = moment.copy()
                    for victim in victims:
                        after.stop(victim)
                    yield from self._loaded(after, tried)
        if not (moment.waiting and moment.is_idle) and not self._is_held_up(moment, free):
            yield moment

    def _is_held_up(self, moment: Moment, free: Bytes) -> bool:
        """Somebody's model fits and is not loaded, with nobody else loading or leaving."""
        if moment.leaving or not all(resident.is_ready for resident in moment.residents.values()):
            return False
        return any(self._models[name].size <= free for name in self._seekers(moment))

    def _seekers(self, moment: Moment) -> list[str]:
        """Models that somebody waits for and that are not there, in the order in which they were asked for."""
        return sorted(moment.waiting.keys() - moment.residents.keys(), key=lambda name: moment.waiting[name][0])

    def _wanted(self, moment: Moment, seekers: Sequence[str]) -> set[str]:
        """Whose room somebody waits for, who needs all of it besides that of others."""
        wanted: set[str] = set()
        there = sorted(moment.residents)
        for name in seekers:
            lack = self._sizes[name] - moment.free
            if lack > sum(self._sizes[other] for other in there):
                lack -= moment.room_coming
            for victims in enough(there, self._sizes, lack) if lack > 0 else ():
                room = [self._sizes[victim] for victim in victims]
                if sum(room) - min(room) < lack:
                    wanted.update(victims)
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
