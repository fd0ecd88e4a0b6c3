"""swapctl's entry point: from the command line to an exit status, whatever happens between.

`python -m swapd.ctl` is the same program.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper

from swapd.ctl.arguments import parse
from swapd.ctl.client import Address, Client, Exit, Failure, default_socket, parse_address
from swapd.ctl.commands import COMMANDS
from swapd.ctl.terminal import harmless


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status; writes errors to stderr and never a traceback for what users or networks do."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # the answer may hold characters that the locale has not
    try:
        status = _perform([_decoded(word) for word in (sys.argv[1:] if argv is None else argv)])
        sys.stdout.flush()
    except BrokenPipeError:
        _abandon_stdout()
        return Exit.BROKEN_PIPE
    except OSError as error:
        _abandon_stdout()
        print(f"swapctl: cannot write: {error.strerror or error}", file=sys.stderr)
        return Exit.REFUSED
    return status


def _perform(argv: Sequence[str]) -> int:
    try:
        arguments = parse(argv)
        COMMANDS[arguments.command](_client(arguments.url), arguments)
    except Failure as failure:
        print(f"swapctl: {harmless(str(failure))}", file=sys.stderr)
        return failure.exit
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else Exit.DONE
    return Exit.DONE


def _client(url: str | None) -> Client:
    """Of --url, SWAPD_URL or the usual socket. Raises Failure."""
    url = url or os.environ.get("SWAPD_URL")
    address = parse_address(url) if url else Address(path=default_socket())
    return Client(address, os.environ.get("SWAPD_API_KEY", "").strip())


def _decoded(word: str) -> str:
    """Bytes that are no UTF-8 cannot be said in JSON or in a URL."""
    return os.fsencode(word).decode(errors="replace")


def _abandon_stdout() -> None:
    """What is still buffered has no reader; without this the interpreter complains on its way out."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
