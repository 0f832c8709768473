"""The limit: the least that a single process has to do so that captions are durable and end in the same parquet.

The frames are those that workers send (made before the clock starts, kept in memory). Timed: append them to a file with
an fdatasync for every 4 MiB, decode each (which checks it), put its columns together, write parquet of the same schema
and compression, flush it. No socket, no encryption, no lease, no database, no second process.

Run as ``python -m benchmarks.limit ITEMS FOLDER``; prints the figures as JSON.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from benchmarks.figures import Limit
from benchmarks.processes import machine_busy, peak

from cfbus.bus import messages as m
from cfbus.bus.columns import Table
from cfbus.bus.wire import decode_table
from cfbus.core.held import Use
from cfbus.core.outcome import Outcome, WorkItem
from cfbus.core.results import pack
from cfbus.core.worker import WorkerRules
from cfbus.engines.scripted import ScriptedEngine
from cfbus.store import arrays
from cfbus.store.schema import SCHEMAS, word_columns

RESULT_ITEMS = 64
SHARD_ITEMS = 4096
SYNC_BYTES = 4 << 20
GROUP_FRAMES = 1563
"""So many frames of 64 are the product's row group of 100,000."""
CAPTION_CHARS = 300


def frames(items: int) -> list[bytes]:
    """What workers would send for the first ``items`` items of the scripted source."""
    slot = m.Slot(name="caption", prompt="Describe this image.", prompt_id="limit")
    options = (("length", float(CAPTION_CHARS)),)
    spec = m.Spec(hash="0" * 16, engine="scripted", options=options, pixel_budget=1, max_pixels=1, slots=(slot,))
    done: list[Outcome] = []
    engine = ScriptedEngine(done.append)
    engine.use(spec)
    rules = WorkerRules("0" * 16, "limit", RESULT_ITEMS)
    made = []
    for shard in range(0, items, SHARD_ITEMS):
        end = min(items - shard, SHARD_ITEMS)
        grant = m.Grant(
            lease="0" * 16, pass_number=1, shard=0, shard_name="limit", start=0, end=end, slots=("caption",),
            backup=False, ttl=1.0, window=0,
        )  # fmt: skip
        engine.submit([WorkItem("", "", at, f"item-{shard + at:08d}", b"", ("caption",)) for at in range(end)])
        for start in range(0, end, RESULT_ITEMS):
            made.append(pack(done[start : start + RESULT_ITEMS], grant, Use(spec, 1), engine.facts, rules, 0)[1])
        done.clear()
    return made


def columns(tables: Sequence[Table], first: int) -> pa.Table:
    """The tables' rows, items ``first`` and on, in the schema of captions."""
    rows = sum(table.rows for table in tables)
    index = np.arange(first, first + rows)
    keys = np.char.add("item-", np.char.zfill(index.astype("U8"), 8))
    texts = [table.text("caption") for table in tables]
    offsets = np.zeros(rows + 1, np.int32)
    np.cumsum(np.concatenate([text.lengths for text in texts]), out=offsets[1:])
    data = b"".join([text.data for text in texts])
    known: dict[str, pa.Array] = {
        "shard": _words(
            [f"scripted-{number:05d}" for number in range(index[-1] // SHARD_ITEMS + 1)], index // SHARD_ITEMS
        ),
        "item_key": pa.array(keys),
        "filename": pa.array(keys),
        "item_index": pa.array(index % SHARD_ITEMS),
        "caption": pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(data)),
        "commit_seq": pa.array(index // RESULT_ITEMS),
        "timestamp": pa.array(index),
        "revision": pa.array(np.ones(rows)),
        "generation": pa.array(np.ones(rows)),
        "flags": pa.ListArray.from_arrays(pa.array(np.zeros(rows + 1, np.int32)), pa.array([], pa.string())),
        "processing_ms": pa.array(np.concatenate([table.columns["processing_ms"] for table in tables])),
    }
    words = {name: _words([name], np.zeros(rows)) for name in word_columns("captions")}
    null = {"variant", "check_state"}
    arrays = [
        known[field.name].cast(field.type) if field.name in known
        else words[field.name] if field.name in words and field.name not in null
        else pa.nulls(rows, field.type)
        for field in SCHEMAS["captions"]
    ]  # fmt: skip
    return pa.table(arrays, schema=SCHEMAS["captions"])


def _words(words: Sequence[str], codes: np.ndarray) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(words, pa.string()))


def store(made: Sequence[bytes], folder: Path) -> Path:
    """Make the frames durable, then parquet of them."""
    waiting = 0
    with open(folder / "journal", "wb", buffering=0) as journal:
        for frame in made:
            journal.write(frame)
            waiting += len(frame)
            if waiting >= SYNC_BYTES:
                os.fdatasync(journal.fileno())
                waiting = 0
        os.fdatasync(journal.fileno())
    path = folder / "captions.parquet"
    with (
        open(path, "wb") as file,
        pq.ParquetWriter(
            file, SCHEMAS["captions"], compression="zstd", compression_level=3, use_dictionary=word_columns("captions"),
            write_page_checksum=True,
        ) as parquet,
    ):  # fmt: skip
        for start in range(0, len(made), GROUP_FRAMES):
            tables = [decode_table("captions", frame) for frame in made[start : start + GROUP_FRAMES]]
            parquet.write_table(columns(tables, start * RESULT_ITEMS))
    with open(path, "rb") as written:
        os.fdatasync(written.fileno())
    return path


def measure(items: int, folder: Path) -> Limit:
    """Time the limit in this process."""
    arrays.without_pandas()
    made = frames(items)
    cpu, busy, began = time.process_time(), machine_busy(), time.monotonic()
    path = store(made, folder)
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    return Limit(
        rate=items / seconds,
        cpu_us=cpu * 1e6 / items,
        peak_mib=peak(os.getpid()) / (1 << 20),
        parquet_bytes=path.stat().st_size,
        frame_bytes=sum(map(len, made)),
        cores_of_others=max(machine_busy() - busy - cpu, 0.0) / seconds,
    )


if __name__ == "__main__":
    sys.stdout.write(measure(int(sys.argv[1]), Path(sys.argv[2])).model_dump_json())
