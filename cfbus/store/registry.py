"""The registry: which keys and contributors there are, and who did what to them.

One SQLite file, the truth about access; it is backed up, unlike the ledger. Knows SQL and nothing
of sockets; clocks are read by callers, all times are UTC seconds.

Invariants:
- A change and its line in the audit log are one transaction, durable on return; so is what is found done already.
- The audit log only grows: triggers refuse to change, remove or replace a line.
- No key, contributor or invite is ever deleted; a revoked key stays revoked. Of an invite only the public half is here.
- The file is 0600 and owned by who opens it, for whoever can write it decides who gets in.
- A clock behind the newest audit line takes nothing away from anybody; it only stops enrolments.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from cfbus.bus.auth import KeyEntry, KeyState, KeyTable
from cfbus.bus.keys import check_name, fingerprint
from cfbus.bus.messages import Role
from cfbus.errors import ClockError, UsageError
from cfbus.store.registry_rows import (
    CONTRIBUTOR_COLUMNS,
    INVITE_COLUMNS,
    KEY_COLUMNS,
    AuditEntry,
    Contributor,
    InviteRow,
    KeyRow,
    date,
    invite_row,
    key_row,
)
from cfbus.store.registry_schema import open_file, told, transaction

LEEWAY_SECONDS: Final = 300.0
PAGE: Final = 200
CONTACT_LIMIT: Final = 200
NOTE_LIMIT: Final = 500
INVITE_REMEMBERED_SECONDS: Final = 30 * 86_400.0
"""So long after its end an invite is still told that it is over; then its key is one that nobody knows."""


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
        return cls(path, open_file(path, create=create))

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
        check_trust(trust)
        with self.writing() as database:
            known = next((each for each in self.contributors() if each.name == name), None)
            if known is not None:
                return known
            added = Contributor("c-" + secrets.token_hex(8), name, trust, now)
            values = (added.contributor_id, name, trust, now)
            database.execute(
                "INSERT INTO contributors (contributor_id, name, trust_level, added) VALUES (?, ?, ?, ?)", values
            )
            arguments = {"contributor": added.contributor_id, "name": name, "trust": str(trust)}
            self.log(who, "add-contributor", arguments, "done", now)
        return added

    def contributors(self) -> list[Contributor]:
        """All contributors by name."""
        rows = self.rows(f"SELECT {CONTRIBUTOR_COLUMNS} FROM contributors ORDER BY name")  # noqa: S608 - constants
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

        Raises ``UsageError`` if it is there otherwise or the contributor is unknown, ``ClockError``
        if the clock is behind the audit log.
        """
        check_name(name)
        row = KeyRow(public, role, state, contributor_id, name, not_before, not_after, now)
        mark = fingerprint(public)
        with self.writing() as database:
            known = self.key(public)
            if known is not None and (known.role, known.contributor_id) == (role, contributor_id):
                return known
            if known is not None:
                raise UsageError(
                    f"The key {mark} is enrolled already, as {known.role} of {known.contributor_id}.",
                    "A key has one role and one owner: make another one.",
                )
            if contributor_id not in {each.contributor_id for each in self.contributors()}:
                raise UsageError(f"There is no contributor {contributor_id!r}.", "Add the contributor first.")
            self.check_clock(now)
            self.insert_key(database, row, who, now)
        return row

    def insert_key(self, database: sqlite3.Connection, row: KeyRow, who: str, now: float) -> None:
        """A key that was found to be new, and its line in the log; inside ``writing``."""
        dates = (row.not_before, row.not_after, row.added)
        values = (row.public.decode("ascii"), row.role, row.state, row.contributor_id, row.name, *dates, row.reason)
        database.execute(f"INSERT INTO keys ({KEY_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)  # noqa: S608
        said = {"key": row.mark, "role": row.role, "contributor": row.contributor_id, "name": row.name}
        self.log(who, "add-key", {**said, "state": row.state, "expires": date(row.not_after)}, "done", now)

    def set_state(self, public: bytes, state: KeyState, *, who: str, now: float, reason: str = "") -> None:
        """Put a key into ``state``, for a ``reason`` that is shown; nothing happens if it is there already.

        Raises ``UsageError`` if the key is unknown or revoked (which is for good), and for
        ``expired``, which only a date brings about.
        """
        mark = fingerprint(public)
        if state is KeyState.EXPIRED:
            raise UsageError("A key expires by its date.", "Revoke or suspend it instead.")
        with self.writing() as database:
            known = self.key(public)
            if known is None:
                raise UsageError(f"There is no key {mark} in the registry.", "Enrol it first.")
            if known.state is state:
                return
            if known.state is KeyState.REVOKED:
                raise UsageError(f"The key {mark} is revoked, and that is for good.", "Let its owner make a new one.")
            values = (state, reason, public.decode("ascii"))
            database.execute("UPDATE keys SET state = ?, reason = ? WHERE public = ?", values)
            arguments = {"key": mark, "from": known.state, "to": state, **({"reason": reason} if reason else {})}
            self.log(who, "set-state", arguments, "done", now)

    def set_expiry(self, public: bytes, not_after: float | None, *, who: str, now: float) -> None:
        """Let a key end at a date, or never. Raises ``UsageError`` if there is no such key."""
        mark = fingerprint(public)
        with self.writing() as database:
            known = self.key(public)
            if known is None:
                raise UsageError(f"There is no key {mark} in the registry.", "Enrol it first.")
            if known.not_after == not_after:
                return
            values = (not_after, public.decode("ascii"))
            database.execute("UPDATE keys SET not_after = ? WHERE public = ?", values)
            arguments = {"key": mark, "from": date(known.not_after), "to": date(not_after)}
            self.log(who, "set-expiry", arguments, "done", now)

    def set_contributor(
        self,
        contributor_id: str,
        *,
        who: str,
        now: float,
        trust: int | None = None,
        contact: str | None = None,
        note: str | None = None,
    ) -> Contributor:
        """Change what is known of a contributor; ``None`` leaves it. Raises ``UsageError`` for what cannot be."""
        if trust is not None:
            check_trust(trust)
        _check_text("contact", contact, CONTACT_LIMIT)
        _check_text("note", note, NOTE_LIMIT)
        wanted: dict[str, str | int | None] = {"trust_level": trust, "contact": contact, "note": note}
        given = {name: value for name, value in wanted.items() if value is not None}
        with self.writing() as database:
            known = next((each for each in self.contributors() if each.contributor_id == contributor_id), None)
            if known is None:
                raise UsageError(f"There is no contributor {contributor_id!r}.", "Add the contributor first.")
            changed = replace(known, **given)  # type: ignore[arg-type]  # the names are the fields'
            if changed != known:
                values = (changed.trust_level, changed.contact, changed.note, contributor_id)
                database.execute(
                    "UPDATE contributors SET trust_level = ?, contact = ?, note = ? WHERE contributor_id = ?", values
                )
                arguments = {"contributor": contributor_id, **{name: str(value) for name, value in given.items()}}
                self.log(who, "set-contributor", arguments, "done", now)
        return changed

    def invites(self) -> list[InviteRow]:
        """All invites, oldest first, each with how often it was used."""
        used = "(SELECT count(*) FROM enrolments WHERE invite = invites.public)"
        rows = self.rows(f"SELECT {INVITE_COLUMNS}, {used} FROM invites ORDER BY added, public")  # noqa: S608
        return [invite_row(row) for row in rows]

    def keys(self) -> list[KeyRow]:
        """All keys as stored, oldest first."""
        return [key_row(row) for row in self.rows(f"SELECT {KEY_COLUMNS} FROM keys ORDER BY added, public")]  # noqa: S608 - constants

    def key_table(self, now: float) -> KeyTable:
        """Who is admitted at ``now``: states with the dates applied, five minutes generous.

        Make it anew now and then: dates pass without an event.
        """
        started = max(now, self._newest())
        entries = [
            KeyEntry(
                row.public, row.role, _dated(row, started, now), row.contributor_id, row.name, row.not_after, row.reason
            )
            for row in self.keys()
        ]
        entries += [
            KeyEntry(each.public, Role.ENROL, KeyState.ACTIVE, each.contributor_id, "invite", each.not_after)
            for each in self.invites()
            if not each.revoked and now <= each.not_after + INVITE_REMEMBERED_SECONDS
        ]
        return KeyTable(entries)

    def clock_is_behind(self, now: float) -> bool:
        """Whether ``now`` is more than the leeway before the newest audit line: an alarm."""
        return now < self._newest() - LEEWAY_SECONDS

    def audit(self, who: str, verb: str, arguments: Mapping[str, str], outcome: str, now: float) -> None:
        """Note a call that changed nothing here (a refused one, a pause); durable on return."""
        with self.writing():
            self.log(who, verb, arguments, outcome, now)

    def audit_entries(self, *, after: int = 0, limit: int = PAGE, since: float = 0.0) -> list[AuditEntry]:
        """The log in its order: at most ``limit`` lines whose ``seq`` is above ``after``, not older than ``since``."""
        wanted = "WHERE seq > ? AND at >= ? ORDER BY seq LIMIT ?"
        rows = self.rows(
            f"SELECT seq, at, who, verb, arguments, outcome FROM audit {wanted}",  # noqa: S608 - constants
            after,
            since,
            limit,
        )
        return [AuditEntry(seq, at, by, verb, json.loads(said), end) for seq, at, by, verb, said, end in rows]

    @property
    def last_line(self) -> int:
        """The ``seq`` of the newest line of the log; 0 while there is none."""
        return int(self.rows("SELECT coalesce(max(seq), 0) FROM audit")[0][0])

    def _newest(self) -> float:
        return float(self.rows("SELECT coalesce(max(at), 0.0) FROM audit")[0][0])

    def check_clock(self, now: float) -> None:
        """Raises ``ClockError`` if the clock is behind the log: by it nobody is let in."""
        if self.clock_is_behind(now):
            raise ClockError(
                "This machine's clock is behind the newest line of the audit log; no key is enrolled by it.",
                "Set the clock (`timedatectl`), then try again.",
            )

    def key(self, public: bytes) -> KeyRow | None:
        """The key as stored, if it is there."""
        rows = self.rows(f"SELECT {KEY_COLUMNS} FROM keys WHERE public = ?", public.decode("ascii"))  # noqa: S608
        return key_row(rows[0]) if rows else None

    def rows(self, query: str, *values: int | float | str) -> list[tuple[Any, ...]]:
        """What a query finds."""
        with told(self._path):
            return self._database.execute(query, values).fetchall()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction; what is looked up inside it cannot change before it ends."""
        with told(self._path), transaction(self._database):
            yield self._database

    def log(self, who: str, verb: str, arguments: Mapping[str, str], outcome: str, now: float) -> None:
        """A line of the log, in the transaction that is open."""
        said = json.dumps(dict(arguments), ensure_ascii=False, sort_keys=True)
        self._database.execute(
            "INSERT INTO audit (at, who, verb, arguments, outcome) VALUES (?, ?, ?, ?, ?)",
            (now, who, verb, said, outcome),
        )


def _dated(row: KeyRow, started: float, now: float) -> KeyState:
    if row.state not in (KeyState.ACTIVE, KeyState.RETIRING):
        return row.state
    if row.not_after is not None and now > row.not_after + LEEWAY_SECONDS:
        return KeyState.EXPIRED
    if row.not_before is not None and started < row.not_before - LEEWAY_SECONDS:
        return KeyState.PENDING
    return row.state


def check_trust(trust: int) -> None:
    """Raises ``UsageError`` unless it is a trust level."""
    if not 0 <= trust <= 5:
        raise UsageError(f"Trust goes from 0 to 5, not {trust}.")


def _check_text(what: str, text: str | None, limit: int) -> None:
    if text is not None and (len(text) > limit or (text and not text.isprintable())):
        raise UsageError(f"A contributor's {what} is one line of at most {limit} printable characters.")
