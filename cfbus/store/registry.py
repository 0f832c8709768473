"""The registry: which keys and contributors there are, and who did what to them.

One SQLite file, the truth about access; it is backed up, unlike the ledger. Knows SQL and nothing
of sockets; clocks are read by callers, all times are UTC seconds.

Invariants:
- A change and its line in the audit log are one transaction, durable on return; so is what is found done already.
- The audit log only grows: triggers refuse to change, remove or replace a line.
- No key and no contributor is ever deleted; a revoked key stays revoked.
- The file is 0600 and owned by who opens it, for whoever can write it decides who gets in.
- A clock behind the newest audit line takes nothing away from anybody; it only stops enrolments.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from cfbus.bus.auth import KeyEntry, KeyState, KeyTable
from cfbus.bus.keys import check_name, fingerprint
from cfbus.bus.messages import Role
from cfbus.errors import (
    CfbusError,
    DamagedStoreError,
    DiskFullError,
    StoreInUseError,
    StoreMismatchError,
    TryAgainError,
    UnsafeError,
    UsageError,
)
from cfbus.store.durable import flush_database

LEEWAY_SECONDS: Final = 300.0
PAGE: Final = 200

_VERSION: Final = 1
_APPLICATION_ID: Final = 0x43464B31
_BUSY_SECONDS: Final = 5.0
_ONLY_GROWS: Final = "BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END"
_SCHEMA: Final = (
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
    f"PRAGMA user_version = {_VERSION}",
)


@dataclass(frozen=True, slots=True)
class Contributor:
    """Who is credited; ``trust_level`` is 0 (stranger) to 5 (the maintainer)."""

    contributor_id: str
    name: str
    trust_level: int
    added: float


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key as stored; ``state`` is what was decided, dates are not applied to it."""

    public: bytes
    role: Role
    state: KeyState
    contributor_id: str
    name: str
    not_before: float | None
    not_after: float | None
    added: float


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line of the log; ``seq`` grows by one."""

    seq: int
    at: float
    who: str
    verb: str
    arguments: Mapping[str, str]
    outcome: str


class Registry:
    """An open registry; use in one thread, ``close`` it or use it in a ``with``."""

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self._path = path
        self._database = database

    @classmethod
    def open(cls, path: Path, *, create: bool) -> Registry:
        """The registry at ``path``, made first if there is none and ``create``.

        Not while this process has it open (see ``flush_database``).
        Raises ``UsageError`` if it is missing, ``UnsafeError`` if others can write it,
        ``StoreMismatchError`` if it is another database or a newer one, ``DamagedStoreError``.
        """
        if create:
            _create_file(path)
        _check_file(path)
        flush_database(path)
        database = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            with _told(path):
                _prepare(path, database)
        except CfbusError:
            database.close()
            raise
        return cls(path, database)

    def close(self) -> None:
        """Release the file; harmless when repeated."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add_contributor(self, name: str, *, trust: int, who: str, now: float) -> Contributor:
        """The contributor of that name, added with ``trust`` if there is none; an existing one stays as it is."""
        check_name(name)
        if not 0 <= trust <= 5:
            raise UsageError(f"Trust goes from 0 to 5, not {trust}.")
        with self._writing() as database:
            known = next((each for each in self.contributors() if each.name == name), None)
            if known is not None:
                return known
            added = Contributor("c-" + secrets.token_hex(8), name, trust, now)
            database.execute("INSERT INTO contributors VALUES (?, ?, ?, ?)", (added.contributor_id, name, trust, now))
            arguments = {"contributor": added.contributor_id, "name": name, "trust": str(trust)}
            self._log(who, "add-contributor", arguments, "done", now)
        return added

    def contributors(self) -> list[Contributor]:
        """All contributors by name."""
        rows = self._rows("SELECT contributor_id, name, trust_level, added FROM contributors ORDER BY name")
        return [Contributor(*row) for row in rows]

    def add_key(
        self,
        public: bytes,
        role: Role,
        contributor_id: str,
        name: str,
        *,
        who: str,
        now: float,
        state: KeyState = KeyState.ACTIVE,
        not_before: float | None = None,
        not_after: float | None = None,
    ) -> KeyRow:
        """Enrol a key (Z85); one that is there with the same role and contributor stays as it is.

        Raises ``UsageError`` if it is there otherwise or the contributor is unknown, ``TryAgainError``
        if the clock is behind the audit log.
        """
        check_name(name)
        row = KeyRow(public, role, state, contributor_id, name, not_before, not_after, now)
        mark = fingerprint(public)
        with self._writing() as database:
            known = self._key(public)
            if known is not None and (known.role, known.contributor_id) == (role, contributor_id):
                return known
            if known is not None:
                raise UsageError(
                    f"The key {mark} is enrolled already, as {known.role} of {known.contributor_id}.",
                    "A key has one role and one owner: make another one.",
                )
            if contributor_id not in {each.contributor_id for each in self.contributors()}:
                raise UsageError(f"There is no contributor {contributor_id!r}.", "Add the contributor first.")
            self._check_clock(now)
            values = (public.decode("ascii"), role, state, contributor_id, name, not_before, not_after, now)
            database.execute("INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
            arguments = {"key": mark, "role": role, "contributor": contributor_id, "name": name, "state": state}
            self._log(who, "add-key", arguments, "done", now)
        return row

    def set_state(self, public: bytes, state: KeyState, *, who: str, now: float) -> None:
        """Put a key into ``state``; nothing happens if it is there already.

        Raises ``UsageError`` if the key is unknown or revoked (which is for good), and for
        ``expired``, which only a date brings about.
        """
        mark = fingerprint(public)
        if state is KeyState.EXPIRED:
            raise UsageError("A key expires by its date.", "Revoke or suspend it instead.")
        with self._writing() as database:
            known = self._key(public)
            if known is None:
                raise UsageError(f"There is no key {mark} in the registry.", "Enrol it first.")
            if known.state is state:
                return
            if known.state is KeyState.REVOKED:
                raise UsageError(f"The key {mark} is revoked, and that is for good.", "Let its owner make a new one.")
            database.execute("UPDATE keys SET state = ? WHERE public = ?", (state, public.decode("ascii")))
            self._log(who, "set-state", {"key": mark, "from": known.state, "to": state}, "done", now)

    def keys(self) -> list[KeyRow]:
        """All keys as stored, oldest first."""
        return [_key_row(row) for row in self._rows("SELECT * FROM keys ORDER BY added, public")]

    def key_table(self, now: float) -> KeyTable:
        """Who is admitted at ``now``: states with the dates applied, five minutes generous.

        Make it anew now and then: dates pass without an event.
        """
        started = max(now, self._newest())
        return KeyTable(
            KeyEntry(row.public, row.role, _dated(row, started, now), row.contributor_id, row.name)
            for row in self.keys()
        )

    def clock_is_behind(self, now: float) -> bool:
        """Whether ``now`` is more than the leeway before the newest audit line: an alarm."""
        return now < self._newest() - LEEWAY_SECONDS

    def audit(self, who: str, verb: str, arguments: Mapping[str, str], outcome: str, now: float) -> None:
        """Note a call that changed nothing here (a refused one, a pause); durable on return."""
        with self._writing():
            self._log(who, verb, arguments, outcome, now)

    def audit_entries(self, *, after: int = 0, limit: int = PAGE) -> list[AuditEntry]:
        """The log in its order: at most ``limit`` lines whose ``seq`` is above ``after``."""
        rows = self._rows(
            "SELECT seq, at, who, verb, arguments, outcome FROM audit WHERE seq > ? ORDER BY seq LIMIT ?", after, limit
        )
        return [AuditEntry(seq, at, by, verb, json.loads(said), end) for seq, at, by, verb, said, end in rows]

    def _newest(self) -> float:
        return float(self._rows("SELECT coalesce(max(at), 0.0) FROM audit")[0][0])

    def _check_clock(self, now: float) -> None:
        if self.clock_is_behind(now):
            raise TryAgainError(
                "This machine's clock is behind the newest line of the audit log; no key is enrolled by it.",
                "Set the clock (`timedatectl`), then try again.",
            )

    def _key(self, public: bytes) -> KeyRow | None:
        rows = self._rows("SELECT * FROM keys WHERE public = ?", public.decode("ascii"))
        return _key_row(rows[0]) if rows else None

    def _rows(self, query: str, *values: int | str) -> list[tuple[Any, ...]]:
        with _told(self._path):
            return self._database.execute(query, values).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction; what is looked up inside it cannot change before it ends."""
        with _told(self._path), _transaction(self._database):
            yield self._database

    def _log(self, who: str, verb: str, arguments: Mapping[str, str], outcome: str, now: float) -> None:
        said = json.dumps(dict(arguments), ensure_ascii=False, sort_keys=True)
        self._database.execute(
            "INSERT INTO audit (at, who, verb, arguments, outcome) VALUES (?, ?, ?, ?, ?)",
            (now, who, verb, said, outcome),
        )


def _key_row(row: tuple[Any, ...]) -> KeyRow:
    public, role, state, *rest = row
    return KeyRow(public.encode("ascii"), Role(role), KeyState(state), *rest)


def _dated(row: KeyRow, started: float, now: float) -> KeyState:
    if row.state not in (KeyState.ACTIVE, KeyState.RETIRING):
        return row.state
    if row.not_after is not None and now > row.not_after + LEEWAY_SECONDS:
        return KeyState.EXPIRED
    if row.not_before is not None and started < row.not_before - LEEWAY_SECONDS:
        return KeyState.PENDING
    return row.state


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
    with _transaction(database):
        (version,) = database.execute("PRAGMA user_version").fetchone()
        (application,) = database.execute("PRAGMA application_id").fetchone()
        (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if (version, application, tables) == (0, 0, 0):
            for statement in _SCHEMA:
                database.execute(statement)
        elif application != _APPLICATION_ID:
            raise StoreMismatchError(f"{path} is a database, but not a registry of cfbus.", "Name another store.")
        elif version > _VERSION:
            raise StoreMismatchError(
                f"The registry {path} was written by a newer cfbus (format {version}; this one knows {_VERSION}).",
                "Install that version, or name another store.",
            )
    database.execute("PRAGMA journal_mode = WAL")
    (health,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if health != "ok":
        raise DamagedStoreError(f"The registry {path} is damaged: {health}.", "Restore it from the backup.")


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
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
def _told(path: Path) -> Iterator[None]:
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
