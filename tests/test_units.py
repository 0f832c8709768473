"""The units in ``systemd/``, judged by systemd's own programs, and compared with the code that they run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from cfbus import config
from cfbus.daemons.gpu import DRAIN_SECONDS
from cfbus.tools.systemd import UNITS

SERVICES = ("cfbus-broker", "cfbus-writer", "cfbus-feeder", "cfbus-gpu@0")
MOST_EXPOSED = 2.0


def read(name: str) -> Mapping[str, str]:
    """What stands in the unit; of a key that stands several times, all values, a line each."""
    found: dict[str, list[str]] = {}
    for line in (UNITS / f"{name.replace('@0', '@')}.service").read_text(encoding="utf-8").splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return {key: "\n".join(values) for key, values in found.items()}


@pytest.fixture
def analyze(tmp_path: Path) -> Path:
    """A folder with all units, whose programs exist. Debian: apt install systemd."""
    if shutil.which("systemd-analyze") is None:
        assert os.environ.get("CI") != "true", "systemd-analyze is missing (Debian: apt install systemd)"
        pytest.skip("systemd-analyze is not here")
    programs = tmp_path / "bin"
    programs.mkdir()
    for unit in UNITS.iterdir():
        text = unit.read_text(encoding="utf-8")
        (tmp_path / unit.name.replace("@.", "@0.")).write_text(text.replace("/opt/cfbus/bin", str(programs)))
        for name in re.findall(r"/opt/cfbus/bin/(\S+)", text):
            (programs / name).write_text("#!/bin/sh\n")
            (programs / name).chmod(0o755)
    return tmp_path


def systemd_analyze(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments],
        cwd=folder,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:", "SYSTEMD_COLORS": "0", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_systemd_finds_nothing_to_say(analyze: Path) -> None:
    done = systemd_analyze(analyze, "verify", *(f"./{name}.service" for name in SERVICES), "./cfbus.target")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", SERVICES)
def test_a_typo_is_found(analyze: Path, name: str) -> None:
    unit = analyze / f"{name}.service"
    unit.write_text(unit.read_text().replace("WatchdogSec=", "WatchdogSecs="))
    assert "WatchdogSecs" in systemd_analyze(analyze, "verify", f"./{name}.service").stderr


@pytest.mark.parametrize("name", SERVICES)
def test_little_is_exposed(analyze: Path, name: str) -> None:
    done = systemd_analyze(analyze, "security", "--offline=true", f"./{name}.service")
    match = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert match is not None, done.stderr
    assert float(match[1]) <= MOST_EXPOSED


@pytest.mark.parametrize("name", SERVICES)
def test_a_drain_is_waited_for(name: str) -> None:
    assert int(read(name)["TimeoutStopSec"]) > DRAIN_SECONDS
    assert "KillSignal" not in read(name)  # SIGTERM, which drains


@pytest.mark.parametrize("name", SERVICES)
def test_what_no_restart_mends_is_not_tried_again(name: str) -> None:
    unit = read(name)
    assert unit["Restart"] == "always"
    assert {"77", "78"} <= set(unit["RestartPreventExitStatus"].split())


@pytest.mark.parametrize("name", SERVICES)
def test_the_variables_are_keys_of_the_configuration(name: str) -> None:
    """A key that is not known would end the daemon at its start."""
    words = " ".join(value for key, value in read(name).items() if key == "Environment").split()
    given = [word.partition("=")[0] for word in words if word.startswith("CFBUS_")]
    known = {"CFBUS_" + "__".join(path).upper() for path in config.SCHEMA.known_paths()}
    assert given
    assert set(given) <= known


@pytest.mark.parametrize("name", SERVICES)
def test_keys_come_as_credentials(name: str) -> None:
    unit = read(name)
    credential = unit["LoadCredential"].partition(":")[0]
    assert f"__KEY_FILE=%d/{credential}" in unit["Environment"]


def names_in(analyze: Path, group: str) -> set[str]:
    """The system calls in a set of systemd's, with the sets inside it."""
    lines = systemd_analyze(analyze, "syscall-filter", group).stdout.splitlines()[1:]
    found = {line.strip() for line in lines if line.startswith("    ") and not line.strip().startswith("#")}
    inside = {name for name in found if name.startswith("@")}
    return (found - inside).union(*(names_in(analyze, each) for each in inside))


def allowed(analyze: Path, name: str) -> set[str]:
    """What the filters of a unit leave."""
    calls: set[str] = set()
    for line in read(name)["SystemCallFilter"].split("\n"):
        words = line.removeprefix("~").split()
        listed = set().union(*(names_in(analyze, word) if word.startswith("@") else {word} for word in words))
        calls = calls - listed if line.startswith("~") else calls | listed
    return calls


def test_filters_are_read_right(analyze: Path) -> None:
    assert {"read", "futex", "socket", "prlimit64"} <= allowed(analyze, "cfbus-broker")
    assert not {"ptrace", "mount", "setuid"} & allowed(analyze, "cfbus-broker")
