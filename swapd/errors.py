"""Every error that crosses a layer, grouped by whose move it is.

    SwapdError
    |- the caller's move
    |  |- InvalidRequest          malformed, wrong type, out of range
    |  |- ContextLengthExceeded   the prompt is longer than the model's context
    |  |- Unauthorized            no key, or a wrong one
    |  |- Forbidden               host, origin or route not allowed
    |  |- ModelNotFound           no model, alias, task or adapter of that name
    |  |- NotSupported            what the imitated server can do and swapd does otherwise
    |  `- BodyTooLarge
    |- the owner's move
    |  |- ModelUnusable           no GGUF, cut off, or llama.cpp cannot load it
    |  |- DoesNotFit              would not fit even with everything evictable gone
    |  |- InvalidConfig           file, key, what was given, what is allowed
    |  `- CannotStart             socket, port, folder
    `- nobody's: try again
       |- Overloaded              the queue is full
       |- Stopping                the daemon is going down
       |- Unloaded                the model was unloaded by force under the request
       |- WorkerCrashed           the worker died under the request
       |- HubFailed               the place that models are fetched from does not give one
       `- WorkerFailed            inside the daemon: a load that failed, a worker that died

`api/failures.py` turns them into each dialect's words. Messages read "cannot X: why"; what a
caller may act on is an attribute.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from swapd.units import Bytes, Seconds, Tokens, format_bytes


class SwapdError(Exception):
    """Base; `code` is the contract's word for the case."""

    code: ClassVar[str] = "internal_error"

    @property
    def message(self) -> str:
        return str(self.args[0]) if self.args else self.code


class InvalidRequest(SwapdError):
    code = "invalid_request"

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ContextLengthExceeded(SwapdError):
    code = "context_length_exceeded"

    def __init__(
        self, prompt: Tokens, context: Tokens, remedy: str = "shorten it or give the model a larger context"
    ) -> None:
        super().__init__(f"the prompt has {prompt} tokens but the context holds {context}; {remedy}")
        self.prompt, self.context = prompt, context


class Unauthorized(SwapdError):
    code = "unauthorized"


class Forbidden(SwapdError):
    code = "forbidden"


class ModelNotFound(SwapdError):
    code = "model_not_found"

    def __init__(self, name: str, nearest: tuple[str, ...] = ()) -> None:
        hint = f"; did you mean {' or '.join(nearest)}?" if nearest else ""
        super().__init__(f"model {name!r} not found{hint}")
        self.name, self.nearest = name, nearest


class NotSupported(SwapdError):
    code = "not_supported"


class BodyTooLarge(SwapdError):
    code = "body_too_large"

    def __init__(self, limit: Bytes) -> None:
        super().__init__(f"the request body is larger than {format_bytes(limit)} ([server] max_body)")
        self.limit = limit


class ModelUnusable(SwapdError):
    code = "model_unusable"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"cannot load {name!r}: {reason}")
        self.name, self.reason = name, reason


class DoesNotFit(SwapdError):
    code = "does_not_fit"

    def __init__(
        self,
        name: str,
        device: str,
        needed: Bytes,
        available: Bytes,
        pinned: tuple[str, ...],
        is_capped: bool = False,
    ) -> None:
        """No device: it is not memory that lacks, but a place. Capped: `available` is the model's own `max_vram`."""
        pins = f" (pinned: {', '.join(pinned)})" if pinned and not is_capped else ""
        lack = "as many models as may be loaded at a time ([scheduler] max_loaded) are pinned"
        if device:
            most = format_bytes(max(available, 0))
            why = f"its max_vram allows {most} there" if is_capped else f"at most {most} can be made free"
            lack = f"it needs {format_bytes(needed)} on {device}, and {why}"
        super().__init__(f"cannot load {name!r}: {lack}{pins}")
        self.name, self.device, self.needed, self.available, self.pinned = name, device, needed, available, pinned


class InvalidConfig(SwapdError):
    code = "invalid_config"

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class CannotStart(SwapdError):
    code = "cannot_start"


class Overloaded(SwapdError):
    code = "overloaded"

    def __init__(self, message: str, retry_after: Seconds = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Stopping(SwapdError):
    code = "stopping"

    def __init__(self, retry_after: Seconds = 5.0) -> None:
        super().__init__("the daemon is stopping")
        self.retry_after = retry_after


class Unloaded(SwapdError):
    code = "unloaded"

    def __init__(self, name: str) -> None:
        super().__init__(f"{name!r} was unloaded by force while it answered")
        self.retry_after = 1.0


class WorkerCrashed(SwapdError):
    code = "worker_crashed"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"the worker of {name!r} died: {reason}")
        self.name, self.reason = name, reason
        self.retry_after = 1.0


class Death(StrEnum):
    """What ended a worker that nobody ended."""

    UNUSABLE = "unusable"
    """llama.cpp cannot load this file; it never will."""
    OUT_OF_MEMORY = "out of memory"
    CRASHED = "crashed"


class HubFailed(SwapdError):
    code = "hub_failed"


class WorkerFailed(SwapdError):
    """Never reaches a client: the gateway says what it means to the request."""

    code = "worker_crashed"

    def __init__(self, death: Death, reason: str) -> None:
        super().__init__(reason)
        self.death, self.reason = death, reason
