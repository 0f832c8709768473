"""A connection to the manifest for those who only read, whatever may be done in its folder.

SQLite's log (``-wal``) makes reading beside the writer possible, and asks a reader for the shared memory
(``-shm``) that goes with it. Without a log nobody has the manifest open, and it is read as it lies: a reader
that made these files could be somebody whose files the next writer may not touch. With a log and no way to
the shared memory (a killed writer and a read-only mount), both files are copied and read there.

Knows nothing of what is in it; ``Manifest`` checks every row. Invariants: nothing in the store is changed, and
no lock is taken that could make the writer wait.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from pathlib import Path

from cfbus.store.durable import disk_errors, sqlite_errors

_MAY_NOT_SHARE = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
_PRIMARY = 0xFF  # the low byte of an SQLite error code is its class
_WAIT_SECONDS = 10


def log_of(path: Path) -> Path:
    """Where SQLite keeps the log of a database."""
    return path.with_name(path.name + "-wal")


def connect_to_read(path: Path) -> sqlite3.Connection:
    """The database at ``path``; in memory when nothing was written to it yet. Raises as ``sqlite_errors`` does."""
    if not path.exists() or path.with_name(path.name + "-journal").exists():
        return _in_memory()  # with a rollback journal it was only being made when the power went
    with sqlite_errors(path), disk_errors(path):
        if not log_of(path).exists():
            return _opened(path, "mode=ro&immutable=1")
        try:
            return _opened(path, "mode=ro")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & _PRIMARY not in _MAY_NOT_SHARE:
                raise
        return _copied(path)


def _in_memory() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", isolation_level=None)


def _opened(path: Path, how: str) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.as_uri()}?{how}", uri=True, isolation_level=None, timeout=_WAIT_SECONDS)
    try:
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # only this looks at the file
    except BaseException:
        connection.close()
        raise
    if tables:
        return connection
    connection.close()
    return _in_memory()


def _copied(path: Path) -> sqlite3.Connection:
    memory = _in_memory()
    with tempfile.TemporaryDirectory(prefix="cfbus-") as folder:
        copy = Path(folder) / path.name
        shutil.copyfile(path, copy)
        shutil.copyfile(log_of(path), log_of(copy))
        connection = sqlite3.connect(copy)
        try:
            connection.backup(memory)
        finally:
            connection.close()
    return memory
