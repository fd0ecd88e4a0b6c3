"""`swapctl run`: one question, streamed; and the exchange with the daemon that the interactive chat shares.

Called by `commands` and `chat`. It knows Ollama's streams, with the daemon's progress lines between.
"""

from __future__ import annotations

import os
import stat
import sys
from argparse import Namespace
from collections.abc import Callable
from typing import Final

from swapd.ctl import pages
from swapd.ctl.client import Client, Exit, Failure, Json
from swapd.ctl.terminal import Answer, Progress

_FIGURES: Final = (
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
)


def ask_once(client: Client, arguments: Namespace, prompt: str) -> Json:
    """Ask, stream the answer to stdout unless --json is given, and return the whole as one document."""
    body = options(arguments) | {"model": arguments.model, "prompt": prompt}
    if arguments.system is not None:
        body["system"] = arguments.system
    pieces: list[str] = []
    output = Answer(sys.stdout)

    def write(text: str) -> None:
        pieces.append(text)
        if not arguments.json:
            output.write(text)

    try:
        final = converse(client, "/api/generate", body, write, Progress(sys.stderr, quiet=arguments.json))
    finally:
        output.end()
    if arguments.verbose:
        print(f"\n{pages.timings(final)}", file=sys.stderr)
    figures = {key: final[key] for key in _FIGURES if key in final}
    return {
        "model": final.get("model", arguments.model),
        "response": "".join(pieces),
        "done_reason": final.get("done_reason"),
    } | figures


def converse(client: Client, route: str, body: Json, write: Callable[[str], None], progress: Progress) -> Json:
    """Give `write` every piece of the answer; the stream's last line. Raises Failure.

    However it ends, Ctrl-C included, the connection is closed on the way out: the slot is free.
    """
    final: Json | None = None
    lines = client.stream(route, body)
    try:
        for line in lines:
            if "status" in line:
                progress.show(str(line["status"]), line.get("fraction"))
                continue
            message = line.get("message")
            text = message.get("content") if isinstance(message, dict) else line.get("response")
            if text:
                progress.clear()
                write(str(text))
            if line.get("done"):
                final = line  # and on to the end of the stream: hanging up now would look like a caller who left
    finally:
        progress.clear()
        lines.close()
    if final is None:
        raise client.cut_off()
    return final


def options(arguments: Namespace) -> Json:
    """What the command line says about answering, in Ollama's words; what it does not say is the model's."""
    chosen: Json = {}
    if arguments.temperature is not None:
        chosen["temperature"] = arguments.temperature
    if arguments.max_tokens is not None:
        chosen["num_predict"] = arguments.max_tokens
    body: Json = {"stream": True}
    if chosen:
        body["options"] = chosen
    if arguments.keep_alive is not None:
        body["keep_alive"] = arguments.keep_alive
    return body


def read_prompt(words: list[str]) -> str:
    """The prompt of the command line, then what is piped in. Raises Failure (usage) when there is none."""
    parts = [" ".join(words)] if words else []
    if not words or _is_piped():
        piped = sys.stdin.buffer.read().decode(errors="replace") if sys.stdin else ""
        if piped.strip():
            parts.append(piped)
    prompt = "\n".join(parts)
    if not prompt.strip():
        raise Failure(Exit.USAGE, "nothing to ask: give a PROMPT, or pipe one in")
    return prompt


def _is_piped() -> bool:
    """Not a terminal, and not /dev/null either."""
    try:
        return not stat.S_ISCHR(os.fstat(sys.stdin.fileno()).st_mode)
    except (AttributeError, OSError, ValueError):
        return False
