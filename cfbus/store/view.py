"""A view: the tables of a store as the manifest listed them at one moment, for whatever reads parquet.

Knows which files there are, which rows a later pass replaced and which a tombstone takes out; the libraries do
the rest, and each is imported only when it is asked for. Takes no lock and changes nothing, so it works beside a
running writer.

Invariants: a view never changes (but for ``jobs`` and ``contributors``, which are replaced as a whole), every file
in it is whole, and its columns have the same names and types whatever is in the store, also when nothing is.
"""

from __future__ import annotations

import glob
import importlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import TYPE_CHECKING

from cfbus.errors import DamagedStoreError, UsageError
from cfbus.store import tombstones
from cfbus.store.durable import damaged_file
from cfbus.store.folder import Store
from cfbus.store.manifest import Manifest
from cfbus.store.manifest_rows import PassRow, Tombstone
from cfbus.store.reading import log_of

if TYPE_CHECKING:
    import datasets
    import duckdb
    import numpy as np
    import numpy.typing as npt
    import polars
    import pyarrow
    import pyarrow.compute
    import pyarrow.dataset

_SEALED = ("captions", "failures")
_SNAPSHOTS = ("jobs", "contributors")


@dataclass(frozen=True, repr=False)
class View:
    """One table of a store, as ``cfbus.open`` found it: the captions, or ``failures``, ``jobs``, ``contributors``.

    It is a snapshot. What was sealed since is in ``refresh()``; what is durable and not sealed yet is in no
    table (``storage.seal_seconds``).

    Rows are unique by (shard, item_index, slot, revision), where the revision is the number of the pass that
    wrote them. Mostly each pass has slots of its own, and then every row counts. Where passes share a slot
    the view has, for each (shard, item_index, slot), only the row of the highest revision; an item that the
    later pass could not caption keeps its earlier caption. With ``latest=False`` all revisions are there.
    Of ``failures`` the highest revision for each (shard, item_index) counts, whatever later passes captioned.
    Rows that a tombstone takes out are in no view, and an earlier row of the same key counts in their place.
    """

    store: Store
    table: str
    latest: bool
    position: int
    """All of the table up to this position of the store is in the view."""
    rows: int | None
    """How many rows the files hold, replaced ones included; None for ``jobs`` and ``contributors``."""
    _files: dict[str, tuple[str, ...]]
    _rows: dict[str, int]
    _passes_meet: dict[str, bool]
    _tombstones: tuple[Tombstone, ...] = ()

    # ------------------------------------------------------------------ the same store, otherwise

    @property
    def failures(self) -> View:
        """The dead letters."""
        return self._of("failures")

    @property
    def jobs(self) -> View:
        """The leases, as of the last snapshot; empty before the first one."""
        return self._of("jobs")

    @property
    def contributors(self) -> View:
        """Who is credited, as of the last snapshot; empty before the first one."""
        return self._of("contributors")

    def _of(self, table: str) -> View:
        return replace(self, table=table, rows=self._rows.get(table))

    def refresh(self) -> View:
        """The same table as it is now."""
        return open_view(self.store.root, latest=self.latest)._of(self.table)

    def __repr__(self) -> str:
        rows = "" if self.rows is None else f", {self.rows:,} rows"
        return f"<{self.table} of {self.store.root}: {len(self.files()):,} files{rows}, position {self.position:,}>"

    # ------------------------------------------------------------------ what reads it

    def files(self) -> list[str]:
        """The absolute paths of the parquet files, in the order of positions; replaced rows are in them too."""
        return [str(self.store.root / name) for name in self._files[self.table]]

    def dataset(self) -> pyarrow.dataset.Dataset:
        """A pyarrow dataset over the files; nothing is read before it is asked for, but for replaced rows."""
        found = self._whole_dataset()
        for gone in (tombstones.expression(self._over()), self._replaced()):
            found = found if gone is None else found.filter(~gone)
        return found

    def arrow(
        self, columns: Sequence[str] | None = None, filter: pyarrow.compute.Expression | None = None
    ) -> pyarrow.Table:
        """A pyarrow table in memory: all of it, or only these columns, and rows for which the filter holds."""
        return self.dataset().to_table(columns=None if columns is None else list(columns), filter=filter)

    def duckdb(self, connection: duckdb.DuckDBPyConnection | None = None) -> duckdb.DuckDBPyRelation:
        """A relation of this connection; without one of duckdb's own, as ``duckdb.sql`` uses it."""
        source = connection if connection is not None else library("duckdb")
        paths = [glob.escape(path) for path in self.files()]
        if not paths:
            return source.from_arrow(plain_schema(self.table).empty_table())
        relation = source.read_parquet(paths, hive_partitioning=False)
        taken = tombstones.sql(self._over())
        if taken:
            relation = relation.filter(f"NOT ({taken})")
        keys = self._meeting_keys()
        if not keys:
            return relation
        newest = f"*, max(revision) over (partition by {', '.join(keys)}) as newest_revision"
        return relation.select(newest).filter("revision = newest_revision").select("* exclude (newest_revision)")

    def polars(self) -> polars.LazyFrame:
        """A lazy frame."""
        pl = library("polars")
        files, keys = self.files(), self._meeting_keys()
        if not files:
            frame: polars.LazyFrame = pl.from_arrow(self._schema().empty_table()).lazy()
            return frame
        frame = pl.scan_parquet(files, glob=False, hive_partitioning=False)
        taken = tombstones.polars_expression(self._over())
        frame = frame if taken is None else frame.filter(~taken)
        return frame.filter(pl.col("revision") == pl.col("revision").max().over(keys)) if keys else frame

    def huggingface(self, cache_dir: str | PathLike[str] | None = None) -> datasets.Dataset:
        """A ``datasets.Dataset``, made by ``load_dataset("parquet", data_files=...)``.

        It copies the rows into its cache (``cache_dir``, else its own folder), and again when there are more.
        """
        hf = library("datasets")
        files = [glob.escape(path) for path in self.files()]
        if not files:
            nothing: dict[str, list[object]] = {name: [] for name in self._schema().names}
            return hf.Dataset.from_dict(nothing, features=hf.Features.from_arrow_schema(self._schema()))
        cache = None if cache_dir is None else str(cache_dir)
        loaded = hf.load_dataset("parquet", data_files=files, split="train", cache_dir=cache)
        kept = self._kept()
        return loaded if kept is None else loaded.select(kept)

    # ------------------------------------------------------------------ rows that do not count

    def _over(self) -> list[Tombstone]:
        return tombstones.over(self._tombstones, self.table)

    def _meeting_keys(self) -> list[str]:
        """What tells rows apart but for their revision; nothing when no two can meet."""
        if not self.latest or not self._passes_meet.get(self.table):
            return []
        return ["shard", "item_index", *(["slot"] if self.table == "captions" else [])]

    def _replaced(self) -> pyarrow.compute.Expression | None:
        """A condition that holds for the replaced rows only; None when there are none."""
        from cfbus.store import revisions

        keys = self._meeting_keys()
        if not keys:
            return None
        taken = tombstones.expression(self._over())
        found = self._whole_dataset()
        rows = (found if taken is None else found.filter(~taken)).to_table(columns=[*keys, "revision"])
        return revisions.condition(rows)

    def _kept(self) -> npt.NDArray[np.int64] | None:
        """The numbers of the rows that count, in the order of the files; None when all do."""
        from cfbus.store import revisions

        keys, over = self._meeting_keys(), self._over()
        if not keys and not over:
            return None
        rows = self._whole_dataset().to_table(columns=sorted({*keys, "revision", *tombstones.needed(over)}))
        return (~revisions.not_counting(rows, keys, over)).nonzero()[0]

    def _whole_dataset(self) -> pyarrow.dataset.Dataset:
        import pyarrow.dataset as ds

        return ds.dataset(self.files(), format="parquet", schema=self._schema())

    def _schema(self) -> pyarrow.Schema:
        from cfbus.store.schema import SCHEMAS

        return SCHEMAS[self.table]


def open_view(path: str | PathLike[str], *, latest: bool = True) -> View:
    """See ``cfbus.open``."""
    store = Store.peek(Path(path))
    for last_try in (False, True):
        try:
            return _look(store, latest)
        except DamagedStoreError:
            # Without a log the file is read as it lies; a writer that began just then may have changed it meanwhile.
            if last_try or not log_of(store.manifest_path).exists():
                raise
    raise AssertionError("unreachable")


def _look(store: Store, latest: bool) -> View:
    manifest = Manifest.open(store)
    try:
        manifest.check_sizes(store)
        segments, passes, stones = manifest.segments(), manifest.passes(), manifest.tombstones()
    finally:
        manifest.close()
    if not passes and any(any(store.table_path(table).glob("*.parquet")) for table in _SEALED):
        raise damaged_file(store.manifest_path, "it is empty, though there are segments")
    names = [name for segment in segments for name in segment.files]
    files = {table: tuple(name for name in names if table_of(store, name) == table) for table in _SEALED}
    for table in _SNAPSHOTS:
        snapshot = store.snapshot_path(table)
        files[table] = (snapshot.name,) if snapshot.is_file() else ()
    rows = {
        "captions": sum(segment.rows for segment in segments),
        "failures": sum(segment.failures for segment in segments),
    }
    meet = {"captions": share_a_slot(passes), "failures": len(passes) > 1}
    position = segments[-1].last if segments else 0
    return View(store, "captions", latest, position, rows["captions"], files, rows, meet, tuple(stones))


def table_of(store: Store, name: str) -> str:
    """The table that a file of the manifest is of. A store may come from a stranger: nothing outside is opened."""
    parts = PurePosixPath(name).parts
    if len(parts) < 2 or parts[0] not in _SEALED or ".." in parts:
        raise damaged_file(store.manifest_path, f"it lists {name!r}, which is no segment")
    return parts[0]


def share_a_slot(passes: Sequence[PassRow]) -> bool:
    """Whether a row of one pass can replace one of another."""
    return max(Counter(slot for one in passes for slot in set(one.slots)).values(), default=0) > 1


def plain_schema(table: str) -> pyarrow.Schema:
    """The schema for a library that would make an enumeration of a dictionary."""
    import pyarrow as pa

    from cfbus.store.schema import SCHEMAS

    def plain(fields: pyarrow.Schema) -> Iterator[tuple[str, pyarrow.DataType]]:
        for one in fields:
            yield one.name, one.type.value_type if pa.types.is_dictionary(one.type) else one.type

    return pa.schema(list(plain(SCHEMAS[table])))


def library(name: str, how: str = "") -> ModuleType:
    """A library that is imported only when it is needed; ``how`` is how to get it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise UsageError(
            f"Reading a store with {name} needs that library, and it is not installed.", how or f"pip install {name}"
        ) from None
