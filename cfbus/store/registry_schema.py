"""The registry's file: made privately, checked, brought to the present format, its errors told in sentences.

Knows SQLite and the tables' definitions; nothing of what is decided by them (see ``registry``).

Invariants: the file is 0600 and owned by who opens it; the audit log only grows, triggers refuse to change, remove or
replace a line; a file of an older format is brought to the present one in a single transaction.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cfbus.errors import (
    CfbusError,
    DamagedStoreError,
    DiskFullError,
    StoreInUseError,
    StoreMismatchError,
    UnsafeError,
    UsageError,
)
from cfbus.store.durable import flush_database

_APPLICATION_ID: Final = 0x43464B31
_BUSY_SECONDS: Final = 5.0
_ONLY_GROWS: Final = "BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END"
_FORMATS: Final = (
    (
        """CREATE TABLE contributors (
            contributor_id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE,
            trust_level INTEGER NOT NULL CHECK (trust_level BETWEEN 0 AND 5), added REAL NOT NULL
        ) STRICT""",
        """CREATE TABLE keys (
            public TEXT PRIMARY KEY CHECK (length(public) = 40), role TEXT NOT NULL, state TEXT NOT NULL,
            contributor_id TEXT NOT NULL REFERENCES contributors, name TEXT NOT NULL,
            not_before REAL, not_after REAL, added REAL NOT NULL
        ) STRICT""",
        """CREATE TABLE audit (
            seq INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL,
            who TEXT NOT NULL, verb TEXT NOT NULL, arguments TEXT NOT NULL, outcome TEXT NOT NULL
        ) STRICT""",
        "CREATE INDEX audit_by_time ON audit (at)",
        f"CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit {_ONLY_GROWS}",
        f"CREATE TRIGGER audit_is_not_removed BEFORE DELETE ON audit {_ONLY_GROWS}",
        # INSERT OR REPLACE removes the old row without asking the trigger above.
        "CREATE TRIGGER audit_is_not_replaced BEFORE INSERT ON audit "  # noqa: S608 - constants only
        f"WHEN EXISTS (SELECT 1 FROM audit WHERE seq = NEW.seq) {_ONLY_GROWS}",
        f"PRAGMA application_id = {_APPLICATION_ID}",
    ),
    (
        "ALTER TABLE contributors ADD COLUMN contact TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE contributors ADD COLUMN note TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE keys ADD COLUMN reason TEXT NOT NULL DEFAULT ''",
        """CREATE TABLE invites (
            public TEXT PRIMARY KEY CHECK (length(public) = 40), role TEXT NOT NULL,
            contributor_id TEXT NOT NULL REFERENCES contributors,
            uses INTEGER NOT NULL CHECK (uses BETWEEN 1 AND 1000), approve INTEGER NOT NULL CHECK (approve IN (0, 1)),
            not_after REAL NOT NULL, added REAL NOT NULL, revoked INTEGER NOT NULL DEFAULT 0
        ) STRICT""",
        """CREATE TABLE enrolments (
            public TEXT PRIMARY KEY REFERENCES keys, invite TEXT NOT NULL REFERENCES invites, at REAL NOT NULL
        ) STRICT""",
        "CREATE INDEX enrolments_by_invite ON enrolments (invite)",
    ),
)
"""What each format added to the one before; the number of the last one is the format of today."""
VERSION: Final = len(_FORMATS)


def open_file(path: Path, *, create: bool) -> sqlite3.Connection:
    """The database at ``path``, checked page by page and of today's format; errors as ``Registry.open`` has them."""
    if create:
        _create_file(path)
    _check_file(path)
    flush_database(path)
    database = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
    try:
        with told(path):
            _prepare(path, database)
    except CfbusError:
        database.close()
        raise
    return database


def _create_file(path: Path) -> None:
    """An empty private file, unless there is one; the schema follows on opening."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    except OSError as error:
        raise UsageError(f"The registry {path} cannot be made: {error.strerror}.") from error
    os.close(descriptor)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _check_file(path: Path) -> None:
    try:
        status = path.lstat()
    except OSError as error:
        raise UsageError(
            f"There is no registry at {path}: {error.strerror}.", "`cfbus init` makes one, or name another store."
        ) from None
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        raise UnsafeError(
            f"The registry {path} is not a file of this user, so somebody else may decide who gets in.",
            "Put the file itself there and `chown` it.",
        )
    if status.st_mode & 0o077:
        raise UnsafeError(
            f"Others may read or change the registry {path} (mode {stat.S_IMODE(status.st_mode):04o}).",
            f"Run `chmod 600 {path}`, then look through the audit log.",
        )


def _prepare(path: Path, database: sqlite3.Connection) -> None:
    """Options, schema and a look at every page; an empty file is one whose making was cut off."""
    database.execute("PRAGMA foreign_keys = ON")
    database.execute("PRAGMA synchronous = FULL")
    with transaction(database):
        (version,) = database.execute("PRAGMA user_version").fetchone()
        (application,) = database.execute("PRAGMA application_id").fetchone()
        (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if (version, application, tables) != (0, 0, 0) and application != _APPLICATION_ID:
            raise StoreMismatchError(f"{path} is a database, but not a registry of cfbus.", "Name another store.")
        if version > VERSION:
            raise StoreMismatchError(
                f"The registry {path} was written by a newer cfbus (format {version}; this one knows {VERSION}).",
                "Install that version, or name another store.",
            )
        if version < VERSION:
            for statement in (each for added in _FORMATS[version:] for each in added):
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {VERSION}")
    database.execute("PRAGMA journal_mode = WAL")
    (health,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if health != "ok":
        raise DamagedStoreError(f"The registry {path} is damaged: {health}.", "Restore it from the backup.")


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Everything in the block, or nothing of it."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield database
        database.execute("COMMIT")
    except BaseException:
        # A full disk or a failed write has rolled back by itself already.
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


@contextmanager
def told(path: Path) -> Iterator[None]:
    """SQLite's errors that come from the disk or from another process, as sentences."""
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise StoreInUseError(f"Another process is changing the registry {path}.", "Try again.") from error
        if code == sqlite3.SQLITE_FULL:
            raise DiskFullError(f"There is no room left for the registry {path}.", "Make room, try again.") from error
        if code in _DAMAGE:
            raise DamagedStoreError(
                f"The registry {path} cannot be used: {error}.", "Restore it from the backup, with its -wal file."
            ) from error
        raise


_DAMAGE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
