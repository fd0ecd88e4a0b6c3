"""Jinja2 that came with a model's file: in a sandbox, with bounded time, memory and output.

Used by `chat`. A template is not trusted: no attribute of Python's, no change of what it is given.
"""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from swapd.units import Bytes, MiB, Seconds

TIME_LIMIT: Final[Seconds] = 5.0
MEMORY_LIMIT: Final[Bytes] = 1024 * MiB
_MAX_EXPONENT: Final = 64


class Refused(Exception):
    """The template itself says that these messages are not for its model."""


class Broken(Exception):
    """The template cannot be used: with these messages, or at all."""


class _Generation(Extension):
    """`{% generation %}` marks the assistant's words for training; here its content is plain content."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it as a plain set

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"**"})

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        """Powers run inside one C call that no timer interrupts."""
        if isinstance(right, (int, float)) and right > _MAX_EXPONENT:
            raise SecurityError(f"a power of {right}")
        return super().call_binop(context, operator, left, right)


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    known = {name: option for name, option in options.items() if name in {"separators", "sort_keys"}}
    return json.dumps(value, ensure_ascii=False, indent=indent, **known)


def _refuse(reason: str) -> NoReturn:
    raise Refused(str(reason))


def _now(form: str) -> str:
    return datetime.now(UTC).astimezone().strftime(form)


class Template:
    """Compiled once. One that does not compile tells it when it is rendered: its model still completes prompts."""

    def __init__(self, source: str) -> None:
        environment = _Sandbox(
            trim_blocks=True,
            lstrip_blocks=True,
            autoescape=False,  # the output is a prompt, not HTML
            extensions=["jinja2.ext.loopcontrols", _Generation],
        )
        environment.filters["tojson"] = _to_json
        environment.globals.update(raise_exception=_refuse, strftime_now=_now)
        self._broken: str | None = None
        try:
            with _bounded():
                self._template = environment.from_string(source)
        except Exception as error:
            self._broken = f"{type(error).__name__}: {error}"

    def render(self, names: Mapping[str, Any], limit: int) -> str:
        """At most `limit` characters. Raises Refused, Broken."""
        if self._broken is not None:
            raise Broken(self._broken)
        parts: list[str] = []
        try:
            with _bounded():
                for part in self._template.generate(names):
                    parts.append(part)
                    limit -= len(part)
                    if limit < 0:
                        raise SecurityError("its output is out of proportion")
        except Refused:
            raise
        except Exception as error:
            raise Broken(f"{type(error).__name__}: {error}") from error
        return "".join(parts)


@contextmanager
def _bounded() -> Iterator[None]:
    """At most TIME_LIMIT and MEMORY_LIMIT more, in the main thread; over it TimeoutError or MemoryError."""
    with _alarm(), bounded_memory(MEMORY_LIMIT):
        yield


@contextmanager
def bounded_memory(most: Bytes) -> Iterator[None]:
    """The process may allocate so much more; over it allocations fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    ceilings = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([used + most, *ceilings]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def _alarm() -> Iterator[None]:
    def ring(_number: int, _frame: FrameType | None) -> NoReturn:
        raise TimeoutError(f"not done after {TIME_LIMIT:g} s")

    before: Callable[[int, FrameType | None], Any] | int | None = signal.signal(signal.SIGALRM, ring)
    left, interval = signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left, interval)  # somebody else's timer goes on
        signal.signal(signal.SIGALRM, before)
