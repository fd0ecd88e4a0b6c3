"""The kinds of days: which models there are on a card of 24 GiB, and how sessions follow each other.

Called by `generate` with a chance, the seconds of work the day is to have and how long one session may be. What a
session looks like is in `habits`. Knows no load and no clock time: a story lies somewhere between 0 and 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Final, TypeAlias

from swapd.sim.lab import habits
from swapd.sim.lab.habits import Story
from swapd.trace import TraceModel, service_s
from swapd.units import GiB, Seconds

_BANDWIDTH: Final = 1008e9 * 0.6
"""Bytes a second that a card of the 4090's class reads while it decodes; each token reads the model once."""
_WARM_RATE, _COLD_RATE, _START = 9e9, 3e9, 0.8


def model(name: str, size: float, slots: int = 4) -> TraceModel:
    """A model of `size` GiB, as fast as it would be on that card and loaded over PCIe 4 from memory or a good disk."""
    bytes_ = round(size * GiB)
    return TraceModel(
        name=name,
        size=bytes_,
        layers=29 if size < 6 else 41 if size < 12 else 65,
        slots=slots,
        load_s=round(_START + bytes_ / _WARM_RATE, 3),
        cold_load_s=round(_START + bytes_ / _COLD_RATE, 3),
        prefill=round(min(8000.0, max(3000.0, 8500.0 - 280.0 * size)), 1),
        decode=round(_BANDWIDTH / bytes_, 1),
    )


Laid: TypeAlias = list[tuple[float, Story]]
"""Stories, and where in the day each begins: 0 to 1."""
Day: TypeAlias = tuple[tuple[TraceModel, ...], Laid]


def solo(chance: Random, work: Seconds, longest: Seconds) -> Day:
    """One developer: completions while typing, chats with two models of which one fits, an index now and then.

    The large chat model and the completions fit together, but not with the embedder. At a high load it is a developer
    with several windows: typing and chats overlap.
    """
    models = fim, coder, chat, embed = model("fim", 4), model("coder", 13.5), model("chat", 18.6), model("embed", 1)

    def tell(name: str) -> Story:
        match chance.choices(("typing", "coder", "chat", "index"), (55, 20, 20, 5))[0]:
            case "typing":
                return habits.typing(chance, name, fim)
            case "index":
                return habits.indexing(chance, name, embed)
            case asked:
                return habits.conversation(chance, name, coder if asked == "coder" else chat)

    return models, renewed(chance, _stories(models, work, longest, tell), cv=1.5)


def review(chance: Random, work: Seconds, longest: Seconds) -> Day:
    """Draft and review by two models that do not fit together."""
    models = drafter, reviewer = model("drafter", 13.5), model("reviewer", 15.5)
    stories = _stories(models, work, longest, lambda name: habits.pipeline(chance, name, drafter, reviewer))
    return models, renewed(chance, stories, cv=1.1)  # Azure 2023, conversation: CV 1.09


def team(chance: Random, work: Seconds, longest: Seconds) -> Day:
    """Eight people on one server; models by Zipf; each person bursty in their own way.

    ServeGen (Alibaba): a client's CV is 1.2 in the median and 7 at the 90th percentile, and the busiest of them sends
    29 to 52 % of all.
    """
    models = tuple(
        model(name, size) for name, size in (("m8", 8), ("m13", 13), ("m5", 5), ("m16", 16), ("m10", 10), ("m18", 18.6))
    )
    people: list[list[Story]] = [[] for _ in range(8)]

    def tell(name: str) -> Story:
        asked = chance.choices(models, _zipf(len(models), 1.0))[0]
        told = habits.assist if chance.random() < 0.3 else habits.conversation
        return told(chance, name, asked)

    for story in _stories(models, work, longest, tell):
        chance.choices(people, _zipf(len(people), 1.0))[0].append(story)
    laid = [one for stories in people for one in renewed(chance, stories, cv=chance.uniform(2.0, 7.0))]
    return models, laid


def agents(chance: Random, work: Seconds, longest: Seconds) -> Day:
    """Agents that plan with one model and search with another; both do not fit."""
    models = planner, worker = model("planner", 15), model("worker", 11)
    stories = _stories(models, work, longest, lambda name: habits.agent(chance, name, planner, worker))
    return models, renewed(chance, stories, cv=2.0)  # BurstGPT's generator: gamma with CV 2


def tail(chance: Random, work: Seconds, longest: Seconds) -> Day:
    """Two models for nearly everything and ten that are hardly ever called, with 1.5 to 6 % of the calls in total.

    Aegaeon: 94.1 % of the models get 1.35 % of the requests. All the files do not fit into host memory either.
    """
    hot = (model("hot8", 8), model("hot9", 9))
    rare = tuple(model(f"rare{size}", size) for size in (3, 4, 5, 6, 7, 8, 10, 12, 14, 16))
    share = chance.uniform(0.015, 0.06)

    def tell(name: str) -> Story:
        return habits.conversation(chance, name, chance.choices(hot, (3, 2))[0])

    stories = _stories(hot, work * (1 - share), longest, tell)
    laid = renewed(chance, stories, cv=1.5)
    count = round(sum(len(story.calls) for story in stories) * share / (1 - share))
    return hot + rare, laid + seldom(chance, rare, count)


def bursts(chance: Random, work: Seconds, longest: Seconds) -> Day:
    """Sets of models that are busy together, another set every 5 to 40 minutes, five times as busy or a fifth.

    Hyperbolic's clusters, as Prism describes them: bursty groups, rates that change fivefold within a minute.
    """
    models = tuple(model(f"m{size}", size) for size in (3, 5, 7, 9, 11, 13, 16))
    groups = [chance.sample(models, chance.randint(2, 3)) for _ in range(4)]
    phases: list[tuple[Seconds, Seconds, float, int]] = []
    clock, group = 0.0, 0
    while clock < longest * 3:
        lasts = min(60.0 * 5 * 8 ** chance.random(), longest * 3 - clock)
        phases.append((clock, lasts, 0.45 * 5 ** chance.random(), group))
        clock, group = clock + lasts, (group + chance.randint(1, 3)) % 4
    places: list[float] = []

    def tell(name: str) -> Story:
        begun, lasts, _, active = chance.choices(phases, [lasts * busy for _, lasts, busy, _ in phases])[0]
        places.append((begun + lasts * chance.random()) / clock)
        asked = chance.choice(groups[active])
        if chance.random() < 0.3:
            return habits.assist(chance, name, asked)
        return habits.conversation(chance, name, asked, most=8)

    stories = _stories(models, work, longest, tell)
    return models, list(zip(places, stories, strict=True))


# --- how sessions follow each other


def _stories(
    models: Sequence[TraceModel], work: Seconds, longest: Seconds, tell: Callable[[str], Story]
) -> list[Story]:
    """So many as compute for `work` seconds in all, none longer than `longest`."""
    stories: list[Story] = []
    done = 0.0
    while done < work:
        story = tell(str(len(stories))).cut(longest)
        stories.append(story)
        done += work_of(models, story)
    return stories


def work_of(models: Sequence[TraceModel], story: Story) -> Seconds:
    """Its `service_s`, summed."""
    by_name = {model.name: model for model in models}
    return sum(service_s(by_name[call.model], call) for call in story.calls)


def renewed(chance: Random, stories: Sequence[Story], cv: float) -> Laid:
    """They begin at gamma gaps of this coefficient of variation, the first and the last at any distance of the ends."""
    shape = 1.0 / cv**2
    gaps = [chance.gammavariate(shape, 1.0) + 1e-9 for _ in range(len(stories) + 1)]
    places, total = 0.0, sum(gaps)
    laid: Laid = []
    for gap, story in zip(gaps, stories, strict=False):
        places += gap
        laid.append((places / total, story))
    return laid


def seldom(chance: Random, models: Sequence[TraceModel], count: int) -> Laid:
    """Single questions, whenever, to any of these models."""
    laid: Laid = []
    for number in range(count):
        story = Story(f"rare.{number}")
        story.ask(chance.choice(models), habits.question(chance), habits.answer(chance))
        laid.append((chance.random(), story))
    return laid


def _zipf(count: int, alpha: float) -> list[float]:
    return [1.0 / rank**alpha for rank in range(1, count + 1)]
