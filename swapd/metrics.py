"""Counters and histograms, and how Prometheus reads them (its text format, version 0.0.4).

Used by `runtime.measures` and `api.metrics`, which say what is counted. A name has so many series and no more, however
many label values come.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
MOST_SERIES: Final = 1000
"""Of one name; beyond it all label values are told as OTHER."""
OTHER: Final = "other"

SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

Labels = tuple[str, ...]


class _Metric(ABC):
    kind: str

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        self.name, self.text, self.labels = name, text, tuple(labels)

    def _key(self, known: Mapping[Labels, object], values: Labels) -> Labels:
        assert len(values) == len(self.labels), self.name
        if values in known or len(known) < MOST_SERIES:
            return values
        return (OTHER,) * len(values)

    def head(self) -> list[str]:
        text = self.text.replace("\\", "\\\\").replace("\n", "\\n")
        return [f"# HELP {self.name} {text}", f"# TYPE {self.name} {self.kind}"]

    @abstractmethod
    def lines(self) -> list[str]:
        """Its series, a line each."""


class Counter(_Metric):
    """Never falls."""

    kind = "counter"

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        super().__init__(name, text, labels)
        self._values: dict[Labels, float] = {} if labels else {(): 0.0}

    def add(self, *values: str, by: float = 1.0) -> None:
        key = self._key(self._values, values)
        self._values[key] = self._values.get(key, 0.0) + by

    def lines(self) -> list[str]:
        return [_line(self.name, self.labels, key, value) for key, value in self._values.items()]


class Gauge(_Metric):
    """Made anew for each reading, of what is so just then."""

    kind = "gauge"

    def __init__(self, name: str, text: str, labels: Sequence[str], values: Mapping[Labels, float]) -> None:
        super().__init__(name, text, labels)
        self._values = values

    def lines(self) -> list[str]:
        return [_line(self.name, self.labels, key, value) for key, value in self._values.items()]


class Histogram(_Metric):
    """How many observations were at most so large."""

    kind = "histogram"

    def __init__(self, name: str, text: str, labels: Sequence[str] = (), bounds: Sequence[float] = SECONDS) -> None:
        super().__init__(name, text, labels)
        self._bounds = tuple(bounds)
        self._counts: dict[Labels, list[int]] = {} if labels else {(): self._none()}
        self._sums: dict[Labels, float] = dict.fromkeys(self._counts, 0.0)

    def _none(self) -> list[int]:
        return [0] * (len(self._bounds) + 1)

    def observe(self, value: float, *values: str) -> None:
        key = self._key(self._counts, values)
        counts = self._counts.get(key)
        if counts is None:
            counts = self._counts[key] = self._none()
        counts[bisect_left(self._bounds, value)] += 1
        self._sums[key] = self._sums.get(key, 0.0) + value

    def lines(self) -> list[str]:
        lines: list[str] = []
        labels = (*self.labels, "le")
        for key, counts in self._counts.items():
            total = 0
            for bound, count in zip((*self._bounds, math.inf), counts, strict=True):
                total += count
                lines.append(_line(f"{self.name}_bucket", labels, (*key, _number(bound)), total))
            lines.append(_line(f"{self.name}_sum", self.labels, key, self._sums[key]))
            lines.append(_line(f"{self.name}_count", self.labels, key, total))
        return lines


Metric = Counter | Gauge | Histogram


def render(metrics: Iterable[Metric]) -> bytes:
    """The whole page."""
    return "".join(f"{line}\n" for metric in metrics for line in (*metric.head(), *metric.lines())).encode()


def _line(name: str, labels: Labels, values: Labels, number: float) -> str:
    if not labels:
        return f"{name} {_number(number)}"
    pairs = ",".join(f'{label}="{_escaped(value)}"' for label, value in zip(labels, values, strict=True))
    return f"{name}{{{pairs}}} {_number(number)}"


def _escaped(value: str) -> str:
    clean = value.encode("utf-8", "replace").decode()  # names of files may be no Unicode
    return clean.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(int(value)) if value == int(value) else repr(float(value))
