"""Sealing: a closed journal file becomes one immutable parquet segment per table.

Runs in a child process (``python -m cfbus.store.seal STORE``): for each line of its input, the name of a journal
file, it prints one line of JSON. It ends with its input, or, as ``cfbus.errors`` says, at a file that it cannot seal.
Knows nothing of the manifest; ``record`` is what the parent does afterwards.

Invariants: the files are durable under their final names before the result is told; the same journal file
makes the same files under the same names, so sealing again after a crash is harmless; memory is bounded by
one row group, whatever the size of the segment; content was checked before it was stored, so what does not
fit here is damage.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cfbus.bus.columns import NO_INT, NO_SEED, Table
from cfbus.bus.wire import WireError, decode_table
from cfbus.core.frame import JournalFrame
from cfbus.errors import EXIT_DONE, CfbusError
from cfbus.store import arrays
from cfbus.store.durable import damaged_file, disk_errors, new_file, publish
from cfbus.store.folder import Store
from cfbus.store.journal import Journal, JournalFile, read_frames
from cfbus.store.listing import listing_column
from cfbus.store.manifest import Manifest
from cfbus.store.manifest_rows import SegmentRow, merge_ranges
from cfbus.store.schema import HASH_BYTES, SCHEMAS, TIME, word_columns

GROUP_ROWS = 100_000
GROUP_BYTES = 64 << 20
"""A row group ends at whichever of the two comes first."""
_ZSTD_LEVEL = 3
_NICE = 5
_GC_THRESHOLD = 10_000
"""Frames have no cycles worth looking for often."""
Bits = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Sealed:
    """What a seal made of positions ``first`` to ``last``: paths in the store and their bytes."""

    rows: int
    failures: int
    files: tuple[str, ...]
    bytes: int
    first: int
    last: int


def seal_command(store: Path) -> list[str]:
    """How to start the child process that seals."""
    return [sys.executable, "-P", "-m", "cfbus.store.seal", str(store)]


def seal_order(journal: Path) -> bytes:
    """What makes it seal this file of its store's journal."""
    return f"{journal.name}\n".encode()


def seal_journal(store_path: Path, journal_path: Path) -> Sealed:
    """Seal a closed journal file. Raises ``DamagedStoreError``, ``DiskFullError``; both leave the journal alone."""
    store = Store.peek(store_path)
    manifest = Manifest.open(store)
    names = [shard.name for shard in manifest.shards()]
    manifest.close()
    first = int(journal_path.stem)
    last = first - 1
    writers = {table: _SegmentWriter(store, table, first) for table in ("captions", "failures")}
    try:
        for frame in read_frames(journal_path):
            if frame.position != last + 1:
                raise damaged_file(journal_path, f"position {last + 1} is missing")
            last = frame.position
            writers[frame.table].add(_load(store, names, journal_path, frame))
        written = [writer for writer in writers.values() if writer.finish()]
    finally:
        for writer in writers.values():
            writer.abandon()
    for writer in written:
        publish(writer.staged, writer.path)
    paths = [writer.path for writer in written]
    return Sealed(
        rows=writers["captions"].rows,
        failures=writers["failures"].rows,
        files=tuple(str(path.relative_to(store.root)) for path in paths),
        bytes=sum(path.stat().st_size for path in paths),
        first=first,
        last=last,
    )


def record(manifest: Manifest, journal: Journal, file: JournalFile, sealed: Sealed) -> SegmentRow:
    """What the parent does with the result: one manifest row, then the journal file goes."""
    captions = sum(file.totals.values())
    made = (sealed.first, sealed.last, sealed.rows, sealed.failures)
    if made != (file.first, file.last, captions, file.failures):
        raise damaged_file(file.path, f"{sealed.rows} captions were sealed of {captions}")
    segment = SegmentRow(
        sealed.first, sealed.last, sealed.files, sealed.rows, sealed.failures, sealed.bytes,
        time.time_ns() // 1000, dict(file.totals),
    )  # fmt: skip
    manifest.add_segment(segment, merge_ranges(file.done))
    journal.remove(file.path)
    return segment


@dataclass(frozen=True)
class _Frame:
    """A frame, its table, and the keys of its items."""

    head: JournalFrame
    table: Table
    shard: str
    keys: Sequence[pa.Array]
    filenames: Sequence[pa.Array]


def _load(store: Store, names: Sequence[str], path: Path, frame: JournalFrame) -> _Frame:
    try:
        table = decode_table(frame.table, frame.frame)
    except WireError as error:
        raise damaged_file(path, f"position {frame.position}: {error}") from error
    keys, filenames = _listed(store, frame.shard)
    if table.rows != sum(end - start for start, end in frame.ranges) or frame.ranges[-1][1] > len(keys):
        raise damaged_file(path, f"position {frame.position} does not fit its items")
    return _Frame(
        frame, table, names[frame.shard],
        [keys.slice(start, end - start) for start, end in frame.ranges],
        [filenames.slice(start, end - start) for start, end in frame.ranges],
    )  # fmt: skip


@lru_cache(maxsize=8)
def _listed(store: Store, number: int) -> tuple[pa.Array, pa.Array]:
    """The keys of a shard, and their last parts."""
    keys = listing_column(store, number, "key")
    return keys, pc.replace_substring_regex(keys, "(?s)^.*/", "")


class _SegmentWriter:
    """One table's segment in the making; no file at all when there are no rows."""

    def __init__(self, store: Store, table: str, first: int) -> None:
        self.path = store.table_path(table, first)
        self.staged = store.staging_dir / f"{table}-{self.path.name}"
        self.rows = 0
        self._table = table
        self._dataset = store.dataset
        self._frames: list[_Frame] = []
        self._waiting_rows = self._waiting_bytes = 0
        self._open = ExitStack()
        self._parquet: pq.ParquetWriter | None = None

    def add(self, frame: _Frame) -> None:
        """Take a frame; a full row group is written."""
        self._frames.append(frame)
        self._waiting_rows += frame.table.rows * (len(frame.table.slot_names) or 1)
        self._waiting_bytes += len(frame.head.frame)
        if self._waiting_rows >= GROUP_ROWS or self._waiting_bytes >= GROUP_BYTES:
            self._write()

    def finish(self) -> bool:
        """Write what is left and make the file durable; whether there is one."""
        self._write()
        if self._parquet is None:
            return False
        with disk_errors(self.staged):
            self._parquet.close()
        self._open.close()
        return True

    def abandon(self) -> None:
        """Let go of the file after an error; nothing to do after ``finish``."""
        if self._parquet is not None and self._parquet.is_open:
            with suppress(OSError, pa.ArrowException, CfbusError):
                self._parquet.close()
        with suppress(OSError, CfbusError):
            self._open.close()

    def _write(self) -> None:
        if not self._frames:
            return
        group = _Group(self._table, self._dataset, self._frames).build()
        self._frames, self._waiting_rows, self._waiting_bytes = [], 0, 0
        if group.num_rows == 0:
            return
        self.rows += group.num_rows
        with disk_errors(self.staged):
            if self._parquet is None:
                self._parquet = self._start()
            self._parquet.write_table(group, row_group_size=group.num_rows)

    def _start(self) -> pq.ParquetWriter:
        return parquet_writer(self._open.enter_context(new_file(self.staged)), self._table)


def parquet_writer(file: BinaryIO, table: str) -> pq.ParquetWriter:
    """Writes a segment of a table."""
    words = word_columns(table)
    return pq.ParquetWriter(
        file,
        SCHEMAS[table],
        compression="zstd",
        compression_level=_ZSTD_LEVEL,
        use_dictionary=words,
        write_statistics=[*words, "item_index", "revision", "commit_seq", "timestamp", "item_key"],
        write_page_checksum=True,
    )


class _Group:
    """Frames as the columns of one row group, without a loop over rows.

    A frame has items, an item has a row for each slot: columns of frames and items are spread over rows by
    ``frame_of_row`` and ``item_of_row``.
    """

    def __init__(self, table: str, dataset: str, frames: Sequence[_Frame]) -> None:
        self._name = table
        self._dataset = dataset
        self._frames = frames
        self._heads = [frame.head for frame in frames]
        self._tables = [frame.table for frame in frames]
        items = np.array([one.rows for one in self._tables], np.int64)
        self._slots = np.array([len(one.slot_names) or 1 for one in self._tables], np.int64)
        frame_of_item = np.repeat(np.arange(len(frames)), items)
        slots_of_item = self._slots[frame_of_item]
        self._item_of_row = np.repeat(np.arange(len(frame_of_item)), slots_of_item)
        self._frame_of_row = frame_of_item[self._item_of_row]
        self._slot_of_row = (
            np.arange(len(self._item_of_row)) - (np.cumsum(slots_of_item) - slots_of_item)[self._item_of_row]
        )

    def build(self) -> pa.Table:
        """The rows that count, with all columns of the table's schema."""
        schema = SCHEMAS[self._name]
        columns = {**self._identity(), **(self._captions() if self._name == "captions" else self._failures())}
        rows = len(self._item_of_row)
        arrays = [columns[one.name] if one.name in columns else pa.nulls(rows, one.type) for one in schema]
        table = pa.table(arrays, schema=schema)
        counted = self._counted()
        return table if counted is None else table.filter(pa.array(counted))

    def _counted(self) -> Bits | None:
        masks = [frame.counted() for frame in self._heads]
        if all(mask is None for mask in masks):
            return None
        whole = [
            np.ones(table.rows, np.bool_) if mask is None else mask
            for mask, table in zip(masks, self._tables, strict=True)
        ]
        return np.concatenate(whole)[self._item_of_row]

    def _identity(self) -> dict[str, pa.Array]:
        heads = self._heads
        return {
            "job_id": self._words_of_frames([head.job for head in heads]),
            "dataset": self._words_of_frames([self._dataset] * len(heads)),
            "shard": self._words_of_frames([frame.shard for frame in self._frames]),
            "item_key": self._of_items(pa.concat_arrays([keys for frame in self._frames for keys in frame.keys])),
            "filename": self._of_items(pa.concat_arrays([one for frame in self._frames for one in frame.filenames])),
            "contributor_id": self._words_of_frames([head.contributor for head in heads]),
            "timestamp": self._ints_of_frames([head.received for head in heads]).view(TIME),
            "item_index": pa.array(np.concatenate([head.items() for head in heads])[self._item_of_row]),
            "revision": self._ints_of_frames([head.pass_number for head in heads]).cast(pa.int32()),
            "commit_seq": self._ints_of_frames([head.position for head in heads]),
            "key": self._words_of_frames([head.key for head in heads]),
            "lease": self._words_of_frames([head.lease for head in heads]),
        }

    def _captions(self) -> dict[str, pa.Array]:
        constants = ("spec", "model", "model_revision", "engine", "worker")
        of_items, of_rows = self._item_of_row, slice(None)
        return {
            **{name: self._words_of_frames([one.constants[name] for one in self._tables]) for name in constants},
            **{name: self._words_of_slots(name) for name in ("slot", "stage", "prompt_id")},
            "generation": self._generation(),
            "caption": arrays.texts([one.text("caption") for one in self._tables]),
            "finish_reason": self._words("finish_reason", of_rows),
            "flags": arrays.flags(self._raw("flags")),
            "image_format": self._words("image_format", of_items),
            "image_sha256": arrays.hashes(self._raw("image_sha256").reshape(-1, HASH_BYTES)[of_items]),
            "seed": arrays.known(self._raw("seed"), NO_SEED),
            "mean_logprob": arrays.finite(self._raw("mean_logprob")),
            "processing_ms": arrays.finite(self._raw("processing_ms")[of_items]),
            **{name: self._item_texts(name) for name in ("url", "metadata")},
            **{name: arrays.known(self._raw(name), NO_INT) for name in ("prompt_tokens", "output_tokens")},
            **{
                name: arrays.known(self._raw(name)[of_items], NO_INT)
                for name in ("image_width", "image_height", "file_size")
            },
        }

    def _failures(self) -> dict[str, pa.Array]:
        return {
            "reason": self._words("reason", slice(None)),
            "fault": self._words("fault", slice(None)),
            "attempts": arrays.known(self._raw("attempts"), NO_INT),
            "detail": arrays.texts([one.text("detail") for one in self._tables]),
            "who": arrays.texts([one.text("who") for one in self._tables]),
        }

    def _raw(self, name: str) -> npt.NDArray[Any]:
        return np.concatenate([one.columns[name] for one in self._tables])

    def _item_texts(self, name: str) -> pa.Array:
        return self._of_items(arrays.known_texts([one.text(name) for one in self._tables]))

    def _of_items(self, array: pa.Array) -> pa.Array:
        return array if len(array) == len(self._item_of_row) else array.take(pa.array(self._item_of_row))

    def _ints_of_frames(self, values: Sequence[int]) -> pa.Array:
        return pa.array(np.array(values, np.int64)[self._frame_of_row])

    def _words_of_frames(self, values: Sequence[str]) -> pa.Array:
        codes, words = arrays.codes(values)
        return arrays.dictionary(codes[self._frame_of_row], words)

    def _words_of_slots(self, name: str) -> pa.Array:
        codes, words = arrays.codes([word for one in self._tables for word in one.slots[name]])
        starts = np.cumsum(self._slots) - self._slots
        return arrays.dictionary(codes[starts[self._frame_of_row] + self._slot_of_row], words)

    def _words(self, name: str, spread: npt.NDArray[np.int64] | slice) -> pa.Array:
        columns = [one.words(name) for one in self._tables]
        codes, words = arrays.codes([word for column in columns for word in column.words])
        starts = np.cumsum([0, *(len(column.words) for column in columns)])
        lifted = [codes[start + column.codes] for start, column in zip(starts, columns, strict=False)]
        return arrays.dictionary(np.concatenate(lifted)[spread], words)

    def _generation(self) -> pa.Array:
        numbers = [arrays.number(one.constants["generation"]) for one in self._tables]
        return pa.array(numbers, pa.int64()).take(pa.array(self._frame_of_row))


def main(arguments: Sequence[str]) -> int:
    """The child process: STORE, and the orders in its input."""
    with contextlib.suppress(OSError):  # not allowed everywhere
        os.nice(_NICE)  # the loop that acknowledges captions comes first
    root = Path(arguments[0])
    try:
        for order in sys.stdin:
            sealed = seal_journal(root, Store.peek(root).journal_dir / order.removesuffix("\n"))
            pa.default_memory_pool().release_unused()
            sys.stdout.write(json.dumps(dataclasses.asdict(sealed)) + "\n")
            sys.stdout.flush()
    except CfbusError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return EXIT_DONE


def seal_error(exit_code: int, said: str, path: Path) -> CfbusError:
    """What a child that could not seal is to whoever started it."""
    error = CfbusError(f"Sealing {path} failed (exit code {exit_code}): {said or 'no word'}")
    error.exit_code = exit_code if exit_code > 0 else CfbusError.exit_code
    return error


if __name__ == "__main__":
    arrays.without_pandas()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD)
    sys.exit(main(sys.argv[1:]))
