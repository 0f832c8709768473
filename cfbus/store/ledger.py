"""The broker's ledger: what makes a restart quick, and disposable.

It keeps the leases that are remembered, the store's id and last position, and the number of the configuration.
Deleting it costs nothing but work: late
results of leases that nobody remembers are refused, and the position is no longer checked against the store's.

SQLite in WAL mode with ``synchronous=NORMAL``: a power cut may lose the last changes, never the order of them.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from cfbus.core.effects import DropLeases, Effect, LeaseRow, SaveGeneration, SaveLease, SavePosition
from cfbus.core.state import Remembered
from cfbus.errors import StoreInUseError, StoreMismatchError
from cfbus.store.durable import disk_errors, keep_log, sqlite_errors

VERSION = 1
Kept = DropLeases | SaveGeneration | SaveLease | SavePosition
"""The effects that change a ledger."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS leases (
    lease TEXT PRIMARY KEY, job TEXT NOT NULL, pass_number INTEGER NOT NULL, shard INTEGER NOT NULL,
    start INTEGER NOT NULL, end INTEGER NOT NULL, contributor TEXT NOT NULL, key TEXT NOT NULL,
    instance TEXT NOT NULL, backup INTEGER NOT NULL, current INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
"""
_COLUMNS = "lease, job, pass_number, shard, start, end, contributor, key, instance, backup, current"


class Ledger:
    """An open ledger. One thread; changes become visible to a restart with ``apply``, all or none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = _lock(path.with_suffix(".lock"))
        self._granted = 0
        with sqlite_errors(path):
            self._database = sqlite3.connect(path, isolation_level=None, timeout=5.0)
            keep_log(path, self._database)
            self._database.execute("PRAGMA synchronous=NORMAL")
            known = self._database.execute("PRAGMA user_version").fetchone()[0]
            if known > VERSION:
                raise StoreMismatchError(
                    f"The ledger {path} was written by a newer cfbus (format {known}, this one knows {VERSION}).",
                    "Upgrade cfbus, or move the ledger away: it is disposable.",
                )
            self._database.executescript(_SCHEMA)
            self._database.execute(f"PRAGMA user_version={VERSION}")

    def remembered(self) -> Remembered:
        """What was kept from before."""
        with sqlite_errors(self._path):
            rows = self._database.execute(f"SELECT {_COLUMNS} FROM leases").fetchall()  # noqa: S608
            facts = dict(self._database.execute("SELECT name, value FROM facts").fetchall())
        leases = tuple(_lease(row) for row in rows)
        self._granted = int(facts.get("granted", 0))
        return Remembered(
            facts.get("store_id", ""), int(facts.get("position", 0)), leases, self._granted,
            int(facts.get("generation", 0)), facts.get("spec", ""),
        )  # fmt: skip

    def facts(self) -> tuple[str, str]:
        """The store id and the last position as they lie there now, whoever wrote them."""
        with sqlite_errors(self._path):
            facts = dict(self._database.execute("SELECT name, value FROM facts").fetchall())
        return facts.get("store_id", ""), facts.get("position", "0")

    def apply(self, effects: Iterable[Effect]) -> None:
        """Keep what these effects say, in one transaction; other effects are passed over."""
        changes = [effect for effect in effects if isinstance(effect, Kept)]
        if not changes:
            return
        positions = [change for change in changes if isinstance(change, SavePosition)]
        changes = [change for change in changes if not isinstance(change, SavePosition)] + positions[-1:]
        with sqlite_errors(self._path), self._database:
            self._database.execute("BEGIN")
            for change in changes:
                self._apply(change)

    def _apply(self, change: Kept) -> None:
        match change:
            case SaveLease(row):
                values = (
                    row.lease, row.job, row.pass_number, row.shard, row.start, row.end, row.contributor, row.key,
                    row.instance, int(row.backup), int(row.current),
                )  # fmt: skip
                marks = ", ".join("?" * len(values))
                self._database.execute(f"INSERT OR REPLACE INTO leases VALUES ({marks})", values)  # noqa: S608
                self._granted = max(self._granted, int(row.job.rpartition(".")[2]))
                self._fact("granted", str(self._granted))
            case DropLeases(leases):
                self._database.executemany("DELETE FROM leases WHERE lease = ?", [(lease,) for lease in leases])
            case SavePosition(store_id, position):
                self._fact("store_id", store_id)
                self._fact("position", str(position))
            case SaveGeneration(generation, spec):
                self._fact("generation", str(generation))
                self._fact("spec", spec)

    def _fact(self, name: str, value: str) -> None:
        self._database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def close(self) -> None:
        """Close the database, and let another broker have it."""
        self._database.close()
        os.close(self._lock)


def _lock(path: Path) -> int:
    with disk_errors(path):
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise StoreInUseError(
            f"Another broker works with {path.parent}.", "Stop it first, or give this one its own broker.data_dir."
        ) from None
    return lock


def _lease(row: tuple[Any, ...]) -> LeaseRow:
    *fields, backup, current = row
    return LeaseRow(*(*fields, bool(backup), bool(current)))


def set_aside(folder: Path) -> Path | None:
    """Move the ledger of a broker's folder out of the way, so that the next broker begins a new one; None if there is
    none. Raises ``StoreInUseError`` while a broker runs."""
    path = folder / "ledger.sqlite"
    if not path.exists():
        return None
    lock = _lock(path.with_suffix(".lock"))
    try:
        aside = path.with_name(f"ledger.{time.time_ns() // 1_000_000_000}.aside")
        with disk_errors(path):
            for suffix in ("-wal", "-shm", ""):
                if Path(f"{path}{suffix}").exists():
                    Path(f"{path}{suffix}").rename(f"{aside}{suffix}")
        return aside
    finally:
        os.close(lock)


def facts_of(folder: Path) -> tuple[str, int] | None:
    """The store id and the last position that the ledger knows, read without touching it; None where there is none."""
    path = folder / "ledger.sqlite"
    if not path.exists():
        return None
    with sqlite_errors(path), closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
        facts = dict(database.execute("SELECT name, value FROM facts").fetchall())
    return facts.get("store_id", ""), int(facts.get("position", 0))
