"""The formats in which models think and call tools, and how a chat template's text tells which one is its model's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from swapd.worker.toolcalls import deepseek, gemma, generic, harmony, hermes, llama, mistral, tagged
from swapd.worker.toolcalls.reading import Reading, Steps
from swapd.worker.toolcalls.spelling import Spelling, objects


@dataclass(frozen=True, slots=True)
class Format:
    """How calls are written: sections that one of `opens` begins and `read` reads (False: it is no call after all).

    `bare` reads calls that nothing announces, where a turn begins. `marks` are all other marks that a model may
    write as one token, which has no text of its own.
    """

    name: str
    opens: tuple[str, ...]
    read: Callable[[Reading, str], Steps[bool]]
    spelling: Spelling
    bare: Callable[[Reading], Steps[bool]] | None = None
    marks: tuple[str, ...] = ()
    is_guided: bool = True
    """A call that the model begins by itself is written as `spelling` has it, and can be held to that."""


@dataclass(frozen=True, slots=True)
class Thinking:
    """The marks around what a model thinks before it answers."""

    opens: str
    closes: str


_HERMES_MARKS: Final = ("</tool_call>", "</seed:tool_call>")
HERMES: Final = Format(
    "hermes",
    tuple(hermes.CLOSES),
    hermes.read,
    Spelling("<tool_call>\n" + objects(), "}\n</tool_call>"),
    marks=_HERMES_MARKS,
)
CODER: Final = replace(
    HERMES, name="coder", spelling=Spelling("<tool_call>\n<function={name}>\n", "</function>\n</tool_call>")
)
SEED: Final = replace(
    HERMES,
    name="seed",
    spelling=Spelling("<seed:tool_call>\n<function={name}>\n", "</function>\n</seed:tool_call>"),
)
FUNCTION: Final = replace(HERMES, name="function", spelling=Spelling("<function={name}>", "</function>", ""))
"""Functionary's, and Llama's where it was asked for: JSON between the marks."""
GLM: Final = replace(
    HERMES,
    name="glm",
    spelling=Spelling("<tool_call>{name}\n", "</tool_call>"),
    marks=(*_HERMES_MARKS, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
)
GLM_TIGHT: Final = replace(GLM, name="glm tight", spelling=Spelling("<tool_call>{name}", "</tool_call>", ""))
"""From 4.7 on, without line breaks."""
LLAMA: Final = Format("llama", llama.OPENS, llama.read, Spelling(objects("parameters"), "}", "; "), llama.bare)
MISTRAL: Final = Format(
    "mistral",
    mistral.OPENS,
    mistral.read,
    Spelling("[TOOL_CALLS]{name}{id}[ARGS]", between="", around_id=("[CALL_ID]", "")),
    marks=mistral.MARKS,
)
MISTRAL_ARRAY: Final = replace(
    MISTRAL,
    name="mistral array",
    spelling=Spelling(objects(), "{id}}", ", ", "[TOOL_CALLS][", "]", (', "id": "', '"')),
)
DEEPSEEK: Final = Format(
    "deepseek",
    deepseek.OPENS,
    deepseek.read,
    Spelling(
        f"{deepseek.CALL}{{name}}{deepseek.SEPARATOR}", deepseek.CALL_END, "", begin=deepseek.BEGIN, end=deepseek.END
    ),
    marks=deepseek.MARKS,
)
DEEPSEEK_FENCED: Final = replace(
    DEEPSEEK,
    name="deepseek fenced",
    spelling=Spelling(
        f"{deepseek.CALL}function{deepseek.SEPARATOR}{{name}}\n```json\n",
        f"\n```{deepseek.CALL_END}",
        begin=deepseek.BEGIN,
        end=deepseek.END,
    ),
)
GEMMA: Final = Format(
    "gemma",
    gemma.OPENS,
    gemma.read,
    Spelling("<|tool_call>call:{name}", "<tool_call|>", ""),
    marks=gemma.MARKS,
    is_guided=False,  # its own notation takes JSON, and its models write another
)
FUNCTION_GEMMA: Final = replace(
    GEMMA,
    name="functiongemma",
    spelling=Spelling("<start_function_call>call:{name}", "<end_function_call>", ""),
)
KIMI: Final = Format(
    "kimi",
    (tagged.KIMI_BEGIN, tagged.KIMI_CALL),
    tagged.read_kimi,
    Spelling(
        f"{tagged.KIMI_CALL}functions.{{name}}:{{number}}{tagged.KIMI_ARGUMENTS}",
        tagged.KIMI_CALL_END,
        "",
        tagged.KIMI_BEGIN,
        tagged.KIMI_END,
    ),
    marks=tagged.KIMI_MARKS,
)
INVOKES: Final = Format(
    "invokes",
    tuple(tagged.INVOKE_CLOSES),
    tagged.read_invokes,
    Spelling('<invoke name="{name}">\n', "</invoke>\n", "", "<minimax:tool_call>\n", "</minimax:tool_call>"),
    marks=tuple(tagged.INVOKE_CLOSES.values()),
)
DSML: Final = replace(
    INVOKES,
    name="dsml",
    spelling=Spelling(
        '<｜DSML｜invoke name="{name}">\n',
        "</｜DSML｜invoke>\n",
        "",
        "<｜DSML｜function_calls>\n",
        "</｜DSML｜function_calls>",
    ),
)
HARMONY: Final = Format(
    "harmony",
    (),
    hermes.read,
    Spelling("<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"),
    marks=harmony.MARKS,
)
"""Read as a whole by `harmony.read`: its text and thinking are in messages too."""
GENERIC: Final = Format("generic", generic.OPENS, generic.read, Spelling(objects(), "}"), generic.bare)

_TAGGED: Final = Format(
    "tagged",
    tuple(tagged.JSON_CLOSES),
    tagged.read_json,
    Spelling(objects(), "}", ", "),
    marks=tuple(mark for mark in tagged.JSON_CLOSES.values() if mark),
)


def _tagged(opens: str) -> Format:
    """An array of calls after this mark, and before the one that closes it."""
    closes = tagged.JSON_CLOSES[opens]
    match opens:
        case "<|START_ACTION|>":
            before = '{"tool_call_id": "{number}", "tool_name": "{name}", "parameters": '
            spelling = Spelling(before, "}", ",\n    ", opens + "[\n    ", "\n]" + closes)
        case "<|function_call|>":
            spelling = Spelling(opens + objects(), "}", "")
        case _:
            spelling = Spelling(objects(), "}", ", ", opens + "[", "]" + closes)
    return replace(_TAGGED, name=opens, spelling=spelling, is_guided=opens != "<|tool_call_start|>")


_SIGNS: Final[tuple[tuple[tuple[str, ...], Format], ...]] = (
    ((harmony.MESSAGE, harmony.CHANNEL), HARMONY),
    (("｜DSML｜",), DSML),
    ((deepseek.SEPARATOR,), DEEPSEEK),
    ((tagged.KIMI_CALL,), KIMI),
    (("<minimax:tool_call>",), INVOKES),
    (("<|tool_call>",), GEMMA),
    (("<start_function_call>",), FUNCTION_GEMMA),
    (("[ARGS]",), MISTRAL),
    (("[TOOL_CALLS]",), MISTRAL_ARRAY),
    (("</arg_key><arg_value>",), GLM_TIGHT),
    (("<arg_key>",), GLM),
    (("<seed:tool_call>",), SEED),
    (("<function=",), CODER),
    (("<tool_calls>[",), _tagged("<tool_calls>")),
    (("<tool_call>",), HERMES),
    (("<|tool_list_start|>", "List of tools: "), _tagged("<|tool_call_start|>")),
    ((" functools[",), _tagged("functools")),
    *(((mark,), _tagged(mark)) for mark in tagged.JSON_CLOSES if mark != "functools"),
    ((*llama.OPENS, '{"name": function name, "parameters"'), LLAMA),
)
"""(signs, any of which tells the format), the surest first: some templates quote the marks of others."""

_THINKING: Final = (
    Thinking("<think>", "</think>"),
    Thinking("[THINK]", "[/THINK]"),
    Thinking("<seed:think>", "</seed:think>"),
    Thinking("<|START_THINKING|>", "<|END_THINKING|>"),
    Thinking("<|channel>thought\n", "<channel|>"),
    Thinking("◁think▷", "◁/think▷"),
    Thinking("<thinking>", "</thinking>"),
    Thinking("<thought>", "</thought>"),
    Thinking("<reasoning>", "</reasoning>"),
    Thinking("<|begin_of_thought|>", "<|end_of_thought|>"),
    Thinking("Here is my thought process:", "Here is my response:"),
)


def format_of(template: str) -> Format:
    for signs, found in _SIGNS:
        if any(sign in template for sign in signs):
            if found is DEEPSEEK and "```json" in template:
                return DEEPSEEK_FENCED
            return FUNCTION if found is CODER and "<tool_call>" not in template else found
    return GENERIC


def thinking_of(template: str) -> Thinking | None:
    """None: the model does not think, or its format says how."""
    return next((marks for marks in _THINKING if marks.closes in template), None)
