"""Parquet files as tables of images: what their footers say, and single rows.

What it is for: `Table`, one open parquet file; `KeptRows`, the memory that open tables share.
What it must not know: where files are, shards, how an image is fetched that is not in the table.

Invariants:
- A row group is read forwards, page by page, a few MiB of rows at a time, however large it is: rows that are asked for
  in about ascending order are unpacked once. What was unpacked last is kept, in `KEPT_BYTES` for all tables together.
- Several who read the same row group at different places (`CURSORS`) do not start each other again. A walk may hold a
  page, which is as large as its writer made it, the whole row group at worst: walks of large ones are fewer, and one
  that is at its end is let go.
- What pyarrow raises becomes a ReadError: the item's fault where the bytes make no sense, else the one that reading the
  bytes ended with.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from cfbus.logs import display
from cfbus.sources.base import ReadError, ReadReason
from cfbus.sources.table_columns import Choice, Wanted, choose
from cfbus.sources.table_files import BadTableError, Bytes, TableFile

KEPT_BYTES: Final = 64 << 20
BATCH_BYTES: Final = 4 << 20
MAX_BATCH_ROWS: Final = 256
CURSORS: Final = 3
WALK_BYTES: Final = 256 << 20
KEY_ROWS: Final = 8192
MAX_GROUPS: Final = 1_000_000
_DAMAGE: Final = (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError)
_THRIFT_ENTRIES: Final = 10_000_000
_THRIFT_BYTES: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class _Batch:
    """Rows ``begin`` to ``end`` of a row group."""

    begin: int
    end: int
    rows: Any


class KeptRows:
    """The batches that were used last, of all tables."""

    def __init__(self, most_bytes: int = KEPT_BYTES) -> None:
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, int, int], _Batch] = OrderedDict()
        self._bytes = 0

    def find(self, table: int, group: int, row: int) -> _Batch | None:
        """The batch that has this row."""
        with self._lock:
            for key, batch in reversed(self._kept.items()):
                if key[:2] == (table, group) and batch.begin <= row < batch.end:
                    self._kept.move_to_end(key)
                    return batch
        return None

    def add(self, table: int, group: int, batch: _Batch) -> None:
        """Keep it, at the cost of what was not used for longest."""
        with self._lock:
            self._drop((table, group, batch.begin))
            self._kept[table, group, batch.begin] = batch
            self._bytes += batch.rows.nbytes
            while self._bytes > self._most_bytes and len(self._kept) > 1:
                self._drop(next(iter(self._kept)))

    def forget(self, table: int) -> None:
        """Of a table that is closed."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == table]:
                self._drop(key)

    def _drop(self, key: tuple[int, int, int]) -> None:
        batch = self._kept.pop(key, None)
        if batch is not None:
            self._bytes -= batch.rows.nbytes


@dataclass(slots=True)
class _Cursor:
    """One walk through a row group."""

    group: int
    batches: Iterator[Any]
    at: int = 0


@dataclass(slots=True)
class Table:
    """One parquet file. `open` raises BadTableError or ReadError."""

    choice: Choice
    groups: list[int]
    _file: TableFile
    _parquet: Any
    _buffer_bytes: int
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _cursors: list[_Cursor] = field(default_factory=list)
    number: int = field(default_factory=itertools.count().__next__)

    @classmethod
    def open(cls, source: Bytes, wanted: Wanted, *, buffer_bytes: int) -> Table:
        """Read its footer; ``buffer_bytes`` is how much of a column is asked for at once later on."""
        file = TableFile(source)
        with _in_words(file):
            parquet = pq.ParquetFile(
                pa.PythonFile(file, mode="r"),
                pre_buffer=False,
                buffer_size=buffer_bytes,
                page_checksum_verification=True,
                thrift_container_size_limit=_THRIFT_ENTRIES,
                thrift_string_size_limit=_THRIFT_BYTES,
            )
            facts = parquet.metadata
            if facts.num_row_groups > MAX_GROUPS:
                raise BadTableError(f"has more than {MAX_GROUPS} row groups")
            groups = [facts.row_group(number).num_rows for number in range(facts.num_row_groups)]
            if any(rows < 0 for rows in groups) or sum(groups) != facts.num_rows:
                raise BadTableError("is damaged: its row groups do not have the rows that it says it has")
            return cls(choose(parquet.schema_arrow, wanted), groups, file, parquet, buffer_bytes)

    @property
    def file(self) -> TableFile:
        """What it is read from."""
        return self._file

    @property
    def rows(self) -> int:
        """How many in all row groups."""
        return sum(self.groups)

    def close(self) -> None:
        """Let go of the file. Whoever reads at the same time gets a ReadError."""
        with self._lock:
            self._cursors.clear()
            self._parquet.close(force=True)
            self._file.close()

    def cells(self, column: str) -> Iterator[Any]:
        """All cells of one column, in the memory of a few thousand. Raises BadTableError or ReadError."""
        with _in_words(self._file):
            for batch in self._parquet.iter_batches(KEY_ROWS, columns=[column], use_threads=False):
                yield from batch.column(column)

    def row(self, kept: KeptRows, group: int, row: int) -> tuple[Any, int]:
        """The batch that has this row of this row group, and where in it. Raises ReadError."""
        if not 0 <= group < len(self.groups) or not 0 <= row < self.groups[group]:
            raise ReadError(ReadReason.OUTSIDE, "The table has no such row.", "worker")
        with self._lock:
            self._file.check()
            batch = kept.find(self.number, group, row)
            if batch is None:
                batch = self._unpacked(kept, group, row)
                self._file.check()  # it may have been written to meanwhile
        return batch.rows, row - batch.begin

    def _unpacked(self, kept: KeptRows, group: int, row: int) -> _Batch:
        self._file.problem = None
        try:
            return self._walked(kept, group, row)
        except _DAMAGE as error:
            self._cursors = [cursor for cursor in self._cursors if cursor.group != group]
            if self._file.problem is not None:
                raise self._file.problem from None
            detail = f"Its row group cannot be read: {_first_line(error)}."
            raise ReadError(ReadReason.UNREADABLE, detail, "item") from None

    def _walked(self, kept: KeptRows, group: int, row: int) -> _Batch:
        cursor = self._cursor(group, row)
        for rows in cursor.batches:
            batch = _Batch(cursor.at, cursor.at + rows.num_rows, rows)
            cursor.at = batch.end
            if batch.end >= self.groups[group]:
                self._cursors.remove(cursor)
            if batch.end > row:
                kept.add(self.number, group, batch)
                return batch
        raise ValueError("it ends before its last row")

    def _cursor(self, group: int, row: int) -> _Cursor:
        """The walk that is nearest before the row, or a new one."""
        before = [cursor for cursor in self._cursors if cursor.group == group and cursor.at <= row]
        cursor = max(before, key=lambda each: each.at, default=None)
        if cursor is None:
            cursor = _Cursor(group, self._batches(group))
        with suppress(ValueError):
            self._cursors.remove(cursor)
        others = min(CURSORS, WALK_BYTES // max(1, self._bytes_of(group))) - 1
        self._cursors = [*(self._cursors[-others:] if others > 0 else ()), cursor]
        return cursor

    def _batches(self, group: int) -> Iterator[Any]:
        columns = self.choice.all
        size = max(1, self._bytes_of(group) // self.groups[group])
        rows = max(1, min(MAX_BATCH_ROWS, BATCH_BYTES // size))
        batches: Iterator[Any] = self._parquet.iter_batches(rows, [group], columns, use_threads=False)
        return batches

    def _bytes_of(self, group: int) -> int:
        """What a row group's columns take unpacked, as far as its footer tells the truth."""
        facts, columns = self._parquet.metadata.row_group(group), set(self.choice.all)
        parts = (facts.column(number) for number in range(facts.num_columns))
        return sum(part.total_uncompressed_size for part in parts if part.path_in_schema.partition(".")[0] in columns)


@contextmanager
def _in_words(file: TableFile) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        if file.problem is not None:
            raise file.problem from None
        raise BadTableError(f"cannot be read as parquet: {_first_line(error)}") from None


def _first_line(error: BaseException) -> str:
    said = str(error).splitlines()
    return display(said[0], 200).rstrip(".") if said else type(error).__name__
