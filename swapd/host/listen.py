"""Sockets to listen on: passed by the service manager, or opened here.

The daemon calls `inherited` first and, when that gives nothing, `parse` and `open_unix` or `open_tcp` for
each string of `[server] listen`; swapctl calls `parse` to find the daemon. Knows no HTTP and no asyncio.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import string
import tempfile
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from swapd.errors import CannotStart

_FIRST_PASSED: Final = 3  # the service manager's convention: after stdin, stdout and stderr
_LONGEST_PATH: Final = 107  # bytes; sockaddr_un has 108 with the final NUL
_BACKLOG: Final = 512


@dataclass(frozen=True, slots=True)
class UnixAddress:
    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class TcpAddress:
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse(spec: str, environ: Mapping[str, str] = os.environ) -> UnixAddress | TcpAddress:
    """The address that one string of `[server] listen` names.

    `"unix:PATH"` with `~/` and `$VARIABLE` expanded, `"HOST:PORT"` or `"[IPV6]:PORT"`; port 0 is any free one.
    Raises ValueError saying what is wrong and how to write it.
    """
    given = spec.strip()
    if given.startswith("unix:"):
        return UnixAddress(_expand(given.removeprefix("unix:"), spec, environ))
    host, colon, port = given.rpartition(":")
    if not colon or "/" in given:
        raise ValueError(f"{spec!r} is no address; write HOST:PORT, [IPV6]:PORT or unix:PATH")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if ":" in host and not bracketed:
        raise ValueError(f"{spec!r} is ambiguous; write an IPv6 address in brackets, like [::1]:11435")
    if not host:
        raise ValueError(f"{spec!r} names no host; write 127.0.0.1:PORT, or 0.0.0.0:PORT for every address")
    if not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(f"{spec!r} has no port from 0 to 65535 after the last colon")
    return TcpAddress(host, int(port))


def inherited(environ: MutableMapping[str, str] = os.environ) -> list[socket.socket]:
    """The listening sockets that the service manager passed to this process, in its order; else none.

    Removes LISTEN_* from `environ` and keeps the descriptors from children. Raises CannotStart when what
    was passed is no listening stream socket.
    """
    for_whom, how_many = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if for_whom != str(os.getpid()) or not how_many:
        return []
    if not (how_many.isascii() and how_many.isdigit()):
        raise CannotStart(f"cannot take over sockets: LISTEN_FDS is {how_many!r}, not a number")
    return [_adopt(descriptor) for descriptor in range(_FIRST_PASSED, _FIRST_PASSED + int(how_many))]


def open_unix(path: Path) -> socket.socket:
    """A socket that listens at `path` for its owner alone (mode 0600).

    Makes missing folders (0700) and replaces the file of a daemon that died. The file outlives the socket:
    whoever closes it may unlink it. Raises CannotStart.
    """
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise CannotStart(
            f"cannot listen on {path}: the path is longer than {_LONGEST_PATH} bytes, more than sockets take"
        )
    try:
        with _umask(0o077):
            path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(path.parent):
                _refuse_open_folder(path)
                _remove_dead(path)
                with _umask(0o177):
                    return _bound(socket.AF_UNIX, str(path))
    except OSError as error:
        raise CannotStart(f"cannot listen on {path}: {_why(error)}; choose another in [server] listen") from error


def open_tcp(host: str, port: int) -> socket.socket:
    """A socket that listens on `host`, IPv4 before IPv6 when a name has both. Raises CannotStart."""
    where = str(TcpAddress(host, port))
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        return _bound(family, address)
    except UnicodeError as error:
        raise CannotStart(f"cannot listen on {where}: {host!r} is no host name") from error
    except OSError as error:
        why = "the port is in use (another swapd or Ollama?)" if error.errno == errno.EADDRINUSE else _why(error)
        raise CannotStart(f"cannot listen on {where}: {why}; choose another in [server] listen") from error


def _expand(text: str, spec: str, environ: Mapping[str, str]) -> Path:
    known = dict(environ)
    if "XDG_RUNTIME_DIR" in text and not os.path.isabs(environ.get("XDG_RUNTIME_DIR", "")):
        known["XDG_RUNTIME_DIR"] = str(_stand_in_for_runtime(environ))
    try:
        path = Path(string.Template(f"$HOME{text[1:]}" if text.startswith("~/") else text).substitute(known))
    except KeyError as error:
        raise ValueError(f"{spec!r} uses ${error.args[0]}, which is not set") from error
    except ValueError as error:
        raise ValueError(f"{spec!r} has a $ without a variable's name; write $$ for the character") from error
    if not path.is_absolute() or "\0" in text:
        raise ValueError(f"{spec!r} is no absolute path; write it like unix:$XDG_RUNTIME_DIR/swapd/swapd.sock")
    return path


def _stand_in_for_runtime(environ: Mapping[str, str]) -> Path:
    """Where sessions usually have their runtime folder, or a private one (not made here) under the temporary folder."""
    usual = Path(f"/run/user/{os.getuid()}")
    if usual.is_dir() and os.access(usual, os.W_OK):
        return usual
    private = Path(environ.get("TMPDIR") or tempfile.gettempdir()).absolute() / f"swapd-{os.getuid()}"
    if os.path.lexists(private) and private.lstat().st_uid != os.getuid():
        raise ValueError(f"XDG_RUNTIME_DIR is not set, and {private} belongs to someone else; set XDG_RUNTIME_DIR")
    return private


def _adopt(descriptor: int) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        taken = socket.socket(fileno=descriptor)
        listens = taken.type == socket.SOCK_STREAM and taken.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise CannotStart(f"cannot take over descriptor {descriptor}: {_why(error)}") from error
    if not listens:
        taken.close()
        raise CannotStart(f"cannot take over descriptor {descriptor}: it is no listening stream socket")
    return taken


def _bound(family: int, address: str | tuple[Any, ...]) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family != socket.AF_UNIX:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(_BACKLOG)  # here, because only now the kernel refuses a second listener on a port
    except BaseException:
        opened.close()
        raise
    return opened


def _refuse_open_folder(path: Path) -> None:
    """Whoever may write a folder on the way can put a socket of his own in place of ours."""
    for folder in path.parents:
        about = folder.stat()
        others = about.st_mode & (0o022 if folder == path.parent else 0o002)
        guarded = folder != path.parent and about.st_mode & stat.S_ISVTX
        if others and not guarded:
            raise CannotStart(
                f"cannot listen on {path}: others can write to {folder}; chmod go-w it, or choose another place"
            )
    owner = path.parent.stat().st_uid
    if owner not in (os.geteuid(), 0):
        raise CannotStart(f"cannot listen on {path}: {path.parent} belongs to user {owner}; choose another place")


def _remove_dead(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise CannotStart(
            f"cannot listen on {path}: there is a file that is no socket; remove it or choose another place"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # its queue is full: busy, not dead
    raise CannotStart(f"cannot listen on {path}: another swapd answers there; stop it, or choose another place")


@contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Two daemons that start at once must not take each other's new socket for a dead one."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _why(error: OSError) -> str:
    match error.errno:
        case errno.EACCES | errno.EPERM:
            return "no permission"
        case errno.EADDRINUSE:
            return "the address is in use"
        case errno.EADDRNOTAVAIL:
            return "this machine has no such address"
        case errno.EEXIST | errno.ENOTDIR:
            return "a folder of its path is a file"
        case _:
            return error.strerror or str(error)
