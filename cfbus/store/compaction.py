"""Compaction: many small segments become few large ones, without the rows that a later pass replaced or a tombstone
takes out.

Works beside a running writer, and takes no lock of its: what it changes are whole segments that the manifest
lists, in one transaction, and the writer never looks at those again. A reader of the manifest sees the old
segments or the new one. The files of the old ones stay where they are for a while, because a reader may have
begun with them; the manifest calls them *spare*, as it does a new file that is not in the table yet.

Knows segments and their files, nothing of frames. Invariants: one compaction at a time; a file is durable, and
called spare, before it has its name; only neighbours in positions are joined; what is dropped is superseded by
a row that is sealed and counts, or taken out by a tombstone that from then on cannot be removed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from cfbus.errors import StoreInUseError
from cfbus.store import tombstones
from cfbus.store.durable import damaged_file, disk_errors, fsync_dir, make_dir, new_file, publish, remove_file
from cfbus.store.folder import Store
from cfbus.store.manifest import Manifest
from cfbus.store.manifest_rows import SegmentRow, merge_ranges
from cfbus.store.revisions import Bits, not_counting
from cfbus.store.schema import SCHEMAS
from cfbus.store.seal import GROUP_BYTES, GROUP_ROWS, parquet_writer
from cfbus.store.view import share_a_slot, table_of

SMALL = 256 << 20
LARGE = 512 << 20
"""Segments below the first are joined, to at most the second."""
TABLES = ("captions", "failures")
_KEYS = {"captions": ("shard", "item_index", "slot"), "failures": ("shard", "item_index")}
_BATCH = 8192


@dataclass(frozen=True)
class Compacted:
    """What a compaction came to."""

    before: int
    after: int
    """Segments, in all."""
    rows: int
    """Rows that were written anew."""
    dropped: int
    size: int
    """Bytes that were written."""
    removed: int
    """Files that were taken away."""


def compact(
    store: Store,
    now: int,
    keep: int,
    *,
    small: int = SMALL,
    large: int = LARGE,
    on_group: Callable[[int, int], None] = lambda done, of: None,
) -> Compacted:
    """Join what is small. Files that no segment has any more are taken away ``keep`` microseconds after that.

    Raises ``StoreInUseError`` while another compaction runs, ``DamagedStoreError``, ``DiskFullError``; then what
    was joined before is joined, and the rest as it was.
    """
    with _alone(store), closing(Manifest.open_beside(store)) as manifest:
        shutil.rmtree(_staging(store), ignore_errors=True)
        make_dir(_staging(store))
        _remove_spare(store, manifest, 0)
        before = len(manifest.segments())
        groups = list(_groups(_settled(store, manifest.segments()), small, large))
        rows = dropped = size = 0
        for number, group in enumerate(groups):
            joined = _join(store, manifest, group, now)
            on_group(number + 1, len(groups))
            if joined is not None:
                rows += joined.rows + joined.failures
                dropped += sum(one.rows + one.failures for one in group) - joined.rows - joined.failures
                size += joined.size
        removed = _remove_spare(store, manifest, now - keep)
        return Compacted(before, len(manifest.segments()), rows, dropped, size, removed)


def _staging(store: Store) -> Path:
    """Not the writer's: that one is emptied whenever a writer starts."""
    return store.root / "compacting"


@contextmanager
def _alone(store: Store) -> Iterator[None]:
    path = store.root / "compaction.lock"
    with disk_errors(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise StoreInUseError(f"Another compaction of {store.root} is running.", "Wait until it has ended.") from None
    finally:
        os.close(fd)


def _settled(store: Store, segments: Sequence[SegmentRow]) -> list[SegmentRow]:
    """The segments whose journal files are gone for good.

    A file that a crash left is known by the first position of its segment, so that segment has to stay.
    """
    gone = [one for one in segments if not (store.journal_dir / f"{one.first:016d}.sqlite").exists()]
    fsync_dir(store.journal_dir)
    return gone


def _groups(segments: Sequence[SegmentRow], small: int, large: int) -> Iterator[list[SegmentRow]]:
    """Neighbours that are to be one; one alone may have rows to drop."""
    group: list[SegmentRow] = []
    for segment in segments:
        room = sum(one.size for one in group) + segment.size <= large
        if group and not (room and segment.size < small and group[-1].size < small and _meet(group[-1], segment)):
            yield group
            group = []
        group.append(segment)
    if group:
        yield group


def _meet(one: SegmentRow, other: SegmentRow) -> bool:
    """Whether nothing is between them: a journal file that is to be sealed yet would overlap what they become."""
    return other.first == one.last + 1


def _join(store: Store, manifest: Manifest, group: Sequence[SegmentRow], now: int) -> SegmentRow | None:
    """One segment for these; None when it would be the same again."""
    applied: Counter[int] = Counter()
    gone = {table: _not_counting(store, manifest, table, group, applied) for table in TABLES}
    if len(group) == 1 and not any(bits is not None and bits.any() for bits in gone.values()):
        return None
    first, last = group[0].first, group[-1].last
    staged = {table: _staging(store) / f"{table}.parquet" for table in TABLES}
    rows = {table: _write(_files(store, table, group), table, staged[table], gone[table]) for table in TABLES}
    for table, expected in (("captions", "rows"), ("failures", "failures")):
        bits = gone[table]
        dropped = 0 if bits is None else int(bits.sum())
        if rows[table] + dropped != sum(getattr(one, expected) for one in group):
            raise damaged_file(store.manifest_path, f"segments {first} to {last} have not as many {table} as it says")
    written = [table for table in TABLES if rows[table]]
    number = manifest.free_number(first)
    names = {table: f"{table}/{first:016d}.{number}.parquet" for table in written}
    manifest.add_spare(names.values(), 0)
    for table in written:
        publish(staged[table], store.root / names[table])
    totals: Counter[str] = Counter()
    for one in group:
        totals.update(one.totals)  # who wrote what a later pass replaced is credited all the same
    joined = SegmentRow(
        first, last, tuple(names.values()), rows["captions"], rows["failures"],
        sum((store.root / name).stat().st_size for name in names.values()), now, dict(totals),
    )  # fmt: skip
    done = manifest.done_of_segments()
    ranges = [(p, shard, start, end) for one in group for p, shard, start, end in done[one.first].tolist()]
    swapped = manifest.replace_segments(group, joined, merge_ranges(ranges), now, applied)
    return joined if swapped else None


def _files(store: Store, table: str, segments: Sequence[SegmentRow]) -> list[Path]:
    return [store.root / name for one in segments for name in one.files if table_of(store, name) == table]


def _not_counting(
    store: Store, manifest: Manifest, table: str, group: Sequence[SegmentRow], applied: Counter[int]
) -> Bits | None:
    """Which of the group's rows no reader gets, in their order; None when there can be none. ``applied`` gets the
    tombstones that take some out, with how many dead letters."""
    passes = manifest.passes()
    meet = share_a_slot(passes) if table == "captions" else len(passes) > 1
    over = [one for one in tombstones.over(manifest.tombstones(), table) if one.until >= group[0].first]
    mine = _files(store, table, group)
    if not mine or not (meet or over):
        return None
    keys = _KEYS[table] if meet else ()
    columns = sorted({*keys, *(("revision",) if meet else ()), *tombstones.needed(over)})
    own = _read(mine, table, columns)
    for one in over:
        count = int(tombstones.taken([one], own).sum())
        if count:
            applied[one.number] += count if table == "failures" else 0
    parts = [own, *(_later(store, manifest, table, group, columns) if meet else ())]
    return not_counting(pa.concat_tables(parts), keys, over)[: own.num_rows]


def _later(
    store: Store, manifest: Manifest, table: str, group: Sequence[SegmentRow], columns: Sequence[str]
) -> list[pa.Table]:
    """The rows of other segments that could replace some of the group's."""
    ours = {one.first for one in group}
    ranges = manifest.done_of_segments()
    shards = np.unique(np.concatenate([ranges[one.first][:, 1] for one in group]))
    lowest = min(int(ranges[one.first][:, 0].min(initial=1 << 62)) for one in group)
    others = [
        one
        for one in manifest.segments()
        if one.first not in ours
        and bool(np.any(np.isin(ranges[one.first][:, 1], shards) & (ranges[one.first][:, 0] > lowest)))
    ]
    names = pa.array([manifest.shards()[int(number)].name for number in shards])
    theirs = _files(store, table, others)
    return [_read(theirs, table, columns, pc.field("shard").isin(names))] if theirs else []


def _read(files: Sequence[Path], table: str, columns: Sequence[str], where: pc.Expression | None = None) -> pa.Table:
    try:
        found = ds.dataset([str(path) for path in files], schema=SCHEMAS[table], format="parquet")
        return found.to_table(columns=list(columns), filter=where)
    except (pa.ArrowException, OSError) as error:
        raise damaged_file(files[0].parent, str(error).splitlines()[0]) from error


def _write(files: Sequence[Path], table: str, staged: Path, gone: Bits | None) -> int:
    """Write the rows of files, without those that are gone; how many, and no file for none."""
    rows = 0
    with new_file(staged) as file, parquet_writer(file, table) as writer:
        for group in _row_groups(files, gone):
            with disk_errors(staged):
                writer.write_table(group.cast(SCHEMAS[table]), row_group_size=group.num_rows)
            rows += group.num_rows
    if rows == 0:
        remove_file(staged)
    return rows


def _row_groups(files: Sequence[Path], gone: Bits | None) -> Iterator[pa.Table]:
    waiting: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in _batches(files, gone):
        waiting.append(batch)
        rows += batch.num_rows
        size += batch.nbytes
        if rows >= GROUP_ROWS or size >= GROUP_BYTES:
            yield _table(waiting)
            waiting, rows, size = [], 0, 0
    if rows:
        yield _table(waiting)


def _table(batches: Sequence[pa.RecordBatch]) -> pa.Table:
    return pa.Table.from_batches(batches).unify_dictionaries().combine_chunks()


def _batches(files: Sequence[Path], gone: Bits | None) -> Iterator[pa.RecordBatch]:
    at = 0
    for path in files:
        try:
            with disk_errors(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
                for batch in file.iter_batches(_BATCH, use_threads=False):
                    kept = None if gone is None else ~gone[at : at + batch.num_rows]
                    at += batch.num_rows
                    yield batch if kept is None else batch.filter(pa.array(kept))
        except (pa.ArrowException, OSError) as error:
            raise damaged_file(path, str(error).splitlines()[0]) from error


def _remove_spare(store: Store, manifest: Manifest, before: int) -> int:
    """Take the files away that have been spare since then, and forget them."""
    files = manifest.spare(before)
    for name in files:
        table_of(store, name)  # a store may come from a stranger: nothing outside is touched
        remove_file(store.root / name)
    manifest.forget_spare(files)
    return len(files)
