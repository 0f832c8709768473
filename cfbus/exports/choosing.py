"""Which rows a request is about, by duckdb over a view of the store: what a redo is over, what a tombstone takes out.

Reads only. duckdb is shut off from everything but the store's segments and a working folder before it sees a condition
that somebody wrote. Invariants: an item is in one group for each set of its slots; what an open redo is to do anyway is
not asked for twice; what was not sealed when it was read is in none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cfbus.core.ranges import RangeSet
from cfbus.errors import UsageError
from cfbus.exports.locked import connect, text
from cfbus.logs import display
from cfbus.store import tombstones
from cfbus.store.amendments import Facts, Plan, Request
from cfbus.store.folder import Store
from cfbus.store.manifest import Manifest
from cfbus.store.manifest_rows import PassRow, Selected, Tombstone
from cfbus.store.view import View, open_view

if TYPE_CHECKING:
    import duckdb

MOST_RANGES = 4_000_000
"""A redo of more pieces is refused: the broker would hold all of them."""
SHOWN = 50
WHOLE = ("captions", "failures")


@dataclass(frozen=True)
class _Stored:
    """What the manifest says, and views of its tables."""

    store: Store
    names: tuple[str, ...]
    passes: tuple[PassRow, ...]
    open: Mapping[int, tuple[tuple[str, ...], Mapping[int, RangeSet]]]
    """Of each redo that is not over its slots, and by shard what is not done of it."""
    position: int
    latest: View
    all_revisions: View


def plan_of(store: Store, request: Request, work: Path) -> Plan:
    """What a request comes to. ``UsageError``, with a sentence, where that is nothing or cannot be."""
    stored = _read(store)
    connection = connect(work, [store.table_path(table) for table in WHOLE])
    try:
        connection.execute("CREATE TEMP TABLE shard_numbers (shard VARCHAR, number INTEGER)")
        _name_shards(connection, stored)
        stored.latest.duckdb(connection).create_view("captions")
        stored.latest.failures.duckdb(connection).create_view("failures")
        stored.all_revisions.duckdb(connection).create_view("everything")
        stored.all_revisions.failures.duckdb(connection).create_view("every_failure")
        return _PLANS[request.verb](_Choice(stored, request, connection))
    finally:
        connection.close()


def _read(store: Store) -> _Stored:
    root = store.root
    with closing(Manifest.open(store)) as manifest:
        passes = tuple(manifest.passes())
        names = tuple(shard.name for shard in manifest.shards())
        undone = {
            row.number: (row.slots, _by_shard(manifest.selected(row.number)))
            for row in passes
            if row.redo is not None and not row.closed
        }
        for number, shard, start, end in manifest.done() if undone else ():
            if number in undone and shard in undone[number][1]:
                undone[number][1][shard].remove(start, end)
        position = manifest.last_position()
    return _Stored(store, names, passes, undone, position, open_view(root), open_view(root, latest=False))


def _by_shard(selected: Selected) -> dict[int, RangeSet]:
    found: dict[int, RangeSet] = {}
    for shard, start, end in selected.tolist():
        found.setdefault(shard, RangeSet()).add(start, end)
    return found


def _name_shards(connection: duckdb.DuckDBPyConnection, stored: _Stored) -> None:
    import pyarrow as pa

    numbers = pa.array(range(len(stored.names)), pa.int32())
    named = connection.from_arrow(pa.table({"shard": pa.array(stored.names, pa.string()), "number": numbers}))
    named.insert_into("shard_numbers")


class _Choice:
    """One request on its way to a plan."""

    def __init__(self, stored: _Stored, request: Request, connection: duckdb.DuckDBPyConnection) -> None:
        self.stored = stored
        self.request = request
        self.arguments = request.arguments
        self.connection = connection

    # ------------------------------------------------------------------ questions

    def all(self, query: str) -> list[Any]:
        return self.connection.execute(query).fetchall()

    def number(self, query: str) -> int:
        return int(self.all(query)[0][0])

    def groups(self, query: str) -> tuple[tuple[tuple[str, ...], Selected], ...]:
        """Of rows of shard, item_index and slot the items for each set of slots."""
        items = f"SELECT shard, item_index, list_sort(list(DISTINCT slot)) AS slots FROM ({query}) GROUP BY ALL"
        ordered = (
            f"SELECT slots, number, item_index FROM ({items}) JOIN shard_numbers USING (shard)"
            " ORDER BY slots, number, item_index"
        )
        self.connection.execute(f"CREATE OR REPLACE TEMP TABLE wanted AS {ordered}")
        found = []
        for (slots,) in self.all("SELECT DISTINCT slots FROM wanted ORDER BY slots"):
            listed = ", ".join(text(slot) for slot in slots)
            rows = self.connection.execute(f"SELECT number, item_index FROM wanted WHERE slots = [{listed}]")
            columns = rows.fetchnumpy()
            selected = _runs(np.asarray(columns["number"], np.int64), np.asarray(columns["item_index"], np.int64))
            ordered_slots = self._in_order(slots)
            selected = self._not_waiting(ordered_slots, selected)
            if len(selected):
                found.append((ordered_slots, selected))
        if sum(len(selected) for _, selected in found) > MOST_RANGES:
            raise UsageError(
                f"That is more than {MOST_RANGES:,} pieces of shards.", "Narrow the condition, or go shard by shard."
            )
        return tuple(found)

    def _in_order(self, slots: Sequence[str]) -> tuple[str, ...]:
        """As passes have them."""
        known = list(dict.fromkeys(slot for row in self.stored.passes for slot in row.slots))
        return tuple(sorted(slots, key=known.index))

    def _not_waiting(self, slots: tuple[str, ...], selected: Selected) -> Selected:
        """Without what an open redo captions anyway."""
        waiting = [items for theirs, items in self.stored.open.values() if set(slots) <= set(theirs)]
        if not waiting:
            return selected
        left = _by_shard(selected)
        for items in waiting:
            for shard, mine in left.items():
                mine.subtract(items.get(shard, ()))
        rows = [(shard, start, end) for shard, mine in sorted(left.items()) for start, end in mine]
        return np.array(rows, np.int64).reshape(-1, 3)

    # ------------------------------------------------------------------ verbs

    def requeue(self) -> Plan:
        """Captions that a condition holds for are to be written again; they count until that is done."""
        where, slot = self.arguments["where"], self.arguments.get("slot")
        self._check_where(where)
        wanted = [slot] if slot else list(self.request.slots)
        listed = ", ".join(text(each) for each in wanted)
        rows = self.connection.sql("SELECT * FROM captions")
        try:
            rows.filter(where).filter(f"slot IN ({listed})").create_view("matching")
            redos = self.groups("SELECT shard, item_index, slot FROM matching")
        except self._error() as error:
            raise _wrong(where, error) from error
        items = sum(_size(selected) for _, selected in redos)
        facts: Facts = (
            ("captions", str(self.number("SELECT count(*) FROM matching"))),
            ("items", str(self.number("SELECT count(DISTINCT (shard, item_index)) FROM matching"))),
            ("to_caption", str(sum(_size(selected) * len(slots) for slots, selected in redos))),
        )
        if not items:
            sentence = "No caption is like that, or it waits for a redo already."
            raise _nothing(self._elsewhere(rows.filter(where)) or sentence, self.request.dry, facts)
        by_slot = self.all("SELECT slot, count(*) FROM matching GROUP BY slot ORDER BY slot")
        return Plan(redos, None, facts, ("slot", "captions"), _cells(by_slot), f"requeue where {where}"[:200])

    def _elsewhere(self, matching: duckdb.DuckDBPyRelation) -> str:
        """That the condition holds for captions in slots which the configuration has no prompts for."""
        found = matching.aggregate("slot, count(*) AS n", "slot").order("slot").fetchall()
        others = [(str(slot), int(count)) for slot, count in found if slot not in self.request.slots]
        if not others:
            return ""
        told = ", ".join(f"{count} in {display(slot, 40)}" for slot, count in others)
        return (
            f"Only captions in slots that the configuration does not have are like that: {told}. Is it the run's own?"
        )

    def revoke_rows(self) -> Plan:
        """Rows of a contributor, key or worker up to now count no more, and their items are captioned again."""
        columns = self._columns("contributor", "key", "worker")
        tables = ("captions",) if "worker" in self.arguments else WHOLE
        stone = self._stone(columns, tables, self.stored.position)
        rows = self._slots_of_captions(stone)
        if "failures" in tables:
            rows += f" UNION ALL {self._slots_of_failures(stone)}"
        redos = self.groups(rows)
        return self._radius(stone, redos, "revoke-rows")

    def takedown(self) -> Plan:
        """An image's rows count no more, now and whatever comes; nothing is captioned again."""
        columns = self._columns("key", "sha256", "shard")
        tables = ("captions",) if "sha256" in self.arguments else WHOLE
        return self._radius(self._stone(columns, tables, tombstones.NO_END), (), "takedown")

    def reopen(self) -> Plan:
        """Dead letters count no more, and their items are tried again."""
        stone = self._stone(self._columns("reason", "fault", "shard"), ("failures",), self.stored.position)
        redos = self.groups(self._slots_of_failures(stone))
        return self._radius(stone, redos, "reset of dead letters")

    def _columns(self, *names: str) -> tuple[tuple[str, str], ...]:
        called = {"contributor": "contributor_id", "sha256": "image_sha256"}
        if self.request.verb == "takedown":
            called["key"] = "item_key"
        return tuple((called.get(name, name), self.arguments[name]) for name in names if name in self.arguments)

    def _stone(self, columns: tuple[tuple[str, str], ...], tables: tuple[str, ...], until: int) -> Tombstone:
        request = self.request
        why = " ".join([request.verb, *(f"{name}={value}" for name, value in columns)])[:200]
        since = int(self.arguments.get("since", "0"))
        return Tombstone(0, columns, tables, until, since, why, request.who, request.task, request.at)

    def _slots_of_captions(self, stone: Tombstone) -> str:
        condition = tombstones.sql([stone])
        return f"SELECT shard, item_index, slot FROM captions WHERE ({condition}) AND slot IN ({self._known})"

    def _slots_of_failures(self, stone: Tombstone) -> str:
        """A dead letter is one of all slots of its pass."""
        pairs = ", ".join(f"({row.number}, {text(slot)})" for row in self.stored.passes for slot in row.slots)
        return (
            "SELECT f.shard, f.item_index, p.slot FROM failures f"
            f" JOIN (VALUES {pairs}) AS p (revision, slot) ON p.revision = f.revision"
            f" WHERE ({tombstones.sql([stone])}) AND p.slot IN ({self._known})"
        )

    @property
    def _known(self) -> str:
        return ", ".join(text(slot) for slot in self.request.slots)

    def _radius(self, stone: Tombstone, redos: tuple[tuple[tuple[str, ...], Selected], ...], why: str) -> Plan:
        """How much a tombstone takes out."""
        condition = tombstones.sql([stone])
        captions = f"everything WHERE {condition}" if "captions" in stone.tables else "everything WHERE false"
        failures = f"every_failure WHERE {condition}" if "failures" in stone.tables else "every_failure WHERE false"
        by = "contributor_id, worker, key"
        rows = self.all(f"SELECT {by}, count(*) AS n FROM {captions} GROUP BY ALL ORDER BY n DESC LIMIT {SHOWN}")
        credits_ = self.all(f"SELECT contributor_id, count(*) FROM {captions} GROUP BY ALL")
        span = self.all(f"SELECT strftime(min(timestamp), '%c'), strftime(max(timestamp), '%c') FROM {captions}")[0]
        dead = self.number(f"SELECT count(*) FROM {failures}")
        total = sum(int(count) for _, count in credits_)
        known = self.number(f"SELECT count(*) FROM {captions} AND slot IN ({self._known})")
        facts: Facts = (
            ("captions", str(total)),
            ("items", str(self.number(f"SELECT count(DISTINCT (shard, item_index)) FROM {captions}"))),
            ("shards", str(self.number(f"SELECT count(DISTINCT shard) FROM {captions}"))),
            ("dead_letters", str(dead)),
            ("to_caption", str(sum(_size(selected) * len(slots) for slots, selected in redos))),
            *((("first", str(span[0])), ("last", str(span[1]))) if total else ()),
            *((("not_configured", str(total - known)),) if total > known and redos else ()),
        )
        if total + dead == 0 and self.request.verb != "takedown":
            raise _nothing("Nothing that is sealed is like that.", self.request.dry, facts)
        taken = {str(who): int(count) for who, count in credits_} if self.request.verb == "revoke-rows" else {}
        stone = Tombstone(**{**vars(stone), "credits": taken, "dead_letters": dead})
        return Plan(redos, stone, facts, ("contributor_id", "worker", "key", "captions"), _cells(rows), why)

    # ------------------------------------------------------------------ conditions

    def _error(self) -> type[Exception]:
        import duckdb

        return duckdb.Error

    def _check_where(self, where: str) -> None:
        """Say what is wrong with the condition before much is read."""
        try:
            self.connection.sql("SELECT * FROM captions LIMIT 0").filter(where).fetchall()
        except self._error() as error:
            raise _wrong(where, error) from error


_PLANS = {
    "requeue": _Choice.requeue,
    "revoke-rows": _Choice.revoke_rows,
    "takedown": _Choice.takedown,
    "reopen": _Choice.reopen,
}
VERBS = tuple(_PLANS)


def _runs(numbers: npt.NDArray[np.int64], items: npt.NDArray[np.int64]) -> Selected:
    """Ascending items of ascending shards as ranges."""
    if len(items) == 0:
        return np.empty((0, 3), np.int64)
    breaks = (np.diff(numbers) != 0) | (np.diff(items) != 1)
    starts = np.concatenate(([0], breaks.nonzero()[0] + 1))
    ends = np.concatenate((starts[1:], [len(items)])) - 1
    return np.column_stack((numbers[starts], items[starts], items[ends] + 1))


def _size(selected: Selected) -> int:
    return int((selected[:, 2] - selected[:, 1]).sum())


def _cells(rows: Sequence[Sequence[object]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple("" if cell is None else str(cell) for cell in row) for row in rows)


def _nothing(sentence: str, dry: bool, facts: Facts) -> UsageError:
    counted = ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in facts)
    return UsageError(f"{sentence} ({counted})", "" if dry else "Nothing has changed.")


def _wrong(where: str, error: Exception) -> UsageError:
    return UsageError(
        f"--where {display(where)!r} does not work: {display(str(error).splitlines()[0], 300)}",
        "It is a condition of SQL over the columns of the captions, such as: finish_reason = 'length'",
    )
