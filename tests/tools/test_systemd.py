"""`cfbus systemd install`: what is written where, and what is left alone."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from cfbus.errors import TryAgainError, UsageError
from cfbus.tools import systemd
from cfbus.tools.systemd import Plan, find_gpus, install, plan, wanted_gpus

BIN = Path("/somewhere/bin")


@pytest.fixture
def places(tmp_path: Path) -> Mapping[str, Path]:
    return {name: tmp_path / name for name in systemd.SYSTEM_PLACES}


@pytest.fixture
def person(tmp_path: Path) -> Mapping[str, Path]:
    return {"units": tmp_path / "units", "configuration": tmp_path / "configuration"}


def configured(places: Mapping[str, Path], *names: str) -> None:
    places["configuration"].mkdir()
    for name in names:
        (places["configuration"] / f"{name}.yaml").touch()


def test_all_units_run_this_installation(places: Mapping[str, Path]) -> None:
    what = plan(places, BIN, (), user=False)
    names = {path.name for path in what.files if path.parent == places["units"]}
    assert names == {
        "cfbus-broker.service", "cfbus-writer.service", "cfbus-feeder.service", "cfbus-gpu@.service", "cfbus.target",
        "cfbus.slice",
    }  # fmt: skip
    assert set(what.files) >= {places["sysusers"] / "cfbus.conf", places["tmpfiles"] / "cfbus.conf"}
    assert "ExecStart=/somewhere/bin/cfbus-broker " in what.files[places["units"] / "cfbus-broker.service"]
    assert not any("/opt/cfbus" in text for text in what.files.values())


def test_only_what_is_configured_is_enabled(places: Mapping[str, Path]) -> None:
    configured(places, "broker", "gpu")
    what = plan(places, BIN, ("0", "3"), user=False)
    assert what.commands[-1] == (
        "systemctl", "enable", "cfbus.target", "cfbus-broker.service", "cfbus-gpu@0.service", "cfbus-gpu@3.service",
    )  # fmt: skip
    assert what.unconfigured == ("writer", "feeder")


def test_a_worker_without_a_configuration_is_told(places: Mapping[str, Path]) -> None:
    configured(places)
    assert "gpu" in plan(places, BIN, ("0",), user=False).unconfigured
    assert "gpu" not in plan(places, BIN, (), user=False).unconfigured


def test_for_a_person_nothing_is_asked_that_only_root_can(person: Mapping[str, Path]) -> None:
    what = plan(person, BIN, (), user=True)
    units = "\n".join(text for path, text in what.files.items() if path.suffix == ".service")
    for word in ("\nUser=", "\nLoadCredential=", "KEY_FILE=", "\nDeviceAllow=", "\nProtectSystem="):
        assert word not in units
    assert "\nNoNewPrivileges=yes" in units
    assert "\nStateDirectory=" in units
    assert "WantedBy=default.target" in what.files[person["units"] / "cfbus.target"]
    assert what.commands == (
        ("systemctl", "--user", "daemon-reload"),
        ("systemctl", "--user", "enable", "cfbus.target"),
    )


def test_systemd_can_read_a_persons_units(person: Mapping[str, Path], tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        assert os.environ.get("CI") != "true", "systemd-analyze is missing (Debian: apt install systemd)"
        pytest.skip("systemd-analyze is not here")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("broker", "writer", "feeder", "gpu"):
        (programs / f"cfbus-{name}").write_text("#!/bin/sh\n")
        (programs / f"cfbus-{name}").chmod(0o755)
    install(Plan(plan(person, programs, (), user=True).files, (), ()))
    (person["units"] / "cfbus-gpu@.service").rename(person["units"] / "cfbus-gpu@0.service")
    done = subprocess.run(
        ["systemd-analyze", "verify", *map(str, sorted(person["units"].glob("*.service")))],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{person['units']}:", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_installing_twice_changes_nothing_and_a_new_release_replaces(places: Mapping[str, Path]) -> None:
    first = plan(places, BIN, (), user=False)
    install(Plan(first.files, (), ()))
    install(Plan(first.files, (), ()))
    unit = places["units"] / "cfbus-broker.service"
    assert unit.read_text() == first.files[unit]
    install(Plan(plan(places, Path("/new/bin"), (), user=False).files, (), ()))
    assert "ExecStart=/new/bin/cfbus-broker " in unit.read_text()
    assert sorted(path.name for path in unit.parent.iterdir()) == sorted(
        path.name for path in first.files if path.parent == unit.parent
    )


def test_a_unit_of_somebody_else_is_left_alone(places: Mapping[str, Path]) -> None:
    unit = places["units"] / "cfbus-writer.service"
    unit.parent.mkdir()
    unit.write_text("[Service]\nExecStart=/mine\n")
    with pytest.raises(UsageError, match="not of this installer"):
        install(plan(places, BIN, (), user=False))
    assert unit.read_text() == "[Service]\nExecStart=/mine\n"
    assert list(unit.parent.iterdir()) == [unit], "half of it was written"


def test_a_command_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_dir", lambda _: True)
    with pytest.raises(TryAgainError, match="sh -c"):
        install(Plan({}, (("sh", "-c", "echo no such unit >&2; exit 5"),), ()))


def test_which_gpus(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia10", "nvidia2", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert find_gpus(tmp_path) == ("0", "2", "10")
    assert wanted_gpus("1, GPU-5a3f") == ("1", "GPU-5a3f")


@pytest.mark.parametrize("given", ["0,0", "a", "0;reboot", "../1", "", "0,"])
def test_what_is_no_list_of_gpus(given: str) -> None:
    with pytest.raises(UsageError, match="--gpus"):
        wanted_gpus(given)


def test_a_dry_run_shows_all_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    said = CliRunner().invoke(systemd.command, ["install", "--user", "--dry-run"])
    assert said.exit_code == 0
    assert f"# {tmp_path}/systemd/user/cfbus-broker.service" in said.output
    assert "$ systemctl --user daemon-reload" in said.output
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_verb_gets_the_nearest() -> None:
    said = CliRunner().invoke(systemd.command, ["instal"])
    assert said.exit_code == 2
    assert "Did you mean 'install'?" in said.output
