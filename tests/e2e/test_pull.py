"""`swapctl pull` and `/api/pull` of a real daemon, from a hub on this machine: the model is served afterwards."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.e2e.conftest import Daemon
from tests.gguf_models import tiny_bert

pytestmark = pytest.mark.e2e

REPO = "someone/Tiny-Bert-GGUF"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a hub that has one repository with one file."""
    path = tmp_path_factory.mktemp("hub") / "tiny-bert-F16.gguf"
    tiny_bert(path)
    data = path.read_bytes()
    lfs = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data)}
    pages = {
        f"/api/models/{REPO}/tree/main": json.dumps([{"path": path.name, "size": 9, "lfs": lfs}]).encode(),
        f"/{REPO}/resolve/main/{path.name}": data,
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = pages.get(self.path.partition("?")[0])
            self.send_response(404 if page is None else 200)
            self.send_header("Content-Length", str(len(page or b"")))
            self.end_headers()
            self.wfile.write(page or b"")

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


Start = Callable[..., Daemon]


def test_a_pulled_model_is_served(start: Start, hub: str, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    daemon = start(f'[catalog]\ndirs = ["{folder}"]\n', environ={"HF_ENDPOINT": hub}, common="")
    done = daemon.swapctl("pull", REPO)
    assert (done.returncode, done.stdout) == (0, "tiny-bert-F16 can be served\n"), done.stderr
    assert [path.name for path in folder.iterdir()] == ["tiny-bert-F16.gguf"]
    status, document = daemon.call("/v1/embeddings", {"model": "tiny-bert-F16", "input": "the cat"})
    assert status == 200, document
    again = daemon.swapctl("pull", "tiny-bert-F16", "--json")
    assert json.loads(again.stdout) == {"status": "success"}


def test_without_a_folder_of_its_own_it_goes_where_programs_keep_their_data(
    start: Start, hub: str, tmp_path: Path
) -> None:
    home = {"HF_ENDPOINT": hub, "XDG_DATA_HOME": str(tmp_path / "data")}
    daemon = start("[catalog]\nsources = []\n", environ=home, common="")
    assert daemon.swapctl("pull", f"hf.co/{REPO}:F16").returncode == 0
    assert (tmp_path / "data" / "swapd" / "models" / "tiny-bert-F16.gguf").is_file()
    assert "tiny-bert-F16" in daemon.swapctl("ls").stdout


def test_over_tcp_the_owner_must_allow_it(start: Start, hub: str, tmp_path: Path) -> None:
    config = f'[catalog]\ndirs = ["{tmp_path / "models"}"]\n'
    daemon = start(config, environ={"HF_ENDPOINT": hub}, common="")
    status, document = daemon.call("/api/pull", {"model": REPO})
    assert status == 403
    assert "allow_pull" in document["error"]
    daemon.write_config(f"[server]\nallow_pull = true\n{config}", common="")
    assert daemon.swapctl("reload").returncode == 0
    status, text = daemon.call("/api/pull", {"model": REPO})
    assert status == 200
    lines = [json.loads(line) for line in text.splitlines()]
    assert lines[0] == {"status": "pulling manifest"}
    assert lines[-1] == {"status": "success", "models": ["tiny-bert-F16"]}
    pulled = [line for line in lines if "total" in line]
    assert pulled[-1]["completed"] == pulled[-1]["total"]
    assert pulled[-1]["digest"].startswith("sha256:")


def test_what_there_is_not_is_told(start: Start, hub: str, tmp_path: Path) -> None:
    daemon = start(f'[catalog]\ndirs = ["{tmp_path}"]\n', environ={"HF_ENDPOINT": hub}, common="")
    for name, words in (
        (f"{REPO}:Q2_K", "it has tiny-bert-F16"),
        ("someone/absent", "no such repository"),
        ("llama3.2", "USER/REPO"),
    ):
        done = daemon.swapctl("pull", name)
        assert done.returncode == 1
        assert words in done.stderr
    nowhere = start(f'[catalog]\ndirs = ["{tmp_path}"]\n', environ={"HF_ENDPOINT": "http://127.0.0.1:9"}, common="")
    assert "cannot list" in nowhere.swapctl("pull", REPO).stderr
