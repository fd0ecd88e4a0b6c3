"""What each command asks the daemon, and what it tells the user.

Called by `__main__`. Pages are `pages`' matter, the exchange of answers `run`'s and `chat`'s.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final, TypeAlias
from urllib.parse import quote

from swapd import __version__
from swapd.ctl import explained, pages, planned, run
from swapd.ctl.chat import Chat
from swapd.ctl.client import Client, Exit, Failure, Json, model_route
from swapd.ctl.clients import NO_KEY, RECIPES, Target
from swapd.ctl.terminal import Progress, cell

_DEFAULT_URL: Final = "http://127.0.0.1:11435"

Command: TypeAlias = Callable[[Client, Namespace], None]


def status(client: Client, arguments: Namespace) -> None:
    document = client.get("/swapd/status")
    _tell(arguments, document, lambda: pages.status(document, str(client.address), _now()))


def ps(client: Client, arguments: Namespace) -> None:
    models = _list(client.get("/swapd/status"), "models")
    running = _list(client.get("/api/ps"), "models")  # of another moment: what came since has no ID yet
    digests = {str(model["name"]): str(model.get("digest", "")) for model in running}
    document = {"models": [model | {"digest": digests.get(model["name"])} for model in models]}
    _tell(arguments, document, lambda: pages.ps(models, digests, _now()))


def ls(client: Client, arguments: Namespace) -> None:
    models = _list(client.get("/swapd/models"), "models")
    _tell(arguments, {"models": models}, lambda: pages.ls(models, _now()))


def show(client: Client, arguments: Namespace) -> None:
    model = _find(_list(client.get("/swapd/models"), "models"), arguments.model)
    residents = _list(client.get("/swapd/status"), "models")
    resident = next((resident for resident in residents if resident["name"] == model["name"]), None)
    footprint = client.get(model_route(model["name"], "footprint")) if model["usable"] else None
    document = model | {"resident": resident, "footprint": footprint}
    _tell(arguments, document, lambda: pages.show(model, resident, footprint, _now()))


def load(client: Client, arguments: Namespace) -> None:
    resident = _load(client, arguments, {"keep_alive": arguments.keep_alive, "gpu_layers": arguments.gpu_layers})
    _tell(arguments, resident, lambda: pages.loaded(resident))


def unload(client: Client, arguments: Namespace) -> None:
    document = client.post(model_route(arguments.model, "unload"), {"force": arguments.force})
    was_loaded = document.get("unloaded", True)
    _tell(arguments, document, lambda: f"{cell(arguments.model)} {'is unloaded' if was_loaded else 'was not loaded'}")


def pin(client: Client, arguments: Namespace) -> None:
    document = client.post(model_route(arguments.model, "pin"))
    _tell(arguments, document, lambda: f"{cell(arguments.model)} is pinned")


def unpin(client: Client, arguments: Namespace) -> None:
    document = client.post(model_route(arguments.model, "unpin"))
    _tell(arguments, document, lambda: f"{cell(arguments.model)} is no longer pinned")


def plan(client: Client, arguments: Namespace) -> None:
    wishes = {"gpu": arguments.gpu, "context": arguments.context, "slots": arguments.slots}
    question = {"models": arguments.models} | {key: value for key, value in wishes.items() if value is not None}
    document = client.post("/swapd/plan", question)
    _tell(arguments, document, lambda: planned.page(document))


def yield_memory(client: Client, arguments: Namespace) -> None:
    document = client.post("/swapd/yield", {"bytes": arguments.size, "seconds": arguments.duration})
    _tell(arguments, document, lambda: planned.yielded(document, _now()))


def queue(client: Client, arguments: Namespace) -> None:
    document = client.get("/swapd/queue")
    _tell(arguments, document, lambda: explained.queue(document["queue"], _now()))


def events(client: Client, arguments: Namespace) -> None:
    """With --follow as they come, with --json then one document a line; else those still known."""
    if not arguments.follow:
        known = list(client.events("/swapd/events?follow=false"))
        _tell(arguments, {"events": known}, lambda: "\n".join(map(explained.event, known)) or "Nothing has happened.")
        return
    for each in client.events("/swapd/events?since=now"):
        print(json.dumps(each) if arguments.json else explained.event(each), flush=True)
    raise client.cut_off()


def explain(client: Client, arguments: Namespace) -> None:
    """Of a model, of a request, or the last decision that moved a model."""
    found = _decisions(client, arguments.subject)
    _tell(arguments, {"decisions": found}, lambda: explained.explain(found, _now()))


def _decisions(client: Client, subject: str | None) -> list[Json]:
    if subject is None:
        moved = [each for each in client.get("/swapd/decisions?limit=1000")["decisions"] if each["moved"]]
        if not moved:
            raise Failure(Exit.REFUSED, "nothing has been loaded or unloaded yet")
        return moved[-1:]
    wanted = quote(subject, safe="")
    served: list[Json] = client.get(f"/swapd/decisions?request={wanted}")["decisions"]
    if served:
        return served
    try:
        found: list[Json] = client.get(f"/swapd/decisions?model={wanted}&limit=5")["decisions"]
    except Failure as failure:
        if failure.exit is not Exit.NOT_FOUND:
            raise
        raise Failure(
            Exit.NOT_FOUND, f"{subject!r} is no model, and no request that had to be decided upon"
        ) from failure
    if not found:
        raise Failure(Exit.REFUSED, f"nothing has been decided about {subject!r} yet")
    return found


def replay(client: Client, arguments: Namespace) -> None:
    """Asks no daemon."""
    from swapd.ctl import replaying  # here: the simulator takes longer to come than most commands take

    document, page = replaying.replay(arguments)
    _tell(arguments, document, lambda: page)


def pull(client: Client, arguments: Namespace) -> None:
    """The last line, once everything is there; meanwhile the progress line."""
    progress = Progress(sys.stderr, quiet=arguments.json)
    last: Json = {}
    lines = client.stream("/api/pull", {"model": arguments.repository})
    try:
        for last in lines:
            total = last.get("total")
            progress.show(str(last.get("status", "")), last.get("completed", 0) / total if total else None)
    finally:
        progress.clear()
        lines.close()
    if last.get("status") != "success":
        raise client.cut_off()
    names = [str(name) for name in last.get("models", [arguments.repository])]
    page = "\n".join(f"{cell(name)} can be served" for name in names)
    _tell(arguments, last, lambda: page or "it is there, and cannot be served: `swapctl ls` tells why")


def top(client: Client, arguments: Namespace) -> None:
    """A live screen; with --json one look."""
    from swapd.ctl import top as screen  # here: only this command draws

    if arguments.json:
        _print(screen.document(screen.look(client)))
        return
    try:
        screen.watch(client, arguments)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _misread(repr(error)) from error


def manage_service(client: Client, arguments: Namespace) -> None:
    """Asks no daemon."""
    from swapd.ctl import service  # here: only this command and `doctor` run other programs

    verbs = {"install": service.install, "uninstall": service.uninstall, "status": service.status}
    document, page = verbs[arguments.verb](arguments)
    _tell(arguments, document, lambda: page)


def examine(client: Client, arguments: Namespace) -> None:
    """Needs no daemon, and tells of one."""
    from swapd.ctl import doctor, examining, findings  # here: they read the configuration and ask the driver

    found = list(doctor.examine(examining.this_machine(client)))
    _tell(arguments, findings.document(found), lambda: findings.page(found))


def reload(client: Client, arguments: Namespace) -> None:
    document = client.post("/swapd/reload")
    _tell(arguments, document, lambda: "the configuration is read again")


def clients(client: Client, arguments: Namespace) -> None:
    """The text alone on stdout, for a file; where it belongs on stderr."""
    recipe = RECIPES.get(arguments.name)
    if recipe is None:
        raise Failure(Exit.USAGE, f"{arguments.name!r} is not known here; {', '.join(RECIPES)} are")
    target = _target(client, arguments)
    document = {
        "client": arguments.name,
        "form": recipe.form,
        "place": recipe.place,
        "tried": recipe.tried,
        "text": recipe.text(target),
    }
    _tell(arguments, document, lambda: str(document["text"]).rstrip("\n"))
    if not arguments.json:
        parts = f"; tried with {arguments.name}'s own code, not in its window" if recipe.tried == "source" else ""
        print(f"\n(for {recipe.place}{parts})", file=sys.stderr)


def _target(client: Client, arguments: Namespace) -> Target:
    """Over TCP, where it is said; else where the daemon listens unless told otherwise."""
    url = _DEFAULT_URL if client.address.path is not None else str(client.address)
    name = arguments.model
    if name is None:
        models = [model for model in _list(client.get("/swapd/models"), "models") if model["usable"]]
        if not models:
            raise Failure(Exit.NOT_FOUND, "there is no model yet: [catalog] dirs names the folders to look in")
        # One in use is likelier to be meant than the first of the alphabet.
        name = min(models, key=lambda model: model["state"] is None)["name"]
    shown = client.post("/api/show", {"model": name})
    try:
        context, sees = int(shown["details"]["context_length"]), "vision" in shown["capabilities"]
        return Target(url, str(name), context, client.key or NO_KEY, sees)
    except (KeyError, TypeError, ValueError) as error:
        raise _misread(repr(error)) from error


def run_model(client: Client, arguments: Namespace) -> None:
    """A question when there is one or something is piped in or out; else, on a terminal, a chat."""
    if not arguments.prompt and sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty():
        if arguments.json:
            raise Failure(Exit.USAGE, "a chat is no JSON document: give a PROMPT with --json, or pipe one in")
        _load(client, arguments, {"keep_alive": arguments.keep_alive})
        Chat(client, arguments).talk()
        return
    document = run.ask_once(client, arguments, run.read_prompt(arguments.prompt))
    if arguments.json:
        _print(document)


def version(client: Client, arguments: Namespace) -> None:
    """Ours also when there is no daemon to tell its own."""
    try:
        daemon = client.get("/swapd/status").get("version")
    except Failure as failure:
        if failure.exit is not Exit.UNREACHABLE:
            raise
        daemon = None
    told = f"swapd {cell(daemon)}" if daemon is not None else f"no daemon answers at {client.address}"
    _tell(arguments, {"swapctl": __version__, "swapd": daemon}, lambda: f"swapctl {__version__}\n{told}")


COMMANDS: Final[Mapping[str, Command]] = MappingProxyType(
    {
        "status": status,
        "ps": ps,
        "ls": ls,
        "show": show,
        "load": load,
        "unload": unload,
        "pin": pin,
        "unpin": unpin,
        "run": run_model,
        "plan": plan,
        "yield": yield_memory,
        "queue": queue,
        "events": events,
        "explain": explain,
        "replay": replay,
        "reload": reload,
        "pull": pull,
        "top": top,
        "service": manage_service,
        "doctor": examine,
        "clients": clients,
        "version": version,
    }
)


def _load(client: Client, arguments: Namespace, wishes: Json) -> Json:
    """The resident, once it is ready; meanwhile the progress line."""
    progress = Progress(sys.stderr, quiet=arguments.json)
    resident: Json | None = None
    lines = client.stream(
        model_route(arguments.model, "load"), {key: value for key, value in wishes.items() if value is not None}
    )
    try:
        for line in lines:
            if "name" in line:
                resident = line
            else:
                progress.show(str(line.get("status", "")), line.get("fraction"))
    finally:
        progress.clear()
        lines.close()
    if resident is None:
        raise client.cut_off()
    return resident


def _find(models: list[Json], name: str) -> Json:
    """By name or alias: exactly, else ignoring case where that is unambiguous. Raises Failure (not found)."""
    wanted = name.removesuffix(":latest")
    names = [(model, {model["name"], *model["aliases"]}) for model in models]
    found = [model for model, known in names if name in known or wanted in known]
    if not found:
        found = [model for model, known in names if wanted.casefold() in {each.casefold() for each in known}]
        found = found if len(found) == 1 else []
    usable = [model for model in found if model["usable"]]
    if found:
        return (usable or found)[0]
    import difflib  # here: only mistakes need it

    nearest = difflib.get_close_matches(name, sorted({each for _, known in names for each in known}), n=2, cutoff=0.5)
    hint = f"; did you mean {' or '.join(nearest)}?" if nearest else ""
    raise Failure(Exit.NOT_FOUND, f"model {name!r} not found{hint}")


def _list(document: Json, key: str) -> list[Json]:
    found = document.get(key)
    if not isinstance(found, list) or not all(isinstance(each, dict) and "name" in each for each in found):
        raise _misread(f"no list of {key}")
    return found


def _tell(arguments: Namespace, document: Json, page: Callable[[], str]) -> None:
    if arguments.json:
        _print(document)
        return
    try:
        text = page()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _misread(repr(error)) from error
    print(text)


def _print(document: Json) -> None:
    # Escaped to ASCII: safe for every terminal and every pipe.
    print(json.dumps(document, indent=2))


def _misread(why: str) -> Failure:
    return Failure(Exit.REFUSED, f"cannot read the daemon's answer ({why}): is it of another version?")


def _now() -> datetime:
    return datetime.now(UTC)
