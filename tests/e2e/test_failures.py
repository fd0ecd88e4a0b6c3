"""Whatever goes wrong is told in the caller's dialect, and nothing else is disturbed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from swapd.demo import models
from tests.e2e.conftest import GEMMA, SMOL, Daemon, Start, free_port

pytestmark = pytest.mark.e2e

LONG = {"max_tokens": 1500, "temperature": 1.5, "stream": True, "messages": [{"role": "user", "content": "Count."}]}


@contextmanager
def streaming(daemon: Daemon, path: str, body: dict[str, Any]) -> Iterator[Iterator[bytes]]:
    """An answer in flight: its lines, the first of them there already. Leaving hangs up."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=60) as connection:
        connection.sendall(head.encode() + data)
        with connection.makefile("rb") as lines:
            for line in lines:
                if line.startswith((b"data:", b'{"')):
                    break
            yield iter(lines)


def test_every_bad_request_gets_its_error_and_the_next_one_is_served(daemon: Daemon) -> None:
    path = "/v1/chat/completions"
    turn = [{"role": "user", "content": "hi"}]
    cases: list[tuple[object, int, str]] = [
        ({"model": "no-such-model", "messages": turn}, 404, "model_not_found"),
        (b'{"model": ', 400, "invalid_request"),
        (b'{"model": "x", "messages": [], "temperature": NaN}', 400, "invalid_request"),
        ({"model": SMOL, "messages": turn, "max_tokens": "many"}, 400, "invalid_request"),
        ({"model": SMOL, "messages": [{"role": "wizard", "content": "hi"}]}, 400, "invalid_request"),
        ({"model": SMOL, "messages": [{"role": "user", "content": "word " * 4000}]}, 400, "context_length_exceeded"),
    ]
    for body, status, code in cases:
        answered, document = daemon.call(path, body)
        assert (answered, document["error"]["code"]) == (status, code), document
        assert daemon.chat(SMOL)[0] == 200
    told = daemon.call(path, cases[-1][0])[1]["error"]["message"]
    assert "2048" in told
    assert "4" in told


def test_junk_and_truncated_files_are_listed_with_reasons_and_answer_422(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "gguf"
    folder.mkdir()
    whole = models.folder() / f"{SMOL}.gguf"
    (folder / "junk.gguf").write_bytes(b"this is no model" * 1000)
    with whole.open("rb") as file:
        (folder / "short.gguf").write_bytes(file.read(20_000_000))
    (folder / "good.gguf").symlink_to(whole)
    daemon = start(f'[catalog]\ndirs = ["{folder}"]\n', common="")

    for name in ("junk", "short"):
        status, document = daemon.chat(name)
        assert (status, document["error"]["code"]) == (422, "model_unusable")
    assert daemon.chat("good")[0] == 200
    listing = daemon.swapctl("ls").stdout
    assert "not a GGUF file" in listing
    assert "cut off" in listing


def test_a_worker_that_dies_is_an_error_event_to_its_clients_and_nothing_to_others(daemon: Daemon) -> None:
    daemon.call("/v1/completions", {"model": GEMMA, "prompt": "One, two,", "max_tokens": 1})
    with streaming(daemon, "/v1/chat/completions", {"model": SMOL, **LONG}) as lines:
        pid = next(m["pid"] for m in daemon.status()["models"] if m["name"] == SMOL)
        other = next(m["pid"] for m in daemon.status()["models"] if m["name"] == GEMMA)
        os.kill(pid, signal.SIGKILL)
        rest = b"".join(lines)

    assert b"worker_crashed" in rest
    assert b"event: error" in rest
    assert psutil.pid_exists(other)
    assert daemon.chat(SMOL)[0] == 200
    assert daemon.status()["counters"]["crashes"] == 1
    with streaming(daemon, "/api/chat", {"model": SMOL, "messages": LONG["messages"]}) as lines:
        os.kill(next(m["pid"] for m in daemon.status()["models"] if m["name"] == SMOL), signal.SIGKILL)
        last = [line for line in lines if line.startswith(b'{"')][-1]
    assert "died" in json.loads(last)["error"]


def test_a_client_that_hangs_up_frees_its_slot(daemon: Daemon) -> None:
    with streaming(daemon, "/v1/chat/completions", {"model": SMOL, **LONG}):
        daemon.wait_status(lambda status: [m["slots_busy"] for m in status["models"] if m["name"] == SMOL] == [1])

    daemon.wait_status(lambda status: [m["slots_busy"] for m in status["models"] if m["name"] == SMOL] == [0])


def test_a_client_that_hangs_up_before_a_whole_answer_frees_its_slot(daemon: Daemon) -> None:
    body = json.dumps({"model": SMOL, **LONG, "stream": False}).encode()
    with socket.create_connection(("127.0.0.1", daemon.port)) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        daemon.wait_status(lambda status: [m["slots_busy"] for m in status["models"] if m["name"] == SMOL] == [1])

    daemon.wait_status(lambda status: [m["slots_busy"] for m in status["models"] if m["name"] == SMOL] == [0])


def test_a_full_queue_answers_503_with_retry_after(start: Start) -> None:
    daemon = start("[server]\nmax_queue = 1\n[scheduler]\nmax_loaded = 1\n")
    with (
        streaming(daemon, "/v1/chat/completions", {"model": SMOL, **LONG}),
        socket.create_connection(("127.0.0.1", daemon.port)) as waiting,
    ):
        body = json.dumps({"model": GEMMA, "prompt": "x"}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        waiting.sendall(head.encode() + body)
        daemon.wait_status(lambda status: len(status["queue"]) == 1)

        status, document = daemon.call("/v1/completions", {"model": GEMMA, "prompt": "x"})

        assert (status, document["error"]["code"]) == (503, "overloaded")
        assert daemon.chat(SMOL)[0] == 200, "who is resident answers all the same"
    daemon.wait_status(lambda status: not status["queue"])


def test_no_worker_outlives_a_killed_daemon(start: Start) -> None:
    daemon = start()
    daemon.chat(SMOL)
    workers = daemon.workers()
    assert len(workers) >= 2, "one with the model and a spare"

    daemon.process.kill()

    _, alive = psutil.wait_procs(workers, timeout=10)
    assert alive == []


def test_sigterm_lets_running_answers_finish_and_takes_no_new_ones(start: Start) -> None:
    daemon = start()
    body = {
        "model": SMOL,
        **LONG,
        "max_tokens": 200,
        "temperature": 0,
        "messages": [{"role": "user", "content": "Write a story."}],
    }
    with streaming(daemon, "/v1/chat/completions", body) as lines:
        daemon.process.send_signal(signal.SIGTERM)
        daemon.wait_log("event=stopping")
        status, document = daemon.chat(SMOL)
        assert (status, document["error"]["code"]) == (503, "stopping")
        rest = b"".join(line for line in lines if line.startswith(b"data:"))
    assert rest.endswith(b"data: [DONE]\n")
    assert daemon.process.wait(timeout=30) == 0


def test_a_daemon_that_is_stopped_while_its_first_worker_still_starts_stops(start: Start) -> None:
    daemon = start()  # serving is told before the worker's imports are done

    assert daemon.stop() == 0


def test_a_second_sigterm_ends_running_answers(start: Start) -> None:
    daemon = start()
    with streaming(daemon, "/v1/chat/completions", {"model": SMOL, **LONG}) as lines:
        daemon.process.send_signal(signal.SIGTERM)
        daemon.wait_log("event=stopping")
        daemon.process.send_signal(signal.SIGTERM)
        rest = b"".join(lines)
    assert b"event: error" in rest
    assert daemon.process.wait(timeout=30) == 0


def test_sighup_takes_a_good_configuration_and_refuses_a_bad_one(start: Start) -> None:
    daemon = start()
    good = daemon.config.read_text()
    daemon.config.write_text(good + '[routes]\nchat = "smollm2-135m"\n')
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_log("event=reloaded")
    assert daemon.chat("chat")[1]["model"] == "chat"

    daemon.config.write_text(good + '[routes]\nother = "smollm2-135m"\n[scheduler]\nkeep_alife = 1\n')
    daemon.process.send_signal(signal.SIGHUP)

    assert "keep_alife" in daemon.wait_log("cannot reload")
    assert daemon.chat("chat")[0] == 200
    status, document = daemon.call("/swapd/reload", method="POST")
    assert (status, document["error"]["code"]) == (400, "invalid_config")
    assert "keep_alife" in document["error"]["message"]
    assert daemon.swapctl("reload").returncode == 1


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "swapd", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, **environ}, check=False
    )


def test_a_port_in_use_is_told(daemon: Daemon, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[server]\nlisten = ["127.0.0.1:{daemon.port}"]\n')

    ended = run("serve", "--config", str(config))

    assert ended.returncode == 1
    assert f"cannot listen on 127.0.0.1:{daemon.port}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_live_socket_is_not_taken_over(daemon: Daemon, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[server]\nlisten = ["unix:{daemon.socket}"]\n')

    assert run("serve", "--config", str(config)).returncode == 1
    assert daemon.swapctl("status").returncode == 0


@pytest.mark.skipif(os.getuid() == 0 and not Path("/proc/sys").is_dir(), reason="needs a folder that root cannot write")
def test_a_socket_folder_without_permission_is_told(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[server]\nlisten = ["unix:/proc/sys/swapd/swapd.sock", "127.0.0.1:{free_port()}"]\n')

    ended = run("serve", "--config", str(config))

    assert ended.returncode == 1
    assert "/proc/sys/swapd" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_unknown_key_is_refused_with_file_line_and_the_nearest(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[scheduler]\nkeep_alife = 5\n")
    for command in ("serve", "check"):
        ended = run(command, "--config", str(config))
        assert ended.returncode == 1
        assert f"{config}:2" in ended.stderr
        assert "keep_alive" in ended.stderr


def test_swapctl_says_what_happened_by_its_exit_code(daemon: Daemon) -> None:
    assert daemon.swapctl("load", "no-such").returncode == 4
    assert daemon.swapctl("nonsense").returncode == 2
    assert "hello" in daemon.swapctl("run", SMOL, "Say hello.", "--temperature", "0").stdout.lower()
    assert daemon.swapctl("unload", SMOL).returncode == 0
    document = json.loads(daemon.swapctl("--json", "ps").stdout)
    assert document is not None
    missing = subprocess.run(
        [sys.executable, "-m", "swapd.ctl", "--url", "unix:/nowhere/swapd.sock", "ps"], capture_output=True, check=False
    )
    assert missing.returncode == 3
