"""The journal: what is durable and not yet sealed, as frames in SQLite files, one file per segment.

A frame is stored as it came from the wire, with what the broker said of it. Knows nothing of what is in a
frame, nor how it becomes parquet; whoever appends has checked it.

Invariants: positions have no gaps, from the last sealed one over all files in order; a file is named by
its first position; a closed file is out of WAL mode, complete in itself, and never changes; a row has two
checksums, of the frame and of the rest. What does not hold stays as it lies and the journal does not open.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cfbus.bus.wire import checksum
from cfbus.core.frame import JournalFrame
from cfbus.errors import DamagedStoreError, DiskFullError
from cfbus.store.checked_rows import check_database, row_checksum
from cfbus.store.durable import (
    damaged_file,
    disk_errors,
    flush_database,
    fsync_dir,
    keep_log,
    remove_database,
    sqlite_errors,
    transaction,
)
from cfbus.store.folder import Store
from cfbus.store.manifest import Manifest
from cfbus.store.manifest_rows import DoneRange

VERSION = 1
SALVAGING = "salvaging"  # this file lies in the journal as long as a salvage is not finished
PAGE_BYTES = 16384
CHECKPOINT_BYTES = 64 << 20
"""How much the log may hold before it is copied into the file: rarely, and never inside a commit."""
_COLUMNS = "position, kind, lease, job, pass_number, shard, ranges, mask, contributor, key, received, crc"
_CREATE = (
    "CREATE TABLE frames (position INTEGER PRIMARY KEY, kind TEXT NOT NULL, lease TEXT NOT NULL, job TEXT NOT NULL,"
    " pass_number INTEGER NOT NULL, shard INTEGER NOT NULL, ranges BLOB NOT NULL, mask BLOB,"
    " contributor TEXT NOT NULL, key TEXT NOT NULL, received INTEGER NOT NULL, crc INTEGER NOT NULL,"
    " row_crc INTEGER NOT NULL, frame BLOB NOT NULL)"
)
_INSERT = f"INSERT INTO frames ({_COLUMNS}, row_crc, frame) VALUES ({', '.join('?' * 14)})"  # noqa: S608
_SELECT = f"SELECT {_COLUMNS}, row_crc, frame FROM frames ORDER BY position"  # noqa: S608


@dataclass
class JournalFile:
    """A journal file: positions ``first`` to ``last``, both included; ``size`` bytes of frames."""

    path: Path
    first: int
    last: int
    size: int = 0
    done: list[DoneRange] = field(default_factory=list)
    totals: Counter[str] = field(default_factory=Counter)
    failures: int = 0

    def add(self, frame: JournalFrame, slots: int) -> None:
        """Count a frame whose pass has this many slots."""
        done = frame.done()
        self.last = frame.position
        self.size += len(frame.frame)
        self.done.extend(done)
        if frame.table == "captions":
            self.totals[frame.contributor] += slots * sum(end - start for _, _, start, end in done)
        else:
            self.failures += sum(end - start for _, _, start, end in done)


class Journal:
    """The open journal of a locked store. One thread; every method may raise ``DamagedStoreError``."""

    def __init__(self, store: Store, manifest: Manifest) -> None:
        assert store.locked
        self._dir = store.journal_dir
        self._manifest = manifest
        self._closed: list[JournalFile] = []
        self._current: JournalFile | None = None
        self._connection: sqlite3.Connection | None = None
        self._last = manifest.last_position()
        self._log_bytes = 0
        self._named = False

    @classmethod
    def open(cls, store: Store, manifest: Manifest) -> Journal:
        """Take up what is there: finish what a crash left half done, check every frame, and the segments' files."""
        journal = cls(store, manifest)
        try:
            journal._recover()
            manifest.check_files(store, [file.first for file in journal._files()])
        except BaseException:
            journal.close()
            raise
        return journal

    @property
    def position(self) -> int:
        """The last durable position; 0 when there was never one."""
        return self._last

    def append(self, frames: Sequence[JournalFrame]) -> None:
        """Make frames durable, all or none; their positions go on from ``position``.

        After ``DiskFullError`` none is stored and the same call may be made again when there is room.
        """
        if not frames:
            return
        if [frame.position - self._last for frame in frames] != list(range(1, 1 + len(frames))):
            raise ValueError(f"positions must go on from {self._last}")
        slots = {row.number: len(row.slots) for row in self._manifest.passes()}
        if any(frame.pass_number not in slots for frame in frames):
            raise ValueError("a frame is of a pass that the manifest does not have")
        rows = [(*_head(frame), frame.frame) for frame in frames]
        current, connection = self._writable(frames[0].position)
        with transaction(current.path, connection):
            connection.executemany(_INSERT, rows)
        if not self._named:
            fsync_dir(self._dir)
            self._named = True
        self._last = frames[-1].position
        for frame in frames:
            current.add(frame, slots[frame.pass_number])
        self._log_bytes += sum(len(frame.frame) for frame in frames)
        if self._log_bytes >= CHECKPOINT_BYTES:
            self._checkpoint(current.path, connection)

    def size(self) -> int:
        """Bytes of frames in the file that is written to now."""
        return self._current.size if self._current is not None else 0

    def roll(self) -> JournalFile | None:
        """Close the file that is written to, if it has frames; the next append begins another.

        After ``DiskFullError`` the file is still written to.
        """
        current, connection = self._current, self._connection
        if current is None or connection is None or current.last < current.first:
            return None
        try:
            _close_file(current.path, connection)
        except DiskFullError:
            connection.close()
            self._connection, _ = _connect(current.path)
            raise
        self._closed.append(current)
        self._current = self._connection = None
        return current

    def closed(self) -> tuple[JournalFile, ...]:
        """The closed files, oldest first; they are to be sealed in this order."""
        return tuple(self._closed)

    def done(self) -> Iterator[DoneRange]:
        """The items of all unsealed frames."""
        for file in self._files():
            yield from file.done

    def totals(self) -> dict[str, int]:
        """Unsealed captions of each contributor."""
        totals: Counter[str] = Counter()
        for file in self._files():
            totals.update(file.totals)
        return totals

    def failures(self) -> int:
        """Unsealed dead letters."""
        return sum(file.failures for file in self._files())

    def remove(self, path: Path) -> None:
        """Take away a closed file whose segment is in the manifest."""
        self._closed = [file for file in self._closed if file.path != path]
        remove_database(path)

    def close(self) -> None:
        """Let go of the files; nothing is lost, and the file that is written to is taken up again."""
        if self._connection is not None:
            with sqlite_errors(self._dir):
                self._connection.close()
            self._connection = None

    def _files(self) -> list[JournalFile]:
        return [*self._closed, *([self._current] if self._current is not None else [])]

    def _writable(self, first: int) -> tuple[JournalFile, sqlite3.Connection]:
        if self._current is None or self._connection is None:
            path = self._dir / f"{first:016d}.sqlite"
            self._connection = _create(path)
            self._current = JournalFile(path, first, first - 1)
            self._named, self._log_bytes = False, 0
        return self._current, self._connection

    def _checkpoint(self, path: Path, connection: sqlite3.Connection) -> None:
        # SQLite's own checkpoints hide a failed fsync; this one tells. No room is no harm: the log keeps all.
        with suppress(DiskFullError), sqlite_errors(path):
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            self._log_bytes = 0

    def _recover(self) -> None:
        if (self._dir / SALVAGING).exists():
            raise DamagedStoreError(
                f"A salvage of {self._dir} was cut off.", f"Run it again: cfbus journal salvage {self._dir.parent}"
            )
        with disk_errors(self._dir):
            paths = sorted(self._dir.glob("*.sqlite"))
        sealed = {segment.first for segment in self._manifest.segments()}
        for path in paths:
            first = int(path.stem) if path.stem.isdigit() else 0
            if first in sealed:
                remove_database(path)  # the crash came between the manifest's row and this
                continue
            with _journal_damage(path):
                check_follows(path, first, self._last)
                self._take_up(path, first, newest=path == paths[-1])

    def _take_up(self, path: Path, first: int, *, newest: bool) -> None:
        flush_database(path)
        connection, is_open = _connect(path)
        try:
            file = scan(path, first, connection, self._manifest)
            empty = file.last < first
            if is_open and newest and not empty:
                self._current, self._connection = file, connection
                self._log_bytes = CHECKPOINT_BYTES
            elif is_open and not empty:
                _close_file(path, connection)
        finally:
            if self._connection is not connection:
                connection.close()
        if empty:
            remove_database(path)  # made, and never committed to
            return
        if self._current is not file:
            self._closed.append(file)
        self._last = file.last


def check_follows(path: Path, first: int, last: int) -> None:
    """Refuse a file that does not go on from a position, unless a person has given up what is between them."""
    if first <= last or (first != last + 1 and not is_given_up(path.parent, last + 1)):
        raise damaged_file(path, f"position {last + 1} should come next, and is not there")


def scan(path: Path, first: int, connection: sqlite3.Connection, manifest: Manifest) -> JournalFile:
    """Check all of a file and count it."""
    slots = {row.number: len(row.slots) for row in manifest.passes()}
    file = JournalFile(path, first, first - 1)
    with sqlite_errors(path):
        check_database(path, connection, VERSION)
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
            return file
    for frame in _frames(path, connection):
        if frame.position != file.last + 1:
            raise damaged_file(path, f"position {file.last + 1} is missing")
        if not is_known(frame, manifest):
            raise damaged_file(path, f"position {frame.position} is of items that the manifest does not know")
        file.add(frame, slots[frame.pass_number])
    return file


def write_closed(path: Path, frames: Sequence[JournalFrame]) -> None:
    """Make a closed file of frames, durable but for its name."""
    connection = _create(path)
    try:
        with transaction(path, connection):
            connection.executemany(_INSERT, [(*_head(frame), frame.frame) for frame in frames])
        _close_file(path, connection)
    finally:
        connection.close()


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to a file that nobody else has."""
    connection, _ = _connect(path)
    try:
        yield connection
    finally:
        connection.close()


def read_frames(path: Path) -> Iterator[JournalFrame]:
    """The frames of a closed file, each checked, in order; never the whole file in memory."""
    with sqlite_errors(path):
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        with sqlite_errors(path):
            check_database(path, connection, VERSION, deep=False)
        yield from _frames(path, connection)
    finally:
        connection.close()


def _frames(path: Path, connection: sqlite3.Connection) -> Iterator[JournalFrame]:
    with sqlite_errors(path):
        for row in connection.execute(_SELECT):
            frame = frame_of_row(row)
            if frame is None:
                raise damaged_file(path, f"position {row[0]} does not match its checksum")
            yield frame


def frame_of_row(row: Sequence[Any]) -> JournalFrame | None:
    """A row of the table as it was stored; None when it is not that any more."""
    *head, row_crc, frame = row
    if row_checksum(head) != row_crc or not isinstance(frame, bytes) or checksum(frame) != head[-1]:
        return None
    head[6] = tuple(map(tuple, np.frombuffer(head[6], "<i8").reshape(-1, 2).tolist()))
    head.append(frame)
    return JournalFrame(*head)


def _head(frame: JournalFrame) -> tuple[object, ...]:
    head = (
        frame.position, frame.table, frame.lease, frame.job, frame.pass_number, frame.shard,
        np.array(frame.ranges, "<i8").tobytes(), frame.mask, frame.contributor, frame.key, frame.received, frame.crc,
    )  # fmt: skip
    return (*head, row_checksum(head))


def is_known(frame: JournalFrame, manifest: Manifest) -> bool:
    """Whether the manifest has the frame's pass and items."""
    if not 1 <= frame.pass_number <= len(manifest.passes()) or frame.shard >= manifest.shard_count():
        return False
    (shard,) = manifest.shards(frame.shard)[:1]
    return all(end <= shard.length for _, end in frame.ranges)


def _connect(path: Path, mode: str = "rw") -> tuple[sqlite3.Connection, bool]:
    """A connection to a file, and whether the file is open, that is, in WAL mode."""
    with sqlite_errors(path):
        connection = sqlite3.connect(f"{path.as_uri()}?mode={mode}", uri=True, isolation_level=None)
        try:
            # Nobody else may look, so the log's index is kept in memory: one file less that can find no room.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA cache_size = -32768")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            (journal_mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        except BaseException:
            connection.close()
            raise
    return connection, journal_mode == "wal"


def _create(path: Path) -> sqlite3.Connection:
    connection, _ = _connect(path, "rwc")
    try:
        with sqlite_errors(path):
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            keep_log(path, connection)
        with transaction(path, connection):
            connection.execute(_CREATE)
            connection.execute(f"PRAGMA user_version = {VERSION}")
    except BaseException:
        connection.close()
        raise
    return connection


def _close_file(path: Path, connection: sqlite3.Connection) -> None:
    with sqlite_errors(path):
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        (mode,) = connection.execute("PRAGMA journal_mode = DELETE").fetchone()
        assert mode == "delete"
        connection.close()
    fsync_dir(path.parent)


def is_given_up(folder: Path, position: int) -> bool:
    """Whether a person, or a salvage, has said that what comes from this position on is lost."""
    aside = folder / "damaged"
    return (aside / f"{position:016d}.sqlite").exists() or lost_path(folder, position).exists()


def lost_path(folder: Path, position: int) -> Path:
    """The file by which a salvage says which positions are lost, from this one on."""
    return folder / "damaged" / f"{position:016d}.lost"


@contextmanager
def _journal_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except DamagedStoreError as error:
        raise DamagedStoreError(
            error.message,
            "Nothing was thrown away. Check the disk (dmesg, smartctl) and put the file back from a backup; or keep "
            f"what is whole, and have the rest captioned again: cfbus journal salvage {path.parent.parent}",
        ) from error
