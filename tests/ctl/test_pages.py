"""What people read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from swapd.ctl import pages, terminal

if TYPE_CHECKING:
    from tests.ctl.conftest import Script

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
DIGESTS = {"smollm2-135m": "sha256:0123456789abcdef"}


def columns(line: str) -> list[str]:
    return [text for text in line.split("    ") if text]


def rows(page: str) -> list[list[str]]:
    return [[text.strip() for text in columns(line)] for line in page.splitlines()]


def test_ps_has_exactly_the_columns_of_the_contract(script: type[Script]) -> None:
    head, row = pages.ps([script.RESIDENT], DIGESTS, NOW).splitlines()
    assert head.split() == ["NAME", "ID", "SIZE", "PROCESSOR", "VRAM", "CONTEXT", "SLOTS", "STATE", "UNTIL"]
    assert [text.strip() for text in columns(row)] == [
        *("smollm2-135m", "0123456789ab", "320 MiB", "100% GPU", "250 MiB", "4096", "1/4", "ready"),
        "4 minutes from now",
    ]


def test_ps_without_residents_is_its_head() -> None:
    assert len(pages.ps([], {}, NOW).splitlines()) == 1


def test_ps_says_where_the_layers_are_in_the_daemons_words(script: type[Script]) -> None:
    assert "    63%/37% GPU/CPU    " in pages.ps([script.RESIDENT | {"placement": "63%/37% GPU/CPU"}], {}, NOW)


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({}, "4 minutes from now"),
        ({"expires_at": None}, "Forever"),
        ({"expires_at": None, "state": "busy"}, "Forever"),
        ({"expires_at": None, "state": "loading"}, "-"),
        ({"expires_at": None, "state": "busy", "pinned": True}, "Forever"),
        ({"state": "draining"}, "Stopping..."),
        ({"expires_at": None, "state": "unloading"}, "Stopping..."),
        ({"expires_at": "2026-01-01T11:59:59Z"}, "Stopping..."),
    ],
)
def test_until(facts: dict[str, Any], told: str, script: type[Script]) -> None:
    assert pages.until(script.RESIDENT | facts, NOW) == told


def test_a_loading_resident_shows_its_prediction_and_how_far_it_is(script: type[Script]) -> None:
    loading = {"state": "loading", "measured": {}, "progress": 0.42, "expires_at": None, "loaded_at": None, "pid": None}
    row = pages.ps([script.RESIDENT | loading], {}, NOW).splitlines()[1]
    assert "loading 42%" in row
    assert "320 MiB" in row
    assert "256 MiB" in row


def test_ls_lists_what_cannot_be_used_below_with_the_reason(script: type[Script]) -> None:
    usable, unusable = pages.ls([script.MODEL, script.BROKEN, script.GEMMA], NOW).split("\n\n")
    assert usable.splitlines()[0].split() == ["NAME", "ID", "SIZE", "QUANT", "CONTEXT", "STATE", "TIER", "MODIFIED"]
    assert "smollm2-135m    0123456789ab    98 MiB    Q4_1" in usable
    assert "2 days ago" in usable
    assert "37% warm" in usable
    assert "broken" not in usable
    assert "the file ends too early" in unusable


def test_show_puts_the_prediction_beside_what_was_measured(script: type[Script]) -> None:
    page = pages.show(script.MODEL, script.RESIDENT, script.FOOTPRINT, NOW)
    assert "the file's own" in page
    assert "100% GPU (31 of 31 layers on the GPU)" in page
    assert "from the page cache" in page
    assert "llama, 135M parameters, Q4_1" in page
    assert "chat" in page
    first, this = page.index("Memory of this load"), page.index("Last measured")
    assert ["cuda:0", "256 MiB", "250 MiB", "-6 MiB (-2.3%)"] in rows(page[first:this])
    assert ["host", "64 MiB", "70 MiB", "+6 MiB (+9.4%)"] in rows(page[first:this])
    assert ["cuda:0", "240 MiB", "252 MiB", "+12 MiB (+5.0%)"] in rows(page[this:])
    assert "Not loaded" not in page


def test_show_tells_of_a_model_that_is_not_loaded_where_it_would_go_and_what_it_took(script: type[Script]) -> None:
    page = pages.show(script.MODEL, None, script.FOOTPRINT, NOW)
    _, now, last = page.split("\n\n")
    assert now.splitlines()[0] == "Not loaded. Asked for now it would be loaded: 100% GPU (31 of 31 layers on the GPU)"
    assert rows(now)[2:] == [["cuda:0", "256 MiB"], ["host", "64 MiB"]]
    assert last.splitlines()[0] == (
        "Last measured, 100% GPU (31 of 31 layers on the GPU), beside the prediction before the first load so placed"
    )
    assert rows(last)[2:] == [
        ["cuda:0", "240 MiB", "252 MiB", "+12 MiB (+5.0%)"],
        ["host", "64 MiB", "60 MiB", "-4 MiB (-6.2%)"],
    ]


@pytest.mark.parametrize(
    ("now", "told"),
    [
        ({"leaving": ["a", "b\x1b"]}, "would be loaded: 100% GPU (31 of 31 layers on the GPU); a, b␛ would leave"),
        ({"outcome": "waits", "leaving": ["a"]}, "would wait for a, and then be loaded: 100% GPU"),
        ({"outcome": "waits"}, "would wait, and then be loaded: 100% GPU"),
        ({"outcome": "refused"}, "would be refused; predicted"),
    ],
)
def test_show_says_what_would_come_of_asking(now: dict[str, Any], told: str, script: type[Script]) -> None:
    footprint = script.FOOTPRINT | {"now": script.FOOTPRINT["now"] | now, "last": None}
    page = pages.show(script.MODEL, None, footprint, NOW)
    assert f"Not loaded. Asked for now it {told}" in page
    assert "Never measured: it has not been loaded yet." in page


def test_show_marks_estimates_and_makes_no_prediction_up(script: type[Script]) -> None:
    """A lesson of a swapd that did not keep what was predicted."""
    footprint = script.FOOTPRINT | {
        "now": script.FOOTPRINT["now"] | {"exact": False},
        "last": script.FOOTPRINT["last"] | {"predicted": None, "error": None},
    }
    page = pages.show(script.MODEL, None, footprint, NOW)
    assert ["cuda:0", "~256 MiB"] in rows(page)
    assert ["cuda:0", "-", "252 MiB", "-"] in rows(page)
    assert "what was predicted before the first load is not known" in page


def test_show_says_that_a_file_has_no_chat_template(script: type[Script]) -> None:
    page = pages.show(script.GEMMA, None, script.FOOTPRINT, NOW)
    assert "ChatML" in page
    assert "Not loaded." in page


def test_show_says_why_a_file_cannot_be_used(script: type[Script]) -> None:
    assert "the file ends too early" in pages.show(script.BROKEN, None, None, NOW)


def test_status_tells_devices_residents_waiting_and_counters(script: type[Script]) -> None:
    page = pages.status(script.STATUS, "/run/swapd.sock", NOW)
    assert page.startswith("swapd 9.8.7, up for 2 hours, at /run/swapd.sock\n")
    assert "DEVICE    NAME         TOTAL     FREE      OURS       FOREIGN    LIMIT     RESERVE" in page
    assert "cuda:0    Test Card    24 GiB    20 GiB    250 MiB    3 GiB      24 GiB    512 MiB" in page
    assert "no room yet" in page
    assert "12 loads, 3 evictions, 0 partial offloads, 0 out of memory, 1 worker crashed" in page


def test_status_names_the_largest_strangers_on_each_card(script: type[Script]) -> None:
    processes = [
        {"pid": 4711, "name": "blender", "bytes": 3 * 2**30},
        {"pid": 12, "name": "X\x1borg", "bytes": None},
        {"pid": 13, "name": "pid 13", "bytes": 2**20},
        {"pid": 14, "name": "least", "bytes": 2**10},
    ]
    card = script.STATUS["devices"][0]
    page = pages.status(script.STATUS | {"devices": [card | {"processes": processes}]}, "", NOW)
    told = "also on cuda:0: blender (pid 4711) 3 GiB, X␛org (pid 12) an unknown amount, pid 13 1 MiB"
    assert f"512 MiB\n{told}\n\n" in page
    assert "also on" not in pages.status(script.STATUS, "", NOW)


def test_status_at_rest(script: type[Script]) -> None:
    page = pages.status(script.STATUS | {"models": [], "queue": [], "devices": []}, "", NOW)
    assert "No device is measured yet." in page
    assert "No model is loaded." in page
    assert "No request is waiting." in page


def test_a_load_is_told_in_one_line(script: type[Script]) -> None:
    assert pages.loaded(script.RESIDENT) == (
        "smollm2-135m is loaded: 100% GPU, 320 MiB (cuda:0 250 MiB, host 70 MiB), 4 slots of 4096 tokens, in 350 ms"
    )


def test_names_cannot_command_the_terminal(script: type[Script]) -> None:
    evil = {"name": "a\x1b[2J\nb", "path": "/\x9b2J\u202e", "reason": "\x07"}
    for page in (pages.ls([script.BROKEN | evil], NOW), pages.show(script.BROKEN | evil, None, None, NOW)):
        assert not {"\x1b", "\x9b", "\u202e", "\x07"} & set(page)
        assert "a␛[2J␊b" in page


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.4, "less than a second"),
        (1, "1 second"),
        (59.9, "59 seconds"),
        (60, "1 minute"),
        (299, "4 minutes"),
        (7200, "2 hours"),
        (3 * 86400, "3 days"),
        (15 * 86400, "2 weeks"),
        (400 * 86400, "1 year"),
    ],
)
def test_spans_are_cut_off_as_ollamas_users_know_them(seconds: float, told: str) -> None:
    assert terminal.span(seconds) == told


def test_moments_may_be_text_or_seconds_since_the_epoch() -> None:
    assert terminal.when("2026-01-01T10:00:00+00:00", NOW) == "2 hours ago"
    assert terminal.when(NOW.timestamp() + 90, NOW) == "1 minute from now"
