"""`cfbus journal` as a person types it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from crash.rig import STORE, WriterRig
from crash.sample import PARTS

from cfbus.errors import DamagedStoreError, StoreInUseError, UsageError
from cfbus.tools.main import command


def cfbus(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(command, ["journal", *map(str, arguments)])
    return done.exit_code, done.output


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Five positions in a closed journal file and one in an open one."""
    writer = WriterRig(tmp_path)
    writer.list_shards(1)
    writer.open_passes(1)
    writer.take(*PARTS[:5])
    writer.journal.roll()
    writer.take(PARTS[5])
    writer.close()
    return tmp_path / STORE


def damage(store: Path) -> None:
    path = store / "journal" / "0000000000000001.sqlite"
    data = path.read_bytes()
    at = data.index(b"birds-00000/9 cannot be read")
    path.write_bytes(data[:at] + b"B" + data[at + 1 :])


def test_a_whole_journal(store: Path) -> None:
    code, said = cfbus("inspect", store)
    assert code == 0
    assert "0000000000000001.sqlite: positions 1 to 5, whole." in said
    assert "0000000000000006.sqlite: positions 6, whole." in said
    assert cfbus("salvage", store) == (0, said + "There is nothing to salvage.\n")


def test_an_empty_journal(tmp_path: Path) -> None:
    WriterRig(tmp_path).close()
    code, said = cfbus("inspect", tmp_path / STORE)
    assert code == 0
    assert "all that the store knows is sealed" in said


def test_damage_is_told_and_salvaged(store: Path) -> None:
    damage(store)
    code, said = cfbus("inspect", store)
    assert code == DamagedStoreError.exit_code
    assert "position 3 does not match its checksum. 4 of 5 frames are whole (positions 1 to 2, 4 to 5)." in said
    assert f"cfbus journal salvage {store}" in said
    code, said = cfbus("salvage", store)
    assert code == 0
    assert "Lost: positions 3." in said
    assert "ends at position 6" in said
    assert cfbus("inspect", store)[0] == 0


def test_a_store_in_use_is_left_alone(store: Path) -> None:
    writer = WriterRig(store.parents[1])
    assert cfbus("inspect", store)[0] == StoreInUseError.exit_code
    writer.close()


@pytest.mark.parametrize("name", ["nothing", "file", "captions\n"])
def test_what_is_no_store_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, said = cfbus("inspect", tmp_path / name)
    assert code == UsageError.exit_code
    assert "There is no store at" in said


def test_a_wrong_verb_is_told() -> None:
    code, said = cfbus("savlage", "x")
    assert code == 2
    assert "Did you mean 'salvage'?" in said
