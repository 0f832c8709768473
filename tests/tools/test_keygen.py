"""`cfbus keygen`: a pair on disk, a public line on the screen, a secret nowhere else."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cfbus.bus import keys
from cfbus.tools import keygen


def run(*arguments: object) -> Result:
    return CliRunner().invoke(keygen.command, [str(argument) for argument in arguments])


@pytest.mark.parametrize("given", ["night", "night.key_secret"])
def test_a_pair_is_made_and_its_public_line_is_shown(tmp_path: Path, given: str) -> None:
    said = run(tmp_path / given)
    assert said.exit_code == 0
    path = tmp_path / "night.key_secret"
    pair = keys.load(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keys.public_line(pair.public, "night") in said.output
    assert keys.load_public(tmp_path / "night.key") == pair.public
    assert pair.secret.decode() not in said.output


def test_it_may_have_another_name(tmp_path: Path) -> None:
    said = run(tmp_path / "a.b", "--name", "night gpu")
    assert said.exit_code == 0
    assert said.output.strip().endswith("night gpu")
    assert (tmp_path / "a.b.key_secret").exists()


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    assert run(tmp_path / "night").exit_code == 0
    before = (tmp_path / "night.key_secret").read_bytes()
    again = run(tmp_path / "night")
    assert again.exit_code == 2
    assert "exists already" in again.output
    assert (tmp_path / "night.key_secret").read_bytes() == before


def test_a_missing_folder_and_a_bad_name_are_told(tmp_path: Path) -> None:
    missing = run(tmp_path / "none" / "night")
    assert missing.exit_code == 2
    assert f"mkdir -p {tmp_path}/none" in missing.output
    bad = run(tmp_path / "night", "--name", "a\nb")
    assert bad.exit_code == 2
    assert "printable" in bad.output
    assert not list(tmp_path.iterdir())
