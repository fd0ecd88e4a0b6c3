"""What was decided in a day, order by order, and somebody who does it again on the lab's card.

Made by `hindsight`. The `Follower` knows nothing but its orders: what was found elsewhere is seen on the card itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, assert_never

from swapd.core.messages import Usage
from swapd.sim.lab.card import Mind
from swapd.trace import Call
from swapd.units import Seconds

_SAME: Final = 1e-6
"""Seconds: two sums of the same times differ by less."""


class Deed(Enum):
    LOAD = "load"
    STOP = "stop"
    GRANT = "grant"


@dataclass(frozen=True, slots=True)
class Order:
    """`what`: of a grant the call, else the model."""

    at: Seconds
    deed: Deed
    what: str


class Follower(Mind):
    """Does on the card what was ordered, each as soon as it is time and can be done."""

    def __init__(self, orders: Sequence[Order]) -> None:
        self._orders = list(orders[::-1])
        self._ids: dict[str, int] = {}
        self._count = 0

    def began(self) -> None:
        pass

    def arrived(self, call: Call) -> None:
        self._follow()

    def left(self, call: Call) -> None:
        self._follow()

    def ended(self, call: Call, usage: Usage) -> None:
        self._follow()

    def ready(self, resident: int) -> None:
        self._follow()

    def gone(self, resident: int) -> None:
        self._follow()

    def warmed(self, name: str) -> None:
        pass

    def woken(self) -> None:
        pass

    def wakes_at(self) -> Seconds | None:
        return None

    def _follow(self) -> None:
        while self._orders and self._orders[-1].at <= self.card.now + _SAME and self._done(self._orders[-1]):
            self._orders.pop()

    def _done(self, order: Order) -> bool:
        """False: it cannot be done before something else has happened at this moment."""
        match order.deed:
            case Deed.LOAD:
                if self.card.models[order.what].size > self.card.trace.card - self.card.used:
                    return False
                self._count += 1
                self._ids[order.what] = self._count
                self.card.start(self._count, order.what)
            case Deed.STOP:
                if self.card.residents[self._ids[order.what]].running:
                    return False
                self.card.stop(self._ids[order.what])
            case Deed.GRANT:
                call = self.card.waiting.get(order.what)
                there = None if call is None else self.card.residents[self._ids[call.model]]
                if there is None or not there.is_ready or len(there.running) >= there.model.slots:
                    return False
                self.card.grant(order.what, there.id)
            case _:
                assert_never(order.deed)
        return True
