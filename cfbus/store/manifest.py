"""The manifest: which shards and passes there are, which segments are sealed, which items those hold.

SQLite (WAL, FULL). Knows nothing of frames or parquet. The writer changes it, readers of the store may
look at the same time.

Invariants: shard numbers are dense from 0 and pass numbers from 1, and what they name never changes;
segments do not overlap in positions, and what is sealed stays sealed, whatever becomes of its segments; a file
that lies in a table and counts for nothing is known as spare; a tombstone and the redos that make it good come
and go together, and no longer go once rows were taken away for it; every change is one transaction; every row
carries a checksum, so that an altered row is noticed and never believed.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from cfbus.errors import DiskFullError
from cfbus.store.checked_rows import check_database, checked, sealed_row
from cfbus.store.durable import damaged_file, flush_database, fsync_dir, sqlite_errors, transaction
from cfbus.store.folder import Store
from cfbus.store.manifest_file import (
    VERSION,
    connect_to_write,
    make_ready,
    pass_row,
    redo_row,
    segment_row,
    tombstone_row,
)
from cfbus.store.manifest_rows import (
    DoneRange,
    DoneRanges,
    NewRedo,
    PassRow,
    RedoFacts,
    SegmentRow,
    Selected,
    ShardRow,
    Tombstone,
)
from cfbus.store.reading import connect_to_read

CHECKPOINT_CHANGES = 256
"""After so many changes the log is copied into the file."""


class Manifest:
    """The open manifest of a store; read-only when the store is not locked."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        self._changes = CHECKPOINT_CHANGES  # there may be a log from before
        # In this order: beside a writer, what a segment is of was there before it.
        self._segments = list(map(self._segment, self._rows("SELECT * FROM segments ORDER BY first")))
        self._redos = {row.number: row for row in map(self._redo, self._rows_since(3, "SELECT * FROM redos"))}
        self._passes = list(map(self._pass, self._rows("SELECT * FROM passes ORDER BY number")))
        self._tombstones = self._read_tombstones()
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
        connection = connect_to_write(path) if store.locked else connect_to_read(path)
        return cls._ready(store, connection, changing=store.locked)

    @classmethod
    def open_beside(cls, store: Store) -> Manifest:
        """Open to change segments, whether a writer has it open or not. Raises as ``open`` does.

        What a killed writer has not flushed is flushed with the first change.
        """
        if not store.manifest_path.exists():
            raise damaged_file(store.manifest_path, "it is not there")
        return cls._ready(store, connect_to_write(store.manifest_path), changing=True)

    @classmethod
    def _ready(cls, store: Store, connection: sqlite3.Connection, *, changing: bool) -> Manifest:
        path = store.manifest_path
        try:
            with sqlite_errors(path):
                check_database(path, connection, VERSION)
                make_ready(path, connection, changing=changing)
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

    def newest_pass(self) -> PassRow | None:
        """The newest pass over all items."""
        return next((one for one in reversed(self._passes) if one.redo is None), None)

    def add_pass(self, slots: Sequence[str]) -> int:
        """Open a pass over all items with these slots and return its number; the newest one's, when it has the same
        slots."""
        wanted = tuple(slots)
        newest = self.newest_pass()
        if newest is not None and newest.slots == wanted:
            return newest.number
        number = len(self._passes) + 1
        with self._changing() as connection:
            connection.execute("INSERT INTO passes VALUES (?, ?, ?)", pass_row(PassRow(number, wanted)))
        self._passes.append(PassRow(number, wanted))
        return number

    # ------------------------------------------------------------------ redos and tombstones

    def selected(self, number: int) -> Selected:
        """The items that a redo is over."""
        for row in self._rows("SELECT * FROM selections WHERE pass = ?", number):
            return np.frombuffer(checked(self._path, row)[1], "<i8").reshape(-1, 3)
        raise damaged_file(self._path, f"it does not say which items pass {number} is over")

    def tombstones(self) -> list[Tombstone]:
        """All tombstones, the removed ones too."""
        return list(self._tombstones)

    def amend(self, redos: Sequence[NewRedo], tombstone: Tombstone | None) -> list[PassRow]:
        """Open these redos and set this tombstone, all or nothing; the rows of the passes."""
        first = len(self._passes) + 1
        made = [
            PassRow(number, slots, facts, int((items[:, 2] - items[:, 1]).sum()))
            for number, (slots, facts, items) in enumerate(redos, first)
        ]
        with self._changing() as connection:
            for row, (_, _, items) in zip(made, redos, strict=True):
                ranges = np.ascontiguousarray(items, "<i8").tobytes()
                connection.execute("INSERT INTO passes VALUES (?, ?, ?)", pass_row(row))
                connection.execute("INSERT INTO redos VALUES (?, ?, ?, ?, ?)", redo_row(row))
                connection.execute("INSERT INTO selections VALUES (?, ?, ?)", sealed_row(row.number, ranges))
            if tombstone is not None:
                connection.execute("INSERT INTO tombstones VALUES (?, ?, ?)", tombstone_row(tombstone))
        self._passes += made
        self._tombstones += [tombstone] if tombstone is not None else []
        return made

    def close_pass(self, number: int, task: str = "") -> PassRow:
        """Nothing more is to be done of this redo."""
        with self._changing() as connection:
            return self._close(connection, number, task)

    def remove_tombstone(self, number: int, task: str = "") -> list[PassRow]:
        """Its rows count again, and what would have made it good is closed. ``ValueError`` when rows of it are gone
        for good, or when there is none that holds."""
        closed = [one.number for one in self._passes if one.redo and one.redo.tombstone == number and not one.closed]
        with self._changing() as connection:
            # Read again: a compaction beside may have come first.
            now = {one.number: one for one in self._read_tombstones()}
            if number not in now or now[number].state != "active":
                raise ValueError(now[number].state if number in now else "unknown")
            self._keep(connection, replace(now[number], state="removed", end_task=task))
            return [self._close(connection, each, task) for each in closed]

    def _close(self, connection: sqlite3.Connection, number: int, task: str) -> PassRow:
        row = self._passes[number - 1]
        assert row.redo is not None
        row = replace(row, closed=True, redo=replace(row.redo, end_task=task))
        connection.execute("INSERT OR REPLACE INTO redos VALUES (?, ?, ?, ?, ?)", redo_row(row))
        self._passes[number - 1] = row
        return row

    def _keep(self, connection: sqlite3.Connection, row: Tombstone) -> None:
        connection.execute("INSERT OR REPLACE INTO tombstones VALUES (?, ?, ?)", tombstone_row(row))
        self._tombstones = [row if one.number == row.number else one for one in self._tombstones]

    # ------------------------------------------------------------------ segments

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
            connection.execute("INSERT INTO segments VALUES (?, ?, ?, ?, ?)", segment_row(segment, done))
            connection.executemany("DELETE FROM spare WHERE file = ?", [[name] for name in segment.files])
        self._segments.append(segment)
        self._segments.sort(key=lambda one: one.first)

    def replace_segments(
        self, old: Sequence[SegmentRow], new: SegmentRow, done: DoneRanges, now: int, applied: Mapping[int, int]
    ) -> bool:
        """Put a segment, whose files are spare, in the place of neighbours; theirs are spare from ``now`` on.

        It has no rows any more of the ``applied`` tombstones, and so many dead letters less for each. False, and
        nothing has changed, when one of those was removed meanwhile.
        """
        if [old[0].first, old[-1].last] != [new.first, new.last]:
            raise ValueError("a segment takes the place of others with the same positions")
        with self._changing() as connection:
            there = {one.number: one for one in self._read_tombstones()}
            if not all(there[number].holds for number in applied):
                return False
            for number, dead_letters in applied.items():
                left = there[number].dead_letters - dead_letters
                self._keep(connection, replace(there[number], state="compacted", dead_letters=left))
            for segment in old:
                connection.execute("DELETE FROM segments WHERE first = ?", [segment.first])
            connection.execute("INSERT INTO segments VALUES (?, ?, ?, ?, ?)", segment_row(new, done))
            connection.executemany("DELETE FROM spare WHERE file = ?", [[name] for name in new.files])
            rows = [sealed_row(name, now) for segment in old for name in segment.files]
            connection.executemany("INSERT INTO spare VALUES (?, ?, ?)", rows)
        gone = {segment.first for segment in old}
        self._segments = sorted(
            [*(one for one in self._segments if one.first not in gone), new], key=lambda one: one.first
        )
        return True

    def spare(self, before: int | None = None) -> set[str]:
        """The files that lie in the tables and count for nothing: all, or those that do since ``before`` or longer."""
        rows = [checked(self._path, row) for row in self._rows_since(2, "SELECT * FROM spare")]
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
        """Sealed captions of each contributor, without those that tombstones have taken."""
        totals: Counter[str] = Counter()
        for segment in self._segments:
            totals.update(segment.totals)
        for tombstone in self._tombstones:
            totals.subtract(tombstone.credits if tombstone.holds else {})
        return +totals

    def failures(self) -> int:
        """Sealed dead letters that count."""
        taken = sum(one.dead_letters for one in self._tombstones if one.holds)
        return sum(segment.failures for segment in self._segments) - taken

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

    def _rows_since(self, version: int, query: str) -> Iterator[tuple[object, ...]]:
        """Of a table that older manifests, which are only read, have not."""
        with sqlite_errors(self._path):
            if self._connection.execute("PRAGMA user_version").fetchone() >= (version,):
                yield from self._rows(query)

    def _read_tombstones(self) -> list[Tombstone]:
        rows = (checked(self._path, row) for row in self._rows_since(3, "SELECT * FROM tombstones ORDER BY number"))
        return [Tombstone.of(number, facts) for number, facts in rows]

    def _rows(self, query: str, *values: object) -> Iterator[tuple[object, ...]]:
        with sqlite_errors(self._path):
            yield from self._connection.execute(query, values)

    def _shard(self, row: tuple[object, ...]) -> ShardRow:
        number, name, length, digest = checked(self._path, row)
        return ShardRow(number, name, length, digest)

    def _pass(self, row: tuple[object, ...]) -> PassRow:
        number, slots = checked(self._path, row)
        return replace(self._redos.get(number, PassRow(number, ())), slots=tuple(json.loads(slots)))

    def _redo(self, row: tuple[object, ...]) -> PassRow:
        number, facts, items, closed = checked(self._path, row)
        return PassRow(number, (), RedoFacts.of(facts), items, bool(closed))

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


def _check_size(root: Path, segment: SegmentRow) -> None:
    size = 0
    for name in segment.files:
        try:
            size += (root / name).stat().st_size
        except FileNotFoundError:
            raise damaged_file(root / name, "it is gone, though it was sealed") from None
    if size != segment.size:
        raise damaged_file(root / segment.files[0], "it has not the size that it was sealed with")
