"""Real sockets: where the daemon listens, and what it refuses to."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from swapd.errors import CannotStart
from swapd.host.listen import TcpAddress, UnixAddress, inherited, open_tcp, open_unix, parse

# Descriptors are passed by number, so the heir must be a process of its own.
HEIR = """
import json, os, sys
from swapd.errors import CannotStart
from swapd.host.listen import inherited
whom, *numbers = sys.argv[1:]
for place, number in enumerate(numbers):
    os.dup2(int(number), 3 + place)
os.environ.update(LISTEN_PID=whom or str(os.getpid()), LISTEN_FDS=str(len(numbers)), LISTEN_FDNAMES="a:b")
try:
    taken = inherited()
    told = {"names": [one.getsockname() for one in taken], "inheritable": [one.get_inheritable() for one in taken]}
except CannotStart as error:
    told = {"refused": str(error)}
print(json.dumps(told | {"left": [key for key in os.environ if key.startswith("LISTEN_")]}))
"""


def inherit(*passed: socket.socket, whom: str = "") -> dict[str, Any]:
    numbers = [fcntl.fcntl(one, fcntl.F_DUPFD, 100) for one in passed]
    try:
        command = [sys.executable, "-c", HEIR, whom, *map(str, numbers)]
        ended = subprocess.run(command, pass_fds=numbers, capture_output=True, text=True, timeout=60, check=True)
    finally:
        for number in numbers:
            os.close(number)
    told: dict[str, Any] = json.loads(ended.stdout)
    return told


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A folder that only its owner can write, whatever the umask of whoever runs the tests."""
    tmp_path.chmod(0o700)
    return tmp_path


def test_passed_sockets_are_taken_in_order_kept_from_children_and_taken_once(private: Path) -> None:
    with open_unix(private / "passed.sock") as first, open_tcp("127.0.0.1", 0) as second:
        told = inherit(first, second)
        assert told["names"] == [str(private / "passed.sock"), list(second.getsockname())]
    assert told["inheritable"] == [False, False]
    assert told["left"] == []


def test_sockets_meant_for_another_process_are_left_alone(private: Path) -> None:
    with open_unix(private / "passed.sock") as passed:
        assert inherit(passed, whom="1") == {"names": [], "inheritable": [], "left": []}
    assert inherited({}) == []


def test_what_does_not_listen_is_refused() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as useless:
        assert inherit(useless)["refused"] == "cannot take over descriptor 3: it is no listening stream socket"
    with pytest.raises(CannotStart, match="LISTEN_FDS is 'many'"):
        inherited({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "many"})


def test_a_unix_socket_and_its_new_folders_are_for_the_owner_alone(private: Path) -> None:
    path = private / "runtime" / "swapd" / "swapd.sock"
    before = os.umask(0)
    try:
        with open_unix(path) as opened, socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            opened.accept()[0].close()
        assert os.umask(0) == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in list(path.parents)[:2]] == [0o700, 0o700]


def test_the_file_of_a_dead_daemon_is_replaced_and_a_live_one_is_not(private: Path) -> None:
    path = private / "swapd.sock"
    with open_unix(path):
        with pytest.raises(CannotStart, match="another swapd answers there"):
            open_unix(path)
        assert path.is_socket()
    with open_unix(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_daemon_too_busy_to_accept_is_alive(private: Path) -> None:
    path = private / "swapd.sock"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as first:
        busy.bind(str(path))
        busy.listen(0)
        first.connect(str(path))
        with pytest.raises(CannotStart, match="another swapd answers there"):
            open_unix(path)


def test_a_file_that_is_no_socket_is_kept(private: Path) -> None:
    path = private / "swapd.sock"
    path.write_text("precious")
    with pytest.raises(CannotStart, match="a file that is no socket"):
        open_unix(path)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_a_folder_that_others_can_write_is_refused(private: Path, mode: int) -> None:
    shared = private / "shared"
    shared.mkdir()
    shared.chmod(mode)
    with pytest.raises(CannotStart, match="others can write to"):
        open_unix(shared / "swapd.sock")
    assert list(shared.iterdir()) == []


def test_a_folder_further_up_that_others_can_write_is_refused_unless_it_is_sticky(private: Path) -> None:
    (private / "up" / "own").mkdir(parents=True, mode=0o700)
    (private / "up").chmod(0o777)
    with pytest.raises(CannotStart, match="others can write to"):
        open_unix(private / "up" / "own" / "swapd.sock")
    (private / "up").chmod(0o1777)
    open_unix(private / "up" / "own" / "swapd.sock").close()


def test_impossible_paths_are_refused_in_clear_words(private: Path) -> None:
    with pytest.raises(CannotStart, match="longer than 107 bytes"):
        open_unix(private / ("x" * 120))
    (private / "file").touch()
    with pytest.raises(CannotStart, match="a folder of its path is a file; choose another"):
        open_unix(private / "file" / "swapd.sock")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused_in_clear_words(private: Path) -> None:
    (private / "closed").mkdir(mode=0o500)
    with pytest.raises(CannotStart, match=r"no permission; choose another in \[server\] listen"):
        open_unix(private / "closed" / "swapd.sock")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone else")
def test_another_users_folder_is_refused_in_clear_words(private: Path) -> None:
    """As the user `nobody`, in a process of its own: a folder of root gives no permission."""
    script = (
        "import os, sys; from pathlib import Path\n"
        "from swapd.errors import CannotStart; from swapd.host.listen import open_unix\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: open_unix(Path(sys.argv[1]))\n"
        "except CannotStart as error: print(error)"
    )
    command = [sys.executable, "-c", script, "/swapd-test/swapd.sock"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == (
        "cannot listen on /swapd-test/swapd.sock: no permission; choose another in [server] listen\n"
    )
    os.chown(private, 65534, 65534)
    with pytest.raises(CannotStart, match="belongs to user 65534"):
        open_unix(private / "swapd.sock")


def test_a_port_in_use_says_who_may_have_it() -> None:
    with open_tcp("127.0.0.1", 0) as opened:
        port = opened.getsockname()[1]
        with pytest.raises(CannotStart) as refused:
            open_tcp("127.0.0.1", port)
    assert refused.value.message == (
        f"cannot listen on 127.0.0.1:{port}: the port is in use (another swapd or Ollama?); "
        "choose another in [server] listen"
    )


def test_a_port_is_free_again_at_once_after_its_connections_closed() -> None:
    with open_tcp("127.0.0.1", 0) as opened:
        address = opened.getsockname()
        with socket.create_connection(address):
            opened.accept()[0].close()  # this end closes first, so the kernel keeps the pair for a while
    with open_tcp(*address) as again:
        assert again.getsockname() == address


def test_a_name_with_both_families_gets_ipv4() -> None:
    with open_tcp("localhost", 0) as opened:
        assert opened.getsockname()[0] == "127.0.0.1"


def test_ipv6_works_where_the_machine_has_it() -> None:
    try:
        opened = open_tcp("::1", 0)
    except CannotStart as error:
        pytest.skip(f"no IPv6 here: {error}")
    with opened:
        assert opened.family == socket.AF_INET6


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid", "a..b"])
def test_a_host_that_is_not_here_is_refused(host: str) -> None:
    with pytest.raises(CannotStart, match=f"cannot listen on {host}:11435: "):
        open_tcp(host, 11435)


@pytest.mark.parametrize(
    ("spec", "address"),
    [
        ("127.0.0.1:11435", TcpAddress("127.0.0.1", 11435)),
        (" localhost:0 ", TcpAddress("localhost", 0)),
        ("[::1]:11435", TcpAddress("::1", 11435)),
        ("unix:$XDG_RUNTIME_DIR/swapd/swapd.sock", UnixAddress(Path("/run/me/swapd/swapd.sock"))),
        ("unix:${XDG_RUNTIME_DIR}/$NAME.sock", UnixAddress(Path("/run/me/other.sock"))),
        ("unix:~/swapd.sock", UnixAddress(Path("/home/me/swapd.sock"))),
        ("unix:/tmp/cash$$.sock", UnixAddress(Path("/tmp/cash$.sock"))),
    ],
)
def test_addresses_are_read_and_written(spec: str, address: TcpAddress | UnixAddress) -> None:
    environ = {"XDG_RUNTIME_DIR": "/run/me", "NAME": "other", "HOME": "/home/me"}
    assert parse(spec, environ) == address
    assert parse(str(address).replace("$", "$$"), environ) == address


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("", "is no address; write HOST:PORT"),
        ("11435", "is no address; write HOST:PORT"),
        ("http://127.0.0.1:11435", "is no address; write HOST:PORT"),
        (":11435", "names no host; write 127.0.0.1:PORT"),
        ("::1:11435", "write an IPv6 address in brackets"),
        ("localhost:", "has no port from 0 to 65535"),
        ("localhost:http", "has no port from 0 to 65535"),
        ("localhost:65536", "has no port from 0 to 65535"),
        ("localhost:-1", "has no port from 0 to 65535"),
        ("unix:", "is no absolute path"),
        ("unix:swapd.sock", "is no absolute path"),
        ("unix:~root/swapd.sock", "is no absolute path"),
        ("unix:$NOWHERE/swapd.sock", "uses $NOWHERE, which is not set"),
        ("unix:/tmp/$", "has a $ without a variable's name"),
    ],
)
def test_what_is_no_address_is_refused_with_the_way_to_write_it(spec: str, why: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse(spec, {})
    assert str(refused.value).startswith(repr(spec))
    assert why in str(refused.value)


@pytest.mark.parametrize("unset", [{}, {"XDG_RUNTIME_DIR": ""}, {"XDG_RUNTIME_DIR": "relative"}])
def test_without_a_runtime_folder_the_socket_still_has_a_private_place(tmp_path: Path, unset: dict[str, str]) -> None:
    address = parse("unix:$XDG_RUNTIME_DIR/swapd/swapd.sock", {**unset, "TMPDIR": str(tmp_path)})
    usual = Path(f"/run/user/{os.getuid()}")
    folder = usual if usual.is_dir() and os.access(usual, os.W_OK) else tmp_path / f"swapd-{os.getuid()}"
    assert address == UnixAddress(folder / "swapd" / "swapd.sock")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_private_place_that_someone_else_made_first_is_refused(tmp_path: Path) -> None:
    if Path("/run/user/0").is_dir():
        pytest.skip("the session's own runtime folder comes first here")
    (tmp_path / "swapd-0").mkdir()
    os.chown(tmp_path / "swapd-0", 65534, 65534)
    with pytest.raises(ValueError, match="belongs to someone else; set XDG_RUNTIME_DIR"):
        parse("unix:$XDG_RUNTIME_DIR/swapd/swapd.sock", {"TMPDIR": str(tmp_path)})
