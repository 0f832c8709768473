"""The rows of an export, by duckdb over the files that the manifest named.

Knows SQL, and no format. duckdb is shut off from everything but the store's segments and the export's own
working folder before it sees a condition that a person wrote: a condition may come from somebody else.

Invariants: a part's rows are in the order of shards, items and slots; of rows with the same shard, item and slot
only that with the highest revision that is asked for; memory is bounded, what does not fit goes to the
working folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cfbus.errors import DamagedStoreError, DiskFullError, UsageError
from cfbus.exports.locked import connect, text
from cfbus.exports.parts import Part, Stored
from cfbus.exports.request import Request
from cfbus.logs import display
from cfbus.store.view import library, plain_schema

if TYPE_CHECKING:
    import duckdb


def name(value: str) -> str:
    """A quoted name."""
    return '"' + value.replace('"', '""') + '"'


class Selection:
    """The rows that a request asks for, a part at a time: the table ``rows`` of ``connection`` holds them."""

    def __init__(self, stored: Stored, request: Request, position: int, work: Path) -> None:
        self._duckdb: Any = library("duckdb", 'pip install "cfbus[export]"')
        self._request = request
        self._position = position
        self._meet = stored.passes_meet
        self._taken = stored.taken
        self._shown: Mapping[str, str] = {}
        self.slots = request.slots or stored.slots
        self.connection = connect(work, [stored.store.table_path("captions")])
        run = self.connection.execute
        run("CREATE TEMP TABLE shard_numbers (shard VARCHAR, number INTEGER)")
        run("CREATE TEMP TABLE pseudonyms (id VARCHAR, shown VARCHAR)")
        self._check_where()

    def __enter__(self) -> Selection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()

    def load(self, part: Part, left: int | None) -> int:
        """Fill ``rows`` with a part's, at most ``left`` rows, or images where a row is one; how many they are."""
        run = self.connection.execute
        run("DELETE FROM shard_numbers")
        self.connection.executemany(
            "INSERT INTO shard_numbers VALUES (?, ?)", [(shard.name, shard.number) for shard in part.shards]
        )
        try:
            self._chosen(part).create_view("chosen", replace=True)
            run("DROP TABLE IF EXISTS rows")
            run(f"CREATE TEMP TABLE rows AS {self._ordered(left)}")
        except self._duckdb.Error as error:
            raise self._explained(error) from error
        counted = "count(DISTINCT (number, item_index))" if self._request.by_image else "count(*)"
        return self._number(f"SELECT {counted} FROM rows")  # noqa: S608 - one of the two above

    def contributors(self) -> Mapping[str, int]:
        """Whose captions ``rows`` holds, and how many."""
        found = self.connection.execute("SELECT contributor_id, count(*) FROM rows GROUP BY ALL").fetchall()
        return {str(who): int(count) for who, count in found if who is not None}

    def called(self, who: str) -> str:
        """What a contributor is called in what is written."""
        return self._shown.get(who, who)

    def rename(self, shown: Mapping[str, str]) -> None:
        """What contributors are called in what is written, by their ids."""
        self._shown = shown
        if shown:
            self.connection.executemany("INSERT INTO pseudonyms VALUES (?, ?)", list(shown.items()))

    def _number(self, query: str) -> int:
        row = self.connection.execute(query).fetchone()
        assert row is not None
        return int(row[0])

    def _chosen(self, part: Part) -> duckdb.DuckDBPyRelation:
        files = ", ".join(text(path) for path in part.files)
        conditions = [
            f"item_index >= {part.start} AND item_index < {part.end}", f"commit_seq <= {self._position}",
        ]  # fmt: skip
        if self._taken:
            conditions.append(f"NOT ({self._taken})")
        if self._request.revision is not None:
            conditions.append(f"revision <= {self._request.revision}")
        if self._request.as_of is not None:
            conditions.append(f"timestamp <= make_timestamptz({self._request.as_of})")
        newest = "QUALIFY revision = max(revision) OVER (PARTITION BY shard, item_index, slot)" if self._meet else ""
        rows = self.connection.sql(
            f"SELECT * FROM read_parquet([{files}], hive_partitioning = false)"  # noqa: S608 - numbers and quoted paths
            f" WHERE shard IN (SELECT shard FROM shard_numbers) AND {' AND '.join(conditions)} {newest}"
        )
        return self._filtered(rows)

    def _filtered(self, rows: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
        if self._request.where:
            rows = rows.filter(self._request.where)
        slots = ", ".join(text(slot) for slot in self.slots)
        rows = rows.filter(f"slot IN ({slots})")
        return rows if self._request.with_empty else rows.filter("NOT coalesce(list_contains(flags, 'empty'), false)")

    def _ordered(self, left: int | None) -> str:
        slots = f"[{', '.join(text(slot) for slot in self.slots)}]"
        rows = "SELECT chosen.*, n.number AS number FROM chosen JOIN shard_numbers n ON n.shard = chosen.shard"
        order = f"number, item_index, list_position({slots}, slot)"
        if left is not None:
            rank = (
                "dense_rank() OVER (ORDER BY number, item_index)"
                if self._request.by_image
                else f"row_number() OVER (ORDER BY {order})"
            )
            rows = f"SELECT * FROM ({rows}) QUALIFY {rank} <= {left}"  # noqa: S608 - a number
        return f"{rows} ORDER BY {order}"

    def _check_where(self) -> None:
        """Say what is wrong with the condition before anything is read."""
        if not self._request.where:
            return
        try:
            empty = plain_schema("captions").empty_table()
            self.connection.from_arrow(empty).filter(self._request.where).fetchall()
        except self._duckdb.Error as error:
            raise self._explained(error) from error

    def _explained(self, error: Exception) -> Exception:
        said = display(str(error).splitlines()[0], 300)
        if isinstance(error, self._duckdb.IOException | self._duckdb.OutOfMemoryException) and "space" in said:
            return DiskFullError(f"There was no room for the work of the export: {said}", "Free some space.")
        unreadable = type(error) in (self._duckdb.Error, self._duckdb.IOException)
        if unreadable or (isinstance(error, self._duckdb.InvalidInputException) and not self._request.where):
            return DamagedStoreError(
                f"A segment could not be read: {said}", "Check the disk, or put the file back from a backup."
            )
        if not self._request.where:
            return error
        return UsageError(
            f"--where {display(self._request.where)!r} does not work: {said}",
            "It is a condition of SQL over the columns of the captions, such as: model = 'x' AND output_tokens > 20",
        )


def columns_sql(columns: Sequence[str], *, pseudonyms: bool, texts: bool) -> dict[str, str]:
    """An expression for each column. ``texts``: what JSON and CSV cannot hold becomes text."""
    found = {one: name(one) for one in columns}
    if pseudonyms and "contributor_id" in found:
        found["contributor_id"] = "(SELECT any_value(shown) FROM pseudonyms WHERE id = contributor_id)"
    if texts and "image_sha256" in found:
        found["image_sha256"] = "lower(hex(image_sha256))"
    if texts and "timestamp" in found:
        found["timestamp"] = "strftime(timestamp, '%Y-%m-%dT%H:%M:%S.%fZ')"
    return found
