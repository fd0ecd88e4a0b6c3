"""`swapctl doctor`: each ailment is found, named, and comes with what to do; a healthy machine is called so."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from swapd import __version__
from swapd.core.model import HOST, Device, DeviceId, DeviceKind, Foreign
from swapd.ctl import findings
from swapd.ctl.client import Address, Client
from swapd.ctl.doctor import Engine, Machine, examine
from swapd.ctl.findings import Finding, Level
from swapd.host.nvml import NvmlError
from swapd.units import GiB, MiB

if TYPE_CHECKING:
    from tests.ctl.conftest import Daemon, Done, Script

CARD = Device(DeviceId("cuda:0"), "Test Card", DeviceKind.GPU, "nvml", 24 * GiB, 20 * GiB)
MEMORY = Device(HOST, "host memory", DeviceKind.HOST, "psutil", 32 * GiB, 30 * GiB)
UNIT = {"installed": True, "active": "active", "result": "success"}
SERVICE = {"units": {"swapd.socket": UNIT, "swapd.service": UNIT}, "lingers": True}


@pytest.fixture
def machine(folder: Path, daemon: Daemon, script: type[Script]) -> Machine:
    """With nothing to complain of."""
    healthy = script.STATUS["counters"] | {"crashes": 0}
    daemon.replies[("GET", "/swapd/status")] = script.Reply(
        script.STATUS | {"version": __version__, "counters": healthy}
    )
    daemon.replies[("GET", "/health")] = script.Reply({"status": "ok"})
    environ = {"XDG_STATE_HOME": str(folder), "XDG_CACHE_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    return Machine(
        environ,
        Client(Address(path=str(folder / "swapd.sock"))),
        lambda: Engine("0.3.36", has_gpu_code=True),
        lambda: (CARD,),
        NvmlError,
        lambda: "580.1",
        lambda: MEMORY,
        lambda settings: ((), ()),
        lambda: SERVICE,
        lambda path: 100 * GiB,
    )


def found(machine: Machine, about: str, level: Level) -> Finding:
    (finding,) = [each for each in examine(machine) if (each.about, each.level) == (about, level)]
    return finding


def fails(error: Exception) -> Callable[..., Any]:
    def fail(*_: object) -> Any:
        raise error

    return fail


def test_a_healthy_machine_is_called_healthy(machine: Machine) -> None:
    all_found = list(examine(machine))
    assert findings.document(all_found)["healthy"] is True
    assert not [each for each in all_found if each.level is Level.WRONG]
    assert findings.page(all_found).endswith("Nothing is wrong.")


def test_a_broken_llama_cpp_is_to_be_built_anew(machine: Machine) -> None:
    finding = found(replace(machine, engine=lambda: Engine(failure="no libggml.so.0")), "llama.cpp", Level.WRONG)
    assert "no libggml.so.0" in finding.says
    assert "make setup" in finding.do


def test_a_card_without_code_for_it_is_a_mistake(machine: Machine) -> None:
    finding = found(replace(machine, engine=lambda: Engine("0.3.36")), "GPU", Level.WRONG)
    assert "-DGGML_CUDA=on" in finding.do


def test_a_driver_that_does_not_answer_is_told_in_its_own_words(machine: Machine) -> None:
    broken = replace(machine, gpus=fails(NvmlError("Driver/library version mismatch")))
    finding = found(broken, "GPU", Level.WRONG)
    assert "Driver/library version mismatch" in finding.says
    assert "reboot" in finding.do


def test_a_driver_without_its_library_is_found(machine: Machine) -> None:
    assert "580.1" in found(replace(machine, gpus=tuple), "GPU", Level.WRONG).says
    hidden = replace(machine, gpus=tuple, environ=dict(machine.environ) | {"CUDA_VISIBLE_DEVICES": ""})
    assert "hides all cards" in found(hidden, "GPU", Level.NOTE).says
    assert "no NVIDIA driver" in found(replace(machine, gpus=tuple, driver=lambda: None), "GPU", Level.NOTE).says


def test_who_else_holds_a_card_is_named(machine: Machine) -> None:
    crowded = replace(CARD, free=2 * GiB, others=(Foreign(7, "blender", 21 * GiB), Foreign(8, "X", None)))
    finding = found(replace(machine, gpus=lambda: (crowded,)), "cuda:0", Level.NOTE)
    assert "blender (pid 7) 21 GiB, X (pid 8) ?" in finding.says


def test_a_wrong_configuration_is_told_with_its_line(machine: Machine, folder: Path) -> None:
    (folder / "swapd").mkdir()
    (folder / "swapd" / "config.toml").write_text("[scheduler]\nmax_wait = 7.5.3\n")
    assert "config.toml:2" in found(machine, "configuration", Level.WRONG).says


def test_models_are_the_daemon_s_where_there_is_one(machine: Machine, script: type[Script], daemon: Daemon) -> None:
    assert "can be served" in found(machine, "models", Level.FINE).says
    assert script.BROKEN["reason"] in found(machine, "models", Level.NOTE).says
    daemon.replies[("GET", "/swapd/models")] = script.Reply({"models": []})
    assert "[catalog] dirs" in found(machine, "models", Level.WRONG).do


def test_a_model_larger_than_all_memory_is_named(machine: Machine, script: type[Script], daemon: Daemon) -> None:
    huge = script.MODEL | {"name": "huge", "size": 400 * GiB}
    daemon.replies[("GET", "/swapd/models")] = script.Reply({"models": [huge]})
    assert "huge (400 GiB)" in found(machine, "models", Level.NOTE).says


def test_a_full_disk_and_a_folder_of_somebody_else_s(machine: Machine) -> None:
    assert "prompt_cache" in found(replace(machine, free_disk=lambda path: MiB), "cache", Level.NOTE).says
    elsewhere = dict(machine.environ) | {"XDG_STATE_HOME": "/proc/1"}
    assert "cannot write" in found(replace(machine, environ=elsewhere), "state", Level.WRONG).says


def test_a_daemon_that_does_not_run_is_no_mistake_and_one_of_another_version_is(
    machine: Machine, script: type[Script], daemon: Daemon, folder: Path
) -> None:
    daemon.replies[("GET", "/swapd/status")] = script.Reply(script.STATUS | {"version": "9.9.9"})
    assert "it is 9.9.9" in found(machine, "daemon", Level.WRONG).says
    nobody = replace(machine, client=Client(Address(path=str(folder / "nobody.sock"))))
    assert "swapd serve" in found(nobody, "daemon", Level.NOTE).says


def test_crashed_workers_are_told_of(machine: Machine, script: type[Script], daemon: Daemon) -> None:
    crashed = script.STATUS | {"version": __version__, "counters": script.STATUS["counters"] | {"crashes": 2}}
    daemon.replies[("GET", "/swapd/status")] = script.Reply(crashed)
    assert "2 workers crashed" in found(machine, "daemon", Level.NOTE).says


def test_a_wedged_daemon_is_to_be_mended(machine: Machine, script: type[Script], daemon: Daemon) -> None:
    reason = {"error": {"code": "wedged", "message": "nothing gets on: 3 wait"}}
    daemon.replies[("GET", "/health")] = script.Reply(reason, status=503)
    assert "nothing gets on: 3 wait" in found(machine, "daemon", Level.WRONG).says


@pytest.mark.parametrize(
    ("change", "level", "words"),
    [
        ({"installed": False}, Level.NOTE, "not installed"),
        ({"active": "failed", "result": "exit-code"}, Level.WRONG, "failed (exit-code)"),
        ({"active": "inactive"}, Level.WRONG, "not running"),
    ],
)
def test_the_service_is_told_of(machine: Machine, change: dict[str, object], level: Level, words: str) -> None:
    unit = UNIT | change
    units = {"units": {"swapd.socket": unit, "swapd.service": unit}, "lingers": True}
    assert words in found(replace(machine, units=lambda: units), "service", level).says


def test_a_machine_without_systemd_is_no_mistake(machine: Machine) -> None:
    assert "no systemd user manager" in found(replace(machine, units=lambda: None), "service", Level.NOTE).says


def test_this_machine_can_be_examined_with_no_daemon(swapctl: Callable[..., Done], folder: Path) -> None:
    homes = {name: str(folder) for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME")}
    done = swapctl("--url", f"unix:{folder}/none.sock", "doctor", "--json", **homes)
    assert done.status == 0, done.err
    document = json.loads(done.out)
    about = {finding["about"] for finding in document["findings"]}
    assert {"llama.cpp", "memory", "configuration", "models", "daemon", "service"} <= about
    (engine,) = [finding for finding in document["findings"] if finding["about"] == "llama.cpp"]
    assert engine["level"] == "fine"
    assert document["healthy"] is False  # there is no model
