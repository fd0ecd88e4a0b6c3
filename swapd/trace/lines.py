"""A trace as JSON lines: heads, models, calls; written without trouble, read with suspicion.

A head begins a run of the daemon, or says again what holds from here on. Times are since the beginning of their run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any, Final, TypeVar

from swapd.core.messages import Overflow, Policy, Ranking
from swapd.trace.values import Call, Trace, TraceModel
from swapd.units import FOREVER, Bytes, Seconds

FORMAT: Final = 1
"""Of the lines; a file of another one is refused."""
FILES: Final = ("replay.1.jsonl", "replay.jsonl")
"""As the daemon calls them in its state folder: what was full, and what it writes."""
LONGEST: Final = 65536
"""Characters of a line."""


class BadTrace(Exception):
    """A line that is no trace of this format: `line` counts from 1."""

    def __init__(self, line: int, why: str) -> None:
        self.line, self.why = line, why
        super().__init__(f"line {line}: {why}")


# --- writing


def lines(trace: Trace) -> Iterator[str]:
    """A head, a line for each model, a line for each call."""
    yield head_line(trace.card, trace.host, name=trace.name, cards=trace.cards, policy=trace.policy)
    for model in trace.models:
        yield model_line(model)
    for call in trace.calls:
        yield call_line(call)


def head_line(
    card: Bytes,
    host: Bytes,
    *,
    name: str = "",
    cards: int = 1,
    policy: Policy | None = None,
    began: Seconds | None = None,
) -> str:
    """`began`: when the run did, seconds since the epoch; two heads that say the same are of one run."""
    head = {"swapd_trace": FORMAT, "name": name, "card": card, "host": host, "cards": cards}
    given = {key: _finite(getattr(policy, field)) for key, field in _POLICY.items()} if policy else None
    return json.dumps(head | _known(policy=given, began=began))


def model_line(model: TraceModel) -> str:
    return json.dumps({"model": {key: _finite(value) for key, value in asdict(model).items()}})


def call_line(call: Call) -> str:
    values = {name: getattr(call, name) for name in _CALL}  # `asdict` copies each, and takes five times as long
    given = {name: _finite(value) for name, value in values.items() if value != _DEFAULTS.get(name, MISSING)}
    return json.dumps({"call": given})


_CALL: Final = tuple(field.name for field in fields(Call))
_DEFAULTS: Final = {field.name: field.default for field in fields(Call) if field.default is not MISSING}
_POLICY: Final = {
    "keep_alive": "keep_alive",
    "max_wait": "max_wait",
    "min_residency": "min_residency",
    "max_loaded": "max_loaded",
    "overflow": "overflow",
    "policy": "ranking",
}
"""What is told of the policy, as the configuration calls it, and as the core does."""


def _finite(value: object) -> object:
    """JSON has no infinity: for ever is -1, as in the configuration."""
    return -1 if value == FOREVER else value


def _known(**given: object) -> dict[str, object]:
    return {key: value for key, value in given.items() if value is not None}


# --- reading


class Reading:
    """Lines of one file after the other, oldest first; `trace` puts them together.

    Runs follow each other as their heads' clocks say. Where a clock went back, a run begins when the one before ends.
    """

    def __init__(self) -> None:
        self._head: Mapping[str, Any] | None = None
        self._policy: Policy | None = None
        self._models: dict[str, TraceModel] = {}
        self._calls: list[Call] = []
        self._runs = 0
        self._ids: set[str] = set()
        self._first: Seconds | None = None
        """The first run's `began`."""
        self._start: Seconds = 0.0
        """Of the run, since the first one began."""
        self._end: Seconds = 0.0
        """The latest moment told of."""

    def feed(self, text: Iterable[str]) -> None:
        """Raises BadTrace; line numbers begin anew."""
        number = 0
        for number, line in enumerate(text, 1):
            if len(line) > LONGEST:
                raise BadTrace(number, f"longer than {LONGEST} characters: this is no replay file of swapd")
            if line.strip():
                self._take(_decoded(line, number), number)
        if self._head is None:
            raise BadTrace(max(1, number), "no head: this is no replay file of swapd")

    def trace(self, name: str = "") -> Trace:
        """Calls in order of arrival. Of a model, of the memory and of the policy what was told last counts."""
        head = self._head or {"card": 0, "host": 0}
        calls = sorted(self._calls, key=lambda call: call.at)
        models = tuple(self._models.values())
        name = name or str(head.get("name", ""))
        return Trace(name, head["card"], head["host"], models, tuple(calls), head.get("cards", 1), self._policy)

    def _take(self, document: Any, number: int) -> None:
        match document:
            case {"swapd_trace": found}:
                if found != FORMAT:
                    raise BadTrace(number, f"a trace of format {_short(found)}; this swapd reads {FORMAT}")
                self._begin(document, number)
            case {"model": {} as given, **rest} if not rest:
                model = _read(TraceModel, given, number)
                self._models[model.name] = model
            case {"call": {} as given, **rest} if not rest:
                self._add(_read(Call, given, number), number)
            case _:
                raise BadTrace(number, "neither head, model nor call: this is no replay file of swapd")

    def _begin(self, head: Mapping[str, Any], number: int) -> None:
        for key in ("card", "host", "cards"):
            _check(key, head.get(key, 1 if key == "cards" else None), number)
        began = head.get("began")
        _check("began", began, number)
        given = head.get("policy")
        policy = None if given is None else _read_policy(given, number)
        is_same_run = self._head is not None and began is not None and began == self._head.get("began")
        self._head, self._policy = head, policy
        if is_same_run:
            return
        if began is not None and self._first is None:
            self._first = began - self._end
        seen = self._end if began is None or self._first is None else began - self._first
        self._start, self._runs, self._ids = max(seen, self._end), self._runs + 1, set()

    def _add(self, call: Call, number: int) -> None:
        if self._head is None:
            raise BadTrace(number, "a call before any head: this is no replay file of swapd")
        if call.model not in self._models:
            raise BadTrace(number, f"a call of {call.model!r}, a model that no line before it tells of")
        if call.cached > call.prompt:
            raise BadTrace(number, f"{call.cached} cached tokens of a prompt of {call.prompt}")
        if call.id in self._ids:
            raise BadTrace(number, f"a second call {call.id!r} in one run")
        self._ids.add(call.id)
        at = self._start + call.at
        self._end = max(self._end, at + (call.waited_s or 0.0) + (call.took_s or 0.0))
        self._calls.append(call if self._runs == 1 else replace(call, at=at, id=f"{self._runs}.{call.id}"))


def parse(text: Iterable[str], name: str = "") -> Trace:
    """The trace of the lines of one file. Raises BadTrace."""
    reading = Reading()
    reading.feed(text)
    return reading.trace(name)


def _decoded(line: str, number: int) -> object:
    try:
        return json.loads(line)
    except RecursionError:
        raise BadTrace(number, "nested too deeply: this is no replay file of swapd") from None
    except ValueError as error:
        raise BadTrace(number, f"no JSON, or cut off ({error})") from None


# --- what values may be


@dataclass(frozen=True, slots=True)
class _Range:
    """Numbers; `is_whole`: without a fraction. `or_forever`: also -1, for ever."""

    low: float
    high: float
    is_whole: bool = False
    is_optional: bool = False
    or_forever: bool = False

    def problem(self, value: object) -> str | None:
        if value is None and self.is_optional:
            return None
        if isinstance(value, bool) or not isinstance(value, int if self.is_whole else (int, float)):
            return "a whole number" if self.is_whole else "a number"
        if (self.or_forever and value == -1) or self.low <= value <= self.high:
            return None
        return f"from {self.low:.20g} to {self.high:.20g}" + (", or -1" if self.or_forever else "")


_MOMENT: Final = _Range(0, 1e10)
_LASTING: Final = _Range(0, 1e10, is_optional=True)
_KEPT: Final = _Range(0, 1e10, is_optional=True, or_forever=True)
_SIZE: Final = _Range(0, 2**60, is_whole=True)
_TOKENS: Final = _Range(0, 10**9, is_whole=True)
_SPEED: Final = _Range(2**-10, 1e9)
_COUNT: Final = _Range(1, 10_000, is_whole=True)
_LOAD: Final = _Range(0, 1e6)
_RANGES: Final[Mapping[str, _Range]] = {
    "card": _SIZE,
    "host": _SIZE,
    "cards": _Range(0, 1000, is_whole=True),
    "began": _LASTING,
    "size": _Range(1, 2**60, is_whole=True),
    "layers": _COUNT,
    "slots": _COUNT,
    "load_s": _LOAD,
    "cold_load_s": _LOAD,
    "prefill": _SPEED,
    "decode": _SPEED,
    "priority": _Range(-(10**9), 10**9, is_whole=True),
    "keep_alive": _KEPT,
    "context": _TOKENS,
    "at": _MOMENT,
    "prompt": _TOKENS,
    "output": _TOKENS,
    "cached": _TOKENS,
    "patience": _LASTING,
    "waited_s": _LASTING,
    "took_s": _LASTING,
    "max_wait": _Range(0, 1e10, or_forever=True),
    "min_residency": _Range(0, 1e10, or_forever=True),
    "max_loaded": _Range(0, 10_000, is_whole=True),
}
_TEXTS: Final = frozenset({"name", "id", "model", "session"})

_Value = TypeVar("_Value", TraceModel, Call)
_NAMES: Final = {
    kind: (
        frozenset(field.name for field in fields(kind)),
        tuple(field.name for field in fields(kind) if field.default is MISSING),
    )
    for kind in (TraceModel, Call)
}
"""Of each value: what it has, and of that what must be there."""


def _check(key: str, value: object, line: int) -> None:
    problem: str | None
    if key in _TEXTS:
        problem = None if isinstance(value, str) else "a text"
    elif key == "pin":
        problem = None if isinstance(value, bool) else "true or false"
    else:
        problem = _RANGES[key].problem(value)
    if problem is not None:
        raise BadTrace(line, f"{key} is {_short(value)}, and should be {problem}")


def _read(kind: type[_Value], given: Mapping[str, Any], line: int) -> _Value:
    known, needed = _NAMES[kind]
    for key, value in given.items():
        if key not in known:
            raise BadTrace(line, f"unknown key {_short(key)}")
        _check(key, value, line)
    for key in needed:
        if key not in given:
            raise BadTrace(line, f"{key} is missing")
    if given.get("keep_alive") == -1:
        given = {**given, "keep_alive": FOREVER}
    return kind(**given)


def _read_policy(given: object, line: int) -> Policy:
    if not isinstance(given, dict):
        raise BadTrace(line, f"policy is {_short(given)}, and should be an object")
    values: dict[str, Any] = {}
    for key, field in _POLICY.items():
        if key not in given:
            continue
        value = given[key]
        if key in _CHOICES:
            try:
                value = _CHOICES[key](value)
            except ValueError:
                allowed = ", ".join(_CHOICES[key])
                raise BadTrace(line, f"{key} is {_short(value)}, and should be one of {allowed}") from None
        else:
            _check(key, value, line)
            value = FOREVER if value == -1 else value
        if value is None:
            raise BadTrace(line, f"{key} of the policy is missing")
        values[field] = value
    return Policy(**values)


_CHOICES: Final[Mapping[str, type[Overflow] | type[Ranking]]] = {"overflow": Overflow, "policy": Ranking}


def _short(value: object) -> str:
    """Of whatever was there, not more than a line's worth."""
    text = "NaN" if isinstance(value, float) and math.isnan(value) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
