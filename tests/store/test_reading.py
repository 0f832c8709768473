"""Reading a manifest where one may not write, and leaving no trace where one may."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Protocol

import pytest

from cfbus.errors import CfbusError, DamagedStoreError
from cfbus.store import reading
from cfbus.store.reading import connect_to_read, log_of


class Disk(Protocol):
    path: Path


def changed(path: Path, value: int) -> sqlite3.Connection:
    """A database in WAL mode with this in it, still open, so that its log is there."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE IF NOT EXISTS one (value)")
    connection.execute("INSERT INTO one VALUES (?)", [value])
    return connection


def values(path: Path) -> list[int]:
    with closing(connect_to_read(path)) as connection:
        return [value for (value,) in connection.execute("SELECT value FROM one")]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "odd ?#% ü").mkdir()
    return tmp_path / "odd ?#% ü" / "a.sqlite"


def test_beside_a_writer_what_it_committed_is_seen(path: Path) -> None:
    with closing(changed(path, 1)) as writer:
        with closing(connect_to_read(path)) as reader:
            writer.execute("INSERT INTO one VALUES (2)")
            assert reader.execute("SELECT count(*) FROM one").fetchone() == (2,)
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                reader.execute("INSERT INTO one VALUES (3)")
        writer.execute("BEGIN IMMEDIATE")
        assert values(path) == [1, 2]
        writer.execute("COMMIT")


def test_a_reader_leaves_nothing_behind(path: Path) -> None:
    changed(path, 1).close()
    before = {name: (path.parent / name).read_bytes() for name in names(path.parent)}
    assert values(path) == [1]
    assert {name: (path.parent / name).read_bytes() for name in names(path.parent)} == before


def test_nothing_was_written_yet(path: Path) -> None:
    for _ in range(2):
        with closing(connect_to_read(path)) as connection:
            assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
        path.touch()
    assert names(path.parent) == ["a.sqlite"]


def test_nothing_was_committed_before_the_power_went(path: Path) -> None:
    path.write_bytes(bytes(4096))
    path.with_name(path.name + "-journal").write_bytes(b"x")
    with closing(connect_to_read(path)) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


def test_what_is_no_database(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(DamagedStoreError, match="not a database"):
        connect_to_read(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(CfbusError):
        connect_to_read(path)


@pytest.fixture
def frozen(small_disk: Disk) -> Iterator[Path]:
    """A database whose writer was killed, on a read-only mount, without the shared memory."""
    source = small_disk.path / "source.sqlite"
    folder = small_disk.path / "frozen"
    folder.mkdir()
    with closing(changed(source, 1)):
        shutil.copy(source, folder / "a.sqlite")
        shutil.copy(log_of(source), log_of(folder / "a.sqlite"))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk.path)], check=True)
    yield folder / "a.sqlite"
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk.path)], check=True)


def test_a_log_on_a_read_only_mount_counts(frozen: Path) -> None:
    with pytest.raises(sqlite3.OperationalError):
        reading._opened(frozen, "mode=ro")  # what this is about: SQLite by itself says no
    assert values(frozen) == [1]


def test_a_closed_database_on_a_read_only_mount(frozen: Path) -> None:
    subprocess.run(["mount", "-o", "remount,rw", str(frozen.parent.parent)], check=True)
    sqlite3.connect(frozen).execute("SELECT count(*) FROM one").connection.close()
    assert names(frozen.parent) == ["a.sqlite"]
    subprocess.run(["mount", "-o", "remount,ro", str(frozen.parent.parent)], check=True)
    assert values(frozen) == [1]


def test_importing_cfbus_loads_nothing() -> None:
    code = (
        "import sys; import cfbus; cfbus.open\n"
        "print(sorted({'numpy', 'pyarrow', 'pydantic', 'sqlite3', 'duckdb', 'polars', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.strip() == "[]"
