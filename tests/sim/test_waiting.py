"""The stated bound on waiting, on a machine where one model fits at a time and one of them always has work."""

from __future__ import annotations

from random import Random

import pytest

from swapd.core.messages import GrantLease, Overflow, Policy, Ranking, RequestArrived
from swapd.core.model import HOST, DeviceId, DeviceKind, RequestId, Shape, Variant, VariantId
from swapd.sim.records import Hardware, Model
from swapd.sim.world import World
from swapd.units import GiB, Seconds

NAMES = ("hot", "b", "c", "d")
SLOTS = 2
HOLD: Seconds = 3.0
"""The longest answer."""
SWAP: Seconds = 20.0
"""The longest that the machine takes to end a worker, see its memory free, size and load another."""
MAX_WAIT: Seconds = 10.0
MIN_RESIDENCY: Seconds = 2.0


def world(seed: int, max_wait: Seconds, ranking: Ranking) -> World:
    def model(name: str) -> Model:
        shape = Shape("llama", 3, 0, 0, (), 0, 0, 0, 4096, 8 * GiB)
        return Model(Variant(VariantId(name), name, f"/{name}.gguf", shape, 512, SLOTS))

    policy = Policy(
        keep_alive=60.0,
        max_queue=10_000,
        max_wait=max_wait,
        min_residency=MIN_RESIDENCY,
        vram_reserve=0,
        host_reserve=0,
        overflow=Overflow.EVICT,
        ranking=ranking,
    )
    hardware = (Hardware(DeviceId("cuda:0"), DeviceKind.GPU, 10 * GiB), Hardware(HOST, DeviceKind.HOST, 64 * GiB))
    return World(Random(seed).randrange, hardware, tuple(map(model, NAMES)), policy)


def live(seed: int, max_wait: Seconds, ranking: Ranking) -> tuple[Seconds, int]:
    """The longest wait, and the most that ever waited for one model."""
    chance = Random(1000 + seed)
    stage = world(seed, max_wait, ranking)
    for _ in range(400):
        stage.ask(VariantId("hot"), HOLD * chance.random())
        if chance.random() < 0.05:
            stage.ask(VariantId(chance.choice(NAMES[1:])), HOLD * chance.random())
        stage.run(chance.choice((0.5, 0.8, 1.0)))
    stage.rest()
    asked: dict[RequestId, tuple[Seconds, str]] = {}
    queues = dict.fromkeys(NAMES, 0)
    longest, most = 0.0, 0
    for event, orders in stage.log:
        if isinstance(event, RequestArrived):
            asked[event.request] = event.at, event.variant.name
            queues[event.variant.name] += 1
            most = max(most, *queues.values())
        for order in orders:
            if isinstance(order, GrantLease):
                since, name = asked[order.request]
                queues[name] -= 1
                longest = max(longest, event.at - since)
    return longest, most


def bound(most: int) -> Seconds:
    """As core/README.md states it."""
    served = -(-most // SLOTS) * HOLD
    tenure = max(MIN_RESIDENCY, 3 * MAX_WAIT)
    return 3 * MAX_WAIT + len(NAMES) * (tenure + served + HOLD + SWAP)


@pytest.mark.parametrize("ranking", Ranking)
@pytest.mark.parametrize("seed", range(6))
def test_nobody_waits_longer_than_stated(seed: int, ranking: Ranking) -> None:
    longest, most = live(seed, MAX_WAIT, ranking)
    assert longest <= bound(most)


def test_without_a_limit_somebody_waits_longer() -> None:
    """So the bound says something: the hot model never rests, and nobody makes it."""
    assert any(live(seed, 1e9, Ranking.LRU)[0] > 2 * live(seed, MAX_WAIT, Ranking.LRU)[0] for seed in range(3))
