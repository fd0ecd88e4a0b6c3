"""A day of requests as values: the models, how fast they are, and who called when. Read and written as JSON lines.

Made by `sim/lab/generate` and written by the daemon (`runtime/replay`); read by `sim/lab`. Knows no policy and no file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, TypeVar

from swapd.units import Bytes, Seconds, Tokens

FORMAT: Final = 1
"""Of the lines; a file of another one is refused."""


class BadTrace(Exception):
    """A line that is no trace of this format: `line` counts from 1."""

    def __init__(self, line: int, why: str) -> None:
        self.line, self.why = line, why
        super().__init__(f"line {line}: {why}")


@dataclass(frozen=True, slots=True)
class TraceModel:
    """One variant. Speeds are those with all of it on the card and nothing else computing there."""

    name: str
    size: Bytes
    """On the card, all of it there: weights, cache, buffers, context."""
    layers: int
    """As `gpu_layers` counts them: with the output."""
    slots: int
    load_s: Seconds
    """From process start to ready, the file in page cache, all of it on the card."""
    cold_load_s: Seconds
    """The same from disk."""
    prefill: float
    """Tokens of a prompt a second."""
    decode: float
    """Tokens a second of one sequence alone."""
    priority: int = 0
    pin: bool = False
    keep_alive: Seconds | None = None
    """None: the policy's."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `cached`: so much of the prompt the model had just computed for this session, if it was kept."""

    id: str
    at: Seconds
    """Since the beginning of the trace."""
    model: str
    prompt: Tokens
    output: Tokens
    session: str = ""
    cached: Tokens = 0
    priority: int = 0
    patience: Seconds | None = None
    """The client goes away when it has waited so long for its first token; None: never."""
    waited_s: Seconds | None = None
    """From arrival to its slot, as it really was; None: made up."""
    took_s: Seconds | None = None
    """From its slot to its end, as it really was."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Calls in order of arrival, each of one of the models."""

    name: str
    card: Bytes
    """What residents may hold on the card: its size less what is kept free."""
    host: Bytes
    """The same of host RAM."""
    models: tuple[TraceModel, ...]
    calls: tuple[Call, ...]

    @property
    def duration(self) -> Seconds:
        return self.calls[-1].at if self.calls else 0.0

    def model(self, name: str) -> TraceModel:
        return next(model for model in self.models if model.name == name)


def service_s(model: TraceModel, call: Call) -> Seconds:
    """How long it takes alone, with all of the model on the card and nothing of its prompt kept."""
    return call.prompt / model.prefill + call.output / model.decode


def load(trace: Trace) -> float:
    """The share of the time that the card would compute if everything were there and calls came one by one."""
    models = {model.name: model for model in trace.models}
    work = sum(service_s(models[call.model], call) for call in trace.calls)
    return work / trace.duration if trace.duration else 0.0


# --- lines


def lines(trace: Trace) -> Iterator[str]:
    """A head, a line for each model, a line for each call."""
    yield json.dumps({"swapd_trace": FORMAT, "name": trace.name, "card": trace.card, "host": trace.host})
    for model in trace.models:
        yield model_line(model)
    for call in trace.calls:
        yield call_line(call)


def model_line(model: TraceModel) -> str:
    return json.dumps({"model": asdict(model)})


def call_line(call: Call) -> str:
    defaults = {field.name: field.default for field in fields(Call)}
    given = {name: value for name, value in asdict(call).items() if name in _NEEDED or value != defaults[name]}
    return json.dumps({"call": given})


_NEEDED: Final = frozenset({"id", "at", "model", "prompt", "output"})


def parse(text: Iterable[str], name: str = "") -> Trace:
    """The trace of such lines, calls put in order; of a model told twice the last counts. Raises BadTrace."""
    head: Mapping[str, Any] | None = None
    models: dict[str, TraceModel] = {}
    calls: list[Call] = []
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        try:
            document = json.loads(line)
        except ValueError:
            raise BadTrace(number, "no JSON") from None
        match document:
            case {"swapd_trace": found}:
                if found != FORMAT:
                    raise BadTrace(number, f"a trace of format {found}; this swapd reads {FORMAT}")
                head = document
            case {"model": {} as given}:
                model = _read(TraceModel, given, number)
                models[model.name] = model
            case {"call": {} as given}:
                call = _read(Call, given, number)
                if call.model not in models:
                    raise BadTrace(number, f"a call of {call.model!r}, a model that no line before it tells of")
                calls.append(call)
            case _:
                raise BadTrace(number, "neither head, model nor call")
    if head is None:
        raise BadTrace(1, "no head: this is no replay file of swapd")
    calls.sort(key=lambda call: call.at)
    sizes = {key: head.get(key) for key in ("card", "host")}
    if not all(isinstance(size, int) and size >= 0 for size in sizes.values()):
        raise BadTrace(1, "the head does not tell the card's and the host's bytes")
    return Trace(name or str(head.get("name", "")), head["card"], head["host"], tuple(models.values()), tuple(calls))


_Value = TypeVar("_Value", TraceModel, Call)


def _read(kind: type[_Value], given: Mapping[str, Any], line: int) -> _Value:
    known = {field.name: field for field in fields(kind)}
    if unknown := [str(key) for key in given if key not in known]:
        raise BadTrace(line, f"unknown key {unknown[0]!r}")
    for key, value in given.items():
        if not _is_of(str(known[key].type), value):
            raise BadTrace(line, f"{key} cannot be {value!r}")
    try:
        return kind(**given)
    except TypeError:
        raise BadTrace(line, "a key is missing") from None


def _is_of(annotation: str, value: object) -> bool:
    """Numbers that count or measure are never negative, and finite."""
    allowed = [part.strip() for part in annotation.split("|")]
    if value is None:
        return "None" in allowed
    if isinstance(value, bool):
        return "bool" in allowed
    if isinstance(value, str):
        return "str" in allowed
    if isinstance(value, int):
        return allowed[0] == "int" or (allowed[0] not in ("str", "bool") and value >= 0)
    return isinstance(value, float) and 0 <= value < float("inf") and allowed[0] in ("Seconds", "float")
