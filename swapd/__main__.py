"""The program `swapd`: serve (the default), check, demo, version."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from pathlib import Path

import structlog

from swapd import __version__
from swapd.config import load
from swapd.daemon import make_catalog, open_sockets, serve
from swapd.errors import SwapdError


def main() -> int:
    arguments = _parser().parse_args()
    _set_up_log(os.environ.get("SWAPD_LOG", "warning" if arguments.command == "demo" else "info"))
    try:
        match arguments.command:
            case "check":
                return _check(arguments.config)
            case "demo":
                from swapd.demo import story  # late: serving needs none of it

                return story.main(once=arguments.once)
            case "version":
                print(f"swapd {__version__}")
                return 0
            case _:
                return _serve(arguments.config)
    except SwapdError as error:
        print(f"swapd: {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception:  # a bug: say so, and differ from a refusal, after which a restart is no use
        structlog.get_logger("swapd").critical("swapd has a bug and ends", exc_info=True)
        return 70


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="swapd", description="Share one GPU among several llama.cpp models.")
    parser.add_argument("--version", action="version", version=f"swapd {__version__}")
    config = argparse.ArgumentParser(add_help=False)
    config.add_argument("--config", type=Path, metavar="FILE", help="instead of $XDG_CONFIG_HOME/swapd/config.toml")
    parser.add_argument("--config", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("serve", parents=[config], help="run the daemon in the foreground (the default)")
    commands.add_parser("check", parents=[config], help="validate the configuration and list what it finds")
    demo = commands.add_parser("demo", help="two small models with room for one: a story, then it goes on serving")
    demo.add_argument("--once", action="store_true", help="end after the story")
    commands.add_parser("version", help="print the version")
    return parser


def _serve(path: Path | None) -> int:
    settings = load(path, os.environ)
    with open_sockets(settings, os.environ) as sockets:
        asyncio.run(serve(path, settings, sockets, os.environ))
    return 0


def _check(path: Path | None) -> int:
    settings = load(path, os.environ)
    catalog = make_catalog(settings)
    catalog.scan()
    print(f"configuration: {settings.source or 'defaults'}: valid")
    for model in catalog.models():
        print(f"  {model.name}" + (f": unusable: {model.reason}" if model.variant is None else f": {model.path}"))
    for problem in catalog.problems():
        print(f"  warning: {problem}")
    return 0


def _set_up_log(level: str) -> None:
    """One line a commitment on stderr; without colours and times where a journal adds its own."""
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # strangers' broken HTTP would fill the log
    is_terminal = sys.stderr.isatty()
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if is_terminal else structlog.processors.LogfmtRenderer(key_order=["event"])
    )
    timestamp: list[structlog.typing.Processor] = [structlog.processors.TimeStamper(fmt="iso")]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            *([] if "JOURNAL_STREAM" in os.environ else timestamp),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


if __name__ == "__main__":
    sys.exit(main())
