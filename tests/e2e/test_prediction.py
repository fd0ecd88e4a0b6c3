"""What the daemon predicts of the card before a load, against what the ledger says after it."""

from __future__ import annotations

import pytest

from swapd.demo import models
from swapd.units import MiB
from tests.e2e.conftest import GEMMA, SMOL, Start
from tests.softgpu.fixtures import MakeSoftGPU

pytestmark = pytest.mark.e2e

VARIANTS = [(SMOL, 512, "f16"), (SMOL, 4096, "q8_0"), (SMOL, 2048, "q4_0"), (GEMMA, 512, "q8_0"), (GEMMA, 2048, "f16")]
LAYERS = {SMOL: (1, 15, 31), GEMMA: (1, 9, 19)}
MODELS = "".join(
    f'[models."m{number}"]\npath = "{models.folder() / name}.gguf"\ncontext = {context}\nslots = 2\nkv_type = "{kv}"\n'
    for number, (name, context, kv) in enumerate(VARIANTS)
)
SETTINGS = '[memory]\nvram_reserve = "0"\nhost_reserve = "256MiB"\n'


def test_the_first_load_is_predicted_closely_and_the_second_exactly(soft_gpu: MakeSoftGPU, start: Start) -> None:
    """At most 3 % or 16 MiB off before the first load of a placement, 4 MiB after it, with a context to be learnt."""
    gpu = soft_gpu("2GiB", context="40MiB")
    daemon = start(SETTINGS, environ=gpu.env, common=MODELS)
    for number, (name, _, _) in enumerate(VARIANTS):
        for layers in LAYERS[name]:
            for allowed in (None, 4 * MiB):
                status, placed = daemon.call(f"/swapd/models/m{number}/load", {"gpu_layers": layers})
                assert (status, placed["gpu_layers"]) == (200, layers)
                held = gpu.holders()[placed["pid"]]
                off = abs(placed["predicted"]["cuda:0"] - held)
                assert off <= (max(0.03 * held, 16 * MiB) if allowed is None else allowed), (name, layers, placed, held)
                assert daemon.call(f"/swapd/models/m{number}/unload", method="POST")[0] == 200
    assert gpu.refusals() == []
