"""`swapctl run M` on a terminal: a conversation that remembers.

Called by `commands`. It knows lines, keys and the history; asking is `run.converse`.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import Final

from swapd.ctl import pages, run
from swapd.ctl.client import Client, Failure, Json
from swapd.ctl.terminal import Answer, Progress, harmless

_PROMPT: Final = ">>> "
_MORE: Final = "... "
_FENCE: Final = '"""'
_HELP: Final = '''\
  """      begin and end a message of several lines
  /clear   forget the conversation so far
  /bye     leave (or Ctrl-D)
  /?       this help
  Ctrl-C   stop the answer and stay'''


class Chat:
    """One conversation with one model."""

    def __init__(self, client: Client, arguments: Namespace) -> None:
        self._client, self._arguments = client, arguments
        self._history: list[Json] = []

    def talk(self) -> None:
        """Until Ctrl-D or /bye. What the daemon refuses is told, and the conversation goes on."""
        import readline  # noqa: F401 (editing and history for input(); useless and slow for other commands)

        print("/? lists the commands, Ctrl-D leaves.")
        while True:
            try:
                if not self._turn():
                    return
            except KeyboardInterrupt:
                print()
            except EOFError:
                print()
                return
            except Failure as failure:
                print(f"swapctl: {harmless(str(failure))}", file=sys.stderr)

    def _turn(self) -> bool:
        """One message or command; False: leave. Raises EOFError, Failure, and KeyboardInterrupt from an answer."""
        try:
            text = _read_message()
        except KeyboardInterrupt:
            print("\nCtrl-D or /bye leaves.")
            return True
        match text.strip():
            case "":
                pass
            case "/bye" | "/exit":
                return False
            case "/clear":
                self._history.clear()
                print("The conversation so far is forgotten.")
            case "/?" | "/help":
                print(_HELP)
            case unknown if unknown.startswith("/") and unknown[1:].isalpha():
                print(f"There is no command {unknown}; /? lists them.")
            case _:
                self._ask(text)
        return True

    def _ask(self, text: str) -> None:
        system = self._arguments.system
        question = {"role": "user", "content": text}
        messages = [*([{"role": "system", "content": system}] if system is not None else []), *self._history, question]
        body = run.options(self._arguments) | {"model": self._arguments.model, "messages": messages}
        pieces: list[str] = []
        output = Answer(sys.stdout)

        def write(piece: str) -> None:
            pieces.append(piece)
            output.write(piece)

        try:
            final = run.converse(self._client, "/api/chat", body, write, Progress(sys.stderr))
        finally:
            output.end()
            if pieces:  # what was read counts as said, also when Ctrl-C cut it off
                self._history += [question, {"role": "assistant", "content": "".join(pieces)}]
        if self._arguments.verbose:
            print(f"\n{pages.timings(final)}", file=sys.stderr)
        print()


def _read_message() -> str:
    """A line, or the lines between two fences. Raises EOFError, KeyboardInterrupt."""
    line = input(_PROMPT)
    if not line.lstrip().startswith(_FENCE):
        return line
    line = line.lstrip().removeprefix(_FENCE)
    lines = []
    while not line.rstrip().endswith(_FENCE):
        lines.append(line)
        line = input(_MORE)
    lines.append(line.rstrip().removesuffix(_FENCE))
    return "\n".join(lines).strip("\n")
