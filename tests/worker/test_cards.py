"""Which GPUs a worker tells the daemon of. ggml is replaced at its edge: cards of every kind are in no machine."""

from __future__ import annotations

from typing import Any

import pytest

from swapd.units import GiB
from swapd.wire import Card
from swapd.worker import backends

CPU, GPU, INTEGRATED, ACCELERATOR = range(4)
DEVICES = [
    (b"CUDA0", GPU, None),
    (b"ROCm0", GPU, (b"Radeon", b"0000:65:00.0", 3 * GiB, 16 * GiB)),
    (b"Vulkan0", INTEGRATED, None),
    (b"Vulkan1", GPU, (None, None, 9 * GiB, 8 * GiB)),
    (b"SYCL0", GPU, (b"says nothing of its memory", b"", 0, 0)),
    (b"BLAS", ACCELERATOR, None),
    (b"CPU", CPU, None),
]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The devices whose properties were asked for, which opens a card of CUDA."""
    asked: list[int] = []

    def props(handle: int, target: Any) -> None:
        asked.append(handle)
        told = DEVICES[handle][2]
        assert told is not None
        to = target._obj
        to.description, to.device_id, to.memory_free, to.memory_total = told

    monkeypatch.setattr(backends, "_device_count", lambda: len(DEVICES))
    monkeypatch.setattr(backends, "_device_get", lambda index: index)
    monkeypatch.setattr(backends, "_device_name", lambda handle: DEVICES[handle][0])
    monkeypatch.setattr(backends, "_device_type", lambda handle: DEVICES[handle][1])
    monkeypatch.setattr(backends, "_device_props", props)
    return asked


def test_cards_with_memory_of_their_own_are_told_but_those_of_cuda_are_not_even_asked(asked: list[int]) -> None:
    assert backends.cards() == (
        Card("ROCm0", "Radeon", "0000:65:00.0", 3 * GiB, 16 * GiB),
        Card("Vulkan1", "", "", 8 * GiB, 8 * GiB),
    )
    assert asked == [1, 3, 4]
