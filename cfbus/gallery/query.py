"""What the gallery shows of a store: pages of items, one item, figures. All of it by SQL over a view.

What it is for: `Gallery`, which keeps a view that it renews, and answers from it.
What it must not know: HTTP, HTML, pictures.

Invariants: a filter's words reach SQL as parameters only; every question is bounded in rows; nothing in the store is
changed and no lock is taken, so that it works beside a running writer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cfbus.store.view import View, open_view

if TYPE_CHECKING:
    import duckdb

PAGE_ITEMS: Final = 60
ROWS_AN_ITEM: Final = 64
MAX_TEXT: Final = 500
CHOICES: Final = 200
RENEW_SECONDS: Final = 2.0
MINUTES: Final = 120
MINUTE_US: Final = 60_000_000
LEADERS: Final = 20
NAMES: Final = 10_000
_SHOWN: Final = (
    "shard, item_index, item_key, slot, caption, revision, commit_seq, contributor_id, worker, model, finish_reason,"
    " prompt_tokens, output_tokens, mean_logprob, flags, epoch_us(timestamp), image_width, image_height, image_format,"
    " file_size, url, metadata, prompt_id, stage, engine, spec"
)


@dataclass(frozen=True, slots=True)
class Filters:
    """What is asked for; empty means all."""

    q: str = ""
    slot: str = ""
    shard: str = ""
    contributor: str = ""
    flag: str = ""
    finish: str = ""

    def where(self) -> tuple[str, list[object]]:
        """A condition with its parameters."""
        parts: list[str] = ["true"]
        values: list[object] = []
        for name, condition in _CONDITIONS.items():
            value = getattr(self, name)
            if value:
                parts.append(condition)
                values.append(value)
        return " and ".join(parts), values

    def given(self) -> dict[str, str]:
        """Those that say something."""
        return {one.name: getattr(self, one.name) for one in fields(self) if getattr(self, one.name)}


_CONDITIONS: Final[Mapping[str, str]] = {
    "q": "contains(lower(caption), lower(?))",
    "slot": "slot = ?",
    "shard": "shard = ?",
    "contributor": "contributor_id = ?",
    "flag": "list_contains(flags, ?)",
    "finish": "finish_reason = ?",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page begins: after the row with this position, shard and index, in the order of the page."""

    position: int
    shard: str
    index: int


@dataclass(frozen=True, slots=True)
class Entry:
    """An item and its captions, in the order of slots and revisions; a row has the columns of the table by name."""

    shard: str
    index: int
    key: str
    rows: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Page:
    """Items, and where the next page begins, if there is one."""

    entries: Sequence[Entry]
    after: Place | None


@dataclass(frozen=True, slots=True)
class Figures:
    """What the head of the page tells of a store, at a position. ``minutes`` ends with the newest caption's."""

    position: int = -1
    captions: int = 0
    failures: int = 0
    minutes: Sequence[int] = ()
    leaders: Sequence[tuple[str, int]] = ()
    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    """What contributors are called, by id."""


class Gallery:
    """A store that may grow meanwhile. Every method may be called from any thread."""

    def __init__(self, root: Path) -> None:
        import duckdb

        self._duckdb = duckdb
        self._root = root
        self._lock = threading.Lock()
        self._looked = 0.0
        self._figures = Figures()
        self._counting = threading.Lock()
        self._view, self._tables = self._open()

    def _open(self) -> tuple[View, duckdb.DuckDBPyConnection]:
        view = open_view(self._root)
        tables = self._duckdb.connect(config={"enable_external_access": True, "threads": 2})
        for table, of in (
            ("captions", view), ("everything", open_view(self._root, latest=False)), ("failures", view.failures),
            ("contributors", view.contributors),
        ):  # fmt: skip
            of.duckdb(tables).create_view(table)
        return view, tables

    def _ask(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        cursor = self._current().cursor()
        try:
            return cursor.execute(sql, list(values)).fetchall()
        finally:
            cursor.close()

    def _current(self) -> duckdb.DuckDBPyConnection:
        """The tables, renewed when the store has other files: more, or fewer and larger ones. Looked every two seconds
        at most."""
        with self._lock:
            now = time.monotonic()
            if now - self._looked >= RENEW_SECONDS:
                self._looked = now
                if open_view(self._root) != self._view:
                    self._view, self._tables = self._open()
            return self._tables

    # ------------------------------------------------------------------ items

    def page(self, filters: Filters, order: str = "newest", after: Place | None = None) -> Page:
        """Some items of which a caption is like that: the newest first, or in the order of the ``dataset``."""
        where, values = filters.where()
        columns, ways, compare = _ORDERS[order]
        if after is not None:
            where += f" and ({columns}) {compare} ({', '.join('?' * len(columns.split(',')))})"
            place = {"commit_seq": after.position, "shard": after.shard, "item_index": after.index}
            values += [place[name.strip()] for name in columns.split(",")]
        by = ", ".join(f"{name.strip()} {ways}" for name in columns.split(","))
        most = PAGE_ITEMS * 8
        found = self._ask(
            f"select commit_seq, shard, item_index from captions where {where} order by {by} limit {most + 1}", values
        )
        items: dict[tuple[str, int], Place] = {}
        last: Place | None = None
        more = len(found) > most
        for position, shard, index in found[:most]:
            if (shard, index) not in items and len(items) == PAGE_ITEMS:
                more = True
                break
            last = Place(position, shard, index)
            items.setdefault((shard, index), last)
        return Page(self._entries(list(items)), last if more else None)

    def _entries(self, items: Sequence[tuple[str, int]], table: str = "captions") -> list[Entry]:
        if not items:
            return []
        low, high = min(index for _, index in items), max(index for _, index in items)
        shards = sorted({shard for shard, _ in items})
        pairs = ", ".join("(?, ?)" for _ in items)
        rows = self._ask(
            f"select {_SHOWN} from {table} where item_index between ? and ?"
            f" and shard in ({', '.join('?' * len(shards))})"
            f" and (shard, item_index) in (values {pairs})"
            f" order by slot, revision desc limit {len(items) * ROWS_AN_ITEM}",
            [low, high, *shards, *(value for item in items for value in item)],
        )
        names = [name.strip().removeprefix("epoch_us(").removesuffix(")") for name in _SHOWN.split(",")]
        by_item: dict[tuple[str, int], list[Mapping[str, Any]]] = {item: [] for item in items}
        for row in rows:
            named = dict(zip(names, row, strict=True))
            named["timestamp"] = datetime.fromtimestamp(named["timestamp"] / 1e6, UTC)
            by_item[row[0], row[1]].append(named)
        return [Entry(shard, index, some[0]["item_key"], some) for (shard, index), some in by_item.items() if some]

    def entry(self, shard: str, index: int) -> Entry | None:
        """An item with all its revisions."""
        return next(iter(self._entries([(shard, index)], "everything")), None)

    def failed(self) -> tuple[list[tuple[str, int]], list[tuple[Any, ...]]]:
        """Reasons of dead letters and how many each has; of the newest: shard, index, key, reason, detail."""
        counts = self._ask(f"select reason, count(*) from failures group by 1 order by 2 desc limit {CHOICES}")
        newest = self._ask(
            "select shard, item_index, item_key, reason, detail from failures order by commit_seq desc"
            f" limit {PAGE_ITEMS * 4}"
        )
        return counts, newest

    # ------------------------------------------------------------------ figures

    def figures(self) -> Figures:
        """As of the newest position that was counted; whoever comes while it is counted gets the last."""
        self._current()
        if self._view.position != self._figures.position and self._counting.acquire(blocking=False):
            try:
                self._figures = self._count(self._view)
            finally:
                self._counting.release()
        return self._figures

    def _count(self, view: View) -> Figures:
        ((captions, newest),) = self._ask("select count(*), max(epoch_us(timestamp)) from captions")
        ((failures,),) = self._ask("select count(*) from failures")
        per_minute = [0] * MINUTES
        rows = self._ask(
            f"select (? - epoch_us(timestamp)) // {MINUTE_US} as ago, count(*) from captions"
            f" where epoch_us(timestamp) > ? - {MINUTES * MINUTE_US} group by 1",
            [newest or 0, newest or 0],
        )
        for ago, count in rows:
            if 0 <= ago < MINUTES:
                per_minute[MINUTES - 1 - ago] = count
        leaders = self._ask(f"select contributor_id, count(*) from captions group by 1 order by 2 desc limit {LEADERS}")
        choices = {name: self._choices(column) for name, column in _CHOICE_COLUMNS.items()}
        names = dict(self._ask(f"select contributor_id, name from contributors where name <> '' limit {NAMES}"))
        return Figures(view.position, captions, failures, per_minute if newest else (), leaders, choices, names)

    def _choices(self, column: str) -> list[str]:
        sql = f"select distinct {column} as one from captions where one is not null order by 1 limit {CHOICES}"
        if column == "flags":
            sql = f"select distinct unnest(flags) as one from captions order by 1 limit {CHOICES}"
        return [value for (value,) in self._ask(sql)]


_ORDERS: Final = {
    "newest": ("commit_seq, shard, item_index", "desc", "<"),
    "dataset": ("shard, item_index", "asc", ">"),
}
_CHOICE_COLUMNS: Final = {
    "slot": "slot", "shard": "shard", "contributor": "contributor_id", "flag": "flags", "finish": "finish_reason",
}  # fmt: skip
