"""What the kernel says of files in its page cache, by both of its ways, and reading them into it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from swapd.host.pagecache import SAMPLE, SAMPLES, WINDOW, PageCache
from swapd.units import Bytes, MiB

Make = Callable[..., str]


@pytest.fixture(params=[True, False], ids=["cachestat", "mincore"])
def cache(request: pytest.FixtureRequest) -> PageCache:
    return PageCache(exactly=request.param)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Files on disk and not in the cache; skips where the file system is memory."""

    def make(*sizes: Bytes) -> str:
        names = ["m.gguf"]
        if len(sizes) > 1:
            names = [f"m-{number:05}-of-{len(sizes):05}.gguf" for number in range(1, len(sizes) + 1)]
        for name, size in zip(names, sizes, strict=True):
            path = tmp_path / name
            path.write_bytes(os.urandom(MiB) * (size // MiB))
            drop(str(path))
        if PageCache().share(str(tmp_path / names[0])) != 0:
            pytest.skip("files here cannot be dropped from the page cache")
        return str(tmp_path / names[0])

    return make


def drop(path: str) -> None:
    file = os.open(path, os.O_RDONLY)
    os.fsync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)


def read(cache: PageCache, path: str, size: Bytes, is_wanted: Callable[[], bool] = lambda: True) -> None:
    """In a thread of its own, whose priority it lowers."""
    failures: list[BaseException] = []

    def work() -> None:
        try:
            cache.read(path, size, is_wanted)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def test_a_file_that_was_read_is_there_and_one_that_was_dropped_is_not(cache: PageCache, make: Make) -> None:
    path = make(20 * MiB)
    assert cache.share(path) == 0
    read(cache, path, 20 * MiB)
    assert cache.share(path) == 1
    drop(path)
    assert cache.share(path) == 0


def test_so_much_is_read_as_is_told(cache: PageCache, make: Make) -> None:
    """And what the kernel reads beyond it by itself."""
    path = make(64 * MiB)
    read(cache, path, 2 * WINDOW)
    share = cache.share(path)
    assert share is not None
    assert 2 * WINDOW <= share * 64 * MiB <= 2 * WINDOW + 8 * MiB


def test_all_parts_of_a_split_model_are_read_and_counted(cache: PageCache, make: Make) -> None:
    path = make(4 * MiB, 12 * MiB)
    read(cache, path, 4 * MiB)
    assert cache.share(path) == 0.25
    read(cache, path, 16 * MiB)
    assert cache.share(path) == 1


def test_reading_ends_when_it_is_not_wanted_any_more(cache: PageCache, make: Make) -> None:
    path = make(64 * MiB)
    asked = iter([True, True, False])
    read(cache, path, 64 * MiB, lambda: next(asked))
    share = cache.share(path)
    assert share is not None
    assert 0 < share < 0.5


def test_of_a_large_file_a_sample_is_enough(make: Make) -> None:
    size = 2 * SAMPLES * SAMPLE
    path = make(size)
    cache = PageCache(exactly=False)
    read(cache, path, size // 2)
    share, exactly = cache.share(path), PageCache().share(path)
    assert share is not None
    assert exactly is not None
    assert abs(share - exactly) < 0.05


def test_nothing_is_known_of_a_file_that_is_not_there(cache: PageCache, tmp_path: Path) -> None:
    assert cache.share(str(tmp_path / "none.gguf")) is None
    with pytest.raises(OSError, match=r"none\.gguf"):
        read(cache, str(tmp_path / "none.gguf"), MiB)


def test_other_threads_keep_their_priority(cache: PageCache, make: Make) -> None:
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    read(cache, make(MiB), MiB)
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before
