"""How one person or program calls models: a session or a task, told from its own beginning, after published statistics.

Used by `generate`, which lays many of them into a day. Knows no card, no load and no other session. Lengths are in
tokens, times in seconds; a call comes when the one before it would have ended on an empty card, and then a pause.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Final

from swapd.trace import Call, TraceModel
from swapd.units import Seconds, Tokens

CONTEXT: Final[Tokens] = 16_000
"""A conversation that would grow beyond it ends."""
THINK: Final[Seconds] = 8.0
"""Median between an answer's end and the next question; log-normal."""
TURNS: Final = 4.0
"""Mean of the common sessions, geometric; one session in ten has 10 to 50 turns."""
DEBOUNCE: Final[Seconds] = 0.35
"""An editor completes when no key was pressed for so long (Continue's default, as is the limit of the prompt)."""
COMPLETION_PROMPT: Final[Tokens] = 500
COMPLETION: Final[Tokens] = 30
TYPED_ON: Final = 0.65
"""Share of the completions that the next key makes useless, often before they have begun."""
GLANCE: Final[Seconds] = 10.0
"""Nobody looks at a completion that comes later than that."""


@dataclass(slots=True)
class Story:
    """One session's or task's calls, `at` since its beginning; told call by call."""

    name: str
    calls: list[Call] = field(default_factory=list)
    clock: Seconds = 0.0
    _kept: dict[tuple[str, str], Tokens] = field(default_factory=dict)

    def ask(
        self, model: TraceModel, prompt: Tokens, output: Tokens, *, branch: str = "", patience: Seconds | None = None
    ) -> Seconds:
        """A call now, of the story's session or of a `branch` beside it.

        Returns how long it computes alone if what the model had of the session was kept.
        """
        session = self.name + branch
        cached = min(prompt, self._kept.get((session, model.name), 0))
        self._kept[session, model.name] = prompt + output
        name = f"{self.name}-{len(self.calls)}"
        self.calls.append(Call(name, self.clock, model.name, prompt, output, session, cached, patience=patience))
        return (prompt - cached) / model.prefill + output / model.decode

    def cut(self, longest: Seconds) -> Story:
        """The same without what comes later than `longest`."""
        self.calls = [call for call in self.calls if call.at <= longest]
        return self

    @property
    def length(self) -> Seconds:
        """Until its last call."""
        return max(call.at for call in self.calls)


# --- lengths


def about(chance: Random, mu: float, sigma: float, most: Tokens) -> Tokens:
    """Log-normal, at least 1 and at most `most`."""
    return max(1, min(most, round(chance.lognormvariate(mu, sigma))))


def question(chance: Random) -> Tokens:
    """A conversation's first prompt. Azure LLM inference trace 2023, conversation: logN(6.63, 0.99), p99 4142."""
    return about(chance, 6.63, 0.99, 4142)


def answer(chance: Random) -> Tokens:
    """The same trace's outputs: logN(5.02, 0.86), p99 601."""
    return about(chance, 5.02, 0.86, 601)


def source(chance: Random) -> Tokens:
    """The prompt of a coding assistant. Azure 2023, code: logN(7.00, 1.36), p99 7436."""
    return about(chance, 7.00, 1.36, 7436)


def edit(chance: Random) -> Tokens:
    """The same trace's outputs: logN(2.79, 0.85), p99 252."""
    return about(chance, 2.79, 0.85, 252)


def geometric(chance: Random, mean: float) -> int:
    """1, 2, 3 ... with this mean."""
    count = 1
    while chance.random() > 1 / mean:
        count += 1
    return count


# --- sessions and tasks


def conversation(chance: Random, name: str, model: TraceModel, most: int = 50) -> Story:
    """A chat of at most `most` turns: think times as `THINK`, each prompt all that was said before and a question more.

    Most sessions of coding assistants are short and few are very long (Alibaba's coder cluster: mean 1.6, p99 18,
    and almost the whole prompt is reused between turns).
    """
    story = Story(name)
    turns = min(most, chance.randint(10, 50) if chance.random() < 0.1 else geometric(chance, TURNS))
    prompt = question(chance)
    for _ in range(turns):
        output = answer(chance)
        if prompt + output > CONTEXT:
            break
        story.clock += story.ask(model, prompt, output) + THINK * chance.lognormvariate(0.0, 1.0)
        prompt += output + about(chance, 4.1, 1.0, 1000)
    return story


def assist(chance: Random, name: str, model: TraceModel) -> Story:
    """One to a few questions of an editor with a file in each prompt: long in, short out, nothing shared."""
    story = Story(name)
    for turn in range(geometric(chance, 1.6)):
        story.clock += story.ask(model, source(chance), edit(chance), branch=f".{turn}")
        story.clock += THINK * chance.lognormvariate(0.0, 1.0)
    return story


def typing(chance: Random, name: str, model: TraceModel) -> Story:
    """5 to 60 s at the keyboard: a completion at every pause, most of them typed over."""
    story, end = Story(name), chance.uniform(5.0, 60.0)
    prompt = chance.randint(60, COMPLETION_PROMPT)
    while not story.calls or story.clock < end:
        is_typed_on = chance.random() < TYPED_ON
        pause = chance.uniform(0.05, 0.6) if is_typed_on else chance.uniform(1.0, 6.0)
        story.ask(
            model, prompt, chance.randint(4, COMPLETION), branch=f".{len(story.calls)}",
            patience=round(pause, 3) if is_typed_on else GLANCE,
        )  # fmt: skip
        story.clock += pause + DEBOUNCE
        prompt = min(COMPLETION_PROMPT, prompt + chance.randint(1, 12))
    return story


def indexing(chance: Random, name: str, model: TraceModel) -> Story:
    """Saved files are embedded again: a volley of short prompts."""
    story = Story(name)
    for number in range(chance.randint(4, 24)):
        story.ask(model, chance.randint(128, 512), 1, branch=f".{number}")
        story.clock += chance.uniform(0.05, 0.3)
    return story


def pipeline(chance: Random, name: str, drafter: TraceModel, reviewer: TraceModel) -> Story:
    """A draft by one model, its review by another at once; now and then revised and reviewed again."""
    story = Story(name)
    prompt = about(chance, 6.9, 0.8, 5000)
    for _ in range(geometric(chance, 1.5)):
        draft, verdict = about(chance, 5.0, 0.6, 400), about(chance, 4.0, 0.6, 200)
        if prompt + draft + verdict > CONTEXT:
            break
        story.clock += story.ask(drafter, prompt, draft) + chance.uniform(0.2, 2.0)
        story.clock += story.ask(reviewer, prompt + draft + 120, verdict) + chance.uniform(0.2, 2.0)
        prompt += draft + 120 + verdict
    return story


def agent(chance: Random, name: str, planner: TraceModel, worker: TraceModel) -> Story:
    """A, then 2 to 4 of B beside each other, then A with what they found, and so on; a few rounds."""
    story = Story(name)
    prompt = about(chance, 7.2, 0.5, 5000)
    for number in range(1 + geometric(chance, 3.0)):
        plan = about(chance, 4.6, 0.6, 400)
        if prompt + plan > CONTEXT:
            break
        story.clock += story.ask(planner, prompt, plan) + chance.uniform(0.1, 0.5)
        prompt += plan
        begun = slowest = story.clock
        for branch in range(chance.randint(2, 4)):
            story.clock = begun + chance.uniform(0.0, 0.3)
            found = about(chance, 4.4, 0.6, 300)
            took = story.ask(worker, about(chance, 6.9, 0.8, 5000), found, branch=f".{number}.{branch}")
            slowest = max(slowest, story.clock + took)
            prompt += found
        story.clock = slowest + chance.uniform(0.5, 4.0)
    return story
