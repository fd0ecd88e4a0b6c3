"""How people write sizes and durations, and how they are shown."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swapd.units import (
    FOREVER,
    GiB,
    KiB,
    MiB,
    format_bytes,
    format_duration,
    parse_bytes,
    parse_duration,
    parse_share,
)


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ("512MiB", 512 * MiB),
        ("1.5 GiB", 3 * GiB // 2),
        (" 8gb ", 8 * 10**9),
        ("2TiB", 2048 * GiB),
        ("100", 100),
        ("0", 0),
        (4096, 4096),
    ],
)
def test_sizes_are_read(given: str | int, size: int) -> None:
    assert parse_bytes(given) == size


@pytest.mark.parametrize("given", ["", "lots", "-1", "5 apples", "1e9", "1,5GiB", "٣GiB!", -1, True, "9" * 400 + "GiB"])
def test_what_is_no_size_is_refused(given: str | int) -> None:
    with pytest.raises(ValueError, match="512MiB"):
        parse_bytes(given)


@pytest.mark.parametrize(
    ("given", "size"),
    [("100%", GiB), ("50%", GiB // 2), (" 0% ", 0), ("1MiB", MiB), ("8GiB", GiB), (7, 7)],
)
def test_shares_are_of_the_total_and_never_more(given: str | int, size: int) -> None:
    assert parse_share(given, GiB) == size


@pytest.mark.parametrize("given", ["101%", "-1%", "%", "nan%", "half"])
def test_what_is_no_share_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="write it like"):
        parse_share(given, GiB)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (300, 300.0),
        (0.5, 0.5),
        ("300", 300.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("+1.5s", 1.5),
        ("250ms", 0.25),
        ("1d", 86400.0),
        (0, 0.0),
        ("0s", 0.0),
        (-1, FOREVER),
        ("-1", FOREVER),
        ("-5m", FOREVER),
        (math.inf, FOREVER),
    ],
)
def test_durations_are_read_as_ollama_reads_them(given: str | float, seconds: float) -> None:
    assert parse_duration(given) == pytest.approx(seconds)


@pytest.mark.parametrize("given", ["", "-", "5x", "m", "5 m", "1h 30m", "soon", "5m3", True, math.nan])
def test_what_is_no_duration_is_refused(given: str | float) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(given)


@given(st.text(max_size=20))
def test_any_text_is_a_number_or_a_value_error(text: str) -> None:
    for parse in (parse_bytes, parse_duration, lambda given: parse_share(given, GiB)):
        try:
            assert parse(text) >= 0
        except ValueError as error:
            assert "write it like" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (KiB, "1 KiB"), (1536 * MiB, "1.5 GiB"), (512 * MiB, "512 MiB"), (-MiB, "-1 MiB")],
)
def test_sizes_are_shown_in_binary_units(size: int, shown: str) -> None:
    assert format_bytes(size) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.35, "350 ms"),
        (4.2, "4.2 s"),
        (60, "1 minute"),
        (300, "5 minutes"),
        (7200, "2 hours"),
        (86400, "1 day"),
        (FOREVER, "forever"),
    ],
)
def test_durations_are_shown_for_people(seconds: float, shown: str) -> None:
    assert format_duration(seconds) == shown
