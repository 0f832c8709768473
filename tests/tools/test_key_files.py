"""`cfbus keys inspect`: what a file is and what is wrong with it; never what is secret in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from cfbus.bus import keys
from cfbus.bus.messages import Role
from cfbus.tools import key_files, keyring


def told(code: int, *arguments: str | Path) -> dict[str, str]:
    said = CliRunner().invoke(key_files.command, ["inspect", *map(str, arguments), "--json"])
    assert said.exit_code == code, said.output
    facts: dict[str, str] = json.loads(said.output)
    return facts


@pytest.fixture
def path(tmp_path: Path) -> Path:
    keys.save(keys.generate(), tmp_path / "night.key_secret", "night gpu", "worker")
    return tmp_path / "night.key_secret"


def test_a_whole_pair(path: Path) -> None:
    pair = keys.load(path)
    said = told(0, path)
    assert said["fingerprint"] == keys.fingerprint(pair.public)
    assert said["line"] == keys.public_line(pair.public, "night gpu")
    assert (said["name"], said["role"], said["mode"], said["problem"]) == ("night gpu", "worker", "0600", "")
    assert "they match" in said["halves"]
    assert pair.secret.decode() not in json.dumps(said)


def test_the_public_half_may_be_read_by_all(path: Path) -> None:
    said = told(0, path.with_suffix(".key"))
    assert (said["halves"], said["mode"]) == ("public only", "0644")


def test_what_a_daemon_would_refuse_is_told_with_its_exit_code(path: Path) -> None:
    other = keys.generate()
    whole = path.read_text()
    path.write_text(whole.replace(keys.load(path).public.decode(), other.public.decode()))
    said = told(77, path)
    assert "do not match" in said["halves"]
    assert "do not belong together" in said["problem"]
    path.write_text(whole)
    path.chmod(0o640)
    assert "chmod 600" in told(78, path)["problem"]
    path.write_text("curve\n")
    assert "damaged" in told(77, path)["problem"]
    assert CliRunner().invoke(key_files.command, ["inspect", str(path) + "x"]).exit_code == 2


def test_role_state_and_end_from_a_registry(tmp_path: Path) -> None:
    ring = keyring.prepare(tmp_path / "keys", tmp_path / "broker" / "registry.sqlite", {"w": Role.WRITER})
    said = told(0, ring.path("w"), "--data-dir", tmp_path / "broker")
    assert (said["role"], said["state"], said["expires"]) == ("writer", "active", "never")
    said = told(0, ring.path("broker"), "--data-dir", tmp_path / "broker")
    assert said["role"] == "not in this registry"
