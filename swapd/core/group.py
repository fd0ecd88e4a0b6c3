"""Those who wait for one variant, in order of arrival: a value that stays cheap with ten thousand in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from swapd.core.model import RequestId, Variant
from swapd.core.values import replace
from swapd.units import Seconds


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request accepted and not yet granted. `tries`: loads that failed under it, `ooms` of them for memory."""

    request: RequestId
    variant: Variant
    since: Seconds
    keep_alive: Seconds | None
    owner_keep_alive: Seconds | None
    priority: int
    slotless: bool
    gpu_layers: int | None
    tries: int = 0
    ooms: int = 0
    may_evict: bool = True
    """False: our own wish, to place a resident better or smaller; it takes only what is free."""


@dataclass(frozen=True, slots=True)
class Group:
    """Never empty. The counts are kept so that no question has to look at every member."""

    variant: Variant
    since: Seconds
    """When the oldest came."""
    members: Mapping[RequestId, Waiting]
    priorities: Mapping[int, int]
    """How many of each priority."""
    particular: int
    """How many are slotless or name their layers: these are not served by just any free slot."""
    ooms: int
    """Most loads that failed for memory under one of them."""
    own: int
    """How many are our own wishes."""
    priority: int
    """The highest."""

    @staticmethod
    def of(first: Waiting) -> Group:
        return Group(first.variant, first.since, {}, {}, 0, 0, 0, first.priority).with_(first)

    def with_(self, waiting: Waiting) -> Group:
        """With one more at the end."""
        priorities = {**self.priorities, waiting.priority: self.priorities.get(waiting.priority, 0) + 1}
        return Group(
            self.variant,
            self.since,
            {**self.members, waiting.request: waiting},
            priorities,
            self.particular + _is_particular(waiting),
            max(self.ooms, waiting.ooms),
            self.own + (not waiting.may_evict),
            max(self.priority, waiting.priority),
        )

    def without(self, request: RequestId) -> Group | None:
        """None: nobody is left."""
        waiting = self.members[request]
        members = dict(self.members)
        del members[request]
        if not members:
            return None
        left = self.priorities[waiting.priority] - 1
        others = {p: n for p, n in self.priorities.items() if p != waiting.priority}
        ooms = self.ooms
        if waiting.ooms and waiting.ooms == ooms:
            ooms = max(w.ooms for w in members.values())
        priorities = {**others, waiting.priority: left} if left else others
        return Group(
            self.variant,
            next(iter(members.values())).since,
            members,
            priorities,
            self.particular - _is_particular(waiting),
            ooms,
            self.own - (not waiting.may_evict),
            max(priorities),
        )

    def after_failure(self, *, short_of_memory: bool) -> Group:
        """One more load has failed under all of them."""
        members = {
            request: _failed(waiting, short_of_memory=short_of_memory) for request, waiting in self.members.items()
        }
        return replace(self, members=members, ooms=max(w.ooms for w in members.values()))

    def __iter__(self) -> Iterator[Waiting]:
        return iter(self.members.values())

    def __len__(self) -> int:
        return len(self.members)

    def position(self, request: RequestId) -> int:
        """How many came before it."""
        return next(number for number, member in enumerate(self.members) if member == request)

    @property
    def oldest(self) -> Waiting:
        return next(iter(self.members.values()))

    @property
    def clients(self) -> int:
        return len(self.members) - self.own


def _is_particular(waiting: Waiting) -> bool:
    return waiting.slotless or waiting.gpu_layers is not None


def _failed(waiting: Waiting, *, short_of_memory: bool) -> Waiting:
    return replace(waiting, tries=waiting.tries + 1, ooms=waiting.ooms + short_of_memory)
