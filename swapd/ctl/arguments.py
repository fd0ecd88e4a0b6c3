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
from swapd.units import parse_bytes, parse_duration

_DESCRIPTION: Final = "Talk to swapd, the daemon that shares one GPU among several models."

_EPILOG: Final = """\
`swapctl COMMAND --help` tells more about a command.

for scripts:
  With --json, stdout carries one JSON document when the command succeeds and
  nothing when it fails; progress is not shown. Errors are plain text on stderr,
  with --json or without, and the exit status says which kind:
    0  done                       4  no such model
    1  the daemon refused         5  the model does not fit
    2  wrong usage              130  interrupted
    3  the daemon cannot be reached, or went away

environment:
  SWAPD_URL      where the daemon is, if --url does not say: http://HOST:PORT or
                 unix:/PATH (default: unix:$XDG_RUNTIME_DIR/swapd/swapd.sock)
  SWAPD_API_KEY  the key to show over TCP, where the daemon wants one

examples:
  swapctl run smollm2-135m "Why is the sky blue?"
  git diff | swapctl run smollm2-135m "Write a commit message for this change:"
  swapctl load smollm2-135m --keep-alive 1h
  swapctl ps --json | jq -r '.models[].name'"""

POLICIES: Final = ("cost", "lru", "fifo", "resident-first", "keep-alive-first", "all")
"""What `swapctl replay` compares: swapd's own two, the lab's rivals, or every one of them."""
_MODEL: Final = "a name that `swapctl ls` lists, or an alias of it"
_DURATION: Final = (
    "how long the model stays loaded after its last answer: seconds, or like 30s, 5m, 1h30m; 0: leave at once; "
    "-1: stay for ever"
)

_STATUS: Final = """

Of each device: OURS is what loaded models hold and FOREIGN what other programs
hold, both measured; LIMIT is the most that swapd may use of it, RESERVE what it
leaves free. --json prints the document of GET /swapd/status."""
_PS: Final = """

SIZE is what the model holds on all devices, VRAM its part on GPUs. PROCESSOR
says where its layers are computed, SLOTS how many answers it is giving now and
how many it can give at a time, UNTIL when it leaves if nobody asks."""
_LS: Final = """

Files that cannot be used are listed below the others, with the reason."""
_SHOW: Final = """

Where it is or, if it is not loaded, where it would go now; the memory that it
is expected to need, and what was measured, beside what was predicted before
the first load."""
_LOAD: Final = """

Idle models leave if it needs their room. Loading a model that is loaded
already only sets its keep-alive."""
_UNLOAD: Final = """

The answers that it is giving are finished first, unless --force is given. New
requests load it again."""
_PIN: Final = """

A pinned model neither expires nor leaves for another; `swapctl unload` still
unloads it. A pin that is to outlast the daemon belongs in its configuration."""
_UNPIN: Final = """

It stays loaded until its keep-alive ends or another model needs the room."""
_PLAN: Final = """

A dry run: nothing is loaded, nobody leaves. The models are placed beside each
other as if the GPUs held nothing else but pinned models and other programs;
where not all of them fit, each in its turn into what the ones before have left.
VRAM and HOST are predictions, marked ~ while they are estimates. With two or
more models also every set of them that fits wholly; * marks those to which no
other of the models could be added. --gpu asks for a machine with these empty
cards, of this one's host memory.

examples:
  swapctl plan qwen3.5:9b codestral:22b
  swapctl plan qwen3.5:27b --gpu 24GiB --context 32768
  swapctl plan qwen3.5:9b codestral:22b qwen3.5:27b --gpu 24GiB,24GiB"""
_YIELD: Final = """

Idle models leave, or are placed smaller, until so much of the GPU with most
room is free; then those at work, once they have finished. Nothing is loaded
into it until the time is over. 0 takes it back. Without a GPU it is host
memory. It answers when so much is free, or after a minute with what is.

example:
  swapctl yield 8GiB --for 2h"""
_QUEUE: Final = """

PLACE is how many are served before it: groups of requests for other models, or
requests of its own."""
_EVENTS: Final = """

Of the last thousand events those still known. With --follow and --json one JSON
document a line."""
_EXPLAIN: Final = """

Every way that was considered, with its price: the seconds of waiting that it
costs all requests together; > marks the one that was taken. At the end what
would have avoided it. Answers from a model that is ready need no decision.

examples:
  swapctl explain
  swapctl explain qwen3.5:9b
  swapctl explain req-0f3a"""
_TOP: Final = """

Of each device: # is what models hold, + what other programs hold, - what is
kept free. q quits. Without a terminal it prints one page; with --json one
document of the status and the last events."""
_SERVICE: Final = """

install writes swapd.socket and swapd.service into ~/.config/systemd/user and
starts the socket: the first connection starts the daemon, and systemd restarts
it if it crashes. Settings of `systemctl --user edit` stay. uninstall stops both
and takes the files away. status tells how they are, and the log's last lines."""
_DOCTOR: Final = """

Looks at llama.cpp, the GPU and its driver, memory, the configuration, models,
folders, the daemon and the service, with or without a daemon. + is as it should
be, . is worth knowing, ! is to be mended, with -> what to do. The exit status
is 0 whatever it finds; with --json, `healthy` says it."""
_REPLAY: Final = """

A day that the daemon has recorded, lived again by the same scheduler on a
simulated machine, without a daemon. LOG is a replay file, or - for stdin;
without LOG it is the daemon's own: $XDG_STATE_HOME/swapd/replay.jsonl, and the
one before it. Of the policies cost and lru are swapd's own, as in [scheduler]
policy; fifo, resident-first and keep-alive-first are how others decide. A wait
is from a request's arrival to its slot; delay is all that an answer took more
than it would have taken alone; fairness is Jain's index over the models. What
nobody could beat is exact for a dozen requests, a lower bound for more.

--tune looks for max_wait, keep_alive and pins that would have served this day
better, and tells what to put into config.toml, or that nothing helps.

examples:
  swapctl replay
  swapctl replay --policy cost --policy lru --max-wait 10s
  swapctl replay monday.jsonl --policy all --gpu 24GiB
  swapctl replay --tune"""
_RELOAD: Final = """

If the file has an error, the daemon names it and goes on as it was."""
_CLIENTS: Final = """

NAME is aider, claude-code, codex, continue, llama.vim, ollama-python,
open-webui, openai-python or zed. The text for the file is written to stdout,
where it belongs to stderr. It names the address of --url if that is over TCP,
else http://127.0.0.1:11435, and the key in SWAPD_API_KEY.

examples:
  eval "$(swapctl clients claude-code --model qwen3.5:9b)" && claude
  swapctl clients codex > ~/.codex/config.toml"""
_RUN: Final = """

With PROMPT, the answer is written to stdout as it comes. What is piped in
follows the prompt on a line of its own, or is the prompt if there is no other.
Without PROMPT on a terminal it is a chat that remembers; /? lists its commands.
Ctrl-C ends the answer, and the model is free for others at once.

examples:
  swapctl run smollm2-135m "Why is the sky blue?"
  swapctl run smollm2-135m Summarise this: < notes.txt
  swapctl run smollm2-135m --system "Answer in French." --temperature 0"""


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
        words, rest = [*rest[:cut], *rest[cut + 1 :]], [word for word in rest[:cut] if word.startswith("-")]
        arguments.prompt += words
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return arguments


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="swapctl",
        description=_DESCRIPTION,
        epilog=_EPILOG,
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
        command.add_argument("model", metavar="M", help=_MODEL)
        return command

    add("status", "show the daemon, its devices, what is loaded, who waits", _STATUS)
    add("ps", "list the loaded models", _PS)
    add("ls", "list the models that can be loaded", _LS)
    add_for_model("show", "show everything about a model", _SHOW)

    load = add_for_model("load", "load a model, and wait until it is ready", _LOAD)
    load.add_argument("--keep-alive", metavar="D", type=_duration, help=_DURATION)
    load.add_argument(
        "--gpu-layers", metavar="N", type=_whole, help="layers to put on the GPU (default: as many as fit)"
    )
    unload = add_for_model("unload", "unload a model", _UNLOAD)
    unload.add_argument("--force", action="store_true", help="do not wait: end the answers that it is giving")
    add_for_model("pin", "keep a model loaded, whoever else wants its memory", _PIN)
    add_for_model("unpin", "let a pinned model go when others want its memory", _UNPIN)

    run = add_for_model("run", "ask a model, or chat with it", _RUN)
    run.add_argument("prompt", metavar="PROMPT", nargs="*", help="what to ask; several words need no quotes")
    run.add_argument("--system", metavar="TEXT", help="the system message")
    run.add_argument(
        "--temperature", metavar="T", type=_temperature, help="0: always the likeliest token; higher: more varied"
    )
    run.add_argument("--max-tokens", metavar="N", type=_positive, help="end the answer after this many tokens")
    run.add_argument("--keep-alive", metavar="D", type=_duration, help=_DURATION)
    run.add_argument(
        "--verbose", action="store_true", help="tell on stderr how long loading, reading and answering took"
    )

    plan = add("plan", "tell what fits beside what, and who would have to leave", _PLAN)
    plan.add_argument("models", metavar="M", nargs="+", help=_MODEL)
    plan.add_argument(
        "--gpu", metavar="SIZE[,SIZE]", type=_sizes, help="for a machine with these cards, like 24GiB or 24GiB,16GiB"
    )
    plan.add_argument("--context", metavar="N", type=_positive, help="tokens per slot (default: as configured)")
    plan.add_argument("--slots", metavar="N", type=_positive, help="answers to give at a time (default: as configured)")
    give = add("yield", "give GPU memory to other programs for a while", _YIELD)
    give.add_argument("size", metavar="SIZE", type=_size, help="how much, like 8GiB or 512MiB; 0: take it back")
    give.add_argument(
        "--for",
        dest="duration",
        metavar="D",
        type=_lasting,
        default=1800.0,
        help="how long: seconds, or like 30s, 30m, 2h; -1: for ever (default: 30m)",
    )
    add("queue", "list the requests that wait, and for what", _QUEUE)
    watch = add("events", "list what has happened lately", _EVENTS)
    watch.add_argument("--follow", action="store_true", help="go on with what happens, until Ctrl-C")
    why = add("explain", "tell why something was loaded, unloaded, refused or has to wait", _EXPLAIN)
    why.add_argument(
        "subject",
        metavar="M|REQUEST-ID",
        nargs="?",
        help="a model, or an answer's X-Request-Id (default: the last swap)",
    )
    replay = add("replay", "live a recorded day again, under this or another policy", _REPLAY)
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
    add("reload", "make the daemon read its configuration again", _RELOAD)
    live = add("top", "show the daemon live: memory, models, who waits", _TOP)
    live.add_argument("--every", metavar="D", type=_interval, default=1.0, help="how often to look (default: 1s)")
    unit = add("service", "make swapd a service of this user, by systemd", _SERVICE)
    unit.add_argument("verb", metavar="install|uninstall|status", choices=("install", "uninstall", "status"))
    unit.add_argument("--at-login", action="store_true", help="install: start it at login, not at the first connection")
    unit.add_argument("--force", action="store_true", help="also over unit files that swapctl did not write")
    add("doctor", "tell what is wrong with this machine, and what to do", _DOCTOR)
    paste = add("clients", "print the configuration of another program that is to use the daemon", _CLIENTS)
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
