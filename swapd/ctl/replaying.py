"""`swapctl replay`: reads a recorded day, lives it again in the simulator, and looks for better settings.

Called by commands. Pages are `replayed`'s matter; what is simulated `sim.lab`'s. It asks no daemon.
"""

from __future__ import annotations

import gc
import os
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from swapd.config import load
from swapd.core.messages import Policy, Ranking
from swapd.ctl import replayed
from swapd.ctl.arguments import POLICIES
from swapd.ctl.client import Exit, Failure, Json
from swapd.ctl.terminal import Progress
from swapd.errors import InvalidConfig
from swapd.sim.lab import recorded, report, tune
from swapd.sim.lab.rivals import RIVALS
from swapd.sim.lab.run import Refused, run
from swapd.trace import FILES, LONGEST, BadTrace, Reading, Trace

STDIN: Final = "-"


def replay(arguments: Namespace) -> tuple[Json, str]:
    """The document and the page. Raises Failure."""
    if arguments.tune and set(arguments.policy or ()) - set(Ranking):
        raise Failure(Exit.USAGE, "--tune is for swapd's own policies: --policy cost or --policy lru")
    if arguments.tune and len(arguments.policy or ()) > 1:
        raise Failure(Exit.USAGE, "--tune takes one --policy")
    paths = [Path(arguments.log)] if arguments.log else _own()
    progress = Progress(sys.stderr, quiet=arguments.json or not sys.stderr.isatty())
    with _without_collector():
        trace = _trace(paths, arguments)
        policy = _policy(trace, arguments)
        try:
            if arguments.tune:
                return _tuned(trace, policy, arguments, progress)
            return _compared(trace, policy, arguments, progress)
        except Refused as refused:
            raise Failure(Exit.DOES_NOT_FIT, f"this day cannot be lived on such a card: {refused}") from refused
        finally:
            progress.clear()


def _compared(trace: Trace, policy: Policy, arguments: Namespace, progress: Progress) -> tuple[Json, str]:
    names = list(dict.fromkeys(arguments.policy or [str(policy.ranking)]))
    if "all" in names:
        names = [name for name in POLICIES if name != "all"]
    progress.show("looking for what nobody could beat")
    bound, is_exact = report.bound(trace, reads_ahead=policy.prefetch)
    rows: list[tuple[str, report.Report]] = []
    refused: dict[str, str] = {}
    for name in names:
        progress.show(f"replaying {len(trace.calls)} requests under {name}")
        rival = name if name in RIVALS else ""
        own = policy if rival else replace(policy, ranking=Ranking(name))
        try:
            outcome = run(trace, own, rival)
        except Refused as error:
            if len(names) == 1:
                raise
            refused[name] = str(error)
            continue
        rows.append((name, replace(report.measure(trace, outcome, bounded=False), bound=bound, is_exact=is_exact)))
    if not rows:
        raise Refused(next(iter(refused.values())))
    document = _day(trace, policy) | {
        "bound_s": bound,
        "bound_is_exact": is_exact,
        "policies": [{"policy": name} | _figures(row) for name, row in rows],
        "refused": refused,
    }
    return document, replayed.compared(trace, rows, refused)


def _tuned(trace: Trace, policy: Policy, arguments: Namespace, progress: Progress) -> tuple[Json, str]:
    found = tune.tune(trace, policy, lambda count: progress.show(f"trying settings: {count}"))
    document = _day(trace, policy) | {
        "replayed": min(len(trace.calls), tune.MOST),
        "tried": found.count,
        "now": _settings(found.now),
        "nearest": _settings(found.nearest),
        "proposed": None if found.best is None else _settings(found.best),
        "why_not": found.why_not,
    }
    return document, replayed.tuned(trace, found)


def _day(trace: Trace, policy: Policy) -> Json:
    waits = recorded.waits(trace)
    return {
        "requests": len(trace.calls),
        "seconds": trace.duration,
        "models": [model.name for model in trace.models],
        "card": trace.card,
        "cards": trace.cards,
        "max_wait": replayed.plain(policy.max_wait),
        "keep_alive": replayed.plain(policy.keep_alive),
        "recorded": None if waits is None else asdict(waits),
    }


def _figures(row: report.Report) -> Json:
    figures = asdict(row) | {"delay_mean": row.delay_mean, "regret_mean": row.regret_mean}
    return {key: value for key, value in figures.items() if key not in ("bound", "is_exact")}


def _settings(tried: tune.Tried) -> Json:
    settings = tried.settings
    return {
        "max_wait": replayed.plain(settings.max_wait),
        "keep_alive": replayed.plain(settings.keep_alive),
        "pins": sorted(settings.pins),
        "pain_s": tried.pain,
        **{key: value for key, value in _figures(tried.report).items() if key != "regret_mean"},
    }


def _policy(trace: Trace, arguments: Namespace) -> Policy:
    """As recorded, but for what was asked."""
    policy = trace.policy or Policy()
    changes: dict[str, Any] = {}
    if arguments.max_wait is not None:
        changes["max_wait"] = arguments.max_wait
    if arguments.keep_alive is not None:
        changes["keep_alive"] = arguments.keep_alive
    if arguments.tune and arguments.policy:
        changes["ranking"] = Ranking(arguments.policy[0])
    return replace(policy, **changes)


# --- reading


def _own() -> list[Path]:
    """The daemon's own files, the older one first. Raises Failure when there is none."""
    try:
        folder = load(None, os.environ).state_dir
    except InvalidConfig as error:
        raise Failure(Exit.REFUSED, f"cannot tell where the daemon records: {error.message}") from error
    found = [folder / name for name in FILES if (folder / name).exists()]
    if not found:
        why = "it is written once the daemon has answered a request; or name a replay file"
        raise Failure(Exit.REFUSED, f"there is no {folder / FILES[-1]}: {why}")
    return found


def _trace(paths: Sequence[Path], arguments: Namespace) -> Trace:
    reading = Reading()
    for path in paths:
        is_stdin = str(path) == STDIN
        name = "stdin" if is_stdin else str(path)
        try:
            with open(0 if is_stdin else path, encoding="utf-8", errors="replace", closefd=not is_stdin) as file:
                reading.feed(iter(lambda file=file: file.readline(LONGEST + 1), ""))  # type: ignore[misc]
        except BadTrace as bad:
            raise Failure(Exit.REFUSED, f"cannot replay {name}:{bad.line}: {bad.why}") from bad
        except OSError as error:
            raise Failure(Exit.REFUSED, f"cannot read {name}: {error.strerror or error}") from error
    trace = recorded.complete(reading.trace())
    if not trace.calls:
        raise Failure(Exit.REFUSED, f"no request is recorded in {' or '.join(map(str, paths))}")
    return recorded.on_cards(trace, arguments.gpu) if arguments.gpu else trace


@contextmanager
def _without_collector() -> Iterator[None]:
    """A day makes millions of small values and no circles: looking for those takes a third of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
