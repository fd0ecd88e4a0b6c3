"""Random life on a simulated machine: what to do next is drawn from a `chance`, so a seed is a whole story."""

from __future__ import annotations

from dataclasses import replace

from swapd.core.arithmetic import PROCESS
from swapd.core.messages import Overflow, Policy, Ranking
from swapd.core.model import HOST, DeviceId, DeviceKind, Shape, Variant, VariantId
from swapd.errors import Death
from swapd.sim.records import Answer, Hardware, Model
from swapd.sim.world import Chance, World
from swapd.units import FOREVER, Bytes, KiB, MiB

UNIT: Bytes = 128 * MiB
RESERVE: Bytes = 64 * MiB


def model(name: str, weights: Bytes, chance: Chance, spare: Bytes, *, is_sizable: bool, is_steady: bool) -> Model:
    """A variant whose footprint is its weights, for some a buffer to compute in, and the process on the host."""
    layers, computes, is_mixture = (4, 8)[chance(2)], chance(2) == 0, chance(5) == 0 and not spare
    embedding = 512 if computes else 0
    shape = Shape("llama", layers - 1, embedding, 0, (), 0, 0, 0, 4096, weights)
    if is_mixture:
        each = weights // layers
        shape = replace(
            shape,
            expert_layers=layers - 1,
            layer_weights=(each,) * (layers - 1),
            expert_weights=(each // 4 * 3,) * (layers - 1),
            host_weights=tuple(each * n for n in range(layers + 1)),
            output_weights=each,
        )
    variant = Variant(VariantId(name), name, f"/{name}.gguf", shape, 512, 1 + chance(3))
    variant = replace(
        variant,
        gpu_layers=(None, None, None, None, None, None, 2, 0)[chance(8)],
        max_vram=("", "", "", "", "55%", f"{weights * 3 // 4}")[chance(6)],
    )
    keeps = [None, None, 0.0, 3.0, FOREVER]
    return Model(variant, spare, None if is_steady else keeps[chance(5)], 16 * KiB if computes else 0, is_sizable)


def world(chance: Chance, *, faults: int = 10) -> World:
    """A machine of a random kind, tight to the byte, with four models of which not all fit.

    Half of them are steady: models stay and nothing is hidden, so that memory alone decides.
    """
    is_steady = chance(2) == 0
    kinds = [1, 0, 1, 2]
    cards = kinds[chance(4)]
    brim = chance(3) - 1
    sizes = [(1 + chance(5)) * UNIT for _ in range(4)]
    room = max(max(sizes), (2 + chance(7)) * UNIT) + RESERVE + brim
    if cards:
        overhead = (0, 0, 8 * MiB)[chance(3)]
        sizes_of_cards = (room, room - (UNIT if chance(3) == 0 else 0))
        hardware = [Hardware(DeviceId(f"cuda:{n}"), DeviceKind.GPU, sizes_of_cards[n], overhead) for n in range(cards)]
        host = (3 + chance(3)) * PROCESS + (1 + 3 * chance(4)) * UNIT + RESERVE
        hardware.append(Hardware(HOST, DeviceKind.HOST, host))
    else:
        hardware = [Hardware(HOST, DeviceKind.HOST, room + (1 + chance(4)) * PROCESS)]
    names_processes = chance(8) > 0 or is_steady
    # A driver that lists nobody hides how much more than predicted somebody takes: nothing can be promised then.
    spares = [0, 0, 0, 8 * MiB, UNIT // 2] + ([-UNIT // 4] if faults and not is_steady else [])
    models = tuple(
        model(
            name, size, chance, spares[chance(len(spares))], is_sizable=chance(8) > 0 or is_steady, is_steady=is_steady
        )
        for name, size in zip("abcd", sizes, strict=True)
    )
    policy = Policy(
        keep_alive=FOREVER if is_steady else (5.0, 0.0, 0.7, FOREVER)[chance(4)],
        max_queue=512 if is_steady else (512, 512, 3, 0)[chance(4)],
        max_loaded=0 if is_steady else (0, 0, 1, 2)[chance(4)],
        max_wait=(3.0, 0.3, 30.0)[chance(3)],
        min_residency=(2.0, 0.7, 0.0)[chance(3)],
        load_timeout=30.0,
        vram_reserve=RESERVE,
        vram_limit=("100%", "100%", "85%")[chance(3)],
        host_reserve=RESERVE,
        ranking=(Ranking.COST, Ranking.LRU)[chance(2)],
        overflow=(Overflow.AUTO, Overflow.EVICT, Overflow.OFFLOAD)[chance(3)],
        prefetch=chance(3) > 0,
        warm_cache=(None, None, UNIT, 0)[chance(4)],
    )
    return World(
        chance,
        tuple(hardware),
        models,
        policy,
        faults=faults,
        names_processes=names_processes,
        is_lying=faults > 0 and not is_steady and chance(8) == 0,
    )


def blow(world: World, chance: Chance) -> None:
    """One random thing happens."""
    names = tuple(world.models)
    name = names[chance(len(names))]
    devices = tuple(world.foreign)
    match chance(41):
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
        case 24 | 25:
            world.take(devices[0], world.hardware[devices[0]].total)  # all there is
        case 26:
            world.take(devices[0], -world.foreign[devices[0]])
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
                    world.set_policy(max_queue=(1, 512)[chance(2)], prefetch=chance(2) == 0)
                case _:
                    world.set_policy(max_wait=(0.5, 5.0)[chance(2)], min_residency=(0.0, 1.0)[chance(2)])
        case 20:
            world.jump((0.2, 5.0, 400.0)[chance(3)])
        case 21:
            world.rest()
        case 22 if chance(2):
            world.lend(chance(4) * UNIT, (1.0, 6.0, 20.0)[chance(3)])
        case 23 if world.faults and len(devices) > 1 and chance(2):
            world.blind(devices[0], is_stale=not world.stale)
        case 27:
            world.drop_files(name)
        case 32:
            world.name(frozenset(n for n in names if chance(2)))
        case 28 | 29 | 30:
            pipeline(world, name, names[(names.index(name) + 1) % len(names)], chance)
        case 31:
            crowd(world, names, chance)
        case _:
            world.run((0.01, 0.1, 0.3, 1.0, 3.0, 10.0)[chance(6)])


def pipeline(world: World, first: VariantId, second: VariantId, chance: Chance) -> None:
    """One after the other, again and again; then the second is lost, and the first asked once more."""
    for _ in range(2 + chance(2)):
        for name in (first, second):
            world.ask(name, 0.3)
            world.run((1.0, 3.0, 6.0)[chance(3)])
    lost = [r for r, p in world.books.processes.items() if p.variant == second]
    if lost and world.faults:
        world.crash(lost[-1])
    elif chance(2):
        world.unload(second)
        world.ask(second, 0.1, keep_alive=0.0)
    world.run((1.0, 6.0)[chance(2)])
    world.ask(first, (0.3, 3.0)[chance(2)])
    world.run((0.3, 1.0, 2.0, 7.0)[chance(4)])


def crowd(world: World, names: tuple[VariantId, ...], chance: Chance) -> None:
    """Some of all models are at work, others just idle, when another program wants memory."""
    for name in names:
        world.ask(name, (0.1, 20.0)[chance(2)])
        world.run((1.0, 3.0)[chance(2)])
    device = next(iter(world.foreign))
    world.take(device, (1 + chance(4)) * UNIT)
    world.run((0.3, 2.0, 6.0)[chance(3)])
    world.take(device, -world.foreign[device])


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
        world.blind(device, is_stale=False)
    world.lend(0, 0.0)
    world.run(10.0)
    world.pin(frozenset())
    world.set_policy(max_loaded=0, max_queue=512, load_timeout=300.0)
    for name, each in world.models.items():
        request = world.ask(name)
        world.rest()
        fits = world.books.memory.could_run(name, None, (), surely=True)
        if fits and each.spare >= 0 and not world.is_lying and world.books.asks[request].answer is not Answer.GRANTED:
            raise world.books.broken(f"{name} would fit, and was refused")
