"""Listings: which items a shard has, in order; one immutable parquet file for each shard.

Knows nothing of where images come from: a key is what people see of an item, a locator is bytes that its
source understands. An item's index is its row.

Invariants: a file is durable before the manifest names its shard; a file whose shard is in the manifest
never changes; pages carry checksums and readers verify them.

Where groups of items are cheapest read together (row groups of parquet), the file's metadata says where each ends,
and a page ends with a group if that takes at most half of it away.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cfbus.bus.columns import Table, TextColumn, build
from cfbus.bus.wire import encode_table
from cfbus.store.durable import damaged_file, disk_errors, new_file, publish
from cfbus.store.folder import Store
from cfbus.store.manifest import Manifest

SCHEMA = pa.schema([pa.field("key", pa.string(), nullable=False), pa.field("locator", pa.binary(), nullable=False)])
_GROUP_ENDS = b"cfbus.group-ends"
_CACHED_FILES = 8
_HASH_BYTES = 16


def write_listing(
    store: Store, number: int, keys: Sequence[str], locators: Sequence[bytes], group_ends: Sequence[int] = ()
) -> str:
    """Make the listing of a shard that the manifest does not have yet; the digest of its content.

    Doing it again with the same items makes the same file; with others (a scan that was cut off) replaces it.
    """
    said = {_GROUP_ENDS: np.asarray(group_ends, "<u4").tobytes()} if group_ends else None
    schema = SCHEMA.with_metadata(said)
    table = pa.table([pa.array(keys, pa.string()), pa.array(locators, pa.binary())], schema=schema)
    path = store.listing_path(number)
    staged = store.staging_dir / f"listing-{path.name}"
    with new_file(staged) as file:
        pq.write_table(table, file, compression="zstd", use_dictionary=False, write_page_checksum=True)
    digest = hashlib.sha256(staged.read_bytes()).hexdigest()
    publish(staged, path)
    _open.cache_clear()
    return digest


def read_listing(store: Store, number: int, start: int, end: int) -> Table:
    """Items [start, end) of a shard as a ``listing`` table, fewer when the shard ends before."""
    columns = {
        name: _text_column(listing_column(store, number, name).slice(start, end - start)) for name in SCHEMA.names
    }
    return build("listing", len(columns["key"]), columns)


def listing_page(store: Store, number: int, start: int, end: int, most_bytes: int) -> tuple[int, bytes]:
    """Items [start, end) of a shard as a payload, and how many they are: as many as fit so many bytes, one at least,
    and ending with a group of items where one ends in the second half.

    The broker shortens the lease to that.
    """
    table = read_listing(store, number, start, _end_of_group(store, number, start, end))
    rows, payload = table.rows, encode_table(table)
    while len(payload) > most_bytes and rows > 1:
        rows = max(1, rows * most_bytes // len(payload) * 9 // 10)
        payload = encode_table(read_listing(store, number, start, start + rows))
    return rows, payload


def _end_of_group(store: Store, number: int, start: int, end: int) -> int:
    """The last index up to ``end`` at which a group ends, if half of the range lies before it; else ``end``."""
    said = (_open(store.listing_path(number)).schema.metadata or {}).get(_GROUP_ENDS, b"")
    ends = np.frombuffer(said[: len(said) // 4 * 4], "<u4")
    at = int(np.searchsorted(ends, end, side="right"))
    last = int(ends[at - 1]) if at else end
    # The upper bound is for metadata that is damaged: no checksum covers it.
    return last if (end - start) / 2 <= last - start <= end - start else end


def listing_column(store: Store, number: int, name: str) -> pa.Array:
    """A column of a shard's whole listing, not to be copied. The last few listings are kept open."""
    column = _open(store.listing_path(number)).column(name)
    # Combining chunks copies, even a single one; a listing was combined when it was opened.
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)


def _load(path: Path) -> pa.Table:
    try:
        with disk_errors(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
            return file.read(use_threads=False).cast(SCHEMA.with_metadata(file.schema_arrow.metadata)).combine_chunks()
    except FileNotFoundError:
        raise damaged_file(path, "it is gone, though its shard is listed") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise damaged_file(path, str(error).splitlines()[0]) from error


_open = lru_cache(maxsize=_CACHED_FILES)(_load)


def _text_column(array: pa.Array) -> TextColumn:
    _, offsets_buffer, data = array.buffers()
    if len(array) == 0 or data is None:
        return TextColumn(np.zeros(len(array), np.int32), b"")
    offsets = np.frombuffer(offsets_buffer, np.int32)[array.offset : array.offset + len(array) + 1]
    return TextColumn(np.diff(offsets), data[int(offsets[0]) : int(offsets[-1])].to_pybytes())


class Known:
    """What is listed already, for a rescan: a snapshot of the time when it was made.

    A label names a source; its shards are ``<label>-<number:05d>``. Takes 16 bytes a key, of the labels asked for, and
    the name of each shard.
    """

    def __init__(self, store: Store, manifest: Manifest) -> None:
        self._store = store
        self._shards: dict[str, dict[int, int]] = {}
        self._items: dict[str, int] = {}
        self._hashes: dict[str, tuple[memoryview, npt.NDArray[np.uint64]]] = {}
        self._names: dict[str, int] = {}
        for shard in manifest.shards():
            self._names[shard.name] = shard.number
            label, dash, number = shard.name.rpartition("-")
            if dash and number.isdecimal():
                self._shards.setdefault(label, {})[int(number)] = shard.number
                self._items[label] = self._items.get(label, 0) + shard.length
        self._sorted = sorted(self._names)

    def lists(self, shard: str) -> bool:
        """Whether there is a shard of this name."""
        return shard in self._names

    def next_number(self, label: str) -> int:
        """The number of the next shard of a label."""
        return max(self._shards.get(label, {}), default=-1) + 1

    def contains(self, label: str, key: str) -> bool:
        """Whether a shard of the label lists this key."""
        if label not in self._hashes:
            self._hashes[label] = self._load(label)
        # 128 bits of a hash that nobody can steer: no two keys of a person's will ever meet in it.
        highs, lows = self._hashes[label]
        high, low = np.frombuffer(_hash(key), np.uint64).tolist()
        at = bisect_left(highs, high)
        while at < len(highs) and highs[at] == high:
            if int(lows[at]) == low:
                return True
            at += 1
        return False

    def end(self, label: str) -> tuple[int, bytes]:
        """How many items the label's shards have together, and the locator of the last; 0 and nothing for none."""
        shards = self._shards.get(label)
        if not shards:
            return 0, b""
        locators = listing_column(self._store, shards[max(shards)], "locator")
        return self._items[label], locators[-1].as_py() if len(locators) else b""

    def first(self, start: str) -> bytes:
        """The locator of the first item of a shard whose name starts so; nothing where none does."""
        at = bisect_left(self._sorted, start)
        if at == len(self._sorted) or not self._sorted[at].startswith(start):
            return b""
        locators = listing_column(self._store, self._names[self._sorted[at]], "locator")
        return locators[0].as_py() if len(locators) else b""

    def _load(self, label: str) -> tuple[memoryview, npt.NDArray[np.uint64]]:
        parts = [np.empty((0, 2), np.uint64)]
        for number in self._shards.get(label, {}).values():
            keys = _load(self._store.listing_path(number)).column("key")
            hashes = b"".join(_hash(key) for key in keys.to_pylist())
            parts.append(np.frombuffer(hashes, np.uint64).reshape(-1, 2))
        both = np.concatenate(parts)
        order = np.argsort(both[:, 0], kind="stable")
        return memoryview(both[order, 0]), both[order, 1]


def _hash(key: str) -> bytes:
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=_HASH_BYTES).digest()
