"""The manifest's database: its tables, versions, and rows as they lie in it.

Knows SQLite and what a row means; not when a row may change. Invariant: a manifest of an older version is brought up to
this one in one transaction, by a writer only.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import numpy as np

from cfbus.store.checked_rows import sealed_row
from cfbus.store.durable import keep_log, sqlite_errors, transaction
from cfbus.store.manifest_rows import DoneRanges, PassRow, SegmentRow, Tombstone

VERSION = 3
_SCHEMA = (
    "CREATE TABLE shards (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, length INTEGER NOT NULL,"
    " digest TEXT NOT NULL, crc INTEGER NOT NULL)",
    "CREATE TABLE passes (number INTEGER PRIMARY KEY, slots TEXT NOT NULL, crc INTEGER NOT NULL)",
    "CREATE TABLE segments (first INTEGER PRIMARY KEY, last INTEGER NOT NULL, facts TEXT NOT NULL,"
    " done BLOB NOT NULL, crc INTEGER NOT NULL)",
    "CREATE TABLE spare (file TEXT PRIMARY KEY, since INTEGER NOT NULL, crc INTEGER NOT NULL)",
    "CREATE TABLE redos (pass INTEGER PRIMARY KEY, facts TEXT NOT NULL, items INTEGER NOT NULL,"
    " closed INTEGER NOT NULL, crc INTEGER NOT NULL)",
    "CREATE TABLE selections (pass INTEGER PRIMARY KEY, ranges BLOB NOT NULL, crc INTEGER NOT NULL)",
    "CREATE TABLE tombstones (number INTEGER PRIMARY KEY, facts TEXT NOT NULL, crc INTEGER NOT NULL)",
    f"PRAGMA user_version = {VERSION}",
)
_SINCE = {1: 3, 2: 4}
"""The first statement of the schema that a manifest of an older version has not seen."""


def connect_to_write(path: Path) -> sqlite3.Connection:
    """A connection that may change it, and makes it where there is none."""
    with sqlite_errors(path):
        return sqlite3.connect(f"{path.as_uri()}?mode=rwc", uri=True, isolation_level=None, timeout=10)


def make_ready(path: Path, connection: sqlite3.Connection, *, changing: bool) -> None:
    """Make the tables where there are none; bring an older version up to this one."""
    if changing:
        keep_log(path, connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
        with transaction(path, connection):
            for statement in _SCHEMA:
                connection.execute(statement)
        return
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if changing and version in _SINCE:
        with transaction(path, connection):
            for statement in _SCHEMA[_SINCE[version] :]:
                connection.execute(statement)


def pass_row(row: PassRow) -> tuple[object, ...]:
    """As it lies in `passes`."""
    return sealed_row(row.number, json.dumps(row.slots))


def redo_row(row: PassRow) -> tuple[object, ...]:
    """As it lies in `redos`."""
    assert row.redo is not None
    return sealed_row(row.number, row.redo.plain(), row.items, int(row.closed))


def tombstone_row(tombstone: Tombstone) -> tuple[object, ...]:
    """As it lies in `tombstones`."""
    return sealed_row(tombstone.number, tombstone.plain())


def segment_row(segment: SegmentRow, done: DoneRanges) -> tuple[object, ...]:
    """As it lies in `segments`."""
    facts = json.dumps(
        [segment.files, segment.rows, segment.failures, segment.size, segment.sealed_at, dict(segment.totals)]
    )
    return sealed_row(segment.first, segment.last, facts, np.ascontiguousarray(done, "<i8").tobytes())
