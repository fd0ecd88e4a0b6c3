"""Bodies of llama-server's own routes, checked and turned into what dialect-neutral requests need.

Used by `llamaserver.py`; knows no answer. Ignored, because nothing that is told changes by it: `id_slot`, `n_keep`,
`n_discard`, `n_cache_reuse`, `t_max_prompt_ms`, `sse_ping_interval`, `speculative.*`, `backend_sampling`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
from pydantic import BeforeValidator, Field, SkipValidation, model_validator

from swapd.api.bodies import is_among, parse, refuse
from swapd.api.extras import UNSERVED_EXTRAS, Extras
from swapd.api.fields import Body, KeepAlive, Limit, ModelName, Stops, Whole
from swapd.api.openai_messages import Conversation
from swapd.api.pictures import Album, check_number, from_base64
from swapd.generation import Image
from swapd.units import Tokens

MAX_PROMPTS: Final = 128
MAX_ANSWERS: Final = 128
"""To one request: prompts times `n_cmpl`."""
MAX_PROBABILITIES: Final = 128
MAX_FILES: Final = 256
_MAX_FIELDS: Final = 64
_MAX_BIASES: Final = 1024

UNSERVED_INFILL: Final[Mapping[str, Callable[[Any], bool]]] = {
    **UNSERVED_EXTRAS,
    "n_cmpl": is_among(1, 1.0),
    "n": is_among(1, 1.0),
}

Part = str | int
Biases = list[tuple[str | int, float]]
"""(token or text, what is added); minus infinity bans it."""


MEDIA_MARKER: Final = "<__media__>"
"""Where the pictures of a `prompt_string` go, in their order."""
_EXPECTED: Final = (
    "a string, a list of strings and token numbers, an object of 'prompt_string' and 'multimodal_data', "
    "or a list of these is expected"
)


@dataclass(frozen=True, slots=True)
class Prompt:
    parts: list[Part]
    images: tuple[Image, ...] = ()
    """Whose markers are in the text, which then is the only part."""


def _prompts(given: Any) -> Any:
    """One prompt or several; each is a text, texts and token numbers mixed, or a text with pictures."""
    if isinstance(given, (str, dict)):
        return [_prompt(given)]
    if not isinstance(given, list) or not given:
        raise ValueError(_EXPECTED)
    if all(_is_part(part) for part in given) and any(isinstance(part, int) for part in given):
        return [Prompt(given)]
    if len(given) > MAX_PROMPTS:
        raise ValueError(f"at most {MAX_PROMPTS} prompts are allowed")
    prompts = [_prompt(prompt) for prompt in given]
    check_number(prompt.images for prompt in prompts)
    return prompts


def _prompt(given: Any) -> Prompt:
    match given:
        case str():
            return Prompt([given])
        case [_, *_] if all(map(_is_part, given)):
            return Prompt(given)
        case {"prompt_string": str(text)}:
            return _with_pictures(text, given.get("multimodal_data") or [])
        case _:
            raise ValueError(_EXPECTED)


def _with_pictures(text: str, data: Any) -> Prompt:
    if not isinstance(data, list):
        raise ValueError("'multimodal_data' should be a list of images in base64")
    first, *rest = text.split(MEDIA_MARKER)
    if len(rest) != len(data):
        raise ValueError(
            f"'prompt_string' has {len(rest)} of the markers {MEDIA_MARKER}, and 'multimodal_data' {len(data)} images"
        )
    album = Album()
    told = [album.add(from_base64(each)) + after for each, after in zip(data, rest, strict=True)]
    return Prompt([first + "".join(told)], album.images)


def _is_part(given: Any) -> bool:
    return isinstance(given, str) or (type(given) is int and 0 <= given < 2**31)


def _biases(given: Any) -> Any:
    """llama-server's pairs, or OpenAI's object."""
    if given is None:
        return []
    pairs = [[_number(key), value] for key, value in given.items()] if isinstance(given, dict) else given
    if not isinstance(pairs, list) or len(pairs) > _MAX_BIASES:
        raise ValueError(f"at most {_MAX_BIASES} pairs of a token (or a text) and a number are expected")
    read: list[tuple[str | int, float]] = []
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or not _is_part(pair[0]) or len(str(pair[0])) > 1024:
            raise ValueError("each entry should be a pair of a token (or a text) and a number, or false to ban it")
        bias = pair[1]
        if bias is not False and (isinstance(bias, bool) or not isinstance(bias, (int, float))):
            raise ValueError("each entry should be a pair of a token (or a text) and a number, or false to ban it")
        read.append((pair[0], float("-inf") if bias is False else float(bias)))
    return read


def _number(key: str) -> str | int:
    return int(key) if key.isascii() and key.isdigit() and len(key) < 10 else key


def _schema(given: Any) -> Any:
    if given is None:
        return None
    if not isinstance(given, (dict, bool)):
        raise ValueError("a JSON Schema is expected: an object")
    return msgspec.json.encode(given).decode()


class Generated(Extras):
    """What `/completion` and `/infill` have in common."""

    model: ModelName = None
    max_tokens: Limit | None = None
    max_completion_tokens: Limit | None = None
    stop: Stops = Field(default_factory=list)
    stream: bool | None = None
    n_probs: Annotated[Whole, Field(ge=0, le=MAX_PROBABILITIES)] | None = None
    return_tokens: bool | None = None
    logit_bias: Annotated[
        Biases, BeforeValidator(_biases, json_schema_input_type=dict[str, float | bool] | list[list[Any]] | None)
    ] = Field(default_factory=list)
    grammar: Annotated[str, Field(max_length=2**20)] | None = None
    json_schema: Annotated[str | None, BeforeValidator(_schema, json_schema_input_type=dict[str, Any] | None)] = None
    response_fields: Annotated[list[Annotated[str, Field(max_length=256)]], Field(max_length=_MAX_FIELDS)] | None = None
    keep_alive: KeepAlive = None

    @model_validator(mode="after")
    def _has_one_constraint(self) -> Generated:
        if self.grammar and self.json_schema is not None:
            raise ValueError("'grammar' and 'json_schema' cannot both be given")
        return self

    @property
    def limit(self) -> Tokens | None:
        """None: until the model stops or its context is full."""
        said = (self.n_predict, self.max_tokens, self.max_completion_tokens)
        given = next((number for number in said if number is not None), None)
        return None if given is None or given < 0 else given

    @property
    def logprobs(self) -> int | None:
        """How many alternatives are wanted beside each token; token numbers come with them."""
        return self.n_probs or None


class CompletionBody(Generated):
    prompt: Annotated[
        list[Annotated[Prompt, SkipValidation]],
        BeforeValidator(
            _prompts,
            json_schema_input_type=str | dict[str, Any] | list[Part] | list[list[Part] | dict[str, Any]],
        ),
    ]
    n_cmpl: Annotated[Whole, Field(ge=1, le=MAX_ANSWERS)] | None = None
    n: Annotated[Whole, Field(ge=1, le=MAX_ANSWERS)] | None = None
    """The same, as OpenAI calls it."""

    @property
    def choices(self) -> int:
        """Answers to each prompt."""
        return self.n_cmpl or self.n or 1

    @model_validator(mode="after")
    def _has_few_answers(self) -> CompletionBody:
        if len(self.prompt) * self.choices > MAX_ANSWERS:
            raise ValueError(f"at most {MAX_ANSWERS} answers are allowed: prompts times 'n_cmpl'")
        return self


class File(Body):
    text: str
    filename: Annotated[str, Field(max_length=4096)] = "tmp"


class InfillBody(Generated):
    input_prefix: str
    input_suffix: str
    input_extra: Annotated[list[File], Field(max_length=MAX_FILES)] | None = None
    prompt: str | None = None

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        return tuple((file.filename, file.text) for file in self.input_extra or ())


class Named(Body):
    model: ModelName = None


class TokenizeBody(Named):
    content: str | list[Annotated[Part, Field()]] = ""
    add_special: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None

    @property
    def parts(self) -> list[Part]:
        return [self.content] if isinstance(self.content, str) else self.content


class DetokenizeBody(Named):
    tokens: list[Annotated[int, Field(ge=0, lt=2**31)]]


class TemplateBody(Named, Conversation):
    """A chat whose prompt is wanted."""


def read_completion(body: Mapping[str, Any]) -> CompletionBody:
    """Raises InvalidRequest."""
    refuse(body, UNSERVED_EXTRAS)
    return parse(CompletionBody, body)


def read_infill(body: Mapping[str, Any]) -> InfillBody:
    """Raises InvalidRequest."""
    refuse(body, UNSERVED_INFILL)
    return parse(InfillBody, body)
