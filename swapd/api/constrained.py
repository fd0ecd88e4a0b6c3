"""What dialects say of the drawing of tokens beside the sampling numbers: biases, formats, logarithms.

Field types for their bodies, and likelihoods in the words that OpenAI and Ollama share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from pydantic import BeforeValidator, Field

from swapd.api.fields import Whole
from swapd.generation import INFILL_SAMPLER, MAX_GRAMMAR, MAX_TOP, SAMPLERS, Likelihood, TokenLogprob

MAX_BIASES: Final = 1024
_BIAS: Final = 10_000
_MAX_SAMPLERS: Final = 32
_PENALTIES: Final = ("penalties", "dry")
_LETTERS: Final = {
    "e": "penalties",
    "d": "dry",
    "s": "top_n_sigma",
    "k": "top_k",
    "y": "typ_p",
    "p": "top_p",
    "m": "min_p",
    "x": "xtc",
    "t": "temperature",
    "i": INFILL_SAMPLER,
}
_OTHER_NAMES: Final = {"typical_p": "typ_p", "temp": "temperature"}
_NAMES: Final = f"a list is expected, in which each of these is named at most once: {', '.join(_LETTERS.values())}"
_PAIRS: Final = 'an object like {"1234": -100}, or a list of pairs like [[1234, -100.0]], of token numbers, is expected'


def _biases(given: Any) -> Any:
    """OpenAI's object, or llama-server's pairs, where false bans a token."""
    if given is None:
        return []
    pairs = list(given.items()) if isinstance(given, dict) else given
    if not isinstance(pairs, list) or not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
        raise ValueError(_PAIRS)
    if len(pairs) > MAX_BIASES:
        raise ValueError(f"at most {MAX_BIASES} tokens are allowed")
    return [(_token(token), _bias(bias)) for token, bias in pairs]


def _token(given: Any) -> int:
    if isinstance(given, str) and given.isascii() and given.isdigit() and len(given) < 10:
        return int(given)
    if type(given) is not int or not 0 <= given < 2**31:
        raise ValueError(f"{str(given)[:40]!r} is no token's number; {_PAIRS}")
    return given


def _bias(given: Any) -> float:
    if given is False:
        return float("-inf")
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not -_BIAS <= given <= _BIAS:
        raise ValueError(f"each bias should be a number from {-_BIAS} to {_BIAS}, or false to ban the token")
    return float(given)


def _schema(given: Any) -> Any:
    if given is None:
        return None
    if not isinstance(given, (dict, bool)):
        raise ValueError("a JSON Schema is expected: an object")
    return msgspec.json.encode(given).decode()


def _format(given: Any) -> Any:
    """OpenAI's `response_format`, or llama-server's with a schema beside the type; the schema as text."""
    if given is None:
        return None
    if not isinstance(given, dict) or not isinstance(given.get("type"), str):
        raise ValueError('an object with a "type" is expected: "text", "json_object" or "json_schema"')
    inner = given.get("json_schema")
    match given["type"]:
        case "text":
            return None
        case "json_object":
            return _schema(given.get("schema") or {"type": "object"})
        case "json_schema":
            schema = inner.get("schema") if isinstance(inner, dict) else given.get("schema")
            if schema is None:
                raise ValueError("the type 'json_schema' needs a schema in 'json_schema.schema'")
            return _schema(schema)
        case other:
            raise ValueError(f'{other[:40]!r} is none of "text", "json_object" and "json_schema"')


def _json_or_schema(given: Any) -> Any:
    """Ollama's `format`: "json", or a schema."""
    if given in (None, ""):
        return None
    if given == "json":
        return '{"type":"object"}'
    if not isinstance(given, dict):
        raise ValueError('"json" or a JSON Schema (an object) is expected')
    return _schema(given)


def _samplers(given: Any) -> Any:
    """llama-server's: names, or a text of their letters."""
    if given is None:
        return None
    names = [_LETTERS.get(letter, letter) for letter in given] if isinstance(given, str) else given
    if not isinstance(names, list) or len(names) > _MAX_SAMPLERS or not all(isinstance(name, str) for name in names):
        raise ValueError(_NAMES)
    names = [_OTHER_NAMES.get(name, name) for name in names]
    if any(name not in (*SAMPLERS, INFILL_SAMPLER) for name in names) or len(set(names)) < len(names):
        raise ValueError(_NAMES)
    late = [name for name in names[1:] if name in _PENALTIES]
    if late and any(name not in _PENALTIES for name in names[: names.index(late[-1])]):
        raise ValueError(f"{late[-1]!r} is served only before what filters: penalties come first")
    return tuple(names)


_AnyBias = dict[str, float | bool] | list[list[int | float | bool]] | None
LogitBias = Annotated[list[tuple[int, float]], BeforeValidator(_biases, json_schema_input_type=_AnyBias)]
SchemaText = Annotated[str | None, BeforeValidator(_schema, json_schema_input_type=dict[str, Any] | bool | None)]
ResponseFormat = Annotated[str | None, BeforeValidator(_format, json_schema_input_type=dict[str, Any] | None)]
"""The text of a JSON Schema; None: free text."""
JsonOrSchema = Annotated[
    str | None, BeforeValidator(_json_or_schema, json_schema_input_type=Literal["json"] | dict[str, Any] | None)
]
Samplers = Annotated[tuple[str, ...] | None, BeforeValidator(_samplers, json_schema_input_type=list[str] | str | None)]
GrammarText = Annotated[str, Field(max_length=MAX_GRAMMAR)]
Alternatives = Annotated[Whole, Field(ge=0, le=MAX_TOP)]


def told(likelihood: Likelihood, with_numbers: bool = False) -> dict[str, object]:
    return {
        **({"id": likelihood.token} if with_numbers else {}),
        "token": likelihood.raw.decode("utf-8", "replace"),
        "logprob": likelihood.logprob,
        "bytes": list(likelihood.raw),
    }


def told_all(logprobs: Sequence[TokenLogprob], with_numbers: bool = False) -> list[dict[str, object]]:
    """As OpenAI and Ollama tell it; `with_numbers`: with those of the tokens, as llama-server does."""
    return [
        {**told(one.drawn, with_numbers), "top_logprobs": [told(other, with_numbers) for other in one.top]}
        for one in logprobs
    ]
