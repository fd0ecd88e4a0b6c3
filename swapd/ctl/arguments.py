"""The command line: every command, its options and its help.

Called by `__main__`. It checks the form of what is typed and nothing else: names are the daemon's to know.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from typing import Final

from swapd import __version__
from swapd.ctl import words
from swapd.units import parse_bytes, parse_duration

POLICIES: Final = ("cost", "lru", "fifo", "resident-first", "keep-alive-first", "all")
"""What `swapctl replay` compares: swapd's own two, the lab's rivals, or every one of them."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """What was typed. Wrong usage leaves with status 2, --help and --version with 0 (SystemExit)."""
    parser = build_parser()
    if not argv:
        parser.print_help(sys.stderr)
        parser.exit(2)
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.command == "run":
        # argparse gives up on words that follow an option after the model's name.
        cut = rest.index("--") if "--" in rest else len(rest)
        more, rest = [*rest[:cut], *rest[cut + 1 :]], [word for word in rest[:cut] if word.startswith("-")]
        arguments.prompt += more
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return arguments


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="swapctl",
        description=words.DESCRIPTION,
        epilog=words.EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        parents=[_common()],
    )
    parser.set_defaults(json=False, url=None)
    parser.add_argument("--version", action="version", version=f"swapctl {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, title="commands")

    def add(name: str, summary: str, more: str = "") -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.{more}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            parents=[_common()],
        )

    def add_for_model(name: str, summary: str, more: str = "") -> argparse.ArgumentParser:
        command = add(name, summary, more)
        command.add_argument("model", metavar="M", help=words.MODEL)
        return command

    add("status", "show the daemon, its devices, what is loaded, who waits", words.STATUS)
    add("ps", "list the loaded models", words.PS)
    add("ls", "list the models that can be loaded", words.LS)
    add_for_model("show", "show everything about a model", words.SHOW)

    load = add_for_model("load", "load a model, and wait until it is ready", words.LOAD)
    load.add_argument("--keep-alive", metavar="D", type=_duration, help=words.DURATION)
    load.add_argument(
        "--gpu-layers", metavar="N", type=_whole, help="layers to put on the GPU (default: as many as fit)"
    )
    unload = add_for_model("unload", "unload a model", words.UNLOAD)
    unload.add_argument("--force", action="store_true", help="do not wait: end the answers that it is giving")
    add_for_model("pin", "keep a model loaded, whoever else wants its memory", words.PIN)
    add_for_model("unpin", "let a pinned model go when others want its memory", words.UNPIN)

    run = add_for_model("run", "ask a model, or chat with it", words.RUN)
    run.add_argument("prompt", metavar="PROMPT", nargs="*", help="what to ask; several words need no quotes")
    run.add_argument("--system", metavar="TEXT", help="the system message")
    run.add_argument(
        "--temperature", metavar="T", type=_temperature, help="0: always the likeliest token; higher: more varied"
    )
    run.add_argument("--max-tokens", metavar="N", type=_positive, help="end the answer after this many tokens")
    run.add_argument("--keep-alive", metavar="D", type=_duration, help=words.DURATION)
    run.add_argument(
        "--verbose", action="store_true", help="tell on stderr how long loading, reading and answering took"
    )

    plan = add("plan", "tell what fits beside what, and who would have to leave", words.PLAN)
    plan.add_argument("models", metavar="M", nargs="+", help=words.MODEL)
    plan.add_argument(
        "--gpu", metavar="SIZE[,SIZE]", type=_sizes, help="for a machine with these cards, like 24GiB or 24GiB,16GiB"
    )
    plan.add_argument("--context", metavar="N", type=_positive, help="tokens per slot (default: as configured)")
    plan.add_argument("--slots", metavar="N", type=_positive, help="answers to give at a time (default: as configured)")
    give = add("yield", "give GPU memory to other programs for a while", words.YIELD)
    give.add_argument("size", metavar="SIZE", type=_size, help="how much, like 8GiB or 512MiB; 0: take it back")
    give.add_argument(
        "--for",
        dest="duration",
        metavar="D",
        type=_lasting,
        default=1800.0,
        help="how long: seconds, or like 30s, 30m, 2h; -1: for ever (default: 30m)",
    )
    add("queue", "list the requests that wait, and for what", words.QUEUE)
    watch = add("events", "list what has happened lately", words.EVENTS)
    watch.add_argument("--follow", action="store_true", help="go on with what happens, until Ctrl-C")
    why = add("explain", "tell why something was loaded, unloaded, refused or has to wait", words.EXPLAIN)
    why.add_argument(
        "subject",
        metavar="M|REQUEST-ID",
        nargs="?",
        help="a model, or an answer's X-Request-Id (default: the last swap)",
    )
    replay = add("replay", "live a recorded day again, under this or another policy", words.REPLAY)
    replay.add_argument("log", metavar="LOG", nargs="?", help="a replay file; -: stdin (default: the daemon's own)")
    replay.add_argument(
        "--policy",
        metavar="P",
        action="append",
        choices=POLICIES,
        help=f"{', '.join(POLICIES)}; may be given several times (default: as recorded)",
    )
    replay.add_argument(
        "--max-wait", metavar="D", type=_seconds, help="[scheduler] max_wait of cost and lru (default: as recorded)"
    )
    replay.add_argument(
        "--keep-alive",
        metavar="D",
        type=_seconds,
        help="[scheduler] keep_alive of cost and lru; -1: for ever (default: as recorded)",
    )
    replay.add_argument(
        "--gpu",
        metavar="SIZE[,SIZE]",
        type=_sizes,
        help="on these cards, like 24GiB or 24GiB,16GiB (default: as recorded)",
    )
    replay.add_argument("--tune", action="store_true", help="look for better settings for this day")
    add("reload", "make the daemon read its configuration again", words.RELOAD)
    fetch = add("pull", "fetch a model from Hugging Face", words.PULL)
    fetch.add_argument("repository", metavar="REPO[:QUANT]", help="USER/REPO of GGUF files, and which quantisation")
    live = add("top", "show the daemon live: memory, models, who waits", words.TOP)
    live.add_argument("--every", metavar="D", type=_interval, default=1.0, help="how often to look (default: 1s)")
    unit = add("service", "make swapd a service of this user, by systemd", words.SERVICE)
    unit.add_argument("verb", metavar="install|uninstall|status", choices=("install", "uninstall", "status"))
    unit.add_argument("--at-login", action="store_true", help="install: start it at login, not at the first connection")
    unit.add_argument("--force", action="store_true", help="also over unit files that swapctl did not write")
    add("doctor", "tell what is wrong with this machine, and what to do", words.DOCTOR)
    paste = add("clients", "print the configuration of another program that is to use the daemon", words.CLIENTS)
    paste.add_argument("name", metavar="NAME", help="the program")
    paste.add_argument("--model", metavar="M", help="the model that it is to use (default: one that is loaded)")
    add("version", "show the versions of swapctl and of the daemon")
    return parser


def _common() -> argparse.ArgumentParser:
    """Options that may stand before or after the command; absent ones set nothing, so that neither place wins."""
    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--url", metavar="URL", help="where the daemon is: http://HOST:PORT or unix:/PATH")
    common.add_argument("--json", action="store_true", help="one JSON document on stdout, nothing else")
    return common


def _duration(text: str) -> str:
    try:
        parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text.strip()


def _seconds(text: str) -> float:
    return parse_duration(_duration(text))


def _interval(text: str) -> float:
    seconds = parse_duration(_duration(text))
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0.1 and 3600 seconds")
    return seconds


def _lasting(text: str) -> float:
    """Seconds; -1: for ever."""
    seconds = parse_duration(_duration(text))
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time above 0; `swapctl yield 0` takes memory back")
    return -1 if math.isinf(seconds) else seconds


def _size(text: str) -> int:
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _sizes(text: str) -> list[int]:
    sizes = [_size(part) for part in text.split(",")]
    if not all(sizes):
        raise argparse.ArgumentTypeError("a card of no size; write it like 24GiB or 24GiB,16GiB")
    return sizes


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 0 or more")
    return int(text)


def _positive(text: str) -> int:
    number = _whole(text)
    if number == 0:
        raise argparse.ArgumentTypeError("0 is no number of 1 or more")
    return number


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no temperature; write 0 or a number above")
    return value
