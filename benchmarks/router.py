"""llama-server as a router with room for one model, as a note beside the measurements."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import servers
from benchmarks.daemon import Client


@contextlib.contextmanager
def llama(files: Sequence[Path], context: int, slots: int) -> Iterator[Client | None]:
    """A client of it, as it comes but for these models and the same context, slots, threads; None: there is none."""
    program = servers.llama_server()
    if program is None:
        yield None
        return
    port = servers.free_port()
    with tempfile.TemporaryDirectory(prefix="swapd-bench-") as folder:
        for path in files:
            (Path(folder) / path.name).symlink_to(path)
        command = [program, "--models-dir", folder, "--models-max", "1", "--port", str(port), "--no-webui", "--offline"]
        command += ["-c", str(context * slots), "-np", str(slots), "-t", str(servers.THREADS)]
        url = f"http://127.0.0.1:{port}"
        with servers.running(command, url, {**os.environ, "CUDA_VISIBLE_DEVICES": ""}):
            yield Client(url)
