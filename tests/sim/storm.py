"""Random life on a simulated machine: what to do next is drawn from a `chance`, so a seed is a whole story."""

from __future__ import annotations

from dataclasses import replace

from swapd.core.messages import Policy
from swapd.core.model import HOST, DeviceId, DeviceKind, Placement, Shape, Variant, VariantId
from swapd.errors import Death
from swapd.sim.records import Answer, Hardware, Model
from swapd.sim.world import Chance, World
from swapd.units import FOREVER, Bytes, MiB

UNIT: Bytes = 128 * MiB
RESERVE: Bytes = 64 * MiB
PROCESS: Bytes = 96 * MiB


def model(name: str, weights: Bytes, slots: int, spare: Bytes, owner_keep_alive: float | None) -> Model:
    """A variant whose footprint is its weights alone, and a worker's own 96 MiB on the host."""
    shape = Shape("llama", 3, 0, 1, (), 0, 0, 0, 4096, weights)
    return Model(Variant(VariantId(name), name, f"/{name}.gguf", shape, 512, slots), spare, owner_keep_alive)


def world(chance: Chance, *, faults: int = 10) -> World:
    """A machine of a random kind, tight to the byte, with four models of which not all fit."""
    kinds = [1, 0, 1, 2]
    cards = kinds[chance(4)]
    brim = chance(3) - 1
    sizes = [(1 + chance(5)) * UNIT for _ in range(4)]
    room = max(max(sizes), (2 + chance(7)) * UNIT) + RESERVE + brim
    if cards:
        hardware = [Hardware(DeviceId(f"cuda:{n}"), DeviceKind.GPU, room) for n in range(cards)]
        hardware.append(Hardware(HOST, DeviceKind.HOST, (3 + chance(3)) * PROCESS + 5 * UNIT + RESERVE))
    else:
        hardware = [Hardware(HOST, DeviceKind.HOST, room + (1 + chance(4)) * PROCESS)]
    names_processes = chance(8) > 0
    # A driver that lists nobody hides how much more than predicted somebody takes: nothing can be promised then.
    spares = [0, 0, 0, 8 * MiB, UNIT // 2] + ([-UNIT // 4] if faults and names_processes else [])
    keeps = [None, None, 0.0, 3.0, FOREVER]
    models = tuple(
        model(name, size, 1 + chance(3), spares[chance(len(spares))], keeps[chance(5)])
        for name, size in zip("abcd", sizes, strict=True)
    )
    policy = Policy(
        keep_alive=(5.0, 0.0, 0.7, FOREVER)[chance(4)],
        max_queue=(512, 512, 3, 0)[chance(4)],
        max_loaded=(0, 0, 1, 2)[chance(4)],
        max_wait=(3.0, 0.3, 30.0)[chance(3)],
        min_residency=(2.0, 0.7, 0.0)[chance(3)],
        load_timeout=30.0,
        vram_reserve=RESERVE,
        vram_limit=("100%", "100%", "85%")[chance(3)],
        host_reserve=RESERVE,
    )
    return World(chance, tuple(hardware), models, policy, faults=faults, names_processes=names_processes)


def blow(world: World, chance: Chance) -> None:
    """One random thing happens."""
    names = tuple(world.models)
    name = names[chance(len(names))]
    devices = tuple(world.foreign)
    match chance(32):
        case 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8:
            keep = (None, None, None, None, 0.0, 1.3, 10.0, FOREVER)[chance(8)]
            hold = (0.0, 0.3, 1.0, 3.0, 10.0)[chance(5)]
            world.ask(name, hold, keep_alive=keep, priority=(0, 0, 0, 5, -5)[chance(5)])
        case 9:
            world.ask(name, keep_alive=(None, 0.0, FOREVER)[chance(3)], slotless=True)
        case 10:
            world.ask(name, slotless=chance(2) == 0, gpu_layers=(0, 2, 4, 99)[chance(4)])
        case 11 | 12 | 13:
            requests = tuple(world.books.open)
            if requests:
                world.end(requests[chance(len(requests))])
        case 14 if world.faults:
            residents = tuple(r for r, p in world.books.processes.items() if p.is_ready)
            if residents:
                world.crash(residents[chance(len(residents))], (Death.CRASHED, Death.OUT_OF_MEMORY)[chance(2)])
        case 15 | 16:
            device = devices[chance(len(devices))]
            world.take(device, (1 + chance(3)) * UNIT // 2 * (1 if chance(2) else -1))
        case 17:
            world.unload(name, force=chance(3) == 0)
        case 18:
            world.pin(frozenset(n for n in names if chance(6) == 0))
        case 19 if world.faults:
            match chance(5):
                case 0:
                    world.set_policy(keep_alive=(0.0, 2.0, FOREVER)[chance(3)])
                case 1:
                    world.set_policy(max_loaded=chance(3))
                case 2:
                    world.set_policy(vram_reserve=RESERVE * chance(3))
                case 3:
                    world.set_policy(max_queue=(1, 512)[chance(2)])
                case _:
                    world.set_policy(max_wait=(0.5, 5.0)[chance(2)], min_residency=(0.0, 1.0)[chance(2)])
        case 20:
            world.jump((0.2, 5.0, 400.0)[chance(3)])
        case 21:
            world.rest()
        case _:
            world.run((0.01, 0.1, 0.3, 1.0, 3.0, 10.0)[chance(6)])


def story(chance: Chance, length: int, *, faults: int = 10) -> World:
    """A whole life, from the first request to the stop. Raises Broken."""
    stage = world(chance, faults=faults)
    for _ in range(length):
        blow(stage, chance)
    calm(stage, chance)
    return stage


def calm(world: World, chance: Chance) -> None:
    """The storm is over: all comes to rest; sometimes the daemon stops in the middle of it."""
    if chance(3) == 0:
        world.stop()
    world.rest()
    if not world.books.is_stopping:
        probe(world)
        world.stop()
        world.rest()


def probe(world: World) -> None:
    """Nothing that went wrong may last: with the machine to itself, every model that fits is served."""
    world.faults = 0
    for device in world.foreign:
        world.take(device, -world.foreign[device])
    world.run(10.0)
    world.pin(frozenset())
    world.set_policy(max_loaded=0, max_queue=512, load_timeout=300.0)
    placement = Placement((DeviceId("cuda:0"),), 4, 4, 512) if len(world.foreign) > 1 else Placement((), 0, 4, 512)
    for name, each in world.models.items():
        room = {d: world.books.limit(d) - world.books.reserve(d) for d in world.foreign}
        predicted = replace(each, spare=0).need(placement)
        request = world.ask(name)
        world.rest()
        fits = all(size <= room[device] for device, size in predicted.items())
        if fits and each.spare >= 0 and world.books.asks[request].answer is not Answer.GRANTED:
            raise world.books.broken(f"{name} would fit, and was refused")
