"""`swapctl replay`: days from files, compared and tuned, without a daemon; and files that are none."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from swapd.core.messages import Policy
from swapd.ctl import replayed
from swapd.ctl.__main__ import main
from swapd.ctl.arguments import POLICIES
from swapd.ctl.client import Exit
from swapd.sim.lab import generate, tune
from swapd.trace import FILES, Call, Trace, TraceModel, lines, parse
from swapd.units import FOREVER, GiB

if TYPE_CHECKING:
    from tests.ctl.conftest import Done

DAY = Path(__file__).parent / "day.jsonl"
MODEL = TraceModel("my model", 6 * GiB, 33, 2, 4.0, 4.0, 1000.0, 20.0)
RARE = Trace(
    "rare",
    10 * GiB,
    64 * GiB,
    (MODEL,),
    tuple(Call(str(n), 200.0 * n, MODEL.name, 100, 20, waited_s=4.0, took_s=1.1) for n in range(30)),
    policy=Policy(keep_alive=60.0),
)


@pytest.fixture(autouse=True)
def _nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """No daemon can be reached."""
    monkeypatch.setenv("SWAPD_URL", "unix:/nonexistent/swapd.sock")


def write(path: Path, trace: Trace) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines(trace)))
    return path


def document(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    assert main(["replay", *words, "--json"]) == Exit.DONE
    told = capsys.readouterr()
    assert told.err == ""
    found = json.loads(told.out)
    assert isinstance(found, dict)
    return found


def test_every_policy_is_compared_with_what_nobody_could_beat(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exactly where nothing is gained by reading files ahead, which the best possible schedule does not do."""
    day = parse(DAY.read_text().splitlines())
    models = tuple(replace(model, cold_load_s=model.load_s) for model in day.models)
    warm = str(write(tmp_path / "warm.jsonl", replace(day, models=models)))
    assert document(capsys, str(DAY))["bound_is_exact"] is False
    found = document(capsys, warm, "--policy", "all")
    assert found["bound_is_exact"] is True
    rows = found["policies"]
    assert isinstance(rows, list)
    assert [row["policy"] for row in rows] == list(POLICIES[:-1])
    for row in rows:
        assert row["calls"] == found["requests"]
        assert row["delay"] >= found["bound_s"]
        assert row["regret_mean"] >= 0
        assert 0 < row["jain"] <= 1
        assert row["wait_p50"] <= row["wait_p99"] <= row["wait_max"]
        assert row["bytes_moved"] >= row["loads"] * 8 * GiB
    assert main(["replay", warm, "--policy", "cost", "--policy", "fifo"]) == 0
    page = capsys.readouterr().out
    assert [line.split()[0] for line in page.splitlines()[3:5]] == ["cost", "fifo"]
    assert "the best possible" in page


def test_without_a_log_it_is_the_daemons_own_files_the_older_one_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SWAPD_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert main(["replay"]) == Exit.REFUSED
    assert str(tmp_path / "swapd" / FILES[-1]) in capsys.readouterr().err
    write(tmp_path / "swapd" / FILES[-1], RARE)
    assert document(capsys)["requests"] == 30
    write(tmp_path / "swapd" / FILES[0], replace(RARE, calls=RARE.calls[:7]))
    found = document(capsys)
    assert (found["requests"], found["keep_alive"]) == (37, 60.0)
    assert found["recorded"] == {"calls": 37, "left": 0, "mean": 4.0, "p50": 4.0, "p99": 4.0, "longest": 4.0}
    monkeypatch.setenv("SWAPD_PATHS__STATE", str(tmp_path / "elsewhere"))
    assert main(["replay"]) == Exit.REFUSED
    assert "elsewhere" in capsys.readouterr().err
    monkeypatch.setenv("SWAPD_SCHEDULER__MAX_WAIT", "soon")
    assert main(["replay"]) == Exit.REFUSED
    assert "SWAPD_SCHEDULER__MAX_WAIT" in capsys.readouterr().err


def test_a_day_can_be_piped_in(swapctl: Callable[..., Done]) -> None:
    done = swapctl("replay", "-", stdin=DAY.read_bytes())
    assert (done.status, done.err) == (0, "")
    assert "cost" in done.out
    done = swapctl("replay", "-", stdin=b'\xff\xfe{"call"')
    assert done.status == Exit.REFUSED
    assert done.err.startswith("swapctl: cannot replay stdin:1: no JSON, or cut off")


def test_settings_and_cards_can_be_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write(tmp_path / "rare.jsonl", RARE))

    def loads(*words: str) -> object:
        rows = document(capsys, path, *words)["policies"]
        assert isinstance(rows, list)
        return rows[0]["loads"]

    assert loads() == 30
    assert loads("--keep-alive", "5m") == 1
    assert loads("--keep-alive", "-1") == 1
    found = document(capsys, path, "--gpu", "24GiB,16GiB", "--max-wait", "10s", "--keep-alive", "-1")
    assert (found["card"], found["cards"]) == (39 * GiB, 2)
    assert (found["max_wait"], found["keep_alive"]) == (10.0, -1)
    assert main(["replay", path, "--gpu", "24GiB,16GiB"]) == 0
    assert "2 cards, taken for one with room for 39 GiB" in capsys.readouterr().out


def test_models_that_fit_nowhere_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write(tmp_path / "rare.jsonl", replace(RARE, host=64 * GiB)))
    found = document(capsys, path, "--policy", "cost", "--policy", "fifo", "--gpu", "4GiB")
    assert found["refused"] == {"fifo": "my model needs 6 GiB of 3.5 GiB, and can only be loaded whole"}
    huge = replace(RARE, models=(replace(MODEL, size=500 * GiB),))
    path = str(write(tmp_path / "huge.jsonl", huge))
    assert main(["replay", path]) == Exit.DOES_NOT_FIT
    assert "my model needs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"call": {"id": "99", "at"', "no JSON, or cut off"),
        ('{"role": "user", "content": "hello"}', "this is no replay file of swapd"),
        ('{"call": {"id": "99", "at": NaN, "model": "my model", "prompt": 1, "output": 1}}', "at is NaN"),
        ('{"call": {"id": "99", "at": 1, "model": "no such", "prompt": 1, "output": 1}}', "'no such', a model that"),
    ],
)
def test_a_bad_line_is_named_with_its_file(
    line: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "rare.jsonl", RARE)
    path.write_text(path.read_text() + line)
    assert main(["replay", str(path)]) == Exit.REFUSED
    told = capsys.readouterr()
    assert told.out == ""
    assert f"{path}:33: " in told.err
    assert why in told.err


def test_what_is_no_replay_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    binary = tmp_path / "model.gguf"
    binary.write_bytes(b"GGUF" + bytes(10**6))
    for path, why in (
        (binary, "no replay file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "absent", "No such file"),
        (write(tmp_path / "empty.jsonl", replace(RARE, calls=())), "no request is recorded"),
        (Path("/dev/null"), "no head"),
    ):
        assert main(["replay", str(path)]) == Exit.REFUSED
        assert why in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--policy", "mru"],
        ["--max-wait", "soon"],
        ["--gpu", "0"],
        ["--tune", "--policy", "fifo"],
        ["--tune", "--policy", "cost", "--policy", "lru"],
        ["--tune", "--policy", "all"],
    ],
)
def test_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(DAY), *words]) == Exit.USAGE
    assert capsys.readouterr().out == ""


def test_tune_says_what_to_configure_and_what_it_would_have_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(write(tmp_path / "rare.jsonl", RARE))
    found = document(capsys, path, "--tune", "--policy", "lru")
    proposed, now = found["proposed"], found["now"]
    assert isinstance(proposed, dict)
    assert isinstance(now, dict)
    assert (now["keep_alive"], now["loads"]) == (60.0, 30)
    assert (proposed["keep_alive"], proposed["loads"], proposed["pins"]) == (300.0, 1, [])
    assert main(["replay", path, "--tune"]) == 0
    page = capsys.readouterr().out
    assert 'In config.toml:\n\n[scheduler]\nkeep_alive = "5m"    # was "1m"\n' in page
    assert re.search(r"^as it is .*\n+proposed ", page, re.MULTILINE)


def test_tune_is_honest_when_nothing_helps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write(tmp_path / "rare.jsonl", replace(RARE, policy=Policy(keep_alive=FOREVER))))
    assert document(capsys, path, "--tune")["proposed"] is None
    assert main(["replay", path, "--tune"]) == 0
    page = capsys.readouterr().out
    assert "No max_wait, keep_alive or pin would clearly have helped" in page
    assert "[scheduler]" not in page


def test_what_is_proposed_is_what_config_toml_takes() -> None:
    import tomllib

    tried = tune.tune(RARE, Policy(keep_alive=60.0)).now
    before = replace(tried, settings=tune.Settings(30.0, 300.0, frozenset({"plain"})))
    after = replace(tried, settings=tune.Settings(90.0, FOREVER, frozenset({"a:9b", 'quo"te'})), pain=0.0)
    page = replayed.tuned(RARE, tune.Tuning(before, after, after, 2))
    found = tomllib.loads(page.partition("In config.toml:")[2])
    assert found == {
        "scheduler": {"max_wait": "90s", "keep_alive": -1},
        "models": {"a:9b": {"pin": True}, 'quo"te': {"pin": True}, "plain": {"pin": False}},
    }


def test_a_recorded_day_says_how_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left = Call("left", 9000.0, MODEL.name, 0, 0, patience=2.0)
    path = write(tmp_path / "rare.jsonl", replace(RARE, calls=(*RARE.calls, left), cards=0))
    assert main(["replay", str(path)]) == 0
    page = capsys.readouterr().out
    assert "31 requests of 1 model in 2 hours, on 10 GiB of host memory, without a GPU." in page
    assert "As it was: wait mean 3.94 s, p50 4.00 s, p99 4.0 s, max 4.0 s; 1 client left." in page


def test_a_made_up_day_is_the_same_for_the_command_as_for_the_lab(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "day.jsonl", generate.make("tail", 0.5, 1, hours=0.3))
    first, second = (document(capsys, str(path), "--policy", "resident-first") for _ in range(2))
    assert first == second
    assert first["bound_is_exact"] is False
