"""Captions of another captioner become rows of a store: revision 0, with their origin marked, their items done.

The store must be listed and have a pass, and no writer may run. Knows listings and segments, nothing of the bus.
Invariants: an item is taken whole, with a caption for each slot of the newest pass, or not at all; what is done
already is left as it is; the rows are durable before the manifest names them, in one segment of a position of
their own.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from cfbus.errors import StoreMismatchError
from cfbus.store.durable import new_file, publish
from cfbus.store.folder import Store
from cfbus.store.journal import Journal
from cfbus.store.listing import listing_column
from cfbus.store.manifest import Manifest
from cfbus.store.manifest_rows import DoneRange, PassRow, SegmentRow, ShardRow, merge_ranges
from cfbus.store.schema import SCHEMAS
from cfbus.store.seal import GROUP_ROWS, parquet_writer, record, seal_journal

REVISION = 0
ENGINE = "imported"
Captions = Mapping[str, str]
"""The caption of each slot."""


@dataclass(frozen=True)
class Given:
    """What is to be imported: captions by item key or by the last part of it, and where they are from."""

    captions: Mapping[str, Captions]
    contributor: str
    model: str
    origin: str
    now: int
    """Microseconds UTC."""


@dataclass
class Imported:
    """What became of it; each counts items."""

    items: int = 0
    rows: int = 0
    done_before: int = 0
    incomplete: int = 0
    """A slot of the pass had no caption."""
    unclear: int = 0
    """Several items have this file name."""
    unknown: int = 0
    """No item has this key or file name."""
    position: int = 0


@dataclass
class _Found:
    """Items that are to be written, shard by shard."""

    ranges: list[DoneRange] = field(default_factory=list)
    used: set[str] = field(default_factory=set)


def bring_in(store: Store, manifest: Manifest, given: Given) -> Imported:
    """Import into a locked store. Raises ``StoreMismatchError`` where nothing is listed or there is no pass."""
    newest = manifest.newest_pass()
    if newest is None or manifest.shard_count() == 0:
        raise StoreMismatchError(
            f"The store {store.root} knows no items or no slots yet.",
            "Start its run once, so that the images are listed, and end it; then import.",
        )
    position = seal_all(store, manifest) + 1
    names = _ambiguous(store, manifest, given.captions)
    done = _Done(manifest, newest.number)
    told, found = Imported(position=position), _Found()
    path = store.table_path("captions", position)
    staged = store.staging_dir / f"captions-{path.name}"
    with new_file(staged) as file, parquet_writer(file, "captions") as writer:
        for shard in manifest.shards():
            for rows in _rows(store, shard, newest, given, names, done, told, found):
                writer.write_table(_table(store.dataset, shard.name, rows, given, position), row_group_size=len(rows))
    told.unclear = sum(count > 1 for count in names.values())
    told.unknown = len(given.captions) - len(found.used) - told.unclear
    if told.rows == 0:
        staged.unlink()
        return told
    name = str(path.relative_to(store.root))
    manifest.add_spare([name], 0)
    publish(staged, path)
    segment = SegmentRow(
        position, position, (name,), told.rows, 0, path.stat().st_size, given.now, {given.contributor: told.rows}
    )
    manifest.add_segment(segment, merge_ranges(found.ranges))
    return told


def seal_all(store: Store, manifest: Manifest) -> int:
    """Seal what the journal of a locked store holds; its last position."""
    journal = Journal.open(store, manifest)
    try:
        journal.roll()
        for file in journal.closed():
            record(manifest, journal, file, seal_journal(store.root, file.path))
        return journal.position
    finally:
        journal.close()


class _Done:
    """Which items of the newest pass need nothing more."""

    def __init__(self, manifest: Manifest, number: int) -> None:
        self._ranges: dict[int, list[tuple[int, int]]] = {}
        for pass_number, shard, start, end in manifest.done():
            if pass_number == number:
                self._ranges.setdefault(shard, []).append((start, end))

    def of(self, shard: ShardRow) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """A bit for each item."""
        bits = np.zeros(shard.length, np.bool_)
        for start, end in self._ranges.get(shard.number, ()):
            bits[start:end] = True
        return bits


def _last(key: str) -> str:
    return key.rpartition("/")[2]


def _ambiguous(store: Store, manifest: Manifest, captions: Mapping[str, Captions]) -> Counter[str]:
    """How many items have each file name that is no key."""
    names: Counter[str] = Counter()
    keys: set[str] = set()
    for shard in manifest.shards():
        for key in listing_column(store, shard.number, "key").to_pylist():
            if key in captions:
                keys.add(key)
            elif (name := _last(key)) in captions:
                names[name] += 1
    for key in keys:
        names.pop(key, None)
    return names


Row = tuple[int, str, str, str]
"""Item index, key, slot, caption."""


def _rows(
    store: Store, shard: ShardRow, newest: PassRow, given: Given, names: Counter[str], done: _Done, told: Imported,
    found: _Found,
) -> Iterator[list[Row]]:  # fmt: skip
    """A shard's rows, at most a row group at a time."""
    bits = done.of(shard)
    rows: list[Row] = []
    for index, key in enumerate(listing_column(store, shard.number, "key").to_pylist()):
        name = key if key in given.captions else _last(key)
        captions = given.captions.get(name)
        if captions is None or (name != key and names[name] != 1):
            continue
        found.used.add(name)
        if bits[index]:
            told.done_before += 1
        elif not all(captions.get(slot) for slot in newest.slots):
            told.incomplete += 1
        else:
            rows += [(index, key, slot, captions[slot]) for slot in newest.slots]
            told.items += 1
            told.rows += len(newest.slots)
            found.ranges.append((newest.number, shard.number, index, index + 1))
        if len(rows) >= GROUP_ROWS:
            yield rows
            rows = []
    if rows:
        yield rows


def _table(dataset: str, shard: str, rows: list[Row], given: Given, position: int) -> pa.Table:
    count = len(rows)
    index, keys, slots, captions = map(list, zip(*rows, strict=True))
    columns: dict[str, object] = {
        "dataset": [dataset] * count, "shard": [shard] * count, "item_index": index, "item_key": keys,
        "filename": [_last(key) for key in keys], "slot": slots, "caption": captions, "revision": [REVISION] * count,
        "contributor_id": [given.contributor] * count, "timestamp": [given.now] * count,
        "commit_seq": [position] * count, "engine": [ENGINE] * count, "model": [given.model or None] * count,
        "job_id": [f"import@{position}"] * count, "flags": [[]] * count,
        "metadata": [json.dumps({"origin": given.origin})] * count,
    }  # fmt: skip
    schema = SCHEMAS["captions"]
    return pa.table([_array(columns.get(one.name, [None] * count), one.type) for one in schema], schema=schema)


def _array(values: object, kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return pa.array(values, kind.value_type).dictionary_encode().cast(kind)
    return pa.array(values, kind)
