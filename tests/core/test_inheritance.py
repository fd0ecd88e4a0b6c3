"""A model whose context was changed in the configuration: its weights stay, in the worker that has them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from swapd.core.messages import CatalogChanged, StartWorker
from swapd.core.model import Footprint, ResidentId, Variant, VariantId
from swapd.core.resident import Phase
from swapd.units import GiB
from tests.core.builders import CARD, Desk, stopped, variant

A = replace(variant("a", 4 * GiB), content="the file")
LARGER = replace(A, id=VariantId("a, larger"), context=8 * A.context)
"""The same weights; what the context takes is told by the test."""
OTHER = variant("b", 4 * GiB)


def known(desk: Desk, *variants: Variant) -> None:
    desk.tell(CatalogChanged(desk.at, frozenset(each.id for each in variants)))


def a_desk(larger: int = 5 * GiB) -> Desk:
    """A is resident and idle, and its context has just been changed; with that it takes so much."""
    desk = Desk()
    usual = desk.says
    assert usual is not None
    desk.says = lambda v, place: Footprint.of({CARD: larger}) if v.id == LARGER.id else usual(v, place)
    desk.idle(A)
    known(desk, LARGER, OTHER)
    return desk


def heirs(desk: Desk) -> list[tuple[str, ResidentId | None]]:
    return [(order.variant.id, order.inherits) for order in desk.orders if isinstance(order, StartWorker)]


def test_the_worker_of_before_makes_another_context() -> None:
    desk = a_desk()
    old = desk.resident(A)
    desk.wants(LARGER, "1")
    orders = desk.measured()
    assert stopped(orders) == []
    assert heirs(desk)[-1] == (LARGER.id, old.id)
    heir = desk.resident(LARGER)
    assert (heir.phase, heir.placement, heir.predicted[CARD]) == (Phase.LOADING, old.placement, 5 * GiB)
    assert old.id not in desk.state.residents
    assert desk.state.held()[CARD] == 5 * GiB, "what was promised and held is the difference more, and counted once"
    desk.loaded(heir.id)
    assert desk.holder("1") == heir.id


def test_what_it_took_to_load_is_not_learnt_from_it() -> None:
    desk = a_desk()
    desk.wants(LARGER, "1")
    desk.measured()
    desk.later(0.05)
    desk.loaded(desk.resident(LARGER).id)
    assert not desk.state.pasts[LARGER.id].loads


def test_one_that_dies_over_it_is_loaded_as_any_other() -> None:
    desk = a_desk()
    desk.wants(LARGER, "1")
    desk.measured()
    heir = desk.resident(LARGER)
    desk.died(heir.id)
    assert stopped(desk.orders) == [heir.id]
    desk.gone(heir.id)
    desk.measured()
    assert heirs(desk)[-1] == (LARGER.id, None)


def test_where_the_larger_context_does_not_fit_it_is_placed_anew() -> None:
    desk = a_desk(larger=11 * GiB)
    desk.wants(LARGER, "1")
    desk.measured()
    assert all(inherits is None for _, inherits in heirs(desk))


def test_memory_that_others_have_taken_is_not_counted_on() -> None:
    desk = a_desk(larger=5 * GiB)
    desk.foreign[CARD] = 5 * GiB + 1
    desk.wants(LARGER, "1")
    desk.measured()
    assert all(inherits is None for _, inherits in heirs(desk))


@pytest.mark.parametrize(
    "other",
    [
        replace(LARGER, path="/c.gguf"),
        replace(LARGER, content="another file of that name"),
        replace(LARGER, gpu_layers=2),
        replace(LARGER, speculates=True, draft=variant("d")),
        replace(LARGER, pooling="mean"),
    ],
)
def test_other_weights_are_loaded(other: Variant) -> None:
    desk = a_desk()
    desk.wants(other, "1")
    desk.measured()
    assert all(inherits is None for _, inherits in heirs(desk))


def test_one_at_work_goes_on_and_one_that_can_be_asked_for_stays() -> None:
    desk = a_desk()
    known(desk, A, LARGER)
    desk.wants(LARGER, "1")
    desk.measured()
    assert heirs(desk)[-1] == (LARGER.id, None)
    assert desk.resident(A).phase is Phase.READY

    desk = a_desk()
    known(desk, A)
    desk.wants(A, "at work")
    known(desk, LARGER)
    desk.wants(LARGER, "1")
    desk.measured()
    assert all(inherits is None for _, inherits in heirs(desk))
    assert desk.holder("at work") == desk.resident(A).id


def test_it_waits_for_the_load_before_it() -> None:
    desk = a_desk(larger=4 * GiB)
    desk.wants(OTHER, "b")
    desk.measured()
    desk.wants(LARGER, "1")
    desk.measured()
    assert heirs(desk)[-1] == (OTHER.id, None)
    desk.loaded(desk.resident(OTHER).id)
    desk.measured()
    assert heirs(desk)[-1][1] is not None
