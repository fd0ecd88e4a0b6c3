"""Field types that the dialects' bodies share: strict, ranged, null meaning absent.

JSON's own types are not converted: "12" and true are no numbers. 12.0 is the integer that JSON says it is.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Annotated, Any, Final

from msgspec.structs import fields, replace
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from swapd.generation import Sampling
from swapd.units import Bytes, Seconds, parse_bytes, parse_duration

MAX_MESSAGES: Final = 4096
_MAX_STOPS: Final = 16
_MAX_STOP: Final = 1024
_INT32: Final = 2**31 - 1
_INT64: Final = 2**63 - 1
_MASK: Final = 2**32 - 1


def _integral(given: Any) -> Any:
    return int(given) if isinstance(given, float) and given.is_integer() else given


def _keep_alive(given: Any) -> Any:
    if given is None:
        return None
    if not isinstance(given, (str, int, float)):
        raise ValueError("a duration is expected, like 30s, 5m, 1h30m, 0 or -1")
    if isinstance(given, str) and len(given) > 64:
        raise ValueError("this is no duration; write it like 30s, 5m, 1h30m, 0 or -1")
    try:
        return parse_duration(given)
    except OverflowError:
        raise ValueError("this is no duration; write it like 30s, 5m, 1h30m, 0 or -1") from None


def _size(given: Any) -> Any:
    if isinstance(given, str) and len(given) > 64:
        raise ValueError("this is not a size; write it like 512MiB or 8GiB")
    size = parse_bytes(given) if isinstance(given, str) else _integral(given)
    if isinstance(size, int) and not isinstance(size, bool) and not 0 <= size <= _INT64:
        raise ValueError("this is not a size of any memory; write it like 512MiB or 8GiB")
    return size


def _stops(given: Any) -> Any:
    if given is None:
        return []
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, list) or not all(isinstance(stop, str) for stop in given):
        raise ValueError("a string or a list of strings is expected")
    if len(given) > _MAX_STOPS or any(len(stop) > _MAX_STOP for stop in given):
        raise ValueError(f"at most {_MAX_STOPS} strings of at most {_MAX_STOP} characters are allowed")
    return [stop for stop in given if stop]


def _absent(given: Any) -> Any:
    if given:
        raise ValueError("this release of swapd does not serve it")
    return None


def _seed(given: int) -> int | None:
    """Any 64-bit seed as llama.cpp's 32 bits, small ones unchanged; -1 is a fresh one."""
    if given == -1:
        return None
    folded = (given ^ (given >> 32)) & _MASK if not 0 <= given <= _MASK else given
    return folded if folded != _MASK else _MASK - 1  # all ones would be llama.cpp's own word for "fresh"


Whole = Annotated[int, BeforeValidator(_integral)]
Limit = Annotated[Whole, Field(ge=-1, le=_INT32)]
"""A number of tokens; -1: no limit."""
KeepAlive = Annotated[Seconds | None, BeforeValidator(_keep_alive, json_schema_input_type=float | str | None)]
Size = Annotated[Bytes, BeforeValidator(_size, json_schema_input_type=int | str)]
"""Bytes, as a number or in words."""
Stops = Annotated[list[str], BeforeValidator(_stops, json_schema_input_type=str | list[str] | None)]
Absent = Annotated[None, BeforeValidator(_absent)]
"""Something that would change the answer and is not served: only its empty values pass."""


ModelName = Annotated[str, Field(max_length=1024)] | None
"""A model's; where none is given, it is the one that is meant if that can be told."""
Share = Annotated[float, Field(ge=0, le=1)]
Breaker = Annotated[str, Field(max_length=64)]


_said: Final = attrgetter(*(field.name for field in fields(Sampling)))


class Body(BaseModel):
    """Unknown keys are ignored: clients send much that changes nothing."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class Sampled(Body):
    """The sampling parameters, named alike in every dialect: llama-server's names."""

    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_k: Annotated[Whole, Field(ge=-1, le=_INT32)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    repeat_last_n: Limit | None = None
    presence_penalty: Annotated[float, Field(ge=-100, le=100)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-100, le=100)] | None = None
    seed: Annotated[Whole, Field(ge=-(2**63), lt=2**64), AfterValidator(_seed)] | None = None
    typical_p: Share | None = None
    typ_p: Share | None = None
    """llama-server's other name for it."""
    top_n_sigma: Annotated[float, Field(ge=-1, le=100)] | None = None
    min_keep: Annotated[Whole, Field(ge=0, le=_INT32)] | None = None
    xtc_probability: Share | None = None
    xtc_threshold: Share | None = None
    dynatemp_range: Annotated[float, Field(ge=0, le=100)] | None = None
    dynatemp_exponent: Annotated[float, Field(ge=0, le=100)] | None = None
    mirostat: Annotated[Whole, Field(ge=0, le=2)] | None = None
    mirostat_tau: Annotated[float, Field(ge=0, le=100)] | None = None
    mirostat_eta: Share | None = None
    dry_multiplier: Annotated[float, Field(ge=0, le=100)] | None = None
    dry_base: Annotated[float, Field(ge=1, le=100)] | None = None
    dry_allowed_length: Annotated[Whole, Field(ge=0, le=_INT32)] | None = None
    dry_penalty_last_n: Limit | None = None
    dry_sequence_breakers: Annotated[list[Breaker], Field(max_length=32)] | None = None

    @property
    def sampling(self) -> Sampling:
        """What the request says of it, and None where it says nothing."""
        said = Sampling(*_said(self))
        if self.top_k is not None and self.top_k < 0:
            said = replace(said, top_k=0)
        if self.typical_p is None and self.typ_p is not None:
            said = replace(said, typical_p=self.typ_p)
        if self.dry_sequence_breakers is not None:
            said = replace(said, dry_sequence_breakers=tuple(self.dry_sequence_breakers))
        return said
