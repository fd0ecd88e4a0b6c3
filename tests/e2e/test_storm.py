"""A storm on two soft cards: four models, random requests and cancels, other programs coming and going, late release.

STORM_SECONDS makes it longer (300 for a real one) and STORM_SEEDS gives other seeds than 1: "1,2,3".
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import threading
from collections import Counter

import pytest

from swapd.demo import models
from swapd.units import MiB
from tests.e2e.conftest import SMOL, Daemon, Start
from tests.softgpu.control import What
from tests.softgpu.fixtures import MakeSoftGPU
from tests.softgpu.gpu import SoftGPU

pytestmark = pytest.mark.e2e

SECONDS = float(os.environ.get("STORM_SECONDS", "25"))
SEEDS = [int(seed) for seed in os.environ.get("STORM_SEEDS", "1").split(",")]
CLIENTS = 3
NAMES = "abcd"
CARDS = ("384MiB", "320MiB")
SETTINGS = f"""
[memory]
vram_reserve = "{32 * MiB}"
host_reserve = "256MiB"
[scheduler]
keep_alive = "20s"
max_wait = "5s"
"""
MODELS = "".join(
    f'[models."{name}"]\npath = "{models.folder() / SMOL}.gguf"\ncontext = {256 * (1 + number)}\nslots = 2\n'
    for number, name in enumerate(NAMES)
)


class Storm:
    def __init__(self, daemon: Daemon, gpu: SoftGPU, seed: int) -> None:
        self.daemon, self.gpu, self.seed = daemon, gpu, seed
        self.answers: Counter[str] = Counter()
        self.trouble: list[str] = []
        self.cloud = gpu.start_foreign("storm-cloud")
        self._over = threading.Event()

    def blow(self) -> None:
        threads = [threading.Thread(target=self._client, args=(number,)) for number in range(CLIENTS)]
        threads.append(threading.Thread(target=self._others))
        for thread in threads:
            thread.start()
        self._over.wait(SECONDS)
        self._over.set()
        for thread in threads:
            thread.join(timeout=120)
            assert not thread.is_alive(), "somebody still waits for an answer"

    def _client(self, number: int) -> None:
        chance = random.Random(1000 * self.seed + number)
        while not self._over.is_set():
            model = chance.choice(NAMES)
            if chance.random() < 0.2:
                self._give_up(model, chance.uniform(0.0, 0.5))
                continue
            status, document = self.daemon.chat(model, max_tokens=chance.choice((1, 4, 12)))
            self.answers[str(status)] += 1
            if status != 200:
                self.trouble.append(f"{model}: {status} {json.dumps(document)}")

    def _give_up(self, model: str, after: float) -> None:
        """Ask, and hang up before the answer."""
        body = json.dumps({"model": model, "prompt": "Once upon a time", "max_tokens": 64}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", self.daemon.port)) as connection:
            connection.sendall(head.encode() + body)
            self._over.wait(after)
        self.answers["given up"] += 1

    def _others(self) -> None:
        """Another program's memory on both cards, never so much that nothing of a model would fit."""
        chance = random.Random(self.seed)
        while not self._over.wait(chance.uniform(0.2, 2.0)):
            card = chance.choice(list(self.gpu.cards))
            size = chance.choice((0, 20, 60, 120)) * MiB
            with contextlib.suppress(MemoryError):
                self.cloud.hold(min(size, self.gpu.free(card)), card)
        self.cloud.end()


@pytest.mark.timeout(SECONDS + 180)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_storm_is_weathered(soft_gpu: MakeSoftGPU, start: Start, seed: int) -> None:
    gpu = soft_gpu(*CARDS, context="8MiB", lag=(0.0, 1.5), seed=seed)
    daemon = start(SETTINGS, environ=gpu.env, common=MODELS)
    storm = Storm(daemon, gpu, seed)

    storm.blow()

    assert storm.answers["200"] > 0
    assert storm.trouble == []
    daemon.wait_status(lambda status: not status["queue"] and all(m["slots_busy"] == 0 for m in status["models"]))
    _check_refusals(gpu, storm.cloud.pid)
    assert daemon.stop() == 0
    gpu.wait_until(gpu.is_empty)


def _check_refusals(gpu: SoftGPU, cloud: int) -> None:
    """The card refuses us memory only where the other program took some after we had looked, just before the load."""
    events = gpu.events()
    for refusal in gpu.refusals():
        loading = min((e.at for e in events if e.pid == refusal.pid), default=refusal.at)
        window = [e for e in events if e.card == refusal.card and loading - 3.0 <= e.at <= refusal.at]
        grabbed = [e for e in window if e.what is What.TOOK and e.pid == cloud]
        assert grabbed, f"{refusal} though nobody else had taken anything: {window}"
