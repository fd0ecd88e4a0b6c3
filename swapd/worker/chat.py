"""Chat templates: a model file's own Jinja2, in a sandbox, or a plain ChatML where the file has none.

Used by `prompts`. The template comes with the file and is not trusted: no attribute of Python's, no change of what
it is given, bounded time, memory and output.
"""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
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

from swapd.errors import InvalidRequest
from swapd.generation import Message, Role
from swapd.units import Bytes, MiB, Seconds

TIME_LIMIT: Final[Seconds] = 5.0
MEMORY_LIMIT: Final[Bytes] = 1024 * MiB
OUTPUT_FACTOR: Final = 4
OUTPUT_SLACK: Final = 2**20
_MAX_EXPONENT: Final = 64

CHATML_END: Final = "<|im_end|>"
CHATML: Final = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class _Refused(Exception):
    """The template itself says that these messages are not for its model."""


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
    raise _Refused(str(reason))


def _now(form: str) -> str:
    return datetime.now(UTC).astimezone().strftime(form)


class ChatTemplate:
    """Compiled once per load. `source`: "model", or "chatml" where the file has no template."""

    def __init__(self, template: str | None, bos: str, eos: str) -> None:
        self.source = "model" if template else "chatml"
        self._names: Mapping[str, Any] = {
            "bos_token": bos,
            "eos_token": eos,
            "add_generation_prompt": True,
            "tools": None,
            "documents": None,
        }
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
                self._template = environment.from_string(template or CHATML)
        except Exception as error:  # the model still completes plain prompts
            self._broken = f"{type(error).__name__}: {error}"

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt, ending where the assistant's turn begins. Raises InvalidRequest."""
        if self._broken is not None:
            raise InvalidRequest(f"cannot use the model's chat template: {self._broken}", "messages")
        told = [{"role": _role(message.role), "content": message.content} for message in messages]
        limit = OUTPUT_FACTOR * sum(len(message.content) for message in messages) + OUTPUT_SLACK
        parts: list[str] = []
        try:
            with _bounded():
                for part in self._template.generate(messages=told, **self._names):
                    parts.append(part)
                    limit -= len(part)
                    if limit < 0:
                        raise SecurityError("its output is out of proportion")
        except _Refused as error:
            raise InvalidRequest(f"the model's chat template refuses these messages: {error}", "messages") from error
        except Exception as error:
            raise InvalidRequest(
                f"cannot use the model's chat template: {type(error).__name__}: {error}", "messages"
            ) from error
        return "".join(parts)


def _role(role: Role) -> str:
    return Role.SYSTEM.value if role is Role.DEVELOPER else role.value


@contextmanager
def _bounded() -> Iterator[None]:
    """At most TIME_LIMIT and MEMORY_LIMIT more, in the main thread; over it TimeoutError or MemoryError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    room = used + MEMORY_LIMIT
    ceilings = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    with _alarm():
        resource.setrlimit(resource.RLIMIT_AS, (min([room, *ceilings]), hard))
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
