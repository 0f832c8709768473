"""The manifest: which shards and passes there are, which segments are sealed, which items those hold.

SQLite (WAL, FULL). Knows nothing of frames or parquet. The writer changes it, readers of the store may
look at the same time.

Invariants: shard numbers are dense from 0 and pass numbers from 1, and what they name never changes;
segments do not overlap in positions, and what is sealed stays sealed, whatever becomes of its segments; a file
that lies in a table and counts for nothing is known as spare; every change is one transaction; every row carries
a checksum, so that an altered row is noticed and never believed.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cfbus.errors import DiskFullError
from cfbus.store.checked_rows import check_database, checked, sealed_row
from cfbus.store.durable import damaged_file, flush_database, fsync_dir, keep_log, sqlite_errors, transaction
from cfbus.store.folder import Store
from cfbus.store.reading import connect_to_read

VERSION = 2
_SCHEMA = (
    "CREATE TABLE shards (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, length INTEGER NOT NULL,"
    " digest TEXT NOT NULL, crc INTEGER NOT NULL)",
    "CREATE TABLE passes (number INTEGER PRIMARY KEY, slots TEXT NOT NULL, crc INTEGER NOT NULL)",
    "CREATE TABLE segments (first INTEGER PRIMARY KEY, last INTEGER NOT NULL, facts TEXT NOT NULL,"
    " done BLOB NOT NULL, crc INTEGER NOT NULL)",
    "CREATE TABLE spare (file TEXT PRIMARY KEY, since INTEGER NOT NULL, crc INTEGER NOT NULL)",
    f"PRAGMA user_version = {VERSION}",
)

CHECKPOINT_CHANGES = 256
"""After so many changes the log is copied into the file."""

DoneRange = tuple[int, int, int, int]
"""(pass, shard, start, end): items [start, end) of a shard that need nothing more in a pass."""
DoneRanges = npt.NDArray[np.int64]
"""The same as rows of four, merged and in order."""


@dataclass(frozen=True)
class ShardRow:
    """A shard whose listing is in the store; ``digest`` is that of its listing file."""

    number: int
    name: str
    length: int
    digest: str = ""


@dataclass(frozen=True)
class PassRow:
    """A pass and the slots that it fills, in their order."""

    number: int
    slots: tuple[str, ...]


@dataclass(frozen=True)
class SegmentRow:
    """What was sealed of positions ``first`` to ``last``, both included.

    ``files`` are paths in the store, ``size`` their bytes, ``rows`` captions and ``failures`` dead letters,
    ``totals`` the captions of each contributor, ``sealed_at`` microseconds UTC.
    """

    first: int
    last: int
    files: tuple[str, ...]
    rows: int
    failures: int
    size: int
    sealed_at: int
    totals: Mapping[str, int]


def merge_ranges(ranges: Iterable[DoneRange]) -> DoneRanges:
    """The ranges in order, with those joined that touch or overlap."""
    rows = np.array(list(ranges), np.int64).reshape(-1, 4)
    if len(rows) == 0:
        return rows
    rows = rows[np.lexsort((rows[:, 3], rows[:, 2], rows[:, 1], rows[:, 0]))]
    group = np.concatenate(([True], np.any(rows[1:, :2] != rows[:-1, :2], axis=1))).cumsum()
    # A running maximum of ends that never reaches into the next group: lift each group above the one before.
    lift = group * (int(rows[:, 3].max()) + 2)
    reach = np.maximum.accumulate(rows[:, 3] + lift)
    heads = np.concatenate(([True], rows[1:, 2] + lift[1:] > reach[:-1])).nonzero()[0]
    merged = rows[heads]
    last = np.concatenate((heads[1:], [len(rows)])) - 1
    merged[:, 3] = reach[last] - lift[last]
    return merged


class Manifest:
    """The open manifest of a store; read-only when the store is not locked."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        self._changes = CHECKPOINT_CHANGES  # there may be a log from before
        # In this order: beside a writer, what a segment is of was there before it.
        self._segments = list(map(self._segment, self._rows("SELECT * FROM segments ORDER BY first")))
        self._passes = list(map(self._pass, self._rows("SELECT * FROM passes ORDER BY number")))
        self._shards = list(map(self._shard, self._rows("SELECT * FROM shards ORDER BY number")))
        self._check_order()

    @classmethod
    def open(cls, store: Store) -> Manifest:
        """Open, and make it in a new store; for a reader it is empty there.

        Raises ``DamagedStoreError``, ``StoreMismatchError``.
        """
        path = store.manifest_path
        if store.locked:
            flush_database(path)
        connection = _connect_to_write(path) if store.locked else connect_to_read(path)
        return cls._ready(store, connection, changing=store.locked)

    @classmethod
    def open_beside(cls, store: Store) -> Manifest:
        """Open to change segments, whether a writer has it open or not. Raises as ``open`` does.

        What a killed writer has not flushed is flushed with the first change.
        """
        if not store.manifest_path.exists():
            raise damaged_file(store.manifest_path, "it is not there")
        return cls._ready(store, _connect_to_write(store.manifest_path), changing=True)

    @classmethod
    def _ready(cls, store: Store, connection: sqlite3.Connection, *, changing: bool) -> Manifest:
        path = store.manifest_path
        try:
            with sqlite_errors(path):
                check_database(path, connection, VERSION)
                _make_ready(path, connection, changing=changing)
            if changing:
                fsync_dir(store.root)
            return cls(path, connection)
        except BaseException:
            connection.close()
            raise

    def shards(self, from_number: int = 0) -> list[ShardRow]:
        """The shards from a number on."""
        return self._shards[from_number:]

    def shard_count(self) -> int:
        """How many shards there are; also the number of the next."""
        return len(self._shards)

    def add_shards(self, shards: Sequence[ShardRow]) -> None:
        """Add shards whose listings are durable, in one transaction. ``ValueError`` on a wrong number or name."""
        numbers = [shard.number for shard in shards]
        if numbers != list(range(len(self._shards), len(self._shards) + len(shards))):
            raise ValueError("shards must be numbered from the count of those that are there")
        rows = [sealed_row(shard.number, shard.name, shard.length, shard.digest) for shard in shards]
        try:
            with self._changing() as connection:
                connection.executemany("INSERT INTO shards VALUES (?, ?, ?, ?, ?)", rows)
        except sqlite3.IntegrityError as error:
            raise ValueError("two shards have the same name") from error
        self._shards.extend(shards)

    def passes(self) -> list[PassRow]:
        """All passes; the last is the newest."""
        return list(self._passes)

    def add_pass(self, slots: Sequence[str]) -> int:
        """Open a pass with these slots and return its number; the newest one's, when it has the same slots."""
        wanted = tuple(slots)
        if self._passes and self._passes[-1].slots == wanted:
            return self._passes[-1].number
        number = len(self._passes) + 1
        with self._changing() as connection:
            connection.execute("INSERT INTO passes VALUES (?, ?, ?)", sealed_row(number, json.dumps(wanted)))
        self._passes.append(PassRow(number, wanted))
        return number

    def segments(self) -> list[SegmentRow]:
        """All sealed segments by position."""
        return list(self._segments)

    def add_segment(self, segment: SegmentRow, done: DoneRanges) -> None:
        """Add a sealed segment with its items; harmless when it is there. Overlap is a ``DamagedStoreError``."""
        if any(row.first == segment.first and row.last == segment.last for row in self._segments):
            return
        if segment.last < segment.first or any(
            row.first <= segment.last and segment.first <= row.last for row in self._segments
        ):
            raise damaged_file(self._path, f"positions {segment.first} to {segment.last} are sealed twice")
        with self._changing() as connection:
            connection.execute("INSERT INTO segments VALUES (?, ?, ?, ?, ?)", _segment_row(segment, done))
            connection.executemany("DELETE FROM spare WHERE file = ?", [[name] for name in segment.files])
        self._segments.append(segment)
        self._segments.sort(key=lambda one: one.first)

    def replace_segments(self, old: Sequence[SegmentRow], new: SegmentRow, done: DoneRanges, now: int) -> None:
        """Put a segment, whose files are spare, in the place of neighbours; theirs are spare from ``now`` on."""
        if [old[0].first, old[-1].last] != [new.first, new.last]:
            raise ValueError("a segment takes the place of others with the same positions")
        with self._changing() as connection:
            for segment in old:
                connection.execute("DELETE FROM segments WHERE first = ?", [segment.first])
            connection.execute("INSERT INTO segments VALUES (?, ?, ?, ?, ?)", _segment_row(new, done))
            connection.executemany("DELETE FROM spare WHERE file = ?", [[name] for name in new.files])
            rows = [sealed_row(name, now) for segment in old for name in segment.files]
            connection.executemany("INSERT INTO spare VALUES (?, ?, ?)", rows)
        gone = {segment.first for segment in old}
        self._segments = sorted(
            [*(one for one in self._segments if one.first not in gone), new], key=lambda one: one.first
        )

    def spare(self, before: int | None = None) -> set[str]:
        """The files that lie in the tables and count for nothing: all, or those that do since ``before`` or longer."""
        with sqlite_errors(self._path):
            if self._connection.execute("PRAGMA user_version").fetchone() < (2,):
                return set()
        rows = [checked(self._path, row) for row in self._rows("SELECT * FROM spare")]
        return {name for name, since in rows if before is None or since <= before}

    def add_spare(self, files: Iterable[str], since: int) -> None:
        """These files may lie in the tables, and count for nothing."""
        with self._changing() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO spare VALUES (?, ?, ?)", [sealed_row(f, since) for f in files]
            )

    def forget_spare(self, files: Iterable[str]) -> None:
        """These files lie there no more."""
        names = [[name] for name in files]
        if names:
            with self._changing() as connection:
                connection.executemany("DELETE FROM spare WHERE file = ?", names)

    def free_number(self, first: int) -> int:
        """A number that no file of a segment that began at ``first`` has: of ``<first>.<number>.parquet``."""
        known = {name for segment in self._segments for name in segment.files} | self.spare()
        numbers = (Path(name).name.split(".")[1] for name in known if Path(name).name.startswith(f"{first:016d}."))
        return 1 + max((int(number) for number in numbers if number.isdecimal()), default=0)

    def done(self) -> Iterator[DoneRange]:
        """The items of all segments."""
        for row in self._rows("SELECT * FROM segments ORDER BY first"):
            ranges = np.frombuffer(checked(self._path, row)[3], "<i8").reshape(-1, 4)
            yield from map(tuple, ranges.tolist())

    def done_of_segments(self) -> dict[int, DoneRanges]:
        """The items of each segment, by its first position."""
        rows = (checked(self._path, row) for row in self._rows("SELECT * FROM segments ORDER BY first"))
        return {int(row[0]): np.frombuffer(row[3], "<i8").reshape(-1, 4) for row in rows}

    def is_sealed(self, position: int) -> bool:
        """Whether a segment holds this position."""
        return any(segment.first <= position <= segment.last for segment in self._segments)

    def last_position(self) -> int:
        """The highest sealed position; 0 when there is none."""
        return self._segments[-1].last if self._segments else 0

    def totals(self) -> dict[str, int]:
        """Sealed captions of each contributor."""
        totals: Counter[str] = Counter()
        for segment in self._segments:
            totals.update(segment.totals)
        return totals

    def failures(self) -> int:
        """Sealed dead letters."""
        return sum(segment.failures for segment in self._segments)

    def check_sizes(self, store: Store) -> None:
        """Each segment's files are there, as large as they were sealed. Raises ``DamagedStoreError``."""
        for segment in self._segments:
            _check_size(store.root, segment)

    def check_files(self, store: Store, unsealed: Iterable[int]) -> None:
        """Compare the segments' files with the manifest; ``unsealed`` are first positions that may be sealed anew.

        A file that nobody knows means that the manifest lost its row; going on would store its captions twice.
        """
        self.check_sizes(store)
        known = {name for segment in self._segments for name in segment.files} | self.spare()
        for table in ("captions", "failures"):
            folder = store.table_path(table)
            known.update(str(store.table_path(table, first).relative_to(store.root)) for first in unsealed)
            for path in sorted(folder.glob("*.parquet")) if folder.is_dir() else ():
                if str(path.relative_to(store.root)) not in known:
                    raise damaged_file(self._path, f"it does not know {path}, which was sealed")

    def close(self) -> None:
        """Close the database."""
        with sqlite_errors(self._path):
            self._connection.close()

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        with transaction(self._path, self._connection):
            yield self._connection
        self._changes += 1
        if self._changes >= CHECKPOINT_CHANGES:
            # SQLite's own checkpoints hide a failed fsync; this one tells. No room is no harm: the log keeps all.
            with suppress(DiskFullError), sqlite_errors(self._path):
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                self._changes = 0

    def _rows(self, query: str) -> Iterator[tuple[object, ...]]:
        with sqlite_errors(self._path):
            yield from self._connection.execute(query)

    def _shard(self, row: tuple[object, ...]) -> ShardRow:
        number, name, length, digest = checked(self._path, row)
        return ShardRow(number, name, length, digest)

    def _pass(self, row: tuple[object, ...]) -> PassRow:
        number, slots = checked(self._path, row)
        return PassRow(number, tuple(json.loads(slots)))

    def _segment(self, row: tuple[object, ...]) -> SegmentRow:
        first, last, facts, _ = checked(self._path, row)
        files, rows, failures, size, sealed_at, totals = json.loads(facts)
        return SegmentRow(first, last, tuple(files), rows, failures, size, sealed_at, totals)

    def _check_order(self) -> None:
        if [shard.number for shard in self._shards] != list(range(len(self._shards))):
            raise damaged_file(self._path, "shards are missing")
        if [one.number for one in self._passes] != list(range(1, len(self._passes) + 1)):
            raise damaged_file(self._path, "passes are missing")
        for before, after in zip(self._segments, self._segments[1:], strict=False):
            if after.first <= before.last:
                raise damaged_file(self._path, f"segments {before.first} and {after.first} overlap")


def _connect_to_write(path: Path) -> sqlite3.Connection:
    with sqlite_errors(path):
        return sqlite3.connect(f"{path.as_uri()}?mode=rwc", uri=True, isolation_level=None, timeout=10)


def _make_ready(path: Path, connection: sqlite3.Connection, *, changing: bool) -> None:
    if changing:
        keep_log(path, connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
        with transaction(path, connection):
            for statement in _SCHEMA:
                connection.execute(statement)
    elif changing and connection.execute("PRAGMA user_version").fetchone() == (1,):
        with transaction(path, connection):
            for statement in _SCHEMA[-2:]:
                connection.execute(statement)


def _segment_row(segment: SegmentRow, done: DoneRanges) -> tuple[object, ...]:
    facts = json.dumps(
        [segment.files, segment.rows, segment.failures, segment.size, segment.sealed_at, dict(segment.totals)]
    )
    return sealed_row(segment.first, segment.last, facts, np.ascontiguousarray(done, "<i8").tobytes())


def _check_size(root: Path, segment: SegmentRow) -> None:
    size = 0
    for name in segment.files:
        try:
            size += (root / name).stat().st_size
        except FileNotFoundError:
            raise damaged_file(root / name, "it is gone, though it was sealed") from None
    if size != segment.size:
        raise damaged_file(root / segment.files[0], "it has not the size that it was sealed with")
