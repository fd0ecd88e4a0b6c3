"""The `soft_gpu` fixture, for any test: `gpu = soft_gpu("1GiB", "512MiB", context="16MiB")`."""

from __future__ import annotations

import contextlib
import getpass
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.softgpu.build import CannotBuild, Libraries, build
from tests.softgpu.gpu import Size, SoftGPU

MakeSoftGPU = Callable[..., SoftGPU]


@pytest.fixture(scope="session")
def soft_gpu_libraries(pytestconfig: pytest.Config) -> Libraries:
    """Compiled into pytest's cache, or the temporary folder where there is none; skips where they cannot be."""
    if pytestconfig.pluginmanager.hasplugin("cacheprovider"):
        cache = pytestconfig.cache.mkdir("softgpu")
    else:
        cache = Path(tempfile.gettempdir()) / f"softgpu-{getpass.getuser()}"
    try:
        return build(cache)
    except CannotBuild as error:
        pytest.skip(str(error))


@pytest.fixture
def soft_gpu(soft_gpu_libraries: Libraries, tmp_path: Path) -> Iterator[MakeSoftGPU]:
    """Make soft cards of these sizes; keywords as SoftGPU takes them. Daemons get them by `environ=gpu.env`."""
    with contextlib.ExitStack() as stack:
        made = 0

        def make(*totals: Size, **behaviour: Any) -> SoftGPU:
            nonlocal made
            made += 1
            gpu = SoftGPU(tmp_path / f"gpu{made}", soft_gpu_libraries, *totals, **behaviour)
            return stack.enter_context(gpu)

        yield make
