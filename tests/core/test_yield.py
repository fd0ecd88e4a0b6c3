"""Memory that is lent to other programs: what counts as lent, who makes room for it, and when it is seen free."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from swapd.core import relief
from swapd.core.messages import YieldRequested
from swapd.core.model import DeviceKind, VariantId
from swapd.core.resident import Cause
from swapd.units import GiB, Seconds
from tests.core.builders import CARD, HOST, MEASURE, OTHER_CARD, Desk, Phase, refused, stopped, variant

A, B = variant("a", 6 * GiB), variant("b", 2 * GiB)


def desk_of(**policy: Any) -> Desk:
    """One card of 10 GiB; nothing is asked of llama.cpp, so the sizes are the arithmetic's."""
    desk = Desk(**policy)
    desk.state = replace(desk.state, unsizable=frozenset({VariantId("a"), VariantId("b")}))
    return desk


def lend(desk: Desk, gib: float, seconds: Seconds = 600.0) -> list[int]:
    """Who was stopped for it, once memory was looked at."""
    orders = desk.tell(YieldRequested(desk.at, int(gib * GiB), seconds))
    return stopped(orders) + stopped(desk.measured())


def lent(desk: Desk) -> float:
    return sum(desk.state.lent(device) for device in desk.state.devices) / GiB


def budget(desk: Desk) -> float:
    return desk.state.budgets()[CARD] / GiB


def test_an_idle_model_leaves_for_what_is_lent() -> None:
    """Or is placed smaller, as here, where half of it can stay."""
    desk = desk_of()
    resident = desk.idle(A)
    assert lend(desk, 5) == [resident]
    retired = desk.state.residents[resident].retired
    assert retired is not None
    assert retired.cause is Cause.DEMOTED
    assert retired.reason == "placed smaller: 5 GiB of cuda:0 is yielded to other programs"
    desk.gone(resident)
    desk.measured()
    assert GiB <= desk.resident(A).footprint[CARD] <= 5 * GiB


def test_nobody_leaves_where_so_much_is_free() -> None:
    desk = desk_of()
    desk.idle(A)
    assert lend(desk, 4) == []


def test_what_is_lent_is_not_loaded_into_until_its_time_is_over() -> None:
    desk = desk_of()
    desk.measured()
    lend(desk, 5, seconds=60.0)
    whole = replace(A, gpu_layers=4)
    desk.host = GiB
    desk.later(1.0)
    desk.wants(whole, "1")
    assert refused(desk.measured()) == {"1": "does not fit"}
    desk.later(61.0)
    desk.wants(whole, "2")
    desk.measured()
    assert desk.loads() == ["a"]


def test_nought_takes_it_back() -> None:
    desk = desk_of()
    desk.measured()
    lend(desk, 5)
    assert budget(desk) == 5
    lend(desk, 0)
    assert (lent(desk), budget(desk)) == (0, 10)


def test_what_others_took_of_it_is_not_counted_twice() -> None:
    """They held 1 GiB before and take 3 of the 5 lent: 2 are still kept for them, and the budget is as it was."""
    desk = desk_of()
    desk.foreign[CARD] = GiB
    desk.measured()
    lend(desk, 5)
    assert (lent(desk), budget(desk)) == (5, 4)
    desk.foreign[CARD] = 4 * GiB
    desk.measured()
    assert (lent(desk), budget(desk)) == (2, 4)
    desk.foreign[CARD] = 8 * GiB
    desk.measured()
    assert (lent(desk), budget(desk)) == (0, 2)


def test_what_they_gave_back_is_lent_still() -> None:
    desk = desk_of()
    desk.measured()
    lend(desk, 5)
    desk.foreign[CARD] = 5 * GiB
    desk.measured()
    desk.foreign[CARD] = 0
    desk.measured()
    assert lent(desk) == 5


def test_our_own_memory_on_its_way_back_is_nobody_elses() -> None:
    """A ends and is off the driver's list before its memory is free: that was not taken of what is lent."""
    desk = desk_of()
    resident = desk.idle(A)
    desk.tell(YieldRequested(desk.at, 5 * GiB, 600.0))
    listed = desk.look()
    unlisted = replace(listed, devices=tuple(replace(d, held=()) for d in listed.devices))
    desk.tell(unlisted)
    assert desk.phase(resident) is Phase.UNLOADING
    desk.tell(unlisted)
    assert lent(desk) == 5


def test_memory_beyond_the_limit_is_lent_for_nothing() -> None:
    """With vram_limit at 70 %, 3 GiB are others' anyway."""
    desk = desk_of(vram_limit="70%")
    desk.idle(A)
    assert lend(desk, 3) == []
    assert lend(desk, 5) == [1]


def test_the_reserve_is_kept_beside_what_is_lent() -> None:
    desk = desk_of(vram_reserve=GiB)
    desk.measured()
    lend(desk, 5)
    assert budget(desk) == 4


def test_of_the_reserve_half_is_tolerated_and_of_what_is_lent_nothing() -> None:
    """A takes 6 of 10: 3 lent and 1 in reserve are there. Of 3.5 half a GiB is missing, which the reserve gives."""
    desk = desk_of(vram_reserve=GiB)
    desk.idle(A)
    assert lend(desk, 3.5) == []
    assert lend(desk, 3.6) == [1]


def test_models_at_work_finish_first_and_pinned_ones_stay() -> None:
    desk = desk_of()
    worker = desk.serve(A, "1")
    desk.idle(B)
    desk.pin("b")
    assert lend(desk, 8) == []
    assert desk.phase(worker) is Phase.DRAINING
    assert stopped(desk.ends("1")) == [worker]
    desk.gone(worker)
    desk.measured()
    assert desk.phase(desk.resident(B).id) is Phase.READY


def test_it_is_lent_where_we_could_hold_most() -> None:
    desk = Desk(cards=(CARD, OTHER_CARD))
    desk.foreign[CARD] = 2 * GiB
    desk.measured()
    lend(desk, 3)
    assert [y.device for y in desk.state.yields] == [OTHER_CARD]


def test_without_a_card_host_memory_is_lent_and_watched_for_it() -> None:
    """And only for it: the host's own pressure is the kernel's to tell."""
    desk = Desk(cards=())
    desk.state = replace(desk.state, unsizable=frozenset({VariantId("a")}))
    resident = desk.idle(A)
    desk.foreign[HOST] = 5 * GiB
    assert stopped(desk.measured()) == []
    desk.foreign[HOST] = 0
    desk.measured()
    assert lend(desk, 5) == [resident]


def test_memory_is_looked_at_before_anybody_has_to_leave() -> None:
    desk = desk_of()
    desk.idle(A)
    desk.later(10.0)
    assert desk.tell(YieldRequested(desk.at, 5 * GiB, 600.0)) == [MEASURE]
    assert stopped(desk.measured()) == [1]


def test_a_driver_that_does_not_answer_takes_nothing_of_what_is_lent_for_good() -> None:
    desk = desk_of()
    desk.measured()
    lend(desk, 5)
    silent = desk.look()
    gone = [replace(d, free=0, held=(), is_stale=d.kind is DeviceKind.GPU) for d in silent.devices]
    desk.tell(replace(silent, devices=tuple(gone)))
    desk.measured()
    assert lent(desk) == 5


# --- when to tell who asked


def settled(desk: Desk, since: Seconds) -> bool:
    return relief.is_settled(desk.state, CARD, since)


def test_it_is_settled_when_so_much_is_seen_free() -> None:
    desk = desk_of()
    resident = desk.idle(A)
    desk.later(1.0)
    since = desk.at
    desk.tell(YieldRequested(desk.at, 5 * GiB, 600.0))
    assert not settled(desk, since), "not yet measured"
    desk.measured()
    assert not settled(desk, since), "A is leaving"
    desk.gone(resident)
    desk.measured()
    assert settled(desk, since)
    assert desk.state.devices[0].free == 10 * GiB


def test_it_is_settled_when_nobody_is_left_who_could_leave() -> None:
    desk = desk_of()
    desk.idle(A)
    desk.pin("a")
    lend(desk, 5)
    assert settled(desk, desk.at)
    assert desk.state.devices[0].free == 4 * GiB


def test_models_at_work_are_waited_for() -> None:
    desk = desk_of()
    worker = desk.serve(A, "1")
    since = desk.at
    lend(desk, 5)
    assert not settled(desk, since)
    desk.ends("1")
    desk.gone(worker)
    desk.measured()
    assert settled(desk, since)


def test_what_an_ending_load_might_hold_is_not_taken_for_the_borrowers() -> None:
    """Found by the simulated machine: when it had ended, its bytes counted as taken by others, and nothing was lent."""
    desk = desk_of()
    desk.wants(A, "1")
    desk.measured()
    desk.unload("a", force=True)
    desk.foreign[CARD] = 5 * GiB
    unlisted = replace(desk.look().devices[0], free=5 * GiB, held=())
    desk.tell(YieldRequested(desk.at, 3 * GiB, 600.0))
    looked = desk.look()
    desk.tell(replace(looked, devices=(unlisted, *looked.devices[1:])))
    desk.tell(replace(looked, devices=(unlisted, *looked.devices[1:]))) if desk.state.is_measuring else None
    desk.gone(1)
    desk.later(1.0)
    desk.watch()
    assert lent(desk) == 3.0
